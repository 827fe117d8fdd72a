"""Charts of accuracies that are held against each other: winner and controls, searchers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from bo_distill.methods.pictures import literal
from bo_distill.search.pages.charts.look import C1, INK, LINES, MUTED, NARROW, PAPER, WIDE, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bo_distill.search.evidence.statistics import Course

Array = NDArray[np.float64]


def scores(
    groups: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float] | None],
    label: str = "test accuracy (%)",
    looks: int = 2,
    narrow: bool = False,
    turns: bool = False,
) -> Figure:
    """Accuracies of winner and controls, or of searchers, a tick for each seed, with mean and interval.

    Args:
        looks: so many colours and markers; rows beyond share the last.
        turns: rows beyond take them in turn instead.
    """
    figure = blank(NARROW if narrow else WIDE, 0.9 + (0.7 if narrow else 0.5) * len(groups))
    axes: Any = figure.add_subplot()
    for row, (name, values) in enumerate(groups.items()):
        colour, _, marker = LINES[row % looks if turns else min(row, looks - 1)]
        mean = 100 * float(np.mean(values))
        if interval := intervals.get(name):
            axes.plot([100 * v for v in interval], [row, row], color=colour, linewidth=2.4, marker="|", markersize=11)
        axes.plot(mean, row, marker, color=colour, markersize=9)
        axes.plot([100 * v for v in values], [row + 0.24] * len(values), "|", color=MUTED, markersize=7)
    axes.set_yticks(range(len(groups)), [_folded(name, narrow) for name in groups])
    axes.set(xlabel=label, ylim=(len(groups) - 0.4, -0.5))
    axes.grid(axis="y", visible=False)
    return figure


def _folded(name: str, narrow: bool) -> str:
    """A row's name, on several lines where there is little room beside the axes."""
    return literal(textwrap.fill(name, 16 if narrow else 40))


def anytime(courses: Mapping[str, Sequence[Course]], unit: str = "accuracy", narrow: bool = False) -> Figure:
    """Best value so far against trials, seconds and MACs: the mean over each one's runs, and their range, where all
    have one."""
    scale = 100 if unit == "accuracy" else 1
    figure = blank(*((NARROW, 8.4) if narrow else (10.8, 3.5)))
    panels = [("trials", "trials ended"), ("seconds", "seconds of training")]
    if any(sum(run.macs) for runs in courses.values() for run in runs):  # a method of one's own may count none
        panels.append(("macs", "MACs of training"))
    grid: Any = figure.subplots(*((len(panels), 1) if narrow else (1, len(panels))), sharey=True)
    for axes, (what, label) in zip(grid, panels, strict=True):
        for (name, runs), (colour, line, marker) in zip(courses.items(), LINES * 9, strict=False):
            spent = [np.cumsum(np.ones(len(r.values)) if what == "trials" else getattr(r, what)) for r in runs]
            ends = np.unique(np.concatenate(spent))
            ends = ends[ends <= min(s[-1] if len(s) else 0.0 for s in spent)]
            best = scale * np.array([_at(ends, s, run.best) for s, run in zip(spent, runs, strict=True)])
            known = ~np.isnan(best).any(axis=0)
            if not known.any():
                continue
            ends, best = ends[known], best[:, known]
            if len(runs) > 1:
                axes.fill_between(ends, best.min(0), best.max(0), step="post", color=colour, alpha=0.13, linewidth=0)
            axes.step(ends, best.mean(0), where="post", color=colour, linestyle=line, label=literal(name))
            axes.plot(ends[-1], best[:, -1].mean(), marker, color=colour)
        axes.set_xlabel(label)
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(EngFormatter())
    for axes in grid if narrow else grid[:1]:
        axes.set_ylabel("best validation accuracy so far (%)" if unit == "accuracy" else f"best {unit} so far")
    ncols = 2 if narrow else 4
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=ncols, handlelength=3.2)
    return figure


def _at(points: Array, spent: Array, best: NDArray[np.floating[Any]]) -> Array:
    """The best so far at each point of an axis; NaN before the first trial ended."""
    index = np.searchsorted(spent, points, side="right") - 1
    return np.where(index >= 0, best[np.maximum(index, 0)] if len(best) else np.nan, np.nan)


def differences(
    pairs: Sequence[Mapping[str, Any]], narrow: bool = False, label: str = "points of validation accuracy"
) -> Figure:
    """Pairs as `statistics.analyse` finds them: difference and interval in points; filled where one is shown."""
    figure = blank(NARROW if narrow else WIDE, 0.9 + (0.7 if narrow else 0.5) * len(pairs))
    axes: Any = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=1)
    for row, pair in enumerate(pairs):
        colour = C1 if pair["shown"] else MUTED
        axes.plot([100 * pair["low"], 100 * pair["high"]], [row, row], "|-", color=colour, markersize=11)
        face = colour if pair["shown"] else PAPER
        axes.plot(100 * pair["difference"], row, "o", color=colour, markerfacecolor=face, markersize=9)
    axes.set_yticks(range(len(pairs)), [_folded(f"{pair['a']} minus {pair['b']}", narrow) for pair in pairs])
    axes.set(xlabel=label, ylim=(len(pairs) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    return figure
