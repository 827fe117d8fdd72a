"""How good the searcher's proposals are: median simple regret over seeds, beside random search and a plain grid.

    python -m benchmarks.search_quality                 all problems, 20 seeds, some minutes on one core
    python -m benchmarks.search_quality --only hartmann6 --seeds 5

The searcher is driven as Tune drives it, `suggest` and `on_trial_complete`, without the cluster in between. Exit status
1 if a gate is missed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before numpy: one core a process
    os.environ.setdefault(name, "1")

import numpy as np
from ray import tune

from search.bayes import BayesSearch

Config = dict[str, Any]


def branin(x: float, y: float) -> float:
    """Regret; three minima in [-5, 10] x [0, 15] (Dixon, Szego 1978)."""
    valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10 - 0.39788735772973816


def hartmann6(*x: float) -> float:
    """Regret; six local minima in the unit cube (Hartmann 1973)."""
    a = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]])
    p = np.array([[1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
                  [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381]]) / 1e4  # fmt: skip
    return 3.322368011415515 - float(np.array([1.0, 1.2, 3.0, 3.2]) @ np.exp(-(a * (np.array(x) - p) ** 2).sum(1)))


@dataclass(frozen=True)
class Problem:
    space: Config
    regret: Callable[[Config], float]
    grid: list[int]  # points per parameter, at most 50 in all
    batch: int = 1
    gates: dict[int, float] = field(default_factory=dict)  # trials -> largest median regret


def on_log_scale(config: Config) -> float:
    """Branin over a learning rate and a weight decay, a decade for every three units."""
    return branin(-5 + 3 * math.log10(config["lr"] / 1e-5), 3 * math.log10(config["decay"] / 1e-6))


SIX = {f"x{i}": tune.uniform(0, 1) for i in range(6)}
BRANIN = {25: 0.05, 50: 0.001}
PROBLEMS = {
    "branin": Problem(
        {"x": tune.uniform(-5, 10), "y": tune.uniform(0, 15)}, lambda c: branin(c["x"], c["y"]), [7, 7], gates=BRANIN
    ),
    "branin-log": Problem(
        {"lr": tune.loguniform(1e-5, 1), "decay": tune.loguniform(1e-6, 1e-1)}, on_log_scale, [7, 7], gates=BRANIN
    ),
    "hartmann6": Problem(SIX, lambda c: hartmann6(*c.values()), [2] * 5 + [1], gates={50: 0.15}),
    "hartmann6-batch4": Problem(SIX, lambda c: hartmann6(*c.values()), [2] * 5 + [1], batch=4, gates={50: 0.2}),
}
