"""Figures 2 and 3 in ours, accuracy against cost, where sentences leave, and overthinking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from bo_distill.methods.method import Trained
from bo_distill.methods.pictures import literal
from bo_distill.methods.res_ic.choosing import sweep
from bo_distill.methods.res_ic.paper import BUCKET, length_bucket
from bo_distill.methods.res_ic.policies import oracle
from bo_distill.methods.res_ic.tables import Task, bucket_name, observed, tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figures", "tables"]

# Told apart by dash and marker as well as by colour (Okabe and Ito's, safe for colour-blind readers).
STYLES = {
    "fixed": ("#000000", "-", "o"),
    "confidence": ("#0072B2", "-", ""),
    "entropy": ("#E69F00", "--", ""),
    "patience": ("#009E73", "-.", "s"),
    "ensemble": ("#D55E00", ":", ""),
    "agreement": ("#56B4E9", (0, (5, 1)), ""),
}
DASHES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"), ((0, (5, 1)), "v"), ((0, (1, 1)), "x"))


def figures(trained: Trained) -> dict[str, Figure]:
    """Figures 2 and 3 in ours, and accuracy against cost, leaving and overthinking, by name."""
    tasks = observed(trained)
    longest = tasks[0].on.longest
    # The paper's limits are 30 and 90 of 132 characters; where fewer are kept, the same shares of them.
    short, long = (max(BUCKET, round(longest * limit / 132 / BUCKET) * BUCKET) for limit in (30, 90))
    return {
        "short_sentences": length_figure(tasks[0], 0, short, f"Fig. 2: sentences of fewer than {short} characters"),
        "long_sentences": length_figure(tasks[0], long, longest + 1, f"Fig. 3: sentences from {long} characters on"),
        "accuracy_against_macs": curve_figure(tasks),
        "leaving": leaving_figure(tasks[0]),
        "overthinking": overthinking_figure(tasks),
    }


def exit_axis(axes: Axes, names: Sequence[str]) -> None:
    """Label the horizontal axis with the exits."""
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 8 else 0, size=8)
    axes.set_xlabel("exit")
    axes.grid(alpha=0.3)


def length_figure(task: Task, low: int, high: int, title: str) -> Figure:
    """Of each exit's errors the share that lies in each bucket of lengths, as in the paper, and its error rate."""
    from matplotlib.figure import Figure

    figure = Figure((10.0, 3.8), layout="constrained")
    figure.suptitle(f"{title} ({literal(task.name)})")
    left, right = figure.subplots(1, 2)
    wrong, bucket = (~task.on.right).double(), length_bucket(task.on.lengths)
    for b, (dash, marker) in zip(range(low // BUCKET, -(-high // BUCKET)), DASHES * 3, strict=False):
        here = bucket == b
        if here.any():
            style = {"linestyle": dash, "marker": marker, "markersize": 4}
            left.plot(100 * wrong[here].sum(0) / wrong.sum(0).clamp_min(1), **style)
            right.plot(100 * wrong[here].mean(0), **style, label=f"{bucket_name(b)} ({int(here.sum())})")
    right.plot(100 * wrong.mean(0), color="black", linewidth=2, label=f"all ({len(wrong)})")
    left.set(title="Share of the exit's errors", ylabel="share of errors (%)")
    right.set(title="Error rate", ylabel="error rate (%)")
    for axes in (left, right):
        exit_axis(axes, task.exits)
    figure.legend(
        *right.get_legend_handles_labels(), loc="outside right center", title="characters\n(sentences)", fontsize=8
    )
    return figure


def curve_figure(tasks: Sequence[Task]) -> Figure:
    """Accuracy against average MACs. Thresholds come from validation, the points from the split that is reported."""
    from matplotlib.figure import Figure

    figure = Figure((6.2 * len(tasks), 4.6), layout="constrained")
    figure.suptitle("Exit policies: accuracy against cost")
    for task, axes in zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True):
        for rule, (colour, dash, marker) in STYLES.items():
            policy = task.policies[rule, "accurate"]
            curve = sweep(policy, task.on, sweep(policy, task.val).thresholds)
            where = curve.macs / 1e6, 100 * curve.accuracy
            axes.plot(*where, color=colour, linestyle=dash, marker=marker, markersize=4, label=rule)
        for rule, goal, marker in (("length", "accurate", "*"), ("confidence", "controlled", "P")):
            exit, guess = task.outcome(rule, goal)
            accuracy = 100 * float((guess == task.on.y).double().mean())
            style = {"color": "#CC79A7", "markersize": 10, "markeredgecolor": "black"}
            axes.plot(task.macs(exit) / 1e6, accuracy, marker, **style, label=f"{rule}, {goal}")
        last = 100 * float(task.on.right[:, -1].double().mean())
        axes.axhline(last, color="grey", linewidth=0.8)
        axes.text(task.on.macs[0] / 1e6, last, "LC", va="bottom", size=8, color="grey")
        axes.set(title=literal(task.name), xlabel="multiply-adds per sentence (millions)", ylabel="accuracy (%)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    return figure


def leaving_figure(task: Task) -> Figure:
    """Share leaving at each exit, one bar for each policy; darker is deeper."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    bars = {f"{rule}, {goal}": task.outcome(rule, goal)[0] for rule, goal in task.policies} | {
        "oracle": oracle(task.on)
    }
    figure = Figure((8.0, 0.8 + 0.34 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    start = torch.zeros(len(bars), dtype=torch.float64)
    for i, name in enumerate(task.exits):
        width = 100 * torch.stack([(exit == i).double().mean() for exit in bars.values()])
        shade = colormaps["cividis_r"](i / max(len(task.exits) - 1, 1))
        axes.barh(
            list(bars), width.numpy(), left=start.numpy(), color=shade, edgecolor="black", linewidth=0.4, label=name
        )
        start = start + width
    axes.invert_yaxis()
    axes.set(
        title=f"Where sentences leave ({literal(task.name)})",
        xlabel="share of sentences (%)",
        ylabel="policy",
        xlim=(0, 100),
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8, title="exit")
    return figure


def overthinking_figure(tasks: Sequence[Task]) -> Figure:
    """What the layers after each internal classifier destroy and what they gain."""
    from matplotlib.figure import Figure

    figure = Figure((5.2 * len(tasks), 3.8), layout="constrained")
    figure.suptitle("Overthinking")
    for task, axes in zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True):
        right, last = task.on.right[:, :-1], task.on.right[:, -1:]
        axes.plot(100 * (right & ~last).double().mean(0), "o-", color="#D55E00", label="right here, wrong at LC")
        axes.plot(100 * (~right & last).double().mean(0), "s--", color="#0072B2", label="wrong here, right at LC")
        axes.set(title=literal(task.name), ylabel="share of sentences (%)", ylim=(0, None))
        exit_axis(axes, task.exits[:-1])
        axes.legend(fontsize=8)
    return figure
