"""Charts of the searched settings: importance, slices, contour, parallel coordinates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from bo_distill.methods.pictures import literal
from bo_distill.methods.space import Choice, Domain, Integer, Real
from bo_distill.search.evidence.importance import Anova
from bo_distill.search.pages.charts.look import C1, C2, FAINT, INK, MUTED, NARROW, PAPER, WIDE, blank, mark

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bo_distill.search.study.metrics import Metric

Array = NDArray[np.float64]


def ticks(domain: Domain) -> list[tuple[float, str]]:
    """Where on [0, 1] a setting's axis is labelled, and with what."""
    if isinstance(domain, Choice):
        return [(domain.to_unit(option), str(option)) for option in domain.options]
    assert isinstance(domain, Real | Integer)
    values: Any
    if domain.log:
        values = LogLocator(numticks=6).tick_values(domain.low, domain.high)
        if sum(domain.low <= v <= domain.high for v in values) < 2:
            values = np.array([domain.low, domain.high])
    else:
        values = MaxNLocator(5, integer=isinstance(domain, Integer)).tick_values(domain.low, domain.high)
    kept = [v for v in values if domain.low <= v <= domain.high]
    return [(domain.to_unit(int(v) if isinstance(domain, Integer) else v), f"{v:g}") for v in kept]


def _axis_of(axis: Any, domain: Domain, name: str) -> None:
    places, words = zip(*ticks(domain), strict=True)
    axis.set_ticks(places, [literal(word) for word in words])
    log = isinstance(domain, Real | Integer) and domain.log
    axis.set_label_text(f"{literal(name)}{' (log)' if log else ''}")


def importance(names: Sequence[str], found: Anova, narrow: bool = False) -> Figure:
    """Share of the variance for each setting and pair, with the middle 80% of the forest's trees."""
    entries = [(name, found.main[:, i]) for i, name in enumerate(names)]
    entries += [
        (f"{names[i]} ×\n{names[j]}" if narrow else f"{names[i]} × {names[j]}", share)
        for (i, j), share in found.pairs.items()
    ]
    entries = sorted(entries, key=lambda entry: float(entry[1].mean()))[-10:]
    figure = blank(NARROW if narrow else WIDE, 1.0 + (0.5 if narrow else 0.36) * len(entries))
    axes: Any = figure.add_subplot()
    for row, (name, share) in enumerate(entries):
        low, high = np.percentile(100 * share, (10, 90))
        pair = "×" in name
        axes.barh(
            row, 100 * share.mean(), 0.6, color=PAPER if pair else C1, edgecolor=C1, hatch="////" if pair else None
        )
        axes.plot([low, high], [row, row], color=INK, linewidth=1.4, solid_capstyle="butt", marker="|", markersize=7)
    axes.set_yticks(range(len(entries)), [literal(name) for name, _ in entries])
    label = "share of the forest's variance (%);{}hatched: together, beyond each alone"
    axes.set(xlabel=label.format("\n" if narrow else " "), xlim=(0, 100))
    axes.grid(axis="y", visible=False)
    return figure


@dataclass(frozen=True)
class Tried:
    """The finished trials of a search.

    Attributes:
        numbers: of the trials (n,).
        x: their settings on [0, 1], (n, d).
        y: their values in the metric's unit (n,).
        fields: name -> domain of the d settings.
        best: the winner's row.
        metric: by which they were chosen.
    """

    numbers: Sequence[int]
    x: Array
    y: Array
    fields: Mapping[str, Domain]
    best: int
    metric: Metric


