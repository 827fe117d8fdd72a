"""A study's charts as matplotlib Figures, and a Figure as SVG that takes its colours from the page it stands in.

Colours are Okabe and Ito's and never tell anything alone: what differs in colour differs in marker or line too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from methods.space import Choice, Domain, Integer, Real
from search.evidence.importance import Anova, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from search.evidence.statistics import Course


Array = NDArray[np.float64]


# name -> (light, dark). Light is what PNGs have, and is replaced by the page's variable in SVG: keep each one unique.
COLOURS = {
    "ink": ("#1b1b1f", "#ededf2"),
    "muted": ("#6a6a74", "#a3a3af"),
    "faint": ("#b9b9c2", "#5c5c68"),
    "grid": ("#e2e2e7", "#34343c"),
    "paper": ("#fdfdfe", "#17171b"),
    "c1": ("#0072b2", "#56b4e9"),
    "c2": ("#d55e00", "#f59a4c"),
    "c3": ("#009e73", "#3ccfa4"),
    "c4": ("#cc79a7", "#e6a5c8"),
    "c5": ("#e69f00", "#f2c14e"),
}


INK, MUTED, FAINT, GRID, PAPER, C1, C2, C3, C4, C5 = (light for light, _ in COLOURS.values())


LINES = ((C1, "-", "o"), (C2, "--", "s"), (C3, "-.", "^"), (C4, ":", "D"), (C5, (0, (5, 1, 1, 1, 1, 1)), "v"))


STATUS = {"done": ("o", "finished"), "pruned": ("v", "stopped early"), "failed": ("x", "failed")}


@contextmanager
def style() -> Iterator[None]:
    """Everything below is drawn and saved inside."""
    import matplotlib

    look: Any = {
        "font.size": 9.5,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.edgecolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "svg.fonttype": "none",
    }
    with matplotlib.rc_context(look):
        yield


def blank(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def png(figure: Figure, dpi: int = 144) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def svg(figure: Figure, name: str, title: str) -> str:
    """An `<svg>` element for a page that defines the COLOURS as variables. `name` is unique on the page."""
    import html

    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", text, flags=re.S)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'(xlink:href|\bhref)="#', rf'\1="#{name}-', text)
    text = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    for variable, (light, _) in COLOURS.items():
        text = re.sub(light, f"var(--{variable})", text, flags=re.I)
    box = re.search(r'viewBox="0 0 ([0-9.]+)', text)
    assert box
    head = (
        f'<svg role="img" aria-label="{html.escape(title, quote=True)}" style="max-width: {float(box[1]) * 1.6:.0f}px"'
    )
    text = re.sub(r'<svg( [^>]*?)? (width|height)="[^"]*"', r"<svg\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) (width|height)="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", head, 1)


def ticks(domain: Domain) -> list[tuple[float, str]]:
    """Where on [0, 1] a setting's axis is labelled, and with what."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if isinstance(domain, Choice):
        return [(unit(domain, option), str(option)) for option in domain.options]
    assert isinstance(domain, Real | Integer)
    values: Any
    if domain.log:
        values = LogLocator(numticks=6).tick_values(domain.low, domain.high)
        if sum(domain.low <= v <= domain.high for v in values) < 2:
            values = np.array([domain.low, domain.high])
    else:
        values = MaxNLocator(5, integer=isinstance(domain, Integer)).tick_values(domain.low, domain.high)
    kept = [v for v in values if domain.low <= v <= domain.high]
    return [(unit(domain, int(v) if isinstance(domain, Integer) else v), f"{v:g}") for v in kept]


def _axis_of(axis: Any, domain: Domain, name: str) -> None:
    places, words = zip(*ticks(domain), strict=True)
    axis.set_ticks(places, words)
    log = isinstance(domain, Real | Integer) and domain.log
    axis.set_label_text(f"{name}{' (log)' if log else ''}")


