"""What a simulated trial is looked up in: a recorded table of real trainings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bo_distill.methods import METHODS, get
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import flatten
from bo_distill.methods.space import Choice, Integer, Real, Searched
from bo_distill.search.simulation import MADE_UP
from bo_distill.search.simulation.problems import Array, Recorded, Settings

MISSHAPEN = (OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
"""What reading a table raises that another program wrote, or that was cut."""


@dataclass(frozen=True)
class Table:
    """A dense grid of real trials, each over several seeds.

    The value of a configuration is the mean over seeds, interpolated between the grid's points on each field's own
    scale. A trial's noise is the whole learning curve's departure from that mean, drawn from all those recorded, made
    larger by sqrt(n / (n - 1)) because the mean of n seeds is part of them.

    Attributes:
        curves: (points of field 1, ..., of field n, seeds, epochs); NaN where an epoch has no accuracy.
        seconds: likewise; MACs: without the last axis and seeds.
        about: what the file says of itself: method, data, command and so on.
    """

    space: dict[str, Searched]
    axes: tuple[tuple[Any, ...], ...]
    curves: Array
    seconds: Array
    macs: Array
    shared: float = 0.0
    nearest: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "accuracy"

    @staticmethod
    def read(path: str | Path, nearest: bool = False) -> Table:
        """A table from its file.

        Raises:
            UsageError: there is none, or it is not a whole table.
        """
        import pyarrow as pa
        from pyarrow import parquet

        try:
            content = parquet.read_table(path)
            about = json.loads((content.schema.metadata or {})[b"table"])
            return Table._of(path, about, content.to_pylist(), nearest)
        except UsageError:
            raise
        except FileNotFoundError:
            raise UsageError(f"{path}: no such table; give a Parquet file or one of {', '.join(MADE_UP)}") from None
        except (pa.ArrowException, *MISSHAPEN) as error:
            words = " ".join(str(error).split())[:120]
            raise UsageError(f"{path} is not a table of trials ({words}); make one by benchmarks/table.py") from None

    @staticmethod
    def _of(path: str | Path, about: Any, rows: list[dict[str, Any]], nearest: bool) -> Table:
        space = {name: domain_of(words) for name, words in about["space"].items()}
        axes = tuple(tuple(values) for values in about["axes"].values())
        seeds = about["seeds"]
        shape = (*map(len, axes), len(seeds))
        if len(rows) != math.prod(shape):
            raise UsageError(f"{path} has {len(rows)} of {math.prod(shape)} trials; run benchmarks/table.py to its end")
        epochs = max(len(row["val_accuracy"]) for row in rows)
        curves, seconds = np.full((*shape, epochs), np.nan), np.zeros((*shape, epochs))
        macs = np.zeros(shape[:-1])
        for row in rows:
            at = tuple(axis.index(row[name]) for name, axis in zip(space, axes, strict=True))
            index = (*at, seeds.index(row["seed"]))
            # Where settings change the number of epochs, a shorter training keeps what it had reached.
            curve = np.array([np.nan if value is None else value for value in row["val_accuracy"]])
            curves[index] = np.pad(curve, (0, epochs - len(curve)), mode="edge")
            seconds[index][: len(curve)] = row["seconds"]
            macs[at] = row["macs"]
        table = Table(space, axes, curves, seconds, macs, float(about["shared_seconds"]), nearest, about)
        table.expected([dict(zip(space, (axis[0] for axis in axes), strict=True))])  # refuses what cannot be looked up
        return table

    def variant(self, study: int) -> Table:
        """Itself."""
        return self

    @cached_property
    def defaults(self) -> Settings:
        """The recipe's own values, as the method that was recorded has them now; empty where it is no method here."""
        if self.about.get("method") not in METHODS:
            return {}
        return flatten(get(self.about["method"]).configure(self.about["recipe"], self.about["settings"]))

    @cached_property
    def mean(self) -> Array:
        """(points of field 1, ..., of field n, epochs)"""
        return np.asarray(self.curves.mean(axis=-2))

    @cached_property
    def residuals(self) -> Array:
        """(all recorded trials, epochs)"""
        seeds = self.curves.shape[-2]
        left = (self.curves - self.mean[..., None, :]) * math.sqrt(seeds / max(1, seeds - 1))
        return np.asarray(left.reshape(-1, self.curves.shape[-1]))

    @cached_property
    def _surface(self) -> Any:
        """(trials, fields) coordinates -> (trials, 2 epochs + 1): mean curve, seconds and MACs."""
        from scipy.interpolate import RegularGridInterpolator

        places = [
            [domain.to_unit(v) for v in axis] for domain, axis in zip(self.space.values(), self.axes, strict=True)
        ]
        values = np.concatenate([self.mean, self.seconds.mean(axis=-2), self.macs[..., None]], axis=-1)
        for number, place in enumerate(places):  # options may be declared in any order
            values = np.take(values, np.argsort(place), axis=number)
        grid = [sorted(place) for place in places]
        return RegularGridInterpolator(grid, values, method="nearest" if self.nearest else "linear")

    def expected(self, settings: Sequence[Settings]) -> tuple[Array, Array, Array]:
        """Mean curves and seconds (settings, epochs) and MACs (settings,)."""
        found = self._surface([[domain.to_unit(one[name]) for name, domain in self.space.items()] for one in settings])
        epochs = self.curves.shape[-1]
        return found[:, :epochs], found[:, epochs:-1], found[:, -1]

    def look_up(self, settings: Settings, rng: np.random.Generator) -> Recorded:
        """The configuration's expected curve, seconds and MACs, with the noise of one recorded seed."""
        (curve,), (seconds,), (macs,) = self.expected([settings])
        noise = self.residuals[rng.integers(len(self.residuals))]
        return Recorded(curve + noise, seconds, float(macs), float(curve[-1]))


def domain_of(words: Mapping[str, Any]) -> Searched:
    """A domain as a table's file writes it: the fields of its class beside the class's name."""
    match words["kind"]:
        case "Real":
            return Real(words["low"], words["high"], words["log"])
        case "Integer":
            return Integer(words["low"], words["high"], words["log"])
        case "Choice":
            return Choice(tuple(words["options"]))
        case other:
            raise ValueError(f"{other} is no kind of domain")
