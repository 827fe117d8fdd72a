"""Charts of a study's trials: their history, and accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.ticker import EngFormatter

from bo_distill.search.evidence.pareto import front
from bo_distill.search.pages.charts.look import C1, C2, INK, LINES, MUTED, NARROW, STATUS, WIDE, blank, mark

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bo_distill.search.study.metrics import Metric


def history(
    trials: Sequence[tuple[int, float | None, str]], metric: Metric, winner: int | None, narrow: bool = False
) -> Figure:
    """The metric of each trial (number, value, status) and the best so far; `winner` is a number.

    Trials without a value stand beyond the worst one.
    """
    figure = blank(NARROW if narrow else WIDE, 3.3)
    axes: Any = figure.add_subplot()
    seen = [metric.shown(a) for _, a, _ in trials if a is not None]
    low, high = min(seen, default=0.0), max(seen, default=0.0)
    beyond = 0.08 * (high - low)
    floor = low - beyond if metric.higher else high + beyond
    for status, (marker, word) in STATUS.items():
        here = [(n, floor if a is None else metric.shown(a)) for n, a, s in trials if s == status]
        if here:
            fill = {"facecolors": "none"} if status == "pruned" else {}
            colour = MUTED if status != "failed" else C2
            drawn = axes.scatter(*zip(*here, strict=True), marker=marker, color=colour, s=26, label=word, **fill)
            mark(drawn, [n for n, _ in here])
    done = [(n, metric.shown(a)) for n, a, s in trials if a is not None and s == "done"]
    if done:
        better = np.maximum if metric.higher else np.minimum
        numbers, best = [n for n, _ in done], better.accumulate([a for _, a in done])
        axes.step(
            [*numbers, max(n for n, *_ in trials) + 0.5], [*best, best[-1]], where="post", color=C1, label="best so far"
        )
        for number, value in ((n, a) for n, a, _ in trials if n == winner and a is not None):
            label = f"winner, {metric.text(value)}"
            (star,) = axes.plot(
                number, metric.shown(value), marker="*", color=C1, markersize=13, linestyle="none", label=label
            )
            mark(star, [number])
    axes.set(xlabel="trial", ylabel=metric.label)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.legend(loc="outside upper left", ncols=2 if narrow else 5)
    return figure


def pareto(
    trials: Sequence[tuple[int, float, float]],
    kept: Sequence[int],
    metrics: tuple[Metric, Metric],
    narrow: bool = False,
) -> Figure:
    """Two metrics of each trial (number, first, second), the second across, with the front.

    Args:
        kept: numbers of the trials on the front, the winner first.
    """
    figure = blank(NARROW if narrow else WIDE, 3.8)
    axes: Any = figure.add_subplot()
    up, across = metrics
    places = {number: (across.shown(b), up.shown(a)) for number, a, b in trials}
    others = [number for number in places if number not in kept]
    if others:
        drawn = axes.scatter(*zip(*(places[n] for n in others), strict=True), color=MUTED, s=26, label="trial")
        mark(drawn, others)
    line = [places[number] for number in kept]
    # Between two trials of the front nothing was seen: a step, on the side that a trial would have to beat.
    where = "pre" if across.higher else "post"
    axes.step(*zip(*sorted(line), strict=True), where=where, color=C1, linestyle="--", linewidth=1.2)
    drawn = axes.scatter(*zip(*line, strict=True), color=C1, s=44, label="Pareto front", zorder=3)
    mark(drawn, kept)
    (star,) = axes.plot(*line[0], marker="*", color=C2, markersize=14, linestyle="none", label="winner", zorder=4)
    mark(star, kept[:1])
    if across.unit == "count":
        values = [x for x, _ in places.values()]
        if min(values) > 0 and max(values) > 10 * min(values):
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(EngFormatter())
    if up.unit == "count":
        axes.yaxis.set_major_formatter(EngFormatter())
    axes.set(xlabel=across.label, ylabel=up.label)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


class Spent(NamedTuple):
    """What a trial cost and reached: its number, MACs of its training and of one inference, validation accuracy."""

    number: int
    training: float
    inference: float
    accuracy: float


def macs(groups: Mapping[str, Sequence[Spent]], narrow: bool = False) -> Figure:
    """Accuracy against cost: name -> its trials."""
    figure = blank(*((NARROW, 6.2) if narrow else (WIDE, 3.5)))
    grid: Any = figure.subplots(*((2, 1) if narrow else (1, 2)), sharey=True)
    _against(grid[0], groups, 1, "MACs of the whole training")
    _against(grid[1], groups, 2, "MACs of one inference")
    for axes in grid if narrow else grid[:1]:
        axes.set_ylabel("validation accuracy (%)")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=1 if narrow else 4)
    return figure


def _against(axes: Any, groups: Mapping[str, Sequence[Spent]], column: int, label: str) -> None:
    """Accuracy against one of the costs, with the Pareto front."""
    for (name, points), (colour, _, marker) in zip(groups.items(), LINES * 9, strict=False):
        size = 26 if name == next(iter(groups)) else 44
        drawn = axes.scatter(
            [p[column] for p in points], [100 * p.accuracy for p in points],
            marker=marker, s=size, color=colour, alpha=0.75, label=name, linewidths=0,
        )  # fmt: skip
        mark(drawn, [p.number for p in points])
    every = [(p[column], 100 * p.accuracy) for points in groups.values() for p in points]
    best = sorted(every[i] for i in front([(accuracy, -cost) for cost, accuracy in every]))
    axes.step(*zip(*best, strict=True), where="post", color=INK, linewidth=1.2, linestyle="--", label="Pareto front")
    axes.scatter(*zip(*best, strict=True), s=90, facecolors="none", edgecolors=INK, linewidths=1.1)
    values = [p[column] for points in groups.values() for p in points]
    if max(values) > 10 * min(values):
        axes.set_xscale("log")
    elif max(values) < 1.02 * min(values):
        axes.set_xlim(0.9 * min(values), 1.1 * max(values))
    if axes.get_xscale() == "linear":
        axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel(label)
