"""Many simulated studies of several searchers, side by side in processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bo_distill.search.evidence.statistics import Course, analyse
from bo_distill.search.searchers.registry import beginning, entry_of, make_searcher
from bo_distill.search.simulation.clock import course, makespan, simulate
from bo_distill.search.simulation.problems import Problem
from bo_distill.search.simulation.steps import grid_best, length_of, looked, simulate_steps

SHARES = (0.05, 0.1)
"""Of a grid's epochs, after which a searcher is held against it."""


CLOSE = 0.5
"""Standard deviations of a trial's noise within which a choice is as good as another."""


class Ended(NamedTuple):
    """What came of a simulated study.

    Attributes:
        truth: the true value of the configuration that it would choose.
        gaps: how far that of its choice after each of `SHARES` of a grid's epochs lies below the true value of the
            grid's own choice, in standard deviations of a trial's noise; empty where no grid was asked for.
    """

    course: Course
    truth: float
    makespan: float
    gaps: list[float]


def reached(studies: Sequence[Ended]) -> dict[str, float]:
    """After each of `SHARES` of a grid's epochs: the share of studies whose choice is no more than half a standard
    deviation of a trial's noise below the grid's."""
    within = np.array([study.gaps for study in studies]) <= CLOSE
    return {f"{share:.0%}": float(part) for share, part in zip(SHARES, within.mean(axis=0), strict=True)}


def one_study(problem: Problem, options: Mapping[str, Any], grid: int | None, job: tuple[str, int]) -> Ended:
    """One searcher under one seed."""
    name, seed = job
    problem = problem.variant(seed)
    length = length_of(problem)
    first = beginning(name, problem.space, dict(problem.defaults))
    searcher: Any = make_searcher(name, problem.space, seed, options["trials"], first, length)
    goal = grid_best(problem, grid, seed) if grid else None
    looks = [share * goal.epochs for share in SHARES] if goal else []
    if entry_of(name).pauses:
        trials, (*truths, truth) = simulate_steps(problem, searcher, seed=seed, looks=[*looks, math.inf], **options)
    else:
        trials = simulate(problem, searcher, seed=seed, **options)
        *truths, truth = looked(trials, [*looks, math.inf])
    gaps = [(goal.truth - truth) / goal.noise for truth in truths] if goal else []
    return Ended(course(trials), truth, makespan(trials), gaps)


def simulated(
    problem: Problem,
    names: Sequence[str],
    options: Mapping[str, Any],
    studies: int,
    processes: int,
    grid: int | None = None,
) -> dict[str, Any]:
    """What `studies` studies of each searcher found: the statistics of a comparison, true values and makespans.

    Args:
        names: of the searchers; study n of each has seed n.
        options: of `search.simulation.clock.simulate`.
        grid: also hold each study, after `SHARES` of the epochs, against a grid of so many trainings.

    Raises:
        UsageError: a searcher cannot search the problem in so many trials.
    """
    for name in names:
        make_searcher(name, problem.space, 0, options["trials"], length=length_of(problem))  # says now what cannot be
    jobs = [(name, seed) for name in names for seed in range(studies)]
    with ProcessPoolExecutor(processes) as pool:
        done = list(pool.map(partial(one_study, problem, options, grid), jobs, chunksize=max(1, min(10, studies // 8))))
    found = {name: done[i * studies : (i + 1) * studies] for i, name in enumerate(names)}
    return {
        **analyse({name: [one.course for one in runs] for name, runs in found.items()}, problem.unit),
        "truth": {name: float(np.nanmean([one.truth for one in runs])) for name, runs in found.items()},
        "makespan": {name: float(np.mean([one.makespan for one in runs])) for name, runs in found.items()},
        "reached": {name: reached(runs) for name, runs in found.items()} if grid else {},
    }