def history(trials: Sequence[tuple[int, float | None, str]]) -> Figure:
    """Validation accuracy of each trial (number, accuracy, status) and the best so far."""
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
        at = int(np.argmax([a for _, a in done]))
        axes.plot(*done[at], marker="*", color=C1, markersize=13, linestyle="none", label=f"best, {done[at][1]:.2f}%")
    axes.set(xlabel="trial", ylabel="validation accuracy (%)")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.legend(loc="outside upper left", ncols=5)
    return figure


def importance(names: Sequence[str], found: Anova) -> Figure:
    """Share of the variance for each setting and pair, with the middle 80% of the forest's trees."""
    entries = [(name, found.main[:, i]) for i, name in enumerate(names)]
    entries += [(f"{names[i]} × {names[j]}", share) for (i, j), share in found.pairs.items()]
    entries = sorted(entries, key=lambda entry: float(entry[1].mean()))[-10:]
    figure = blank(7.6, 1.0 + 0.36 * len(entries))
    axes: Any = figure.add_subplot()
    for row, (name, share) in enumerate(entries):
        low, high = np.percentile(100 * share, (10, 90))
        pair = "×" in name
        axes.barh(
            row, 100 * share.mean(), 0.6, color=PAPER if pair else C1, edgecolor=C1, hatch="////" if pair else None
        )
        axes.plot([low, high], [row, row], color=INK, linewidth=1.4, solid_capstyle="butt", marker="|", markersize=7)
    axes.set_yticks(range(len(entries)), [name for name, _ in entries])
    axes.set(xlabel="share of the forest's variance (%); hatched: together, beyond each alone", xlim=(0, 100))
    axes.grid(axis="y", visible=False)
    return figure


