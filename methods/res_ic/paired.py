"""Two classifiers on the same sentences: is the difference more than chance?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """First minus second.

    Attributes:
        accuracy: difference of the two accuracies.
        low, high: its 95% bootstrap interval.
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
    drawn = np.random.default_rng(seed).multinomial(n, [b / n, c / n, 1 - (b + c) / n], size=draws)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    p = float(binomtest(b, b + c).pvalue) if b + c else 1.0
    return Difference((b - c) / n, float(low), float(high), p)