def slices(tried: Tried, found: Anova | None, narrow: bool = False) -> Figure:
    """The metric against each setting: the trials, and the forest's mean with its trees' middle 80%."""
    x, y, fields, best = tried.x, tried.y, tried.fields, tried.best
    columns = 1 if narrow else min(3, len(fields))
    lines = -(-len(fields) // columns)
    figure = blank(NARROW if narrow else max(2.9 * columns, 4.2), 2.7 * lines + 0.3)
    grid: Any = figure.subplots(lines, columns, squeeze=False, sharey=True)
    span = np.linspace(0, 1 - 1e-9, 120)
    for place, (name, domain) in enumerate(fields.items()):
        axes = grid.flat[place]
        if found:
            curves = found.marginal(place, span)
            low, high = np.percentile(curves, (10, 90), axis=0)
            axes.fill_between(span, low, high, color=C1, alpha=0.22, linewidth=0, label="80% of trees")
            axes.plot(span, curves.mean(0), color=C1, label="forest's mean")
        drawn = axes.scatter(x[:, place], y, color=MUTED, s=20, label="trial", zorder=3)
        mark(drawn, tried.numbers)
        axes.plot(x[best, place], y[best], "*", color=C2, markersize=13, label="winner", linestyle="none", zorder=4)
        _axis_of(axes.xaxis, domain, name)
        axes.set_xlim(-0.03, 1.03)
        if place % columns == 0:
            axes.set_ylabel(tried.metric.label)
    for axes in grid.flat[len(fields) :]:
        axes.set_axis_off()
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper left", ncols=2 if narrow else 4)
    return figure


def expected(tried: Tried, pair: tuple[int, int], side: int = 41) -> Array:
    """A Gaussian process's mean of the metric over two settings, the others as in the best trial, (side, side); the
    second setting goes up the rows."""
    x, y = tried.x, tried.y
    kept = np.unique(np.linspace(0, len(y) - 1, min(len(y), 200)).astype(int))  # its cost is cubic
    scales = Matern([0.5] * x.shape[1], (0.1, 10.0), nu=2.5)
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * scales + WhiteKernel(1e-2, (1e-5, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale at its bound is no fault here
        model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(x[kept], y[kept])
    points = np.repeat(x[tried.best][None], side * side, 0)
    across, up = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    points[:, pair[0]], points[:, pair[1]] = across.ravel(), up.ravel()
    return np.asarray(model.predict(points)).reshape(side, side)


def contour(tried: Tried, pair: tuple[int, int], mean: Array, narrow: bool = False) -> Figure:
    """`expected` over two settings, and the trials."""
    figure = blank(*((NARROW, 3.4) if narrow else (5.6, 4.2)))
    axes: Any = figure.add_subplot()
    span, x, y = np.linspace(0, 1, len(mean)), tried.x[:, pair[0]], tried.x[:, pair[1]]
    drawn = axes.contourf(span, span, mean, 10, cmap="cividis")
    axes.contour(drawn, colors="#ffffff", linewidths=0.6, alpha=0.7)
    edge: dict[str, Any] = {"color": "#ffffff", "clip_on": False}
    mark(axes.scatter(x, y, edgecolors="#000000", s=26, zorder=3, **edge), tried.numbers)
    axes.plot(x[tried.best], y[tried.best], "*", markeredgecolor="#000000", markersize=15, **edge)
    figure.colorbar(drawn, ax=axes, label=f"{tried.metric.label}, expected")
    names = list(tried.fields)
    for axis, i in ((axes.xaxis, pair[0]), (axes.yaxis, pair[1])):
        _axis_of(axis, tried.fields[names[i]], names[i])
    axes.grid(visible=False)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def parallel(tried: Tried, narrow: bool = False) -> Figure:
    """Each finished trial as a line through its settings to its value; the winner and the best quarter stand out."""
    y, fields = tried.y, tried.fields
    figure = blank(NARROW if narrow else max(WIDE, 1.7 * (len(fields) + 1)), 3.6)
    axes: Any = figure.add_subplot()
    low, high = float(y.min()), float(y.max())
    level = (y - low) / (high - low) if high > low else np.full_like(y, 0.5)
    top = set(np.argsort(y if tried.metric.higher else -y, kind="stable")[-max(1, len(y) // 4) :].tolist())
    looks: tuple[dict[str, Any], ...] = (
        {"color": FAINT, "linewidth": 0.9, "linestyle": "--", "label": "others", "zorder": 2},
        {"color": C1, "linewidth": 1.6, "marker": "o", "markersize": 3, "label": "best quarter", "zorder": 3},
        {"color": C2, "linewidth": 2.8, "marker": "*", "markersize": 10, "label": "winner", "zorder": 4},
    )
    for i, number in enumerate(tried.numbers):
        look = looks[2 if i == tried.best else 1 if i in top else 0]
        (line,) = axes.plot(range(len(fields) + 1), [*tried.x[i], level[i]], **look)
        mark(line, [number])
    unit = "%" if tried.metric.unit == "share" else ""
    scale = [(v, f"{low + v * (high - low):.4g}{unit}") for v in ((0.0, 0.5, 1.0) if high > low else (0.5,))]
    for place, marks in enumerate([*(ticks(domain) for domain in fields.values()), scale]):
        axes.axvline(place, color=MUTED, linewidth=1, zorder=1)
        for where, word in marks:
            axes.text(
                place + 0.025, where, literal(word), size=8, va="center", zorder=5,
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 1},
            )  # fmt: skip
    names = [literal(name.replace(".", ".\n") if narrow else name) for name in fields]
    axes.set_xticks(range(len(fields) + 1), [*names, tried.metric.title.replace(" ", "\n", 1)])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False)
    axes.set(xlim=(-0.1, len(fields) + 0.25), ylim=(-0.04, 1.04))
    words = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(words.values(), words.keys(), loc="outside upper left", ncols=3)
    return figure
