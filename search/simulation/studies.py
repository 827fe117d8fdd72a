"""Many simulated studies of several searchers, side by side in processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from bo_distill.search.evidence.statistics import Course, analyse
from bo_distill.search.searchers.registry import beginning, make_searcher
from bo_distill.search.simulation.clock import chosen, course, makespan, simulate
from bo_distill.search.simulation.problems import Problem


def one_study(problem: Problem, options: Mapping[str, Any], job: tuple[str, int]) -> tuple[Course, float, float]:
    """(course, the chosen configuration's true value, makespan) of one searcher under one seed."""
    name, seed = job
    first = beginning(name, problem.space, dict(problem.defaults))
    searcher = make_searcher(name, problem.space, seed, options["trials"], first)
    trials = simulate(problem, searcher, seed=seed, **options)
    winner = chosen(trials)
    return course(trials), winner.truth if winner else math.nan, makespan(trials)


def simulated(
    problem: Problem, names: Sequence[str], options: Mapping[str, Any], studies: int, processes: int
) -> dict[str, Any]:
    """What `studies` studies of each searcher found: the statistics of a comparison, true values and makespans.

    Args:
        names: of the searchers; study n of each has seed n.
        options: of `search.simulation.clock.simulate`.

    Raises:
        UsageError: a searcher cannot search the problem in so many trials.
    """
    for name in names:
        make_searcher(name, problem.space, 0, options["trials"])  # says now what a grid cannot do
    jobs = [(name, seed) for name in names for seed in range(studies)]
    with ProcessPoolExecutor(processes) as pool:
        done = list(pool.map(partial(one_study, problem, options), jobs, chunksize=max(1, min(10, studies // 8))))
    found = {name: done[i * studies : (i + 1) * studies] for i, name in enumerate(names)}
    return {
        **analyse({name: [one[0] for one in runs] for name, runs in found.items()}, problem.unit),
        "truth": {name: float(np.nanmean([one[1] for one in runs])) for name, runs in found.items()},
        "makespan": {name: float(np.mean([one[2] for one in runs])) for name, runs in found.items()},
    }
