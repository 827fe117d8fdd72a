"""The trials of two metrics that no other one beats, and how much of the plane they cover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bo_distill.methods.errors import counted
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.metrics import METRICS, Metric
from bo_distill.search.study.records import Trial

Pair = tuple[float, float]


def front(scores: Sequence[Pair]) -> list[int]:
    """Which pairs no other one dominates, the best in the first score first. Of equal pairs the first one counts.

    Args:
        scores: both to be made large.
    """
    kept: list[int] = []
    highest = -math.inf
    for number in sorted(range(len(scores)), key=lambda i: (-scores[i][0], -scores[i][1], i)):
        if scores[number][1] > highest:
            kept.append(number)
            highest = scores[number][1]
    return kept


def hypervolume(scores: Sequence[Pair], reference: Pair) -> float:
    """Area of the points that a pair is at least as good as, down to a reference point; pairs below that add nothing.

    Zitzler & Thiele 1998, "Multiobjective optimization using evolutionary algorithms: a comparative case study".
    """
    inside = [pair for pair in scores if pair[0] > reference[0] and pair[1] > reference[1]]
    area, top = 0.0, reference[1]
    for number in front(inside):
        across, up = inside[number]
        area += (across - reference[0]) * (up - top)
        top = up
    return area


@dataclass(frozen=True)
class Front:
    """What a search of two metrics found.

    Attributes:
        metrics: the two.
        trials: those on the front, the best in the first metric first.
        volume: hypervolume as a share of the box from `reference` to `best`.
        reference: the worst value of each metric that a trial of the search has, as a row has it.
        best: likewise the best.
    """

    metrics: tuple[Metric, Metric]
    trials: list[Trial]
    volume: float
    reference: Pair
    best: Pair

    @staticmethod
    def of(study: Study) -> Front | None:
        """The front of a study's search; None for a search of one metric, and before a trial has finished."""
        if len(study.plan.metrics) != 2 or not (done := study.ranked()):
            return None
        first, second = (METRICS[word] for word in study.plan.metrics)
        columns = [[study.value(trial, m.word) or 0.0 for trial in done] for m in (first, second)]
        ends = [(min, max) if m.higher else (max, min) for m in (first, second)]
        reference, best = ((ends[0][i](columns[0]), ends[1][i](columns[1])) for i in (0, 1))
        scores = [(first.score(a), second.score(b)) for a, b in zip(*columns, strict=True)]
        low, high = ((first.score(a), second.score(b)) for a, b in (reference, best))
        box = (high[0] - low[0]) * (high[1] - low[1])
        volume = hypervolume(scores, low) / box if box else 0.0
        return Front((first, second), [done[i] for i in front(scores)], volume, reference, best)

    def sentence(self) -> str:
        """The front's size and hypervolume in words."""
        a, b = self.metrics
        made = (
            f"{counted(len(self.trials), 'trial makes', 'trials make')} the Pareto front of {a.title} and {b.title}: "
            "no other is better in one and as good in the other."
        )
        if {a.unit, b.unit} != {"count"}:
            made += " Each is one training, and chance helps to make a front: its values flatter, too."
        ends = zip(self.metrics, self.reference, self.best, strict=True)
        if alike := [f"{metric.title} ({metric.text(best)})" for metric, worst, best in ends if worst == best]:
            return f"{made} All trials have the same {' and '.join(alike)}, so the front covers no area."
        return (
            f"{made} Its hypervolume is {self.volume:.3f} of the box from "
            f"the worst values seen ({a.text(self.reference[0])}, {b.text(self.reference[1])}), the reference point, "
            f"to the best ({a.text(self.best[0])}, {b.text(self.best[1])})"
            + ("; counts on a log scale." if "count" in (a.unit, b.unit) else ".")
        )
