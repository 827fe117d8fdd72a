"""What a search makes large or small: the metrics that --metric names, each with its direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bo_distill.methods.errors import UsageError

if TYPE_CHECKING:
    from bo_distill.search.rows.row import Row


@dataclass(frozen=True)
class Metric:
    """A figure of a trial's row by which configurations are chosen.

    Attributes:
        word: as --metric has it.
        title: in a sentence.
        unit: "share", from 0 to 1 and shown in per cent; "count", compared by ratio; "number".
        higher: whether more is better.
        column: of the row, or one of its `val_metrics`.
        own: one of its `val_metrics` that a method may have and that goes before the column.
        after: known only once the whole network has answered the validation split (`Task.measured`).
    """

    word: str
    title: str
    unit: Literal["share", "count", "number"]
    higher: bool
    column: str
    after: bool = False
    own: str = ""

    @property
    def label(self) -> str:
        """Of an axis or a column."""
        return f"{self.title} (%)" if self.unit == "share" else self.title

    @property
    def head(self) -> str:
        """Of a table's column."""
        return "validation %" if self.word == ACCURACY else f"{self.word} %" if self.unit == "share" else self.word

    def told(self, value: float | None) -> str:
        """The value with its name, in a sentence."""
        return f"{self.text(value)} on validation" if self.word == ACCURACY else f"{self.title} {self.text(value)}"

    def shown(self, value: float) -> float:
        """The value in the unit of `label`."""
        return 100 * value if self.unit == "share" else value

    def text(self, value: float | None) -> str:
        """The value for a person, with its unit."""
        if value is None:
            return "–"
        if self.unit == "share":
            return f"{100 * value:.2f}%"
        return f"{value:,.0f}" if self.unit == "count" else f"{value:.4g}"

    def score(self, value: float) -> float:
        """What a search makes large: the value or its negative, of a count the logarithm."""
        scaled = math.log(max(value, 1.0)) if self.unit == "count" else value
        return scaled if self.higher else -scaled

    def of(self, row: Row) -> float | None:
        """The trial's value; None where it has none."""
        value = row.val_metrics.get(self.own or self.column, getattr(row, self.column, None))
        return None if value is None or not math.isfinite(value) else float(value)


ACCURACY = "val_accuracy"  # what a search makes large where nobody says otherwise
METRICS = {
    metric.word: metric
    for metric in (
        Metric(ACCURACY, "validation accuracy", "share", True, "val_accuracy"),
        Metric("val_loss", "validation loss", "number", False, "val_loss"),
        Metric("val_f1", "macro F1 on validation", "share", True, "macro_f1", after=True),
        Metric("val_top3", "top-3 accuracy on validation", "share", True, "top3", after=True),
        Metric("val_ece", "calibration error on validation", "share", False, "ece", after=True),
        Metric("macs", "MACs of one inference", "count", False, "macs_forward", after=True, own="macs"),
        Metric("macs_train", "MACs of the training", "count", False, "macs_train"),
        Metric("params", "parameters", "count", False, "params"),
    )
}
MOST = 2  # metrics of one search


def metrics_of(text: str) -> tuple[str, ...]:
    """Metrics as --metric names them, by commas.

    Raises:
        UsageError: there is none of such a name, one is there twice, or there are more than two.
    """
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    for word in words:
        if word not in METRICS:
            raise UsageError(f"--metric {word}: no such metric; there are {', '.join(METRICS)}")
    if not 0 < len(set(words)) == len(words) <= MOST:
        raise UsageError(f"--metric {text}: give one metric, or two by a comma")
    return words
