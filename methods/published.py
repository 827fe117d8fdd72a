"""What a paper printed, and the runs that stand beside it: what `search.reproduce` carries out.

A method's `published.py` offers `SCALES`, the sizes at which the paper's tables can be run, `tables(scale)`, their
lines, and `CLAIMS`. All are data; nothing here trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bo_distill.methods.data.dataset import DataSpec


@dataclass(frozen=True)
class Cell:
    """A line of a table: one figure, from a few trainings that differ in their seed.

    Lines with equal settings share their trainings.

    Attributes:
        name: of the line, unique in its table.
        settings: "stage.field" -> value, laid over the scale's.
        printed: what the paper gives, in the table's unit; None for a control that it lacks.
        metric: of the test split (`methods.metrics.classification`, `Method.metrics`).
        macs: metric of the test split that is a share of the multiply-adds, which stands beside; "" for none.
        against: the line of the same table that this one is held against, seed by seed.
        searcher: "grid" or "bo" chooses the fields of `space` on validation; "" takes the settings.
        space: fields -> range, as `methods.space.ranged` reads it; none: those that the method searches, in its ranges.
        searching: laid over the settings while a search looks for the best; None for what the scale has.
        printed_seconds: what the paper's search took.
        headline: it belongs to the method and its control, and is trained before what is not.
        seeds: trainings of it at most; None for as many as the scale has.
        shared: the metric is of a stage that seeds share, such as a teacher, which counts once for them all.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    printed: float | None = None
    metric: str = "accuracy"
    macs: str = ""
    against: str = ""
    searcher: str = ""
    space: Mapping[str, str] = field(default_factory=dict)
    searching: Mapping[str, Any] | None = None
    printed_seconds: float | None = None
    headline: bool = False
    seeds: int | None = None
    shared: bool = False


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, or of the controls that it should have had.

    Attributes:
        title: the paper's number and subject.
        cells: its lines.
        data: which of the scale's data sets.
        unit: "%" of shares; "" prints a metric as it is.
        within: what its figures cannot leave, nor an interval of theirs.
        note: what a reader must know to compare the two columns.
    """

    title: str
    cells: tuple[Cell, ...]
    data: str = "main"
    unit: str = "%"
    within: tuple[float, float] = (0.0, 100.0)
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A question that a paper answers, or that it leaves open, and what decides it here: the difference of a line from
    its control. What the trainings of both cost is said beside it.

    Attributes:
        text: the question; whether the line is the better of the two.
        paper: what the paper says, "better" or other words; "" where it does not ask.
        table: the first words of the table's title.
        line, control: cells' names.
    """

    text: str
    paper: str
    table: str
    line: str
    control: str


@dataclass(frozen=True)
class Scale:
    """A size at which the tables can be run.

    Attributes:
        recipe: of the method.
        data: name in `PaperTable.data` -> the set. A text file's path is below the data directory.
        settings: laid over the recipe for all lines.
        words: how this differs from the paper, for a reader.
        each: name of a data set -> laid over the settings for its tables.
        seeds: trainings of every line.
        trials: of a Bayesian search at most; a grid has its natural size.
        patience: a Bayesian search stops after so many trials without a better accuracy.
        shown: lines of whose first training the method's own tables are printed; that of the first is drawn.
        compared: lines whose first trainings the method's `figures.compared` draws side by side.
        searching: laid over the settings while a search looks for the best, such as fewer epochs; its winner is then
            retrained without.
        lesser: laid over the settings of lines beside the headline, such as a smaller network.
    """

    recipe: str
    data: Mapping[str, DataSpec]
    settings: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""
    each: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: int = 3
    trials: int = 12
    patience: int | None = None
    shown: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    searching: Mapping[str, Any] = field(default_factory=dict)
    lesser: Mapping[str, Any] = field(default_factory=dict)


def short(stage: str, epochs: int, **others: Any) -> dict[str, Any]:
    """Settings of a stage that is trained on all rows in few epochs on a processor: Muon with a triangular rate.

    Of what was tried on ResNet-14 and CIFAR-10 it reaches the same validation accuracy in the least CPU time.
    """
    settings = {
        "epochs": epochs,
        "batch_size": 256,
        "optimizer": "muon",
        "lr": 0.05,
        "nesterov": True,
        "weight_decay": 5e-4,
        "decayed": "matrices",
        "schedule": "linear",
        "warmup": epochs / 5,
        "milestones": (),
        "factors": (),
        "norm": "global",  # of the whole batch, as in the papers; on one worker it costs least
        **others,
    }
    return {f"{stage}.{name}": value for name, value in settings.items()}


def headline(*cells: Cell) -> tuple[Cell, ...]:
    """These lines as the method and its control."""
    return tuple(replace(cell, headline=True) for cell in cells)
