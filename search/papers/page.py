"""docs/results: the papers' tables beside ours as Markdown, the rows behind them as Parquet, the figures as PNG.

python -m search.papers.page            # writes README's table anew from the rows under docs/results
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods import METHODS
from methods.errors import UsageError
from methods.method import flatten
from methods.published import Cell, PaperTable
from search.command.shell import OK, Parser, carry_out
from search.evidence.statistics import student
from search.evidence.words import NONE, duration, markdown, percent, short
from search.pages.paper import drawn, rebuilt
from search.papers.lines import Reproduction
from search.rows.files import of_study
from search.rows.row import Row, from_table, schema
from search.study.ledger import Study
from search.study.records import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from distributed.storage import Storage


MARKS = ("<!-- results: python -m search.papers.page -->", "<!-- end of results -->")


@dataclasses.dataclass(frozen=True)
class Line:
    """A table's line with our figures.

    Attributes:
        scores: seed -> in the table's unit.
        rows: the trainings that were scored.
        searched: the search's trials, where a search chose the settings.
    """

    cell: Cell
    scores: Mapping[int, float]
    rows: tuple[Row, ...]
    searched: tuple[Row, ...] = ()

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores.values()) if self.scores else None

    @property
    def spread(self) -> float | None:
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None

    def over(self, other: Line) -> str:
        """Mean difference in points from another line over the seeds that both have, with Student's 95% interval."""
        seeds = sorted(self.scores.keys() & other.scores.keys())
        differences = [self.scores[seed] - other.scores[seed] for seed in seeds]
        if not differences:
            return NONE
        span = student(differences)
        return f"{statistics.fmean(differences):+.2f}" + (f" ({span[0]:+.2f} to {span[1]:+.2f})" if span else "")


def lines_of(one: Reproduction, table: PaperTable, rows: Sequence[Row]) -> list[Line]:
    """A table's lines from the leaderboard's rows."""
    return [_line(one, table, cell, rows) for cell in table.cells]


def _line(one: Reproduction, table: PaperTable, cell: Cell, rows: Sequence[Row]) -> Line:
    run = one.run_of(table, cell)
    settings = json.loads(json.dumps(run.settings))
    mine = [row for row in rows if row.study == run.study]
    own = [
        row
        for row in mine
        if row.phase == run.phase
        and row.status == "done"
        and all(row.config.get(name) == value for name, value in settings.items())
        and (cell.searcher or row.control in one.names_of(table, cell))
    ]
    scores = {}
    for row in own:
        value = row.test_accuracy if cell.metric == "accuracy" else row.test_metrics.get(cell.metric)
        if value is not None:
            scores[row.seed] = 100 * value if table.unit == "%" else value
    searched = tuple(row for row in mine if row.phase == "search") if cell.searcher else ()
    return Line(cell, dict(sorted(scores.items())), tuple(own), searched)


