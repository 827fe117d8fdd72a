"""Two classifiers on the same rows: is the difference more than chance?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Difference:
    """First minus second.

    Attributes:
        accuracy: difference of the two accuracies.
        low, high: its 95% bootstrap interval; NaN where the two never differ.
        p: of McNemar's exact test, two-sided; 1 where the two never differ.
    """

    accuracy: float
    low: float
    high: float
    p: float


def compare(first: Tensor, second: Tensor, *, seed: int = 0, draws: int = 10_000) -> Difference:
    """Paired comparison of which rows each classifier has right: two (n,) bool.

    Only the rows where one is right and the other wrong matter: b and c of them. McNemar's test asks whether b of b + c
    is a fair coin (exact binomial). The bootstrap of the rows needs their counts only, which are multinomial.
    """
    n = len(first)
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    if not b + c:
        return Difference(0.0, math.nan, math.nan, 1.0)
    drawn = np.random.default_rng(seed).multinomial(n, [b / n, c / n, 1 - (b + c) / n], size=draws)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    return Difference((b - c) / n, float(low), float(high), float(stats.binomtest(b, b + c).pvalue))


def holm(p: Array) -> Array:
    """Adjusted p-values that hold the chance of any false verdict among (..., tests) at the level (Holm 1979)."""
    order = np.argsort(p, axis=-1)
    steps = np.take_along_axis(p, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0), axis=-1)
    return adjusted
