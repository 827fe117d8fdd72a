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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real as AnyReal
from typing import Any, ClassVar

import numpy as np

from bo_distill.methods.errors import UsageError

__all__ = [
    "Choice",
    "Domain",
    "Field",
    "Integer",
    "Numbers",
    "Real",
    "Searched",
    "checked",
    "choice",
    "fields_of",
    "integer",
    "numbers",
    "ranged",
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
        if not isinstance(value, tuple | list):
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


Idle = Mapping[str, tuple[Any, ...]]
"""Other fields of the same class -> their values with which a field changes nothing."""


def _field(default: Any, domain: Domain, search: bool, help: str, idle: Idle | None = None) -> Any:
    domain.check(default)
    metadata = {"domain": domain, "search": search, "help": help, "idle": idle or {}}
    return dataclasses.field(default=default, metadata=metadata)


def real(
    default: float,
    low: float,
    high: float,
    *,
    log: bool = False,
    search: bool = False,
    help: str = "",
    idle: Idle | None = None,
) -> Any:
    """A dataclass field that holds a float in [low, high]."""
    return _field(float(default), Real(float(low), float(high), log), search, help, idle)


def integer(
    default: int,
    low: int,
    high: int,
    *,
    log: bool = False,
    search: bool = False,
    help: str = "",
    idle: Idle | None = None,
) -> Any:
    """A dataclass field that holds an int in [low, high], ends included."""
    return _field(default, Integer(low, high, log), search, help, idle)


def choice(
    default: Any, options: tuple[Any, ...], *, search: bool = False, help: str = "", idle: Idle | None = None
) -> Any:
    """A dataclass field that holds one of `options` (strings, numbers or `(True, False)` for a flag)."""
    return _field(default, Choice(options), search, help, idle)


def numbers(default: tuple[float, ...], low: float, high: float, *, help: str = "") -> Any:
    """A dataclass field that holds a tuple of numbers, each in [low, high]."""
    return _field(default, Numbers(low, high), False, help)


BEYOND = 1e3  # times
STEPS = 1000  # that a range is cut into at most


@dataclass(frozen=True)
class Field:
    """What is known of a field of a configuration class.

    Attributes:
        domain: as declared; where a search looks.
        limits: what the field may be set to, and how far a person's own range may reach. They are the declared range,
            but for real numbers on a log scale, whose ends say what is worth a look and not what can be trained with.
            Where an earlier class declares the field too, as `Training` does `lr`, its wider range holds; a searched
            field that is declared once may be a thousand times (`BEYOND`) smaller or larger.
        default: of the class; a recipe may have its own.
        searched: whether a search moves it of its own accord.
        help: what it is, in one line; empty where the name says it.
        idle: other fields of the class -> their values with which this one changes nothing.
    """

    domain: Domain
    limits: Domain
    default: Any
    searched: bool
    help: str
    idle: Idle = dataclasses.field(default_factory=dict)


def fields_of(config: type) -> dict[str, Field]:
    """The fields of a configuration class, in declaration order."""
    return {
        f.name: Field(
            f.metadata["domain"],
            _limits(config, f),
            f.default,
            f.metadata["search"],
            f.metadata["help"],
            f.metadata["idle"],
        )
        for f in dataclasses.fields(config)
    }


def _limits(config: type, field: dataclasses.Field[Any]) -> Domain:
    declared: Domain = field.metadata["domain"]
    if not isinstance(declared, Real) or not declared.log:
        return declared
    classes = [kind for kind in config.__mro__ if dataclasses.is_dataclass(kind)]
    ranges = {f.metadata["domain"] for kind in classes for f in dataclasses.fields(kind) if f.name == field.name}
    if len(ranges) == 1 and field.metadata["search"]:
        return Real(declared.low / BEYOND, declared.high * BEYOND, True)
    return Real(min(r.low for r in ranges), max(r.high for r in ranges), True)


def ranged(name: str, field: Field, text: str) -> Searched:
    """A person's own range of a field: "LOW:HIGH", "LOW:HIGH:log", "LOW:HIGH:linear", "LOW:HIGH:STEP" or "A,B,C".

    It may leave the declared range, not the field's limits. Without a scale it has the field's own.

    Raises:
        UsageError: it is no range, or reaches beyond the limits.
    """

    def value(word: str) -> Any:
        return checked(name, field.limits, word.strip())

    def refuse(remedy: str) -> UsageError:
        return UsageError(f"--range {name}={text}: {remedy}")

    limits = field.limits
    if isinstance(limits, Numbers):
        raise refuse("a list of numbers cannot be searched; fix it by --set")
    low, *rest = text.split(":")
    if not rest:
        options = tuple(dict.fromkeys(map(value, text.split(","))))
        if len(options) < 2:
            raise refuse("give LOW:HIGH, or at least two values by commas")
        return Choice(options)
    if isinstance(limits, Choice) or len(rest) > 2:
        forms = "values by commas" if isinstance(limits, Choice) else "LOW:HIGH, LOW:HIGH:log, LOW:HIGH:STEP or A,B,C"
        raise refuse(f"give {forms}")
    first, last, how = value(low), value(rest[0]), rest[1] if len(rest) == 2 else "log" if limits.log else "linear"
    if not first < last:
        raise refuse("the first end is to be below the second")
    if how not in ("log", "linear"):
        return _steps(first, last, how, refuse)
    if how == "log" and first <= 0:
        raise refuse("a log scale has no 0; begin above it")
    return type(limits)(first, last, how == "log")


def _steps(first: Any, last: Any, step: str, refuse: Callable[[str], UsageError]) -> Choice:
    """The values first, first + step, ..., up to last."""
    try:
        width = type(first)(step)
        count = math.floor((last - first) / width * (1 + 1e-9)) + 1
    except (ValueError, ZeroDivisionError, OverflowError):
        raise refuse("after the second colon give log, linear, or a step as the values are") from None
    if not 2 <= count <= STEPS:
        raise refuse(f"give a step above 0 that makes 2 to {STEPS} values")
    return Choice(tuple(type(first)(f"{first + k * width:.12g}") for k in range(count)))


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
