"""The reliability diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bo_distill.search.pages.charts.look import C1, C2, MUTED, NARROW, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bo_distill.methods.metrics import Reliability


def diagram(bins: Reliability, narrow: bool = False) -> Figure:
    """Accuracy against confidence, bin by bin, over how many answers fall into each."""
    figure = blank(NARROW if narrow else 5.6, 4.6)
    grid: Any = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper, lower = grid
    size = len(bins.count)
    seen = bins.count > 0
    middles = [100 * (k + 0.5) / size for k in range(size)]
    upper.plot([0, 100], [0, 100], color=MUTED, linestyle="--", label="confidence = accuracy")
    places = [middle for middle, some in zip(middles, seen.tolist(), strict=True) if some]
    accuracy, confidence = (100 * total[seen] / bins.count[seen] for total in (bins.right, bins.confidence))
    upper.bar(places, accuracy.tolist(), 90 / size, color=C1, alpha=0.55, label="accuracy")
    upper.plot(confidence.tolist(), accuracy.tolist(), "o", color=C2, markersize=5, label="at its mean confidence")
    upper.set(ylabel="accuracy (%)", ylim=(0, 102))
    lower.bar(middles, bins.count.tolist(), 90 / size, color=MUTED)
    lower.set(ylabel="answers", xlabel="confidence (%)", xlim=(0, 100))
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper left", ncols=1 if narrow else 3)
    return figure
