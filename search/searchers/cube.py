"""Typed ranges as the unit cube, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Set
from numbers import Real as AnyReal
from typing import Any

import numpy as np
from bayes_opt.parameter import FloatParameter
from numpy.typing import NDArray

from methods.space import Choice, Domain, Integer, Real

Config = dict[str, Any]


Row = tuple[float, ...]  # a point of the unit cube: one coordinate in [0, 1] per parameter


Array = NDArray[np.floating[Any]]


class Axis(FloatParameter):
    """One searched parameter as a coordinate in [0, 1], which is all that bayes_opt needs to know of it.

    The coordinate runs evenly, or evenly in the logarithm, over [first, last]. Where the parameter has `levels`, each
    integer k from first to last - 1 owns the cell [k, k + 1): every coordinate in it means the same value, and `snap`
    moves it to the middle of the cell.
    """

    columns = 1  # that the kernel sees

    def __init__(self, name: str, text: str, first: float, last: float, log: bool = False, discrete: bool = True):
        if not (math.isfinite(first) and math.isfinite(last) and first < last):
            raise ValueError(f"{name}: {text} holds no range to search")
        super().__init__(name, (0.0, 1.0))
        self.text, self.first, self.last, self.log = text, first, last, log
        self.low, self.high = self._scale(first), self._scale(last)
        self.levels = last - first if discrete else math.inf

    def _scale(self, raw: Any) -> Any:
        return np.log(raw) if self.log else raw

    def unit(self, raw: Any) -> Any:
        return (self._scale(raw) - self.low) / (self.high - self.low)

    def raw(self, unit: Array) -> Array:
        scaled = self.low + unit * (self.high - self.low)
        raw = np.exp(scaled) if self.log else scaled
        return raw if self.levels == math.inf else np.clip(np.floor(raw), self.first, self.last - 1)

    def middle(self, level: Any) -> Any:
        return (self.unit(level) + self.unit(level + 1)) / 2

    def snap(self, unit: Array) -> Array:
        return unit if self.levels == math.inf else np.asarray(self.middle(self.raw(unit)))

    def kernel_transform(self, value: Array) -> Array:
        return self.snap(value)

    def refusal(self, value: Any) -> ValueError:
        return ValueError(f"{self.name}: {value!r} is not in {self.text}")


class Number(Axis):
    """A float or an integer; a level k stands for k * step.

    Args:
        ends: of the values, both included.
        whole: its values are int.
        discrete: it has levels.
    """

    def __init__(
        self,
        name: str,
        text: str,
        first: float,
        last: float,
        ends: tuple[float, float],
        *,
        log: bool = False,
        whole: bool = False,
        discrete: bool = False,
        step: float = 1,
    ) -> None:
        super().__init__(name, text, first, last, log, discrete)
        self.ends, self.whole, self.step = ends, whole, step

    def to_param(self, value: Any) -> float:
        number = self.raw(value).item() * self.step
        if self.whole:
            return int(number)
        # Twelve digits, so that a value that was given comes back as given: 0.1, not 0.09999999999999998.
        return min(max(float(f"{number:.12g}"), self.ends[0]), self.ends[1])

    def to_float(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, AnyReal) or not math.isfinite(value):
            raise self.refusal(value)
        number = float(value) / self.step
        if self.levels < math.inf:
            level = round(number)
            if not (self.first <= level < self.last and math.isclose(level, number, abs_tol=1e-9)):
                raise self.refusal(value)
            return float(self.middle(level))
        if not self.first <= number <= self.last:
            raise self.refusal(value)
        return float(self.unit(number))


class Category(Axis):
    """One of several options: numbers are levels in ascending order, all else is one-hot to the kernel."""

    def __init__(self, name: str, options: Iterable[Any]) -> None:
        different: list[Any] = []
        for option in options:
            if not any(same(option, other) for other in different):
                different.append(option)
        self.ordered = all(isinstance(option, AnyReal) and not isinstance(option, bool) for option in different)
        self.options = sorted(different) if self.ordered else different
        self.columns = 1 if self.ordered else len(different)
        plain = [o if isinstance(o, str | int | float | None) else type(o).__name__ for o in self.options]
        super().__init__(name, f"choice {plain}", 0, len(different))

    def to_param(self, value: Any) -> Any:
        return self.options[int(self.raw(value).item())]

    def to_float(self, value: Any) -> float:
        for level, option in enumerate(self.options):
            if same(option, value):
                return float(self.middle(level))
        raise self.refusal(value)

    def kernel_transform(self, value: Array) -> Array:
        if self.ordered:
            return self.snap(value)
        # Any two options are as far apart as the two ends of a number's range.
        return np.equal(self.raw(value), np.arange(len(self.options))) / math.sqrt(2)


def same(option: Any, value: Any) -> bool:
    """Equal, but True is not 1."""
    return isinstance(option, bool) == isinstance(value, bool) and bool(option == value)


def axis_of(name: str, domain: Domain) -> Axis:
    match domain:
        case Real(low, high, log):
            return Number(name, f"{'log ' * log}Float ({low}, {high})", low, high, (low, high), log=log)
        case Integer(low, high, log):
            text = f"{'log ' * log}Integer ({low}, {high + 1})"
            return Number(name, text, low, high + 1, (low, high), log=log, whole=True, discrete=True)
        case Choice(options):
            return Category(name, options)
        case _:
            raise ValueError(f"{name}: a list of numbers cannot be searched")


class Cube:
    """Typed ranges as the unit cube, and back."""

    def __init__(self, axes: Mapping[str, Axis]) -> None:
        self.axes = dict(axes)
        self.size = math.prod(axis.levels for axis in self.axes.values())

    def describe(self) -> list[str]:
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
        return {name: axis.to_param(unit) for (name, axis), unit in zip(self.axes.items(), point, strict=True)}

    def each(self, points: Array, of: Callable[[Axis, Array], Array]) -> Array:
        return np.column_stack([of(axis, points[:, i]) for i, axis in enumerate(self.axes.values())])

    def unseen(self, points: Array, known: Set[Row]) -> Array:
        """The points, snapped, less those that were proposed before (which only a finite space can repeat)."""
        snapped = self.each(points, lambda axis, unit: axis.snap(unit))
        return snapped[[row not in known for row in self.cells(points)]] if self.size < math.inf else snapped

    def cells(self, points: Array) -> list[Row]:
        """What tells the points of a finite space apart: the number of each parameter's level."""
        return [tuple(row) for row in self.each(points, lambda axis, unit: axis.raw(unit)).tolist()]

    def draw(self, rng: np.random.RandomState, known: Set[Row], count: int = 2000) -> Array:
        """Random points, at least one, that were not proposed before; all that there are where `count` holds them."""
        if self.size <= count:
            levels = [axis.middle(np.arange(axis.first, axis.last)) for axis in self.axes.values()]
            grid = np.stack(np.meshgrid(*levels), axis=-1).reshape(-1, len(levels))
            return rng.permutation(self.unseen(grid, known))
        while not len(points := self.unseen(rng.random_sample((count, len(self.axes))), known)):
            pass
        return points


def check_same(saved: list[str], here: list[str]) -> None:
    if saved != here:
        raise ValueError(f"the saved search is of another space: {saved}, here {here}")
