"""Typed ranges: a field of a stage's configuration carries its default, its range and whether a search moves it.

    @dataclass(frozen=True)
    class Transfer(Training):
        weight: float = real(1.0, 1e-3, 1e2, log=True, search=True, help="lambda of eq. (1)")

The same declaration checks `--set transfer.weight=7`, lays out the grid and bounds the Bayesian search.

A domain that can be searched says how its values lie on [0, 1], and back; draws, grids, models and charts have no scale
but this one. A value that is one of a few owns a cell of [0, 1] and stands in its middle: every coordinate in the cell
means that value.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Real as AnyReal
from typing import Any, ClassVar

import numpy as np

from methods.errors import UsageError

__all__ = [
    "Choice",
    "Domain",
    "Integer",
    "Numbers",
    "Real",
    "Searched",
    "checked",
    "choice",
    "domains",
    "integer",
    "numbers",
    "real",
    "same",
]


def _share(value: Any, first: float, last: float, log: bool) -> Any:
    """Where `value`, a number or an array, lies between two ends: 0 at the first, 1 at the last."""
    if log:
        value, first, last = np.log(value), np.log(first), np.log(last)
    return (value - first) / (last - first)


def _value(share: Any, first: float, last: float, log: bool) -> Any:
    """The inverse of `_share`."""
    if log:
        return np.exp(np.log(first) + share * (np.log(last) - np.log(first)))
    return first + share * (last - first)


@dataclass(frozen=True)
class Real:
    """A float in [low, high]; on a log scale where `log` says so."""

    low: float
    high: float
    log: bool = False
    levels: ClassVar[float] = math.inf  # different values

    def to_unit(self, value: float) -> float:
        """The coordinate of a value, in [0, 1]."""
        return float(_share(value, self.low, self.high, self.log))

    def from_unit(self, unit: float, digits: int = 12) -> float:
        """The value at a coordinate, to so many significant digits, so that 0.1 comes back as 0.1; the ends exactly."""
        if not 0 < unit < 1:
            return float(self.low if unit <= 0 else self.high)
        return min(max(float(f"{_value(unit, self.low, self.high, self.log):.{digits}g}"), self.low), self.high)

    def cell(self, unit: Any) -> Any:
        """What tells coordinates apart: themselves."""
        return unit

    def middle(self, cell: Any) -> Any:
        """The coordinates themselves: real numbers have no cells."""
        return cell

    def parse(self, text: str) -> float:
        """The value as written on a command line; ValueError if it is no number."""
        return float(text)

    def check(self, value: Any) -> float:
        """The value as a float; ValueError, which says what is expected, if the range does not hold it."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError("a number")
        if not self.low <= value <= self.high:
            raise ValueError(str(self))
        return float(value)

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Integer:
    """An int in [low, high], both ends included.

    The number k owns the part of [low, high + 1] from k to k + 1, on a log scale where `log` says so; this is the
    distribution of Ray Tune's `randint` and `lograndint`.
    """

    low: int
    high: int
    log: bool = False

    @property
    def levels(self) -> int:
        """How many numbers there are."""
        return self.high - self.low + 1

    def to_unit(self, value: int) -> float:
        """Where the number lies on [0, 1]: the middle of its cell."""
        return float(self.middle(value - self.low))

    def from_unit(self, unit: float, digits: int = 12) -> int:
        """The number in whose cell the coordinate lies; `digits` is for real numbers and changes nothing here."""
        return self.low + int(self.cell(unit))

    def cell(self, unit: Any) -> Any:
        """The numbers, from 0, of the cells in which coordinates lie."""
        raw = np.floor(_value(unit, self.low, self.high + 1, self.log))
        return np.clip(raw, self.low, self.high) - self.low

    def middle(self, cell: Any) -> Any:
        """The coordinates in the middle of cells."""
        edges = [_share(self.low + cell + more, self.low, self.high + 1, self.log) for more in (0, 1)]
        return (edges[0] + edges[1]) / 2

    def parse(self, text: str) -> int:
        """The value as written on a command line; ValueError if it is no whole number."""
        return int(text)

    def check(self, value: Any) -> int:
        """The value itself; ValueError, which says what is expected, if the range does not hold it."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("a whole number")
        if not self.low <= value <= self.high:
            raise ValueError(str(self))
        return value

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Choice:
    """One of a few named options; all own cells of equal size, numbers in ascending order."""

    options: tuple[Any, ...]

    @property
    def levels(self) -> int:
        """How many options there are."""
        return len(self.options)

    @property
    def ordered(self) -> bool:
        """Whether all options are numbers."""
        return all(isinstance(o, AnyReal) and not isinstance(o, bool) and not math.isnan(o) for o in self.options)

    @cached_property
    def _ascending(self) -> list[Any]:
        return sorted(self.options) if self.ordered else list(self.options)

    def to_unit(self, value: Any) -> float:
        """Where the option lies on [0, 1]: the middle of its cell."""
        return float(self.middle(next(i for i, option in enumerate(self._ascending) if same(option, value))))

    def from_unit(self, unit: float, digits: int = 12) -> Any:
        """The option in whose cell the coordinate lies; `digits` is for real numbers and changes nothing here."""
        return self._ascending[int(self.cell(unit))]

    def cell(self, unit: Any) -> Any:
        """The numbers, from 0, of the cells in which coordinates lie."""
        return np.clip(np.floor(np.asarray(unit) * self.levels), 0, self.levels - 1)

    def middle(self, cell: Any) -> Any:
        """The coordinates in the middle of cells."""
        return (cell + 0.5) / self.levels

    def parse(self, text: str) -> Any:
        """The option of that name, upper or lower case; ValueError, which lists the options, if there is none."""
        for option in self.options:
            if text.lower() == str(option).lower():
                return option
        raise ValueError(str(self))

    def check(self, value: Any) -> Any:
        """The option that equals the value; ValueError, which lists the options, if none does."""
        for option in self.options:
            if same(option, value):
                return option
        raise ValueError(str(self))

    def __str__(self) -> str:
        return "one of " + ", ".join(map(str, self.options))


@dataclass(frozen=True)
class Numbers:
    """A short tuple of numbers, such as the milestones of a schedule; never searched."""

    low: float
    high: float

    def parse(self, text: str) -> tuple[float, ...]:
        """The numbers between commas; ValueError if one is none."""
        return tuple(float(part) for part in text.split(",") if part.strip())

    def check(self, value: Any) -> tuple[float, ...]:
        """The value as a tuple of floats; ValueError if it is no list or a number is out of range."""
        if not isinstance(value, tuple | list) or isinstance(value, str):
            raise ValueError(str(self))
        one = Real(self.low, self.high)
        return tuple(one.check(number) for number in value)

    def __str__(self) -> str:
        return f"numbers from {self.low:g} to {self.high:g}, separated by commas"


Searched = Real | Integer | Choice
Domain = Searched | Numbers


def same(option: Any, value: Any) -> bool:
    """Equal; but True is not 1, and NaN is NaN."""
    if isinstance(option, float) and isinstance(value, float) and math.isnan(option):
        return math.isnan(value)
    return isinstance(option, bool) == isinstance(value, bool) and bool(option == value)


def _field(default: Any, domain: Domain, search: bool, help: str) -> Any:
    domain.check(default)
    return dataclasses.field(default=default, metadata={"domain": domain, "search": search, "help": help})


def real(default: float, low: float, high: float, *, log: bool = False, search: bool = False, help: str = "") -> Any:
    """A dataclass field that holds a float in [low, high]."""
    return _field(float(default), Real(float(low), float(high), log), search, help)


def integer(default: int, low: int, high: int, *, log: bool = False, search: bool = False, help: str = "") -> Any:
    """A dataclass field that holds an int in [low, high], ends included."""
    return _field(default, Integer(low, high, log), search, help)


def choice(default: Any, options: tuple[Any, ...], *, search: bool = False, help: str = "") -> Any:
    """A dataclass field that holds one of `options` (strings, numbers or `(True, False)` for a flag)."""
    return _field(default, Choice(options), search, help)


def numbers(default: tuple[float, ...], low: float, high: float, *, help: str = "") -> Any:
    """A dataclass field that holds a tuple of numbers, each in [low, high]."""
    return _field(default, Numbers(low, high), False, help)


def domains(config: type) -> dict[str, tuple[Domain, bool]]:
    """The fields of a configuration class: name -> (domain, is it searched by default)."""
    return {f.name: (f.metadata["domain"], f.metadata["search"]) for f in dataclasses.fields(config)}


def checked(name: str, domain: Domain, value: Any) -> Any:
    """`value` as the domain holds it.

    Text (from a command line) is parsed first.

    Raises:
        UsageError: the value is of the wrong type or outside the range; the message names field, value and range.
    """
    try:
        return domain.check(domain.parse(value) if isinstance(value, str) else value)
    except ValueError:
        raise UsageError(f"{name}={value}: give {domain}") from None
