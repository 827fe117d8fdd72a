"""What a simulated trial is looked up in: test functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bo_distill.methods.space import Real, Searched

Array = NDArray[np.floating[Any]]


Settings = Mapping[str, Any]


class Recorded(NamedTuple):
    """A trial as it would run.

    Attributes:
        curve: value after each epoch, noise included; NaN where an epoch has none.
        seconds: of each epoch.
        macs: of the whole training.
        truth: the last value without noise.
    """

    curve: Array
    seconds: Array
    macs: float
    truth: float


class Problem(Protocol):
    """What trials are looked up in."""

    @property
    def space(self) -> dict[str, Searched]:
        """The fields that are searched."""
        ...

    @property
    def shared(self) -> float:
        """Seconds that the first trial spends on a stage that all share, while the others wait."""
        ...

    @property
    def unit(self) -> str:
        """What the value is: `accuracy`, or another."""
        ...

    @property
    def defaults(self) -> Settings:
        """The recipe's own values; empty where there is no recipe."""
        ...

    def variant(self, study: int) -> Problem:
        """The problem that this study is given; itself where all are given the same."""
        ...

    def look_up(self, settings: Settings, rng: np.random.Generator) -> Recorded:
        """One trial, its noise drawn from `rng`."""
        ...


@dataclass(frozen=True)
class Function:
    """A test function turned upside down, with noise, and a learning curve that approaches the value as 1 / epoch."""

    space: dict[str, Searched]
    regret: Callable[..., float]
    noise: float = 0.0
    epochs: int = 9
    rise: float = 1.0  # from the first epoch to the last
    shared: float = 0.0
    unit: str = "value"
    defaults: Settings = field(default_factory=dict)

    def variant(self, study: int) -> Function:
        """Itself."""
        return self

    def look_up(self, settings: Settings, rng: np.random.Generator) -> Recorded:
        """A curve over all epochs with one draw of noise; the truth is without noise."""
        left = self.rise * (1 / np.arange(1, self.epochs + 1) - 1 / self.epochs)
        truth = -self.regret(*(settings[name] for name in self.space))
        curve = truth + self.noise * rng.standard_normal() - left
        return Recorded(curve, np.ones(self.epochs), float(self.epochs), truth)


def branin(x: float, y: float) -> float:
    """On [-5, 10] x [0, 15], three minima (Dixon & Szego 1978), less the optimum."""
    valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10 - 0.39788735772973816


HARTMANN_WIDTH = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)


HARTMANN_CENTRE = np.array(
    [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ]
)


def hartmann6(*x: float) -> float:
    """On the unit cube, six local minima (Hartmann 1973), less the optimum."""
    near = np.exp(-(HARTMANN_WIDTH * (np.array(x) - HARTMANN_CENTRE) ** 2).sum(axis=1))
    return 3.322368011415515 - float(np.array([1.0, 1.2, 3.0, 3.2]) @ near)


def function(name: str, noise: float) -> Function:
    """The test function of that name, with noise of this standard deviation."""
    if name == "branin":
        return Function({"x": Real(-5, 10), "y": Real(0, 15)}, branin, noise, rise=10.0)
    return Function({f"x{i}": Real(0, 1) for i in range(1, 7)}, hartmann6, noise)
