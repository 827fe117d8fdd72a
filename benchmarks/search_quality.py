"""How good the searcher's proposals are: median simple regret over seeds, beside random search and a plain grid.

    python -m benchmarks.search_quality                            all problems, 20 seeds, minutes on one core
    python -m benchmarks.search_quality --only hartmann6 --seeds 5

Simple regret is the best value found less the optimum. The searcher is driven as Tune drives it, by `suggest` and
`on_trial_complete`, without a cluster in between: when one trial ends the next is asked for, while the others are still
under way. Exit status 1 if a gate is missed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when numpy is imported: a core is a process's here

import numpy as np
from ray import tune

from bo_distill.search.bayes import BayesSearch
from bo_distill.search.simulation.problems import branin, hartmann6

Config = dict[str, Any]


def branin_log(lr: float, decay: float) -> float:
    """Branin over ranges like a learning rate's and a weight decay's, three of its units to a decade."""
    return branin(3 * math.log10(lr / 1e-5) - 5, 3 * math.log10(decay / 1e-6))


@dataclass(frozen=True)
class Problem:
    space: Config
    regret: Callable[..., float]
    gates: dict[int, float]  # trials -> the largest median regret that passes
    in_flight: int = 1  # trials under way whenever one is asked for, itself included
    shuffled: bool = False  # any of them may end next; otherwise the oldest does


UNIT6 = {f"x{i}": tune.uniform(0, 1) for i in range(1, 7)}
PROBLEMS = {
    "branin": Problem({"x": tune.uniform(-5, 10), "y": tune.uniform(0, 15)}, branin, {25: 0.05, 50: 0.001}),
    "branin_log": Problem(
        {"lr": tune.loguniform(1e-5, 1), "decay": tune.loguniform(1e-6, 1e-1)}, branin_log, {25: 0.05, 50: 0.001}
    ),
    "hartmann6": Problem(UNIT6, hartmann6, {50: 0.15}),
    "hartmann6_2": Problem(UNIT6, hartmann6, {50: 0.15}, in_flight=2),
    "hartmann6_4": Problem(UNIT6, hartmann6, {50: 0.15}, in_flight=4),
    "hartmann6_4_any": Problem(UNIT6, hartmann6, {50: 0.15}, in_flight=4, shuffled=True),
    "hartmann6_8": Problem(UNIT6, hartmann6, {50: 0.3}, in_flight=8),
    "hartmann6_8_any": Problem(UNIT6, hartmann6, {50: 0.3}, in_flight=8, shuffled=True),
    "hartmann6_16": Problem(UNIT6, hartmann6, {50: 1.0}, in_flight=16),
    "hartmann6_16_any": Problem(UNIT6, hartmann6, {50: 1.0}, in_flight=16, shuffled=True),
}


def at(problem: Problem, shares: Sequence[float]) -> list[float]:
    """The values at a share of each range, on the range's own scale."""
    values = []
    for domain, share in zip(problem.space.values(), shares, strict=True):
        low, high = domain.lower, domain.upper
        values.append(
            low * (high / low) ** share if str(domain.get_sampler()) == "LogUniform" else low + share * (high - low)
        )
    return values


def bayes(name: str, trials: int, seed: int) -> list[float]:
    problem = PROBLEMS[name]  # its functions would not travel to another process
    return regrets_of(problem, BayesSearch("regret", "min", space=problem.space, seed=seed), trials, seed)


def regrets_of(problem: Problem, searcher: BayesSearch, trials: int, seed: int) -> list[float]:
    """The regret of each trial, in the order in which they end."""
    order = np.random.default_rng(seed)
    running: dict[int, Config] = {}
    regrets: list[float] = []
    asked = 0
    while running or asked < trials:
        while asked < trials and len(running) < problem.in_flight:
            config = searcher.suggest(str(asked))
            if config is None:  # none until another has ended
                break
            if config == BayesSearch.FINISHED:
                asked = trials
                break
            running[asked] = config
            asked += 1
        ended = list(running)[order.integers(len(running)) if problem.shuffled else 0]
        regrets.append(problem.regret(*running.pop(ended).values()))
        searcher.on_trial_complete(str(ended), {"regret": regrets[-1]})
    return regrets


def random(problem: Problem, trials: int, seed: int) -> list[float]:
    points = np.random.default_rng(seed).random((trials, len(problem.space)))
    return [problem.regret(*at(problem, point)) for point in points]


def grid(problem: Problem, trials: int) -> list[float]:
    """Equal steps in every range, from the middle of its first cell; as many as the trials pay for."""
    points = [1] * len(problem.space)
    for i in itertools.cycle(range(len(points))):
        if math.prod(points) // points[i] * (points[i] + 1) > trials:
            break
        points[i] += 1
    axes = [[(i + 0.5) / count for i in range(count)] for count in points]
    return [problem.regret(*at(problem, point)) for point in itertools.product(*axes)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="runs of each problem (20)")
    parser.add_argument("--only", choices=PROBLEMS, help="one problem")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    args = parser.parse_args()
    missed = False
    print(f"{'problem':17} {'trials':>6} {'bayes':>9} {'9 in 10':>9} {'random':>9} {'grid':>9} {'gate':>7}")
    with ProcessPoolExecutor(args.jobs) as pool:
        for name in [args.only] if args.only else PROBLEMS:
            problem, started = PROBLEMS[name], time.perf_counter()
            trials = max(problem.gates)
            runs = np.array(list(pool.map(partial(bayes, name, trials), range(args.seeds))))
            guesses = np.array([random(problem, trials, seed) for seed in range(args.seeds)])
            for budget, gate in problem.gates.items():
                best = runs[:, :budget].min(axis=1)
                median = float(np.median(best))
                missed |= median > gate
                print(
                    f"{name:17} {budget:6} {median:9.2g} {np.quantile(best, 0.9):9.2g} "
                    f"{np.median(guesses[:, :budget].min(axis=1)):9.2g} {min(grid(problem, budget)):9.2g} {gate:7g}"
                    f"{'  MISSED' if median > gate else ''}",
                    flush=True,
                )
            print(f"{'':17} {time.perf_counter() - started:.0f} s for {args.seeds} seeds", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
