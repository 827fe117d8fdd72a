"""Many simulated studies of several searchers, side by side in processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bo_distill.search.evidence.statistics import Course, analyse, student, t_test
from bo_distill.search.searchers.registry import beginning, make_searcher, pauses
from bo_distill.search.simulation import AGAIN, ASHA
from bo_distill.search.simulation.clock import course, makespan, simulate
from bo_distill.search.simulation.problems import Problem
from bo_distill.search.simulation.steps import grid_best, length_of, looked, simulate_steps, within

SHARES = (0.05, 0.1)
"""Of a grid's epochs, after which a searcher is held against it."""


CLOSE = 0.5
"""Standard deviations of a trial's noise within which a choice is as good as another."""


class Ended(NamedTuple):
    """What came of a simulated study.

    Attributes:
        truth: the true value of the configuration that it would choose.
        trained: the epochs of all its trials, in whole trainings.
        gaps: how far that of its choice after each of `SHARES` of a grid's epochs lies below the true value of the
            grid's own choice, in standard deviations of a trial's noise, and at the end how far that of a second grid
            does; empty where no grid was asked for.
    """

    course: Course
    truth: float
    trained: float
    makespan: float
    gaps: list[float]


def reached(studies: Sequence[Ended]) -> dict[str, float]:
    """After each of `SHARES` of a grid's epochs: the share of studies whose choice is no more than half a standard
    deviation of a trial's noise below the grid's. After `AGAIN`, that of a second grid of the same trainings."""
    close = np.array([study.gaps for study in studies]) <= CLOSE
    return dict(zip([*(f"{share:.0%}" for share in SHARES), AGAIN], close.mean(axis=0).tolist(), strict=True))


def one_study(problem: Problem, options: Mapping[str, Any], grid: int | None, job: tuple[str, int]) -> Ended:
    """One searcher, which may be followed by `ASHA`, under one seed."""
    name, seed = job
    word = name.removesuffix(ASHA)
    options = {**options, "asha": options["asha"] or word != name}
    problem = problem.variant(seed)
    length = length_of(problem)
    first = beginning(word, problem.space, dict(problem.defaults))
    searcher: Any = make_searcher(word, problem.space, seed, options["trials"], first, length)
    goal = grid_best(problem, grid, seed) if grid else None
    looks = [share * goal.epochs for share in SHARES] if goal else []
    if pauses(word):
        trials, (*truths, truth) = simulate_steps(problem, searcher, seed=seed, looks=[*looks, math.inf], **options)
    else:
        epochs = math.inf
        if word != name:
            options["trials"] = epochs = options["trials"] * sum(length)
        trials = within(simulate(problem, searcher, seed=seed, epochs=epochs, **options), epochs)
        *truths, truth = looked(trials, [*looks, math.inf])
    gaps = [(goal.truth - truth) / goal.noise for truth in (*truths, goal.again)] if goal else []
    trained = sum(trial.epochs for trial in trials) / sum(length)
    return Ended(course(trials), truth, trained, makespan(trials), gaps)


def truths(found: Mapping[str, Sequence[Ended]], reference: str) -> dict[str, Any]:
    """The mean true value of each searcher's choices, and of how far it lies above the reference's, study by study: the
    mean, its 95% interval, and the p of the hypothesis that it is not below 0 (t test, one-sided); None where all are
    equal."""
    values = {name: np.array([study.truth for study in studies]) for name, studies in found.items()}
    worst = min((one for run in values.values() for one in run if one == one), default=0.0)
    values = {name: np.where(np.isnan(one), worst, one) for name, one in values.items()}  # where nothing was finished
    above = {name: one - values[reference] for name, one in values.items() if name != reference}
    return {
        "mean": {name: float(one.mean()) for name, one in values.items()},
        "above": {name: float(one.mean()) for name, one in above.items()},
        "interval": {name: student(one.tolist()) for name, one in above.items()},
        "p_no_worse": {name: t_test(one.tolist(), "less") for name, one in above.items()},
    }


def simulated(
    problem: Problem,
    names: Sequence[str],
    options: Mapping[str, Any],
    seeds: Sequence[int],
    processes: int,
    grid: int | None = None,
) -> dict[str, Any]:
    """What the studies of each searcher found: the statistics of a comparison, true values and makespans.

    Args:
        names: of the searchers, each of which `ASHA` may follow.
        options: of `search.simulation.clock.simulate`.
        seeds: one for each study of a searcher.
        grid: also hold each study, after `SHARES` of the epochs, against a grid of so many trainings.

    Raises:
        UsageError: a searcher cannot search the problem in so many trials.
    """
    for name in names:  # says now what cannot be
        make_searcher(name.removesuffix(ASHA), problem.space, 0, options["trials"], length=length_of(problem))
    jobs = [(name, seed) for name in names for seed in seeds]
    chunk = max(1, min(10, len(seeds) // 8))
    with ProcessPoolExecutor(processes) as pool:
        done = list(pool.map(partial(one_study, problem, options, grid), jobs, chunksize=chunk))
    found = {name: done[i * len(seeds) : (i + 1) * len(seeds)] for i, name in enumerate(names)}
    analysed = analyse({name: [one.course for one in runs] for name, runs in found.items()}, problem.unit)
    return {
        **analysed,
        "truth": truths(found, analysed["reference"]),
        "trained": {name: float(np.mean([one.trained for one in runs])) for name, runs in found.items()},
        "makespan": {name: float(np.mean([one.makespan for one in runs])) for name, runs in found.items()},
        "reached": {name: reached(runs) for name, runs in found.items()} if grid else {},
    }
