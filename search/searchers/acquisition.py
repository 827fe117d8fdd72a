"""Expected improvement under a Gaussian process, trials under way included."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from bayes_opt.acquisition import ExpectedImprovement
from bayes_opt.target_space import TargetSpace
from scipy.spatial.distance import cdist
from sklearn.gaussian_process import GaussianProcessRegressor

from bo_distill.search.searchers.cube import Array, Cube, Row
from bo_distill.search.searchers.process import fit, standardised
from bo_distill.search.searchers.transfer import Ensemble, Source, weights

# Coordinates no further apart than this are of one result of a stage.
SAME = 1e-9


# Seconds that any trial takes.
SOONEST = 1e-3


# Spread of the steps around the best candidates, round by round, on the unit cube.
SCALES = (0.1, 0.03, 0.01, 0.003)


# Of a trial's noise: an expected improvement below this is none. Searches that still find something stay above 0.1.
WORTH = 1e-3


class NothingNew(Exception):
    """All of the space lies within a hair of what was tried."""


class Bill:
    """What a trial at a point costs: the stages that none of the trained points shares with it.

    Args:
        stages: (columns, seconds) of each; a result follows from the coordinates in its columns.
        trained: (m, d) points whose stages are there to be taken over.
    """

    def __init__(self, stages: Sequence[tuple[Sequence[int], float]], trained: Array) -> None:
        self.stages = [(list(columns), seconds) for columns, seconds in stages if columns]
        self.trained = trained

    def of(self, points: Array) -> Array:
        """(n,) seconds."""
        total = np.zeros(len(points))
        for columns, seconds in self.stages:
            apart = cdist(points[:, columns], self.trained[:, columns], "chebyshev").min(axis=1)
            total += seconds * (apart > SAME)
        return np.maximum(total, SOONEST)

    def shared(self, points: Array, owners: Array, rng: np.random.RandomState) -> Array:
        """The points, half of which take over a random stage's coordinates from their owner, a point (n, d) each."""
        if not self.stages:
            return points
        which = rng.randint(2 * len(self.stages), size=len(points))
        taken = np.zeros(points.shape, dtype=bool)
        for number, (columns, _) in enumerate(self.stages):
            taken[np.ix_(which == number, columns)] = len(columns) < points.shape[1]
        return np.where(taken, owners, points)


