"""Charts of a study's trials: their history, and accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.pages.charts.look import C1, C2, INK, LINES, MUTED, STATUS, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def history(trials: Sequence[tuple[int, float | None, str]], winner: int | None) -> Figure:
    """Validation accuracy of each trial (number, accuracy, status) and the best so far; `winner` is a number."""
    figure = blank(7.6, 3.3)
    axes: Any = figure.add_subplot()
    seen = [(n, 100 * a) for n, a, _ in trials if a is not None]
    floor = min((a for _, a in seen), default=0.0)
    for status, (marker, word) in STATUS.items():
        here = [(n, floor if a is None else 100 * a) for n, a, s in trials if s == status]
        if here:
            fill = {"facecolors": "none"} if status == "pruned" else {}
            axes.scatter(
                *zip(*here, strict=True),
                marker=marker,
                color=MUTED if status != "failed" else C2,
                s=26,
                label=word,
                **fill,
            )
    done = [(n, 100 * a) for n, a, s in trials if a is not None and s == "done"]
    if done:
        numbers, best = [n for n, _ in done], np.maximum.accumulate([a for _, a in done])
        axes.step(
            [*numbers, max(n for n, *_ in trials) + 0.5], [*best, best[-1]], where="post", color=C1, label="best so far"
        )
        for number, accuracy in (point for point in done if point[0] == winner):
            label = f"winner, {accuracy:.2f}%"
            axes.plot(number, accuracy, marker="*", color=C1, markersize=13, linestyle="none", label=label)
    axes.set(xlabel="trial", ylabel="validation accuracy (%)")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.legend(loc="outside upper left", ncols=5)
    return figure


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (cost, accuracy) that no other one beats in one and equals in the other, by rising cost."""
    kept: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((cost, accuracy))
    return kept


def macs(groups: Mapping[str, Sequence[tuple[float, float, float]]]) -> Figure:
    """Accuracy against cost: name -> (trained MACs, forward MACs, validation accuracy) of each trial."""
    from matplotlib.ticker import EngFormatter

    figure = blank(7.6, 3.5)
    grid: Any = figure.subplots(1, 2, sharey=True)
    for axes, column, label in ((grid[0], 0, "MACs of the whole training"), (grid[1], 1, "MACs of one inference")):
        for (name, points), (colour, _, marker) in zip(groups.items(), LINES * 9, strict=False):
            first = name == next(iter(groups))
            axes.scatter(
                [p[column] for p in points], [100 * p[2] for p in points], marker=marker, s=26 if first else 44,
                color=colour, alpha=0.75, label=name, linewidths=0,
            )  # fmt: skip
        best = front([(p[column], 100 * p[2]) for points in groups.values() for p in points])
        axes.step(
            *zip(*best, strict=True), where="post", color=INK, linewidth=1.2, linestyle="--", label="Pareto front"
        )
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
    grid[0].set_ylabel("validation accuracy (%)")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure
