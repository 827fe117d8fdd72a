"""Typed ranges as the unit cube, and back."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from bayes_opt.parameter import FloatParameter
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import qmc
from threadpoolctl import ThreadpoolController

from bo_distill.methods.space import Choice, Searched

Config = dict[str, Any]
Row = tuple[float, ...]  # a point of the unit cube: one coordinate in [0, 1] per parameter
Array = NDArray[np.floating[Any]]

HAIR = 1e-3  # of a range: no training can tell two rates apart that are nearer
WIDEST = 0.02  # of a range: no two configurations need be further apart than that, however noisy trials are


@functools.cache
def _pools() -> ThreadpoolController:
    """The libraries' threads. To find these takes longer than most of what is done under the limit."""
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """Linear algebra in one thread: a search's matrices are small, the cores are the trials', and their number must not
    change a sum."""
    return _pools().limit(limits=1)


def random_state(seed: int, number: int) -> np.random.RandomState:
    """The randomness of a search's proposal of this number: its own, so that a search that goes on needs none kept."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence((seed, number))))


class Scale(Protocol):
    """What a searched domain says of itself; `methods.space` has ours, `search.bayes` those of Tune."""

    @property
    def levels(self) -> float:
        """How many different values there are; infinite for real numbers."""
        ...

    def check(self, value: Any) -> Any:
        """The value as the domain holds it; ValueError if it does not."""
        ...

    def to_unit(self, value: Any) -> float:
        """Where a value that the domain holds lies on [0, 1]."""
        ...

    def from_unit(self, unit: float) -> Any:
        """The value at a coordinate in [0, 1]."""
        ...

    def cell(self, unit: Any) -> Any:
        """The numbers, from 0, of the cells in which coordinates lie; an array for an array."""
        ...

    def middle(self, cell: Any) -> Any:
        """The coordinates in the middle of cells; an array for an array."""
        ...


class Axis(FloatParameter):
    """One searched parameter as a coordinate in [0, 1], which is all that bayes_opt needs to know of it.

    Args:
        text: of the range, for messages and to tell whether a saved search is of the same space.
    """

    def __init__(self, name: str, domain: Scale, text: str) -> None:
        super().__init__(name, (0.0, 1.0))
        self.domain, self.text, self.levels = domain, text, domain.levels
        # An unordered choice is one-hot to the kernel.
        self.one_hot = isinstance(domain, Choice) and not domain.ordered
        self.columns = int(domain.levels) if self.one_hot else 1  # that the kernel sees

    def snap(self, unit: Array) -> Array:
        """Coordinates, each moved to the middle of its cell."""
        return unit if self.levels == math.inf else np.asarray(self.domain.middle(self.domain.cell(unit)))

    def to_param(self, value: Any) -> Any:
        """The value at a coordinate, which may be an array of one."""
        return self.domain.from_unit(float(np.asarray(value).item()))  # bayes_opt hands over a row of one

    def to_float(self, value: Any) -> float:
        """The coordinate of a value; ValueError, which names the parameter, if the range does not hold it."""
        try:
            return self.domain.to_unit(self.domain.check(value.item() if isinstance(value, np.generic) else value))
        except ValueError:
            raise ValueError(f"{self.name}: {value!r} is not in {self.text}") from None

    def kernel_transform(self, value: Array) -> Array:
        """The coordinates as the kernel sees them, (n, columns): cells made points, unordered choices one-hot."""
        if not self.one_hot:
            return self.snap(value)
        # Any two options are as far apart as the two ends of a number's range.
        return np.equal(self.domain.cell(value), np.arange(self.levels)) / math.sqrt(2)


def axes_of(space: Mapping[str, Searched]) -> dict[str, Axis]:
    """The axes of a space of ours, in its order."""
    return {name: Axis(name, domain, repr(domain)) for name, domain in space.items()}


class Cube:
    """Typed ranges as the unit cube, and back."""

    def __init__(self, axes: Mapping[str, Axis]) -> None:
        self.axes = dict(axes)
        self.size = math.prod(axis.levels for axis in self.axes.values())

    def describe(self) -> list[str]:
        """The space in words, a line for each parameter; equal for equal spaces."""
        return [f"{name}: {axis.text}" for name, axis in self.axes.items()]

    def value(self, config: Config, name: str) -> Any:
        """A parameter's value in a configuration.

        Raises:
            LookupError: it has none.
        """
        return config[name]

    def encode(self, config: Config, partial: bool = False) -> list[Any]:
        """A coordinate for each parameter of a configuration; None where a partial one does not say."""
        row: list[Any] = []
        for name, axis in self.axes.items():
            try:
                value = self.value(config, name)
            except LookupError:
                if not partial:
                    raise ValueError(f"{name}: missing from {config!r}") from None
                row.append(None)
            else:
                row.append(axis.to_float(value))
        return row

    def decode(self, point: Array) -> Config:
        """The configuration at a point (d,) of the cube."""
        return {name: axis.to_param(unit) for (name, axis), unit in zip(self.axes.items(), point, strict=True)}

    def each(self, points: Array, of: Callable[[Axis, Array], Array]) -> Array:
        """What `of` makes of each column of points (n, d), side by side."""
        return np.column_stack([of(axis, points[:, i]) for i, axis in enumerate(self.axes.values())])

    def hair(self, breadth: Any = HAIR) -> Array:
        """(d,) how far apart, in every coordinate, two points may be and still be one configuration.

        Args:
            breadth: of real numbers, and of whole ones that are as many, brought between `HAIR` and `WIDEST`; options
                and the levels of a finite space differ from their neighbours always.
        """
        finite = self.size < math.inf
        levels = np.array([axis.levels for axis in self.axes.values()])
        return np.where((levels <= 1 / HAIR) | finite, 1e-9, np.clip(breadth, HAIR, WIDEST))

    def unseen(self, points: Array, known: Array, hair: Array | None = None) -> Array:
        """The points, snapped, less those that are no more than a hair from a known one.

        Args:
            points: (n, d).
            known: (m, d), snapped.
            hair: (d,); None: `self.hair()`.
        """
        snapped = self.each(points, lambda axis, unit: axis.snap(unit))
        if not len(known) or not len(points):
            return snapped
        hair = self.hair() if hair is None else hair
        return snapped[cdist(snapped / hair, known / hair, "chebyshev").min(axis=1) > 1]

    def sobol(self, seed: int, number: int) -> Array:
        """(d,) the point of this number of a scrambled Sobol sequence."""
        sequence = qmc.Sobol(len(self.axes), rng=np.random.default_rng(seed))
        if number:
            sequence.fast_forward(number)
        return np.asarray(sequence.random(1)[0])

    def neighbours(self, points: Array, spread: Any, rng: np.random.RandomState) -> Array:
        """One of each point (n, d): a normal step in every coordinate, now and then any other level in a discrete one.

        Args:
            spread: the steps' standard deviation, of all points or (n, 1).
        """
        moved = np.clip(points + spread * rng.standard_normal(points.shape), 0.0, 1.0)
        discrete = [axis.levels < math.inf for axis in self.axes.values()]
        anew = (rng.random_sample(points.shape) < 0.2) & discrete
        return np.where(anew, rng.random_sample(points.shape), moved)

    def count(self, known: Array) -> int:
        """How many different configurations of a finite space are among the known points."""
        return len({tuple(row) for row in self.each(known, lambda axis, unit: axis.domain.cell(unit)).tolist()})

    def draw(self, rng: np.random.RandomState, known: Array, hair: Array | None = None, count: int = 2000) -> Array:
        """Random points that are not known; of a finite space at least one, and all that there are where `count` holds
        them. None where all of an infinite space seems to be known."""
        if self.size <= count:
            levels = [axis.domain.middle(np.arange(axis.levels)) for axis in self.axes.values()]
            grid = np.stack(np.meshgrid(*levels), axis=-1).reshape(-1, len(levels))
            return rng.permutation(self.unseen(grid, known))
        for attempt in itertools.count():
            points = self.unseen(rng.random_sample((count, len(self.axes))), known, hair)
            if len(points) or (self.size == math.inf and attempt == 2):
                break
        return points
