"""Typed ranges: a field of a stage's configuration carries its default, its range and whether a search moves it.

    @dataclass(frozen=True)
    class Transfer(Training):
        weight: float = real(1.0, 1e-3, 1e2, log=True, search=True, help="lambda of eq. (1)")

The same declaration checks `--set transfer.weight=7`, lays out the grid and bounds the Bayesian search.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from methods.errors import UsageError

__all__ = [
    "Choice",
    "Domain",
    "Integer",
    "Numbers",
    "Real",
    "checked",
    "choice",
    "domains",
    "integer",
    "numbers",
    "real",
]


@dataclass(frozen=True)
class Real:
    """A float in [low, high]; `log` says that ratios, not differences, matter."""

    low: float
    high: float
    log: bool = False

    def parse(self, text: str) -> float:
        return float(text)

    def check(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError("a number")
        if not self.low <= value <= self.high:
            raise ValueError(str(self))
        return float(value)

    def __str__(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Integer:
    """An int in [low, high], both ends included."""

    low: int
    high: int
    log: bool = False

    def parse(self, text: str) -> int:
        return int(text)

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("a whole number")
        if not self.low <= value <= self.high:
            raise ValueError(str(self))
        return value

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Choice:
    """One of a few named options."""

    options: tuple[Any, ...]

    def parse(self, text: str) -> Any:
        for option in self.options:
            if text.lower() == str(option).lower():
                return option
        raise ValueError(str(self))

    def check(self, value: Any) -> Any:
        # True == 1 in Python: a flag must not pass for a number, nor a number for a flag.
        if not any(value == option and type(value) is type(option) for option in self.options):
            raise ValueError(str(self))
        return value

    def __str__(self) -> str:
        return "one of " + ", ".join(map(str, self.options))


@dataclass(frozen=True)
class Numbers:
    """A short tuple of numbers, such as the milestones of a schedule; never searched."""

    low: float
    high: float

    def parse(self, text: str) -> tuple[float, ...]:
        return tuple(float(part) for part in text.split(",") if part.strip())

    def check(self, value: Any) -> tuple[float, ...]:
        if not isinstance(value, tuple | list) or isinstance(value, str):
            raise ValueError(str(self))
        one = Real(self.low, self.high)
        return tuple(one.check(number) for number in value)

    def __str__(self) -> str:
        return f"numbers from {self.low:g} to {self.high:g}, separated by commas"


Domain = Real | Integer | Choice | Numbers


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
