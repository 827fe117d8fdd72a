"""What a search with ASHA may be told of a trial that was stopped early: the same searches, told it in several ways.

    python -m benchmarks.curves                    30 searches of each kind on each family, minutes on one core
    python -m benchmarks.curves --only unlike --seeds 10

The searches are simulated (`search.simulation.clock`) on made-up learning curves (`search.simulation.surfaces`), each
seed on a surface of its own, and all have the epochs that `--trainings` whole trainings take. Printed is the true
accuracy of the trial that a search would choose below the best that there is, in points, and the difference from whole
trainings, seed by seed: the mean and, in brackets, the quartiles.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when numpy is imported

import numpy as np

from bo_distill.search.searchers.base import METRIC, Estimate
from bo_distill.search.searchers.curves import Curve, Reporter
from bo_distill.search.searchers.registry import make_searcher
from bo_distill.search.simulation.clock import simulate, winner_of
from bo_distill.search.simulation.problems import Array
from bo_distill.search.simulation.surfaces import EPOCHS, Curves


class AsFinal(Reporter):
    """Tells the last value of a trial that was stopped as if it were the final one."""

    def report(self, trial_id: str, status: str, value: float | None, curve: Curve) -> None:
        """What came of any trial."""
        self.searcher.on_trial_complete(trial_id, {METRIC: value}, error=status == "failed")


class Certain(Reporter):
    """Tells the estimate as if it were an observation."""

    def _estimated(self) -> dict[str, Estimate | None]:
        return {trial: guess and Estimate(guess.value, 0.0) for trial, guess in super()._estimated().items()}


FAMILIES = ("alike", "unlike")
WAYS: Mapping[str, Callable[[Any], Reporter] | None] = {
    "whole trainings": None,
    "its last value": AsFinal,
    "estimate": Certain,
    "estimate, uncertain": Reporter,
}


def regret(problem: Curves, way: str, trainings: int) -> tuple[float, int]:
    """(points below the best, trials) of one search."""
    reporter = WAYS[way]
    budget = trainings * EPOCHS
    most = trainings if reporter is None else 4 * trainings
    searcher = make_searcher("bo", problem.space, problem.seed, None)
    options: dict[str, Any] = {"asha": True, "reporter": reporter} if reporter else {}
    trials = simulate(problem, searcher, trials=most, workers=2, seed=problem.seed, **options)
    spent = np.cumsum([trial.macs for trial in trials])
    within = trials[: int(np.searchsorted(spent, budget, side="right"))]
    winner = winner_of(within)
    return 100 * (problem.best() - (winner.truth if winner else 0.1)), len(within)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30, help="searches of each kind on each family (30)")
    parser.add_argument("--trainings", type=int, default=9, help="whole trainings that the epochs pay for (9)")
    parser.add_argument("--only", choices=FAMILIES, help="one family")
    args = parser.parse_args()
    print("| curves | told of a stopped trial | trials | regret, points | less than whole trainings | better in |")
    print("| --- | --- | --- | --- | --- | --- |")
    for family in [args.only] if args.only else FAMILIES:
        whole: Array | None = None
        for way in WAYS:
            begun = time.perf_counter()
            runs = [regret(Curves(family, seed), way, args.trainings) for seed in range(args.seeds)]
            found = np.array([one for one, _ in runs])
            whole = found if whole is None else whole
            gain = whole - found
            low, high = np.quantile(gain, (0.25, 0.75))
            print(
                f"| {family} | {way} | {np.mean([count for _, count in runs]):.0f} | {found.mean():.2f} | "
                f"{gain.mean():+.2f} ({low:+.2f} to {high:+.2f}) | {(gain > 0).sum()} of {args.seeds} |",
                flush=True,
            )
            print(f"{time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
