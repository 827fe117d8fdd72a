"""What a trial that was stopped early would have reached, from the learning curves of those that went to their end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, median
from typing import Any

from bo_distill.search.searchers.base import METRIC, Estimate, Searcher

Curve = Mapping[Any, float]
"""The metric at each point of a training, in order. The keys say which point: those of all trials of a search agree."""


class Reporter:
    """Reports trials' ends to a searcher.

    The last value of a trial that was stopped is no final one: told as such, it makes good settings look bad, since
    most trials are stopped while they still rise. The searcher hears an estimate instead: the value at the stop plus
    the median of what finished trials gained from that point on, at most the best final value seen, and how far those
    gains lie from their median. Whenever another trial finishes, all estimates are made anew.

    Attributes:
        estimates: of each trial that was stopped, by its id; None until a finished trial has passed the same point.
    """

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self.finished: list[tuple[Curve, float]] = []
        self.stopped: dict[str, tuple[Any, float]] = {}  # last point and value
        self.estimates: dict[str, Estimate | None] = {}

    def take(self, trial_id: str, status: str, value: float | None, curve: Curve) -> None:
        """Note a trial that has ended, without a report.

        Args:
            status: as in `search.study.records.Outcome`.
            value: the final one, None where there is none; not looked at where the trial was stopped.
            curve: up to its end.
        """
        if status == "done" and value is not None:
            self.finished.append((curve, value))
            self.estimates = self._estimated()
        elif status == "pruned":
            if curve:
                self.stopped[trial_id] = list(curve.items())[-1]
            self.estimates[trial_id] = self._estimated().get(trial_id)

    def report(self, trial_id: str, status: str, value: float | None, curve: Curve) -> None:
        """Note a trial that has ended, and tell the searcher of it and of every estimate that changed by it."""
        before = self.estimates.copy()
        self.take(trial_id, status, value, curve)
        if status != "pruned":
            result = None if value is None else {METRIC: value}
            self.searcher.on_trial_complete(trial_id, result, error=status == "failed")
        for stopped, estimate in self.estimates.items():
            if stopped not in before or before[stopped] != estimate:
                self.searcher.on_trial_stopped(stopped, estimate)

    def _estimated(self) -> dict[str, Estimate | None]:
        estimates: dict[str, Estimate | None] = dict.fromkeys(self.estimates)
        best = max((value for _, value in self.finished), default=math.nan)
        gains = {point: self._gain(point) for point, _ in self.stopped.values()}
        for trial_id, (point, value) in self.stopped.items():
            gain = gains[point]
            estimates[trial_id] = gain and Estimate(min(value + gain.value, best), gain.deviation)
        return estimates

    def _gain(self, point: Any) -> Estimate | None:
        """From a point of the training to its end, among finished trials."""
        gains = [value - curve[point] for curve, value in self.finished if point in curve]
        if not gains:
            return None
        middle = median(gains)
        spread = math.sqrt(fmean((gain - middle) ** 2 for gain in gains))
        return Estimate(middle, spread if len(gains) > 1 else abs(middle))  # one gain says nothing of how they differ
