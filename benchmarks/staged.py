"""What it brings to seek the most per second where stages are shared: simulated searches with a budget of time.

    python -m benchmarks.staged                          100 pairs of searches, some minutes on one core

Made up after label_embedding on glyphs, where experts for a new number of clusters took 9 s, and a new threshold at a
number that was trained 0.1 s: a number of clusters, whose gain is greatest somewhere and as noisy as a training is, and
a threshold, whose best depends on it. A pair is one such function and two searches on it under one seed, one trial at a
time, until `--seconds` are spent: plain expected improvement, and expected improvement per second. Exit status 1 if the
second tries less than twice as many configurations or finds worse ones (paired t test, one-sided, p <= 0.05).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when numpy is imported: a core is a process's here

import numpy as np

from benchmarks.paired import no_worse, told
from bo_distill.methods.space import Integer, Real, Searched
from bo_distill.search.searchers.base import METRIC, Settings, StageCost
from bo_distill.search.searchers.bayesian import make

SPACE: dict[str, Searched] = {"cluster.count": Integer(1, 30, log=True), "route.threshold": Real(0, 1)}
EXPERTS, ROUTE = 9.0, 0.1  # seconds
COSTS = [StageCost(("cluster.count",), EXPERTS), StageCost(tuple(SPACE), ROUTE)]
NOISE = 0.005  # of the accuracy of one training of the experts


def drawn(seed: int) -> Callable[[Settings, bool], float]:
    """A function of the settings: the accuracy that a trial has, and without its training's noise."""
    rng = np.random.default_rng(seed)
    top, width, gain = rng.uniform(0.2, 0.9), rng.uniform(0.15, 0.5), rng.uniform(0.02, 0.08)
    low, high, breadth = rng.uniform(0.05, 0.4), rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.4)
    luck = NOISE * rng.standard_normal(31)

    def value(settings: Settings, noisy: bool) -> float:
        count, threshold = settings["cluster.count"], settings["route.threshold"]
        unit = SPACE["cluster.count"].to_unit(count)
        best = low + (high - low) * unit
        worth = gain * np.exp(-(((unit - top) / width) ** 2) / 2)
        routed = np.exp(-(((threshold - best) / breadth) ** 2) / 2)
        return float(0.55 + worth * routed + noisy * luck[count])

    return value


def search(seed: int, seconds: float, weighed: bool) -> tuple[int, float]:
    """(configurations tried, true value of the best seen) of one search."""
    value, searcher = drawn(seed), make("bo", SPACE, seed, None, [])
    trained, spent, seen = set[int](), 0.0, list[tuple[float, float]]()
    while spent < seconds:
        settings = searcher.suggest(str(len(seen)))
        if settings == searcher.FINISHED:
            break
        spent += ROUTE + EXPERTS * (settings["cluster.count"] not in trained)
        if spent > seconds:
            break
        trained.add(settings["cluster.count"])
        seen.append((value(settings, True), value(settings, False)))
        if weighed:
            searcher.weigh(COSTS)
        searcher.on_trial_complete(str(len(seen) - 1), {METRIC: seen[-1][0]})
    return len(seen), max(seen)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100, help="functions (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the first pair; the next has one more (0)")
    parser.add_argument("--seconds", type=float, default=90.0, help="of a search, simulated (90)")
    args = parser.parse_args()
    begun = time.process_time()
    seeds = range(args.seed, args.seed + args.pairs)
    plain, weighed = (np.array([search(seed, args.seconds, each) for seed in seeds]) for each in (False, True))
    less = 100 * (weighed[:, 1] - plain[:, 1])
    p = no_worse(less)
    for name, found in (("per trial", plain), ("per second", weighed)):
        count, best = found.mean(axis=0)
        print(f"most {name}: {count:.1f} configurations in {args.seconds:g} s, true accuracy {100 * best:.2f} %")
    print(f"per second less per trial: {told(less)} points (95% interval), p of being no worse {p:.2g}, "
          f"{args.pairs} pairs, {time.process_time() - begun:.0f} s")  # fmt: skip
    return int(p <= 0.05 or weighed[:, 0].mean() < 2 * plain[:, 0].mean())


if __name__ == "__main__":
    sys.exit(main())
