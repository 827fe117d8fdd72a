"""What it brings to begin a search with what another one found, where that one was alike and where it was not.

    python -m benchmarks.warm                            100 pairs on each problem, some minutes on one core

A pair is one made-up function, drawn by its seed, and two searches on it under that seed: one plain, one that learns
from `--sources` searches of 20 trials each on

    related     the function moved by a tenth of a range in every direction, at another level and of another height
    unrelated   other functions of its kind
    reversed    the function upside down
    one in two  by turns a related and a reversed one

Told apart is the true value of the best seen, in points of accuracy. Exit status 1 if learning is not better on the
related ones after 6 trials (paired t test, one-sided, p <= 0.05), or if the interval of the difference at the end
reaches lower than a point.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import cache

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when numpy is imported: a core is a process's here

import numpy as np

from benchmarks.paired import no_worse, told
from bo_distill.search.evidence.statistics import student
from bo_distill.search.searchers.base import METRIC, Settings
from bo_distill.search.searchers.bayesian import make
from bo_distill.search.simulation.surfaces import NOISE, Curves

Value = Callable[[Settings], float]
EARLY = 6  # trials
PROBLEMS = ("related", "unrelated", "reversed", "one in two")


def surface(seed: int) -> Value:
    made = Curves("alike", seed)
    return lambda settings: float(made.height(np.array([[settings[name] for name in made.space]]))[0])


def related(seed: int, rng: np.random.Generator) -> Value:
    """The surface of the seed, moved and at another level."""
    value, step, scale = surface(seed), 0.1 * rng.choice([-1, 1], 3), rng.uniform(0.3, 1.0)
    return lambda settings: (
        0.3 + scale * value({name: at + move for (name, at), move in zip(settings.items(), step, strict=True)})
    )


def source(problem: str, seed: int, number: int) -> Value:
    rng = np.random.default_rng([seed, number])
    if problem == "unrelated":
        return surface(10_000 + 100 * seed + number)
    if problem == "related" or (problem == "one in two" and number % 2 == 0):
        return related(seed, rng)
    value = related(seed, rng)
    return lambda settings: -value(settings)


def search(
    value: Value, seed: int, trials: int, others: list[list[tuple[Settings, float]]]
) -> list[tuple[Settings, float]]:
    """The trials of one search, which begins where the others were best, as a study does."""
    rng = np.random.default_rng(seed)
    first = [dict.fromkeys(Curves("alike").space, 0.5), *(max(other, key=lambda t: t[1])[0] for other in others[:1])]
    searcher = make("bo", Curves("alike").space, seed, trials, first)
    for other in others:
        searcher.learn_from(other)
    seen = []
    for number in range(trials):
        settings = searcher.suggest(str(number))
        seen.append((settings, value(settings) + NOISE * rng.standard_normal()))
        searcher.on_trial_complete(str(number), {METRIC: seen[-1][1]})
    return seen


def true_best(seen: list[tuple[Settings, float]], value: Value) -> float:
    return 100 * value(max(seen, key=lambda trial: trial[1])[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="problems, by commas")
    parser.add_argument("--pairs", type=int, default=100, help="functions of each problem (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the first pair; the next has one more (0)")
    parser.add_argument("--trials", type=int, default=12, help="of a search (12)")
    parser.add_argument("--sources", type=int, default=2, help="searches that it learns from (2)")
    args = parser.parse_args()
    problems = args.only.split(",") if args.only else PROBLEMS
    if unknown := [problem for problem in problems if problem not in PROBLEMS]:
        parser.error(f"--only {unknown[0]}: no such problem; give any of {', '.join(PROBLEMS)}, by commas")
    begun, bad = time.process_time(), False

    @cache
    def plain(seed: int) -> list[tuple[Settings, float]]:
        return search(surface(seed), seed, args.trials, [])

    heads = f"{'problem':12} {'trials':>6} {'plain':>7} {'warm':>7} {'warm less plain, 95%':>30}"
    print(f"{heads} {'p better':>9} {'p no worse':>10}")
    for problem in problems:
        found: dict[int, list[tuple[float, float]]] = {EARLY: [], args.trials: []}
        for seed in range(args.seed, args.seed + args.pairs):
            value = surface(seed)
            numbers = range(args.sources)
            others = [search(source(problem, seed, number), 1000 * seed + number, 20, []) for number in numbers]
            warm = search(value, seed, args.trials, others)
            for trials, pairs in found.items():
                pairs.append((true_best(plain(seed)[:trials], value), true_best(warm[:trials], value)))
        for trials, pairs in found.items():
            without, having = np.array(pairs).T
            less = having - without
            worse = no_worse(less)
            means = f"{without.mean():7.2f} {having.mean():7.2f}"
            print(
                f"{problem:12} {trials:6} {means} {told(less, 2):>30} {no_worse(-less):9.2g} {worse:10.2g}", flush=True
            )
            if trials == args.trials:
                bad |= (student(less) or (0.0, 0.0))[0] < -1
            elif problem == "related":
                bad |= no_worse(-less) > 0.05
    print(f"{args.pairs} pairs, {time.process_time() - begun:.0f} s")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