def departures(one: Reproduction) -> str:
    """What the scale changes of the paper's size, field by field."""
    configs = flatten(one.method.configure(one.scale.recipe, one.scale.settings))
    paper = flatten(one.method.configure("paper"))
    changed = [
        f"{name} {_short(configs[name])} ({_short(paper[name])})" for name in paper if configs[name] != paper[name]
    ]
    return f"Departures from the paper's size, which stands in brackets: {', '.join(changed)}." if changed else ""


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "/".join(f"{entry:g}" for entry in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(value: float | None, unit: str = "%") -> str:
    return NONE if value is None else f"{value:.2f}" if unit == "%" else f"{value:.4g}"


def paper_table(one: Reproduction, table: PaperTable, rows: Sequence[Row]) -> str:
    lines = lines_of(one, table, rows)
    by_name = {line.cell.name: line for line in lines}
    body = []
    for line in lines:
        against = line.cell.against
        span = student(list(line.scores.values()))
        if span and table.unit == "%":  # a share ends there, whatever Student says
            span = max(span[0], 0.0), min(span[1], 100.0)
        body.append(
            (
                line.cell.name,
                number(line.cell.printed, table.unit),
                number(line.mean, table.unit),
                number(line.spread, table.unit),
                str(len(line.scores)),
                f"{number(span[0], table.unit)} to {number(span[1], table.unit)}" if span else NONE,
                f"{line.over(by_name[against])} over {against}" if against else "",
            )
        )
    text = f"### {table.title}\n\n{table.note}\n\n".replace("\n\n\n", "\n") + markdown(
        (
            "line",
            f"paper {table.unit}".strip(),
            f"ours {table.unit}".strip(),
            "sd",
            "n",
            "95% interval",
            "difference, paired, 95%",
        ),
        body,
    )
    if any(line.searched for line in lines):
        text += "\n" + _search_cost(lines)
    return text


def _search_cost(lines: Sequence[Line]) -> str:
    """Figure 4 as a table: what each search cost, in multiply-adds of its trials as if each had trained all its stages.
    Seconds depend on what else the machine did, and on what an earlier run or another search had left in the cache."""
    body = []
    by_name = {line.cell.name: line for line in lines}
    for line in lines:
        macs = sum(row.macs_train or 0 for row in line.searched)
        other = by_name.get(line.cell.against)
        theirs = sum(row.macs_train or 0 for row in other.searched) if other else 0
        printed = line.cell.printed_seconds
        ratio = printed and other and other.cell.printed_seconds and other.cell.printed_seconds / printed
        best = max((row.val_accuracy for row in line.searched if row.val_accuracy is not None), default=None)
        body.append(
            (
                line.cell.name,
                str(len(line.searched)),
                percent(best),
                f"{macs:.3g}",
                f"{theirs / macs:.2f}" if other and macs else "",
                f"{printed:,.0f}" if printed else NONE,
                f"{ratio:.2f}" if ratio else "",
            )
        )
    return markdown(
        ("search", "trials", "best on validation %", "MACs", "times cheaper", "paper's seconds", "paper's ratio"),
        body,
    )


def section(
    one: Reproduction, rows: Sequence[Row], own: Mapping[str, Mapping[str, Any]], pictures: Sequence[str]
) -> str:
    """One scale's part of docs/results/METHOD.md.

    Args:
        rows: of all studies of this scale.
        own: the method's own tables, of the lines that are shown.
        pictures: paths of the figures.
    """
    name, word = one.method.name, one.word
    first = min(row.started for row in rows)
    last = max(row.finished for row in rows)
    commits = sorted({(row.commit or "unknown")[:9] + ("+" if row.dirty else "") for row in rows})
    sets = "; ".join(
        f"{data.name.rpartition('/')[2]}"
        + (f", {data.train_size:,} training rows" if data.train_size else ", all training rows")
        + (f", {data.val_size:,} of validation" if data.val_size else "")
        for data in one.scale.data.values()
    )
    parts = [
        f"## Scale `{word}`\n",
        f"`python -m search.reproduce {name} --scale {word} --data-dir DIR`, {first:%Y-%m-%d}; data: {sets}; "
        f"{', '.join(sorted({row.device for row in rows}))}, "
        f"{', '.join(sorted({row.precision for row in rows}))}; {len(rows)} trainings, "
        f"{duration(sum(row.seconds for row in rows))} of training in all, begun and ended "
        f"{duration((last - first).total_seconds())} apart; commit {', '.join(commits)}.\n",
        "Test accuracy, scored once for each training; validation chose whatever was chosen. " + departures(one) + "\n",
        *(paper_table(one, table, rows) for table in one.tables),
    ]
    for line, tables in own.items():
        parts.append(f"### The method's own tables: {line}, first seed, on test\n")
        for table in tables.values():
            body = [[short(cell) for cell in row] for row in table["rows"]]
            parts.append(f"{table['caption']}\n\n" + markdown(table["columns"], body))
    if pictures:
        parts.append(f"### Figures: {one.scale.shown[0]}, first seed, on validation\n")
        parts += [f"![{Path(path).stem.replace('_', ' ')}]({path})\n" for path in pictures]
    return "\n".join(parts)


def publish(one: Reproduction, storage: Storage, out: Path) -> str:
    """Write what stands in the storage for a reproduction; returns the path of the page.

    What the storage does not hold stays as it is: other scales, studies of another machine, figures that cannot be
    drawn here.
    """
    import pyarrow as pa
    from pyarrow import parquet

    folder = out / one.method.name
    folder.mkdir(parents=True, exist_ok=True)
    studies = sorted({one.run_of(table, cell).study for table in one.tables for cell in table.cells})
    found = {study: rows for study in studies if len(rows := of_study(storage, study))}
    tables = list(found.values())
    file = folder / "rows.parquet"
    if file.exists():
        kept = parquet.read_table(file, schema=schema())
        tables.append(kept.filter(pa.compute.invert(pa.compute.is_in(kept["study"], pa.array(found, pa.string())))))
    table = pa.concat_tables(tables).sort_by([(name, "ascending") for name in ("study", "phase", "trial")])
    for name in ("data_spec", "nodes"):  # where the data lies, and what the machine is called, is nobody's business
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.nulls(len(table), table.schema.field(at).type))

    pictures = []
    for name, figure in _figures(one, storage).items():
        pictures.append(f"{one.word}_{name}.png")
        figure.savefig(folder / pictures[-1], dpi=110)
    pictures = pictures or sorted(path.name for path in folder.glob(f"{one.word}_*.png"))
    own: dict[str, Mapping[str, Any]] = {}
    for name in one.scale.shown:
        for data in one.scale.data:
            if first := _first(one, storage, name, data):
                study, trial = first
                label = f"{name}, {data}" if len(one.scale.data) > 1 else name
                own[label] = study.outcome(trial.job.number).tables
    rows = [row for row in from_table(table) if row.study in studies]
    page = folder / "README.md"
    start = f"# {one.method.name}\n\n{one.method.paper}. Made by `search.reproduce`.\n\n"
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    sections = {
        found[1]: found[0].rstrip() + "\n"
        for found in re.finditer(r"^## Scale `(\w+)`\n.*?(?=^## Scale |\Z)", old, re.MULTILINE | re.DOTALL)
    }
    sections[one.word] = section(one, rows, own, pictures)
    aside = folder / "rows.parquet.tmp"
    parquet.write_table(table, aside, compression="zstd")
    aside.replace(file)
    page.write_text(start + "\n".join(sections[word] for word in sorted(sections, reverse=True)), encoding="utf-8")
    return str(page)


