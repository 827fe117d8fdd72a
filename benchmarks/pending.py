"""What to make of trials under way: three ways, by the regret that they lead to on Hartmann-6.

    python -m benchmarks.pending --seeds 20                 some minutes on one core; --ways and --in-flight choose

    believer   the posterior mean is taken for what they will bring (kriging believer); the search's own
    samples    expected improvement is averaged over joint samples of what they may bring (Snoek and others 2012)
    penalty    it is multiplied, around each, by the chance that the best is not there (Gonzalez and others 2016)
    lie        the best mean is taken for what they will bring; the search's own in version 0.1

The trials end in the order in which they began, or in any ("any").
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when numpy is imported: a core is a process's here

import numpy as np
from scipy.special import erfc
from sklearn.gaussian_process import GaussianProcessRegressor

from benchmarks.search_quality import PROBLEMS, Problem, regrets_of
from bo_distill.search.bayes import BayesSearch
from bo_distill.search.searchers.acquisition import BelieverEI
from bo_distill.search.searchers.cube import Array
from bo_distill.search.simulation.problems import hartmann6

SAMPLES = 16
Loss = Callable[[Any], Any]


def told(gp: Any, points: Array, brought: Array) -> Any:
    """The process, had it also been told what points (n, d) brought: (n,), or (n, draws) side by side."""
    more = GaussianProcessRegressor(gp.kernel, optimizer=None)
    more.set_params(alpha=np.append(gp.alpha, np.full(len(points), gp.alpha.min())))
    targets = gp.y_train_ if brought.ndim == 1 else np.repeat(gp.y_train_[:, None], brought.shape[1], axis=1)
    return more.fit(np.vstack([gp.X_train_, points]), np.concatenate([targets, brought]))


class Samples(BelieverEI):
    def beside_pending(self, gp: Any, model: Any, rng: np.random.RandomState) -> Loss:
        if not self.pending:
            return self._get_acq(gp)
        under_way, highest = np.array(self.pending), cast(float, self.y_max)
        more = told(gp, under_way, gp.sample_y(under_way, SAMPLES, random_state=rng))
        tops = np.maximum(highest, more.predict(under_way).max(axis=0))

        def loss(x: Any) -> Any:
            mean, std = more.predict(x, return_std=True)
            gains = np.zeros(len(x))
            for column, top in enumerate(tops):
                self.y_max = top
                gains += self.base_acq(mean[:, column], std[:, column])
            return -gains / SAMPLES

        return loss


class Penalty(BelieverEI):
    def beside_pending(self, gp: Any, model: Any, rng: np.random.RandomState) -> Loss:
        improve = self._get_acq(gp)
        if not self.pending:
            return improve
        under_way, best, points = np.array(self.pending), self.y_max, gp.X_train_
        means, deviations = gp.predict(under_way, return_std=True)
        # The steepest slope of the posterior mean, by differences.
        sample, step = np.vstack([rng.random_sample((500, points.shape[1])), points]), 1e-3
        at = gp.predict(sample)
        slopes = [(gp.predict(sample + step * axis) - at) / step for axis in np.eye(points.shape[1])]
        steepest = max(np.sqrt(np.square(slopes).sum(axis=0)).max(), 1e-7)

        def loss(x: Any) -> Any:
            far = np.sqrt(((x[:, None] - under_way) ** 2).sum(axis=-1))
            z = (steepest * far - best + means) / (np.sqrt(2) * np.maximum(deviations, 1e-9))
            return improve(x) * (0.5 * erfc(-z)).prod(axis=1)

        return loss


class Lie(BelieverEI):
    def beside_pending(self, gp: Any, model: Any, rng: np.random.RandomState) -> Loss:
        if not self.pending:
            return self._get_acq(gp)
        return self._get_acq(told(gp, np.array(self.pending), np.full(len(self.pending), self.y_max)))


WAYS = {"believer": BelieverEI, "samples": Samples, "penalty": Penalty, "lie": Lie}


def one(way: str, in_flight: int, shuffled: bool, trials: int, seed: int) -> float:
    problem = Problem(PROBLEMS["hartmann6"].space, hartmann6, {}, in_flight, shuffled)
    searcher = BayesSearch("regret", "min", space=problem.space, seed=seed)
    searcher.acquisition = WAYS[way]
    return min(regrets_of(problem, searcher, trials, seed))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", default="believer,samples,penalty", help=f"by commas: {', '.join(WAYS)}")
    parser.add_argument("--in-flight", default="2,4,8,16", help="trials under way, by commas")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    args = parser.parse_args(argv)
    print(f"{'way':10} {'in flight':>9} {'ends':>8} {'median':>8} {'9 in 10':>8} {'s':>6}")
    with ProcessPoolExecutor(args.jobs) as pool:
        for in_flight in map(int, args.in_flight.split(",")):
            for shuffled in (False, True):
                for way in args.ways.split(","):
                    started = time.perf_counter()
                    run = partial(one, way, in_flight, shuffled, args.trials)
                    found = np.array(list(pool.map(run, range(args.seeds))))
                    print(
                        f"{way:10} {in_flight:9} {'any' if shuffled else 'in order':>8} {np.median(found):8.3f} "
                        f"{np.quantile(found, 0.9):8.3f} {time.perf_counter() - started:6.0f}",
                        flush=True,
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