def slices(x: Array, y: Array, fields: Mapping[str, Domain], found: Anova | None, best: int) -> Figure:
    """Accuracy against each setting: the trials, and the forest's mean with its trees' middle 80%."""
    columns = min(3, len(fields))
    lines = -(-len(fields) // columns)
    figure = blank(max(2.9 * columns, 4.2), 2.7 * lines + 0.3)
    grid: Any = figure.subplots(lines, columns, squeeze=False, sharey=True)
    span = np.linspace(0, 1 - 1e-9, 120)
    for place, (name, domain) in enumerate(fields.items()):
        axes = grid.flat[place]
        if found:
            curves = 100 * found.marginal(place, span)
            low, high = np.percentile(curves, (10, 90), axis=0)
            axes.fill_between(span, low, high, color=C1, alpha=0.22, linewidth=0, label="80% of trees")
            axes.plot(span, curves.mean(0), color=C1, label="forest's mean")
        axes.scatter(x[:, place], 100 * y, color=MUTED, s=20, label="trial", zorder=3)
        axes.plot(x[best, place], 100 * y[best], "*", color=C2, markersize=13, label="best", linestyle="none", zorder=4)
        _axis_of(axes.xaxis, domain, name)
        axes.set_xlim(-0.03, 1.03)
        if place % columns == 0:
            axes.set_ylabel("validation accuracy (%)")
    for axes in grid.flat[len(fields) :]:
        axes.set_axis_off()
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def contour(x: Array, y: Array, fields: Mapping[str, Domain], pair: tuple[int, int], best: int) -> tuple[Figure, float]:
    """A Gaussian process's mean over two settings, the others as in the best trial, and the trials.

    Returns the range of that mean too: where it is small beside the trials' own, the process saw noise only.
    """
    import warnings

    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kept = np.unique(np.linspace(0, len(y) - 1, min(len(y), 200)).astype(int))  # its cost is cubic
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern([0.5] * x.shape[1], (0.1, 10.0), nu=2.5) + WhiteKernel(
        1e-2, (1e-5, 1.0)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale at its bound is no fault here
        model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(x[kept], y[kept])
    span = np.linspace(0, 1, 41)
    points = np.repeat(x[best][None], 41 * 41, 0)
    across, up = np.meshgrid(span, span)
    points[:, pair[0]], points[:, pair[1]] = across.ravel(), up.ravel()
    mean = 100 * model.predict(points).reshape(41, 41)
    figure = blank(5.6, 4.2)
    axes: Any = figure.add_subplot()
    drawn = axes.contourf(across, up, mean, 10, cmap="cividis")
    axes.contour(drawn, colors="#ffffff", linewidths=0.6, alpha=0.7)
    axes.scatter(x[:, pair[0]], x[:, pair[1]], color="#ffffff", edgecolors="#000000", s=26, zorder=3, clip_on=False)
    axes.plot(
        x[best, pair[0]],
        x[best, pair[1]],
        "*",
        color="#ffffff",
        markeredgecolor="#000000",
        markersize=15,
        clip_on=False,
    )
    figure.colorbar(drawn, ax=axes, label="validation accuracy (%), expected")
    names = list(fields)
    for axis, i in ((axes.xaxis, pair[0]), (axes.yaxis, pair[1])):
        _axis_of(axis, fields[names[i]], names[i])
    axes.grid(visible=False)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return figure, float(np.ptp(mean)) / 100


def parallel(x: Array, y: Array, fields: Mapping[str, Domain]) -> Figure:
    """Each finished trial as a line through its settings to its accuracy; the best quarter stands out."""
    figure = blank(max(7.6, 1.7 * (len(fields) + 1)), 3.6)
    axes: Any = figure.add_subplot()
    low, high = float(y.min()), float(y.max())
    level = (y - low) / (high - low) if high > low else np.full_like(y, 0.5)
    order = np.argsort(y, kind="stable")
    top = set(order[-max(1, len(y) // 4) :].tolist())
    across = range(len(fields) + 1)
    for i in order:
        line = [*x[i], level[i]]
        if i == order[-1]:
            axes.plot(across, line, color=C2, linewidth=2.8, marker="*", markersize=10, label="best", zorder=4)
        elif i in top:
            axes.plot(across, line, color=C1, linewidth=1.6, marker="o", markersize=3, label="best quarter", zorder=3)
        else:
            axes.plot(across, line, color=FAINT, linewidth=0.9, linestyle="--", label="others", zorder=2)
    scale = [(v, f"{100 * (low + v * (high - low)):.1f}%") for v in ((0.0, 0.5, 1.0) if high > low else (0.5,))]
    for place, marks in enumerate([*(ticks(domain) for domain in fields.values()), scale]):
        axes.axvline(place, color=MUTED, linewidth=1, zorder=1)
        for where, word in marks:
            axes.text(
                place + 0.025, where, word, size=8, va="center", zorder=5,
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 1},
            )  # fmt: skip
    axes.set_xticks(across, [*fields, "validation\naccuracy"])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False)
    axes.set(xlim=(-0.1, len(fields) + 0.25), ylim=(-0.04, 1.04))
    words = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(words.values(), words.keys(), loc="outside upper left", ncols=3)
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


def training(stages: Mapping[str, Sequence[tuple[bool, Sequence[Mapping[str, Any]]]]]) -> Figure:
    """Per stage its trainings, (is it the winner's, rows of epochs): validation accuracy, and the losses."""
    figure = blank(7.6, 2.35 * len(stages) + 0.4)
    grid: Any = figure.subplots(len(stages), 2, squeeze=False)
    for (left, right), (stage, runs) in zip(grid, stages.items(), strict=True):
        logs: list[float] = []
        for winner, rows in sorted(runs, key=lambda run: run[0]):
            look = {"color": C1 if winner else FAINT, "linewidth": 2.2 if winner else 0.9, "zorder": 3 if winner else 2}
            for axes, key, line, scale in (
                (left, "val_accuracy", "-", 100.0),
                (right, "val_loss", "-", 1.0),
                (right, "loss", "--", 1.0),
            ):
                if key == "loss" and not winner and any("val_loss" in row for row in rows):
                    continue
                for item in dict.fromkeys(row.get("item") for row in rows):
                    some = [
                        (row["epoch"], scale * row[key])
                        for row in rows
                        if row.get("item") == item and isinstance(row.get(key), int | float)
                    ]
                    if some:
                        word = {"val_accuracy": "", "val_loss": "validation", "loss": "training"}[key]
                        dot = "o" if winner and len(some) < 30 else None
                        (drawn,) = axes.plot(*zip(*some, strict=True), line, marker=dot, markersize=3, **look)
                        drawn.set_label(word if winner and item == rows[0].get("item") and word else "_")
                        if axes is right:
                            logs += [v for _, v in some]
        left.set(ylabel="validation accuracy (%)", xlabel="epoch", title=stage)
        right.set(ylabel="loss", xlabel="epoch", title=f"{stage}: loss")
        if logs and min(logs) > 0 and max(logs) > 30 * min(logs):
            right.set_yscale("log")
        for axes in (left, right):
            if axes.lines:
                axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            else:
                axes.set_axis_off()
                axes.set_title("")
                axes.text(
                    0.5,
                    0.5,
                    f"no accuracy is recorded in {stage}" if axes is left else "no loss is recorded",
                    ha="center",
                    transform=axes.transAxes,
                    color=MUTED,
                )
        if any(not line.get_label().startswith("_") for line in right.lines):
            right.legend(handlelength=3.2)
    return figure


def scores(
    groups: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float] | None],
    label: str = "test accuracy (%)",
    looks: int = 2,
) -> Figure:
    """Accuracies of winner and controls, or of searchers, a tick for each seed, with mean and interval.

    Args:
        looks: so many colours and markers; rows beyond share the last.
    """
    figure = blank(7.6, 0.9 + 0.5 * len(groups))
    axes: Any = figure.add_subplot()
    for row, (name, values) in enumerate(groups.items()):
        colour, _, marker = LINES[min(row, looks - 1)]
        mean = 100 * float(np.mean(values))
        if interval := intervals.get(name):
            axes.plot([100 * v for v in interval], [row, row], color=colour, linewidth=2.4, marker="|", markersize=11)
        axes.plot(mean, row, marker, color=colour, markersize=9)
        axes.plot([100 * v for v in values], [row + 0.24] * len(values), "|", color=MUTED, markersize=7)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set(xlabel=label, ylim=(len(groups) - 0.4, -0.5))
    axes.grid(axis="y", visible=False)
    return figure


def anytime(courses: Mapping[str, Sequence[Course]], unit: str = "accuracy") -> Figure:
    """Best value so far against trials, seconds and MACs: the mean over each one's runs, and their range, where all
    have one."""
    from matplotlib.ticker import EngFormatter

    scale = 100 if unit == "accuracy" else 1
    figure = blank(10.8, 3.5)
    grid: Any = figure.subplots(1, 3, sharey=True)
    panels = (("trials", "trials ended"), ("seconds", "seconds of training"), ("macs", "MACs of training"))
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
            axes.step(ends, best.mean(0), where="post", color=colour, linestyle=line, label=name)
            axes.plot(ends[-1], best[:, -1].mean(), marker, color=colour)
        axes.set_xlabel(label)
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(EngFormatter())
    grid[0].set_ylabel("best validation accuracy so far (%)" if unit == "accuracy" else f"best {unit} so far")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, handlelength=3.2)
    return figure


def _at(points: Array, spent: Array, best: NDArray[np.floating[Any]]) -> Array:
    """The best so far at each point of an axis; NaN before the first trial ended."""
    index = np.searchsorted(spent, points, side="right") - 1
    return np.where(index >= 0, best[np.maximum(index, 0)] if len(best) else np.nan, np.nan)


def differences(pairs: Sequence[Mapping[str, Any]]) -> Figure:
    """Pairs as `statistics.analyse` finds them: difference and interval in points; filled where one is shown."""
    figure = blank(7.6, 0.9 + 0.5 * len(pairs))
    axes: Any = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=1)
    for row, pair in enumerate(pairs):
        colour = C1 if pair["shown"] else MUTED
        axes.plot([100 * pair["low"], 100 * pair["high"]], [row, row], "|-", color=colour, markersize=11)
        face = colour if pair["shown"] else PAPER
        axes.plot(100 * pair["difference"], row, "o", color=colour, markerfacecolor=face, markersize=9)
    axes.set_yticks(range(len(pairs)), [f"{pair['a']} minus {pair['b']}" for pair in pairs])
    axes.set(xlabel="points of validation accuracy", ylim=(len(pairs) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    return figure
