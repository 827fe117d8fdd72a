"""Training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.pages.charts.look import C1, FAINT, MUTED, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