class BelieverEI(ExpectedImprovement):
    """Expected improvement on the best posterior mean, where each pending point has the value that is predicted.

    Args:
        cube: what is searched.
        pending: points of trials under way.
        known: (m, d) points that are not to be proposed again.
        variances: (n,) of each observation, beyond the noise that all have, in squared units of the target.
        bill: what the improvement is divided by; None: nothing.
        sources: other searches, whose processes stand beside the own one.
        design: (d,) what is proposed where those rank the own trials no better than that one; None: what it says.
    """

    def __init__(
        self,
        cube: Cube,
        pending: Sequence[Row],
        known: Array,
        variances: Array,
        bill: Bill | None = None,
        sources: Sequence[Source] = (),
        design: Array | None = None,
    ) -> None:
        super().__init__(xi=0.0)
        self.bill, self.sources, self.design = bill, sources, design
        self.cube, self.pending, self.known, self.variances = cube, list(pending), known, variances
        self.hair = cube.hair()
        self.promise = math.inf

    def base_acq(self, mean: Array, std: Array) -> Array:
        """Expected improvement; a deviation of 0, at a point that is pending, counts as 1e-9."""
        return super().base_acq(mean, np.maximum(std, 1e-9))

    def suggest(
        self,
        gp: GaussianProcessRegressor,
        target_space: TargetSpace,
        n_random: int = 2000,
        n_smart: int = 8,
        fit_gp: bool = True,
        random_state: Any = None,
    ) -> Array:
        """The point of the largest expected improvement, per second where there is a bill. The largest there is is left
        in `promise`, in deviations of a trial's noise. Where none is to be expected, the point at which least is known.

        Args:
            gp: unfitted, its kernel a sum of signal and noise.
            target_space: every observation, in the order of `variances`.
            n_random: points drawn over the whole cube; a quarter as many are drawn about the best five observations.
            n_smart: how many of the best points each round keeps and looks around.
            fit_gp: not looked at; the process is always fitted.
            random_state: a `RandomState`.

        Raises:
            NothingNew: there is no such point.
        """
        points, targets = target_space.params, target_space.target
        targets, scale = standardised(targets)
        others = [source.process(gp, target_space.kernel_transform) for source in self.sources]
        signal, noise = fit(gp, target_space.kernel_transform, points, targets, self.variances / scale**2)
        self.hair = self.cube.hair(self.indistinct(signal, noise))
        heeded = weights(gp, others, random_state) if others else np.ones(1)
        if self.design is not None and heeded[0] > 0.5:
            return self.design
        model = Ensemble([gp, *others], heeded)
        places = np.unique(points, axis=0)  # where one was observed again
        mean = model.predict(places)
        self.y_max = mean.max()
        acquire = self.beside_pending(gp, model, random_state)

        best = places[np.argsort(-mean)[:5]]
        around = best[random_state.randint(len(best), size=n_random // 4)]
        spread = 10 ** random_state.uniform(-3, -0.5, size=(len(around), 1))
        drawn = self.cube.draw(random_state, self.known, self.hair, n_random)
        pool = np.vstack([drawn, self._step(around, spread, random_state)])
        if self.bill:
            owners = self.bill.trained[random_state.randint(len(self.bill.trained), size=len(drawn))]
            pool = np.vstack([pool, self._new(self.bill.shared(drawn, owners, random_state))])
        if not len(pool):
            raise NothingNew
        loss = acquire(pool)
        most = loss.min()
        loss = loss / self._seconds(pool)
        for scale in SCALES:
            kept = np.argsort(loss)[:n_smart]
            children = self._step(np.repeat(pool[kept], 32, axis=0), scale, random_state)
            if not len(children):  # a finite space all but used up
                break
            pool = np.vstack([pool[kept], children])
            found = acquire(children)
            most = min(most, found.min())
            loss = np.concatenate([loss[kept], found / self._seconds(children)])
        self.promise = -most / math.sqrt(noise)
        if self.promise < WORTH and len(drawn):  # look where least is known: the model may be wrong there
            return drawn[model.predict(drawn, return_std=True)[1].argmax()]
        return pool[loss.argmin()]

    @staticmethod
    def indistinct(signal: Any, noise: float) -> Array:
        """(d,) the distance along each coordinate at which the function is expected to differ by a trial's noise.

        Matern-5/2 falls as 1 - 5/6 (r/l)^2 near 0, so the difference over r has the deviation sqrt(5/3 s^2) r/l.
        """
        variance, scales = signal.k1.constant_value, np.atleast_1d(signal.k2.length_scale)
        return np.asarray(scales * math.sqrt(noise / (5 / 3 * variance)))

    def beside_pending(
        self, gp: GaussianProcessRegressor, model: Ensemble, rng: np.random.RandomState
    ) -> Callable[[Array], Array]:
        """Minus the expected improvement at points (n, d), given that trials are under way.

        The model is believed where they are: nothing is left to learn there, and elsewhere its mean stays as the
        observations have it. A lie of the best mean would make the neighbourhood look good.

        Args:
            gp: the search's own process, fitted.
            model: what predicts: that process, and those of other searches beside it.
        """
        return self._get_acq(model.believing(np.array(self.pending)) if self.pending else model)

    def _seconds(self, points: Array) -> Array:
        return self.bill.of(points) if self.bill else np.ones(len(points))

    def _new(self, points: Array) -> Array:
        return self.cube.unseen(points, self.known, self.hair)

    def _step(self, points: Array, scale: Any, rng: np.random.RandomState) -> Array:
        """Random neighbours. With a bill, half of them keep what one stage follows from."""
        moved = self.cube.neighbours(points, scale, rng)
        return self._new(self.bill.shared(moved, points, rng) if self.bill else moved)
