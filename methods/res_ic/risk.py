"""Is one classifier less accurate than another by more than delta? A test whose level holds for any number of rows.

Of n rows, b are right with the reference alone and c with the candidate alone; all others say nothing. The risk is
p_b - p_c, what the candidate loses in accuracy. The hypothesis to be refuted is that it exceeds delta.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

BEYOND = 1e-4
"""Chance that the nuisance parameter lies where it is not looked for; added to every p (Berger & Boos 1994)."""


def score(b: Array, c: Array, n: int, delta: float) -> Array:
    """How far (b - c) / n lies above delta, in standard errors under p_b - p_c = delta (Tango 1998), elementwise.

    The variance is that of the most likely p_c under the hypothesis, so it does not vanish where no row differs.
    """
    half = (b + c) * (1 - delta) - 2 * delta * (n - b)
    p_c = (half + np.sqrt(half**2 + 8 * n * c * delta * (1 - delta))) / (4 * n)
    return np.asarray((b - c - n * delta) / np.sqrt(n * (2 * p_c + delta * (1 - delta))))


@cache
def p_value(b: int, c: int, n: int, delta: float) -> float:
    """p of the hypothesis that the candidate's risk exceeds delta > 0, unconditional, for any n (Hsueh et al. 2001).

    The chance of a score as low as the one seen, where the risk is delta, at the worst p_c that c allows: of 41 at
    equal distances, then of 41 beside the worst of these, within a ten-thousandth of the supremum. For each number of
    rows that only the candidate has right, scores are as low up to some number that only the reference has.
    """
    seen = float(score(np.array(b), np.array(c), n, delta))
    if seen >= 0:
        return 1.0
    above = float(special.betaincinv(c + 1, n - c, 1 - BEYOND)) if c < n else 1.0  # p_c is higher with chance BEYOND
    p_c = np.linspace(0, min(above, (1 - delta) / 2), 41)
    most = min(n, round(n * above + 8 * np.sqrt(n * above * (1 - above))) + 8)  # what lies beyond has no weight
    alone = np.arange(most + 1)
    low, high = np.full(len(alone), -1.0), n - alone
    while (high - low > 0).any():  # the largest number of losses whose score is as low; -1 where there is none
        middle = np.ceil((low + high) / 2)
        as_low = score(middle, alone, n, delta) <= seen + 1e-9
        low, high = np.where(as_low, middle, low), np.where(as_low, high, middle - 1)
    coarse = _chances(p_c, low, alone, n, delta)
    worst = int(coarse.argmax())
    beside = np.linspace(p_c[max(worst - 1, 0)], p_c[min(worst + 1, 40)], 41)
    return min(1.0, float(_chances(beside, low, alone, n, delta).max()) + BEYOND)


def _chances(p_c: Array, low: Array, alone: Array, n: int, delta: float) -> Array:
    """(m) chances that at most `low` (k) rows are right with the reference alone, where `alone` (k) are with the
    candidate alone and the risk is delta, for each p_c (m)."""
    p_c = p_c[:, None]
    losses = special.bdtr(low.clip(0), n - alone, np.minimum((p_c + delta) / (1 - p_c), 1.0)) * (low >= 0)
    won = np.exp(
        special.gammaln(n + 1) - special.gammaln(alone + 1) - special.gammaln(n - alone + 1)
        + special.xlogy(alone, p_c) + special.xlog1py(n - alone, -p_c)
    )  # fmt: skip
    return np.asarray((won * losses).sum(1))