def _first(one: Reproduction, storage: Storage, name: str, data: str) -> tuple[Study, Trial] | None:
    """A line's training with the first seed, where a table of this data set has such a line."""
    cells = [(table, cell) for table in one.tables for cell in table.cells if (cell.name, table.data) == (name, data)]
    if not cells:
        return None
    table, cell = cells[0]
    place = one.run_of(table, cell).study
    if not storage.exists(f"studies/{place}/study.json"):
        return None
    study = Study.open(storage, place)
    names = one.names_of(table, cell)
    return next(((study, t) for t in study.trials if t.job.control in names and t.status == "done"), None)


def _figures(one: Reproduction, storage: Storage) -> Mapping[str, Figure]:
    """The figures of the line that is shown, and those that hold several lines against one another."""
    try:
        import matplotlib
    except ModuleNotFoundError:  # a machine that only trains; the same command draws them where it is installed
        print("no figures: matplotlib is not installed here", file=sys.stderr)
        return {}
    shown = one.scale.shown[0]
    wanted = dict.fromkeys((shown, *one.scale.compared))
    data = next(iter(one.scale.data))
    found = {name: first for name in wanted if (first := _first(one, storage, name, data))}
    if shown not in found:
        return {}
    figures, _ = drawn(*found[shown])
    if len(found) == len(wanted) and one.scale.compared:
        with matplotlib.rc_context(matplotlib.rcParamsDefault):
            runs = {name: rebuilt(*found[name]) for name in one.scale.compared}
            figures |= importlib.import_module(one.method.figures).compared(runs)
    return figures


def summary(out: Path) -> str:
    """README's table, from the rows under docs/results: every line that a paper prints."""
    from pyarrow import parquet

    body = []
    for name in METHODS:
        file = out / name / "rows.parquet"
        if not file.exists():
            continue
        rows = from_table(parquet.read_table(file, schema=schema()))
        for word in ("paper", "small"):
            one = Reproduction.of(name, word, None, "")
            for table in (table for table in one.tables if table.unit == "%"):
                lines = lines_of(one, table, rows)
                by_name = {line.cell.name: line for line in lines if line.scores}
                for line in by_name.values():
                    if line.cell.printed is None:
                        continue
                    other = by_name.get(line.cell.against)
                    body.append(
                        (
                            f"[`{name}`](docs/results/{name}/README.md)",
                            table.title.partition(":")[0],
                            line.cell.name,
                            number(line.cell.printed),
                            f"{number(line.mean)} ± {number(line.spread)} ({len(line.scores)})",
                            f"{line.over(other)} over {other.cell.name}" if other else "",
                            word,
                        )
                    )
    return markdown(("method", "table", "line", "paper %", "ours % ± sd (n)", "difference, paired, 95%", "scale"), body)


def inserted(readme: str, table: str) -> str:
    """README's text with the table between its marks.

    Raises:
        UsageError: the marks are not there.
    """
    before, start, rest = readme.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not start or not end:
        raise UsageError(f"README.md: no place for the table; put {MARKS[0]} and {MARKS[1]} around it")
    return f"{before}{start}\n{table}{end}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(
        prog="python -m search.papers.page", description="Write README's table from docs/results.", allow_abbrev=False
    )
    p.add_argument("--results", type=Path, default=Path("docs/results"), metavar="DIR")
    p.add_argument("--readme", type=Path, default=Path("README.md"), metavar="FILE")

    def act(args: argparse.Namespace) -> int:
        text = inserted(args.readme.read_text(encoding="utf-8"), summary(args.results))
        args.readme.write_text(text, encoding="utf-8")
        return OK

    return carry_out(p, act, argv)


if __name__ == "__main__":
    sys.exit(main())
