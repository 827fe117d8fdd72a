"""A table's lines with our figures, from the leaderboard's rows."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bo_distill.methods.errors import counted
from bo_distill.methods.paired import holm
from bo_distill.search.evidence.statistics import student, t_test
from bo_distill.search.evidence.words import NONE

if TYPE_CHECKING:
    from bo_distill.methods.method import Stage
    from bo_distill.methods.published import Cell, Claim, PaperTable
    from bo_distill.search.papers.lines import Reproduction
    from bo_distill.search.rows.row import Row


@dataclasses.dataclass(frozen=True)
class Line:
    """A table's line with our figures.

    Attributes:
        scores: seed -> in the table's unit.
        macs: shares of the multiply-adds, in percent, where the cell has them.
        rows: the trainings that were scored.
        searched: the search's trials, where a search chose the settings.
        stages: of the method.
    """

    cell: Cell
    scores: Mapping[int, float]
    macs: tuple[float, ...] = ()
    rows: tuple[Row, ...] = ()
    searched: tuple[Row, ...] = ()
    stages: tuple[Stage, ...] = ()

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores.values()) if self.scores else None

    @property
    def spread(self) -> float | None:
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None

    def minus(self, other: Line) -> list[float]:
        """Differences from another line over the seeds that both have, where what both share was trained once."""
        mine, its = ({row.seed: row for row in line.rows} for line in (self, other))
        return [
            self.scores[seed] - other.scores[seed]
            for seed in sorted(self.scores.keys() & other.scores.keys())
            if seed not in mine or seed not in its or trained_once(mine[seed], its[seed], self.stages)
        ]

    @property
    def cost(self) -> float:
        """Multiply-adds of a training, all its stages, on average; 0 where no row counts them."""
        return statistics.fmean([row.macs_train for row in self.rows if row.macs_train] or [0])

    def difference(self, other: Line, unit: str = "%") -> str:
        """Mean difference from another line, in points where the unit is per cent, with Student's 95% interval."""
        form, differences = "+.2f" if unit == "%" else "+.3g", self.minus(other)
        if not differences:
            return NONE
        span = student(differences)
        between = f" ({span[0]:{form}} to {span[1]:{form}})" if span else ""
        return f"{statistics.fmean(differences):{form}}{between}"

    def over(self, other: Line, unit: str = "%") -> str:
        """The same, and over how many seeds, where one of the two has more of its own."""
        seeds = len(self.minus(other))
        fewer = f", {counted(seeds, 'seed')} of both" if 0 < seeds < max(len(self.scores), len(other.scores)) else ""
        return f"{self.difference(other, unit)}{fewer}"


def lines_of(one: Reproduction, table: PaperTable, rows: Sequence[Row]) -> list[Line]:
    """A table's lines from the leaderboard's rows."""
    lines = []
    for cell in table.cells:
        own, scores, macs = one.rows_of(table, cell, rows), dict[int, float](), list[float]()
        for row in own:
            value = row.test_accuracy if cell.metric == "accuracy" else row.test_metrics.get(cell.metric)
            if value is None:
                continue
            score = 100 * value if table.unit == "%" else value
            # One that was trained anew, on another machine, differs in its accuracy.
            if not (cell.shared and score in scores.values()):
                scores[row.seed] = score
            if cell.macs in row.test_metrics:
                macs.append(100 * row.test_metrics[cell.macs])
        study = one.run_of(table, cell).study
        searched = [row for row in rows if cell.searcher and row.study == study and row.phase == "search"]
        lines.append(Line(cell, scores, tuple(macs), tuple(own), tuple(searched), one.method.stages))
    return lines


def trained_once(row: Row, other: Row, stages: Sequence[Stage]) -> bool:
    """Whether the stages that two trainings have in common, by their settings, are the same training of them.

    A machine that lacks some lines of a network trains it anew, and a difference from a line of the first would be one
    between two trainings too. A stage of no epochs trains nothing.
    """
    common = set[str]()
    for stage in stages:
        own, its = ({k: v for k, v in r.config.items() if k.startswith(f"{stage.name}.")} for r in (row, other))
        if own == its and common.issuperset(stage.needs):
            common.add(stage.name)
            if own.get(f"{stage.name}.epochs") != 0 and not one_training(row, other, stage):
                return False
    return True


def one_training(row: Row, other: Row, stage: Stage) -> bool:
    """Whether two rows of equal settings have the same training of a stage. Where one of them does not say, trainings
    of one kind of machine count as one."""
    own, its = row.shared_stages.get(stage.name), other.shared_stages.get(stage.name)
    if own and its:
        return own == its
    return (row.device, row.processor, row.precision) == (other.device, other.processor, other.precision)


def corrected(lines: Sequence[Line]) -> dict[str, float]:
    """p of each line's difference by the paired t test over seeds, after Holm's correction over the table; 1 where
    all differences are equal."""
    by_name = {line.cell.name: line for line in lines}
    differences = {line.cell.name: line.minus(by_name[line.cell.against]) for line in lines if line.cell.against}
    several = {name: values for name, values in differences.items() if len(values) > 1}
    p = [1.0 if (found := t_test(values)) is None else found for values in several.values()]
    return dict(zip(several, holm(np.array(p)).tolist(), strict=True)) if several else {}


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of a claim, here.

    Attributes:
        line, control: as the claim names them.
        verdict: a word or two.
        sentence: the verdict with its figures.
    """

    claim: Claim
    line: Line
    control: Line
    verdict: str
    sentence: str


def findings(one: Reproduction, claims: Sequence[Claim], rows: Sequence[Row]) -> list[Finding]:
    """The claims held against their controls; a table without such a line makes no claim."""
    found = []
    for claim in claims:
        for table in one.tables:
            lines = {line.cell.name: line for line in lines_of(one, table, rows)}
            if table.title.startswith(claim.table) and {claim.line, claim.control} <= set(lines):
                line, control = lines[claim.line], lines[claim.control]
                found.append(Finding(claim, line, control, *judged(line, control)))
    return found


def judged(line: Line, control: Line) -> tuple[str, str]:
    """Verdict in a word or two, and in a sentence."""
    if not (line.scores and control.scores):
        return "not trained yet", "Line or control is not trained yet."
    differences = line.minus(control)
    if not differences:
        return "nothing to compare", "No seed of both started from the same training, so nothing is said."
    what = f"{line.cell.name} against {control.cell.name}, {line.difference(control)} points"
    if len(differences) == 1:
        return "one seed", f"One seed shows nothing yet: {what}. {costs(line, control)}"
    over = f"{what}, over {len(differences)} seeds. {costs(line, control)}"
    if not (span := student(differences)):
        return "no interval", f"The same on all seeds, so there is no interval: {over}"
    if span[0] <= 0 <= span[1]:
        return "no difference shown", f"No difference is shown: {over}"
    better = span[0] > 0
    return ("better", f"Better: {over}") if better else ("worse", f"Worse: {over}")


def costs(line: Line, control: Line) -> str:
    """What the control's training cost beside the line's, all stages of both, a teacher's too."""
    if not (line.cost and control.cost):
        return "What their trainings cost is not known."
    share = 100 * control.cost / line.cost
    if abs(share - 100) < 1:
        return "Their trainings cost the same multiply-adds."
    return f"The control's training costs {share:.0f}% of the line's multiply-adds."
