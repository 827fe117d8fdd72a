"""The winner's curse, measured on simulated studies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bo_distill.search.searchers.registry import make_searcher
from bo_distill.search.simulation.clock import Simulated, simulate, stream, winner_of
from bo_distill.search.simulation.problems import Problem


def confirmed(
    problem: Problem, trials: Sequence[Simulated], keep: int, seeds: int, seed: int
) -> tuple[float, Simulated]:
    """Run the `keep` best again over fresh seeds: the winner by its mean over them, and that mean.

    Raises:
        ValueError: no trial is done.
    """
    best = sorted((t for t in trials if t.status == "done"), key=lambda t: t.value, reverse=True)[:keep]
    if not best:
        raise ValueError("no trial is done")
    means = []
    for number, trial in enumerate(best):
        rng = stream(seed, number, 1)
        means.append(float(np.mean([problem.look_up(trial.settings, rng).curve[-1] for _ in range(seeds)])))
    winner = int(np.argmax(means))
    return means[winner], best[winner]


def winners_curse(problem: Problem, *, budget: int, keep: int, seeds: int, studies: int) -> dict[str, float]:
    """What a winner's reported value is above its true one, with and without `keep` x `seeds` trials of the same
    budget spent on running the best again. Random search, means over studies.

    Returns:
        `optimism`, `optimism_confirmed`, `removed` (share), `truth`, `truth_confirmed`, and `truth_se`, the standard
        error of the difference between those two.
    """
    plain, raced = [], []
    for study in range(studies):
        searcher = make_searcher("random", problem.space, study, budget)
        trials = simulate(problem, searcher, trials=budget, seed=study)
        winner = winner_of(trials)
        assert winner is not None
        plain.append((winner.value, winner.truth))
        value, better = confirmed(problem, trials[: budget - keep * seeds], keep, seeds, study)
        raced.append((value, better.truth))
    a, b = np.array(plain), np.array(raced)
    before, after = float((a[:, 0] - a[:, 1]).mean()), float((b[:, 0] - b[:, 1]).mean())
    return {
        "optimism": before,
        "optimism_confirmed": after,
        "removed": 1 - after / before if before else 0.0,
        "truth": float(a[:, 1].mean()),
        "truth_confirmed": float(b[:, 1].mean()),
        "truth_se": float((b[:, 1] - a[:, 1]).std(ddof=1) / math.sqrt(studies)),
    }
