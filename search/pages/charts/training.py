"""Training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bo_distill.search.pages.charts.look import C1, FAINT, MUTED, NARROW, WIDE, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]


def training(stages: Mapping[str, Sequence[tuple[bool, Rows]]], narrow: bool = False) -> Figure:
    """Per stage its trainings, (is it the winner's, rows of epochs): validation accuracy, and the losses."""
    lines = len(stages)
    figure = blank(*((NARROW, 4.4 * lines + 0.4) if narrow else (WIDE, 2.35 * lines + 0.4)))
    grid: Any = figure.subplots(*((2 * lines, 1) if narrow else (lines, 2)), squeeze=False).reshape(lines, 2)
    for (left, right), (stage, runs) in zip(grid, stages.items(), strict=True):
        losses: list[float] = []
        for winner, rows in sorted(runs, key=lambda run: run[0]):
            _curve(left, rows, winner, "val_accuracy", "-", 100.0)
            losses += _curve(right, rows, winner, "val_loss", "-", label="validation")
            if winner or not any("val_loss" in row for row in rows):
                losses += _curve(right, rows, winner, "loss", "--", label="training")
        left.set(ylabel="validation accuracy (%)", xlabel="epoch", title=stage)
        right.set(ylabel="loss", xlabel="epoch", title=f"{stage}: loss")
        if losses and min(losses) > 0 and max(losses) > 30 * min(losses):
            right.set_yscale("log")
        _finish(left, f"no accuracy is recorded in {stage}")
        _finish(right, "no loss is recorded")
        if any(not line.get_label().startswith("_") for line in right.lines):
            right.legend(handlelength=3.2)
    return figure


def _curve(
    axes: Any, rows: Rows, winner: bool, key: str, line: str, scale: float = 1.0, label: str = "_"
) -> list[float]:
    """A quantity over the epochs, a line for each item of a stage that trains several; returns its values."""
    values: list[float] = []
    for item in dict.fromkeys(row.get("item") for row in rows):
        some = [
            (row["epoch"], scale * row[key])
            for row in rows
            if row.get("item") == item and isinstance(row.get(key), int | float)
        ]
        if some:
            (drawn,) = axes.plot(
                *zip(*some, strict=True), line,
                marker="o" if winner and len(some) < 30 else None, markersize=3,
                color=C1 if winner else FAINT, linewidth=2.2 if winner else 0.9, zorder=3 if winner else 2,
            )  # fmt: skip
            drawn.set_label(label if winner and item == rows[0].get("item") else "_")
            values += [value for _, value in some]
    return values


def _finish(axes: Any, otherwise: str) -> None:
    """Whole epochs on the axis; where nothing was drawn, a word that says so."""
    if axes.lines:
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        return
    axes.set_axis_off()
    axes.set_title("")
    axes.text(0.5, 0.5, otherwise, ha="center", transform=axes.transAxes, color=MUTED)
