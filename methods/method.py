"""The interface of a method: a value, not a base class.

A `Method` is a few `Stage`s in order, and what is made of their results: the deployed network, its cost, the
controls that a fair comparison needs, tables and figures. A stage is a function

    run(worker, config, needs) -> State

that trains with what the `Worker` offers and knows nothing of Ray, of search or of the test split.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from bo_distill.methods.data.dataset import Data, DataSpec, Info, Split
from bo_distill.methods.errors import UsageError
from bo_distill.methods.space import Field, Numbers, Searched, checked, fields_of, ranged, same
from bo_distill.methods.training import Player

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


EpochRow = dict[str, Any]
"""What is known of one epoch of one training; plain JSON, from the loop to the charts.

    epoch          from 1
    loss, ...      mean of each part of the losses over the epoch
    val_accuracy   and further scalars on validation, by names that begin with "val_"; absent where nothing is validated
    seconds        of wall-clock time
    cpu_seconds    of processor time, of all ranks, where it was noted
    item           which of several trainings side by side (`Worker.each`); absent where there is one
    stage          in what a trial keeps: the stage that the epoch is of
"""


@dataclass(frozen=True)
class State:
    """What a stage leaves behind. It is stored as tensors and JSON (`distributed.cache`).

    Attributes:
        tensors: weights (a `state_dict`) and any other arrays that later stages want, on the CPU.
        spec: JSON values; what rebuilds the network that the weights belong to.
        metrics: scalars of this stage. The last stage's hold `val_accuracy`.
        history: one row per epoch, filled in by the pipeline.
    """

    tensors: Mapping[str, Tensor]
    spec: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: tuple[EpochRow, ...] = ()


States = Mapping[str, State]


class Worker(Protocol):
    """What a stage may use; the same in one process and on every rank of a data-parallel group.

    A stage's code runs on every rank alike (SPMD). With the same seed every rank builds the same network; `fit` gives
    each rank its rows of every global batch, lets batch norms take their statistics as `Training.norm` says, and adds
    up gradients and metrics, so that the number of ranks changes the result by rounding only.
    """

    data: Data
    device: torch.device
    seed: int

    @property
    def rank(self) -> int:
        """This rank, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """How many ranks share each batch."""
        ...

    def place(self, net: M) -> M:
        """Move `net` to the device, channels last. In place."""
        ...

    def fit(
        self,
        *players: Player,
        validate: Callable[[], Mapping[str, float]] | None = None,
        rows: Tensor | None = None,
        targets: Tensor | None = None,
        keep: str = "last",
        patience: int | None = None,
    ) -> list[EpochRow]:
        """Train the players; the only training loop of the project. Returns one row of means per epoch.

        Args:
            players: each in turn takes one step on every batch. Their networks must have been placed.
            validate: called after each epoch with the networks in eval mode; `val_accuracy` is what a scheduler sees.
            rows: train on these rows of the training split only (default: all).
            targets: labels to use in place of the split's, (len(train.y),) (e.g. a cluster's own numbering).
            keep: "last", or "best" to restore the weights of the epoch with the highest `val_accuracy`.
            patience: stop after so many epochs without a better `val_accuracy`.
        """
        ...

    def predict(self, net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`net` on all rows of `x` (as a `Split` holds them) in batches, eval mode, no gradient.

        Returns float32 on the CPU, all rows on every rank. `net` may return any (b, ...) tensor.
        """
        ...

    def each(self, items: Iterable[T], run: Callable[[Worker, T], State]) -> list[State]:
        """Independent trainings side by side: items are dealt to ranks, each runs alone on its rank; all get all."""
        ...

    def total(self, value: Tensor) -> Tensor:
        """Sum over ranks, without gradient. With one rank, `value` itself."""
        ...


Config = Any  # a stage's frozen dataclass
Configs = Mapping[str, Config]


@dataclass(frozen=True)
class Stage:
    """One step of a method.

    Attributes:
        name: as in `--set name.field=value`.
        config: frozen dataclass whose fields are made with `methods.space`.
        run: (worker, config, states of `needs`) -> State.
        needs: earlier stages whose states it is given.
        macs: (all configs, info) -> multiply-adds of this stage's whole training, forward and backward.
        shared: trained once with the study's seed, also when later stages are repeated over seeds.
        judged: an epoch's `val_accuracy` is that of the trial, so that trials may be compared before their end.
    """

    name: str
    config: type
    run: Callable[[Worker, Any, States], State]
    needs: tuple[str, ...] = ()
    macs: Callable[[Configs, Info], int] = lambda configs, info: 0
    shared: bool = False
    judged: bool = True


@dataclass(frozen=True)
class Control:
    """A training that a winner is held against; it runs through the same code over the same seeds.

    A control that lengthens a stage stretches its schedule with it (`stretched`). A choice that costs no training, such
    as a threshold on stored answers, it makes anew.

    Attributes:
        change: all settings of the winner -> settings to change.
        tunes: fields that the control has of its own, and that a search of its own would move; empty: none.
    """

    change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    tunes: tuple[str, ...] = ()

    def __call__(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.change(settings)


def stretched(settings: Mapping[str, Any], stage: str, epochs: int) -> dict[str, Any]:
    """Settings with which a stage trains for `epochs` epochs, the same share of them at each learning rate as before.

    Args:
        settings: all of a configuration, "stage.field" -> value.
    """
    times = epochs / max(settings[f"{stage}.epochs"], 1)
    return {
        f"{stage}.epochs": epochs,
        f"{stage}.warmup": settings[f"{stage}.warmup"] * times,
        # One that lies beyond the end never acts, and stretched might be no milestone that can be set.
        f"{stage}.milestones": tuple(min(milestone * times, epochs) for milestone in settings[f"{stage}.milestones"]),
    }


@dataclass(frozen=True)
class Recipe:
    """A named set of departures from the defaults: `quick` is a laptop's size, `paper` is the paper's, where
    it prints them; the method's card says what stands for what it does not print."""

    data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    train_size: int | None = None
    val_size: int | None = None

    @property
    def spec(self) -> DataSpec:
        """The data on which it trains where a command names none."""
        return DataSpec(self.data, train_size=self.train_size, val_size=self.val_size)


@dataclass(frozen=True)
class Trained:
    """A finished run, for metrics, tables and figures: on validation while searching, on test once at the end."""

    worker: Worker
    configs: Configs
    states: States
    split: Split


@dataclass(frozen=True)
class Table:
    """Rows of a paper's table in our figures."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
        name: the folder and the word on the command line.
        paper: citation, one line.
        kind: "image" or "text", the data it takes.
        stages: in order; the last one's `val_accuracy` is what a search maximises.
        recipes: "quick" and "paper", maybe more.
        controls: by name, what the winner is held against; the first is plain training for as many epochs.
        model: (configs, states, info) -> the deployed network: x as a `Batch` holds it -> (b, classes) logits.
        others: the same for each further task that it answers, by the task's name, where a row carries several labels.
        costs: (configs, info) -> named networks to count: name -> module that takes one x. The deployed one is "model".
        metrics: further scalars on a split, beside accuracy, loss, top-3, macro F1 and calibration error.
        figures: module that offers `tables(trained) -> {name: Table}` and `figures(trained) -> {name: Figure}`, the
            paper's in our figures. By name: drawing is no part of training, and is imported only to draw.
        published: module of what the paper printed (`methods.published`).
    """

    name: str
    paper: str
    kind: str
    stages: tuple[Stage, ...]
    recipes: Mapping[str, Recipe]
    model: Callable[[Configs, States, Info], nn.Module]
    costs: Callable[[Configs, Info], Mapping[str, nn.Module]]
    others: Callable[[Configs, States, Info], Mapping[str, nn.Module]] = lambda configs, states, info: {}
    controls: Mapping[str, Control] = field(default_factory=dict)
    metrics: Callable[[Trained], Mapping[str, float]] = lambda trained: {}
    figures: str = ""
    published: str = ""

    def fields(self) -> dict[str, Field]:
        """ "stage.field" -> what is known of it, in declaration order."""
        return dict(self._fields)

    @cached_property
    def _fields(self) -> dict[str, Field]:
        return {f"{stage.name}.{name}": f for stage in self.stages for name, f in fields_of(stage.config).items()}

    def named(self, word: str) -> str:
        """The field, "stage.field", that a word names: its whole name, or the end of one where only one ends so.

        Raises:
            UsageError: no field ends so, or several do.
        """
        if word in self._fields:
            return word
        ends = [name for name in self._fields if name.endswith(f".{word}")]
        if len(ends) > 1:
            raise UsageError(f"{word}: several fields of {self.name} end so; give {', '.join(ends[:-1])} or {ends[-1]}")
        if ends:
            return ends[0]
        ends = [name.split(".", 1)[1] for name in self._fields]
        own = [end for end in ends if ends.count(end) == 1]
        near = difflib.get_close_matches(word, [*self._fields, *own], n=1)
        hint = f"did you mean {near[0]}?" if near else "--fields lists them"
        raise UsageError(f"{word}: {self.name} has no such field; {hint}")

    def space(self, names: Iterable[str], ranges: Mapping[str, str] | None = None) -> dict[str, Searched]:
        """The domains of these fields, in this order.

        Args:
            names: as `named` takes them.
            ranges: "stage.field" -> a person's own range of it, as `methods.space.ranged` reads it.

        Raises:
            UsageError: an unknown field, one that cannot be searched, or a range that cannot be.
        """
        result = dict[str, Searched]()
        for name in map(self.named, names):
            field = self._fields[name]
            if ranges and name in ranges:
                result[name] = ranged(name, field, ranges[name])
            elif isinstance(field.domain, Numbers):
                raise UsageError(f"--search {name}: a list of numbers cannot be searched; fix it by --set")
            else:
                result[name] = field.domain
        return result

    def idle(self, name: str, configs: Configs, searched: Iterable[str] = ()) -> tuple[str, Any] | None:
        """The setting with which a field changes nothing, so that all trials of a search over it would be one; or None.

        Args:
            name: "stage.field".
            configs: what is set.
            searched: fields that a search moves beside it: their values are not settled.
        """
        stage = name.partition(".")[0]
        for own, values in self._fields[name].idle.items():
            other, value = f"{stage}.{own}", getattr(configs[stage], own)
            if other not in searched and any(same(value, one) for one in values):
                return other, value
        return None

    def check(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings by the whole names of their fields, every value parsed and checked against its field's limits.

        Args:
            settings: names as `named` takes them.

        Raises:
            UsageError: an unknown field, or a value of the wrong type or beyond its limits.
        """
        whole = {self.named(name): value for name, value in settings.items()}
        return {name: checked(name, self._fields[name].limits, value) for name, value in whole.items()}

    def configure(self, recipe: str, settings: Mapping[str, Any] | None = None) -> dict[str, Config]:
        """Stage name -> its configuration: defaults, then the recipe, then `settings` ("stage.field" -> value)."""
        if recipe not in self.recipes:
            raise UsageError(f"--recipe {recipe}: {self.name} has {', '.join(self.recipes)}")
        values = self.check({**self.recipes[recipe].settings, **(settings or {})})
        return {
            stage.name: stage.config(
                **{name.split(".", 1)[1]: value for name, value in values.items() if name.split(".")[0] == stage.name}
            )
            for stage in self.stages
        }

    def macs(self, configs: Configs, info: Info) -> int:
        """Multiply-adds of the training of all stages, as `Stage.macs` counts them."""
        return sum(stage.macs(configs, info) for stage in self.stages)


def flatten(configs: Configs) -> dict[str, Any]:
    """Configurations as "stage.field" -> value, the form that rows and JSON hold."""
    return {
        f"{stage}.{name}": value
        for stage, config in configs.items()
        for name, value in dataclasses.asdict(config).items()
    }
