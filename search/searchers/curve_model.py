"""A Gaussian process over configurations and epochs: where a learning curve ends, from its beginning and from others.

After Swersky, Snoek, Adams 2014, "Freeze-thaw Bayesian optimization", arXiv:1406.3896. The value of trial i with
configuration x after the share t of its training is

    y_i(t) = m(t) + g(x) (1 + a e(t)) + h(x, t) + o_i + c_i(t) + noise

m is what all curves have in common, g what a configuration is worth, which shows early to the share 1 + a e(t), h a
configuration's own way of getting there, o_i and c_i the same of one trial, which another seed would not repeat. e is
the decay b / (b + t), the kernel of m, h and c in time the mixture of decays b / (b + t + t'), and that of g and h in x
Matern-5/2 with a length scale per parameter.
"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from bo_distill.search.searchers.cube import Array

LEVEL = 4.0  # variance of the curves' common level, in squared deviations of what was observed: as good as unknown
JITTER = 1e-6
NOBODY = -1  # in place of a trial's number: what any trial of the configuration would show in the mean

# Normal priors on the logarithms of the hyperparameters, a itself, for observations of unit variance.
PRIOR = {
    "worth": (0.0, 1.5),  # variance of g
    "own": (0.5, 1.0),  # of h
    "common": (0.0, 1.5),  # of m
    "offset": (math.log(0.1), 1.5),  # of o
    "swerve": (math.log(0.1), 1.5),  # of c
    "noise": (math.log(0.03), 2.0),
    "pace": (math.log(0.3), 0.7),  # b, of a whole training
    "early": (-0.7, 0.5),  # a
}
SCALE = (math.log(0.5), 0.8)  # of each length, of a range


class Points(NamedTuple):
    """Moments of trainings.

    Attributes:
        x: (n, columns) configurations as the kernel sees them.
        t: (n,) share of the training that is done.
        trial: (n,) whose; NOBODY for any trial's mean.
    """

    x: Array
    t: Array
    trial: Array


class CurveModel:
    """The process, given what was observed.

    Args:
        columns: of `x` that belong to each parameter and share a length scale.
        seen: where values were observed.
        values: (n,), the larger the better.
        fitted: hyperparameters are fitted to the first so many observations, the posterior is that of all.
        earlier: one that may have been fitted to the same.
    """

    def __init__(
        self, columns: tuple[int, ...], seen: Points, values: Array, fitted: int, earlier: CurveModel | None = None
    ) -> None:
        self.columns, self.seen, self.first = columns, seen, values[:fitted]
        self.centre, self.scale = float(self.first.mean()), float(self.first.std()) or 1.0
        self.targets = (values - self.centre) / self.scale
        if earlier is not None and np.array_equal(earlier.first, self.first):
            self.theta: Array = earlier.theta
        else:
            self.theta = self._fit(Points(*(part[:fitted] for part in seen)), self.targets[:fitted])
        self._condition()

    def _condition(self) -> None:
        covariance = self.covariance(self.seen, self.seen) + np.diag(np.full(len(self.targets), self.noise))
        factor = cho_factor(covariance, lower=True)
        self.weights = cho_solve(factor, self.targets)
        # Few observations and many predictions: a product with the inverse is faster than a solution for each.
        self.whitening = solve_triangular(factor[0], np.eye(len(self.targets)), lower=True)

    def believing(self, points: Points) -> CurveModel:
        """A model that takes what is expected at these points for observed."""
        other = copy.copy(self)
        expected = self.covariance(points, self.seen) @ self.weights
        other.seen = Points(*(np.concatenate(parts) for parts in zip(self.seen, points, strict=True)))
        other.targets = np.concatenate([self.targets, expected])
        other._condition()
        return other

    @property
    def noise(self) -> float:
        """Variance of one observation about its trial's curve, in squared units of the targets."""
        return float(np.exp(self.theta[len(self.columns) + list(PRIOR).index("noise")])) + JITTER

    def indistinct(self) -> Array:
        """(parameters,) the distance at which two configurations are expected to differ by one trial's noise."""
        scales, (worth, _, _, offset, _, noise, _), _ = self._parts(self.theta)
        return np.asarray(scales * math.sqrt((offset + noise) / (5 / 3 * worth)))

    def likeness(self, a: Array, b: Array) -> Array:
        """(len a, len b) correlation of configurations."""
        scales = self._parts(self.theta)[0]
        each = np.repeat(scales, self.columns)
        distance = np.sqrt(5) * cdist(a / each, b / each)
        return np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))

    def terms(self, t: Any, u: Any) -> tuple[Any, Any, Any]:
        """The prior covariance of two values after the shares t and u, which broadcast, without the noise of single
        observations: what it is for each unit of the configurations' `likeness`, whatever that is, and beyond both
        where the two are of one trial."""
        _, (worth, own, common, offset, swerve, _, pace), early = self._parts(self.theta)
        decay = pace / (pace + t + u)
        loading = (1 + early * pace / (pace + t)) * (1 + early * pace / (pace + u))
        return worth * loading + own * decay, LEVEL + common * decay, offset + swerve * decay

    def covariance(self, a: Points, b: Points) -> Array:
        """(len a, len b) prior covariance, without the noise of single observations."""
        like, level, lone = self.terms(a.t[:, None], b.t)
        same = (a.trial[:, None] == b.trial) & (b.trial != NOBODY)
        return np.asarray(like * self.likeness(a.x, b.x) + level + same * lone)

    def to_seen(self, t: float, alike: Array, same: Array | None = None) -> Array:
        """(n, observations) prior covariance of values after the share t with what was observed.

        Args:
            alike: (n, observations) likeness of the configurations.
            same: (n, observations) which are of one trial; None: none.
        """
        like, level, lone = self.terms(t, self.seen.t)
        across = alike * like + level
        return np.asarray(across if same is None else across + same * lone)

    def reduced(self, across: Array) -> tuple[Array, Array]:
        """What predictions at points are made of: (n,) means, in units of the values; (observations, n) V, so that the
        posterior covariance is the prior one less V'V, in squared units of the targets.

        Args:
            across: (n, observations) prior covariance of the points with what was observed.
        """
        return self.centre + self.scale * (across @ self.weights), self.whitening @ across.T

    def predict(self, points: Points) -> tuple[Array, Array]:
        """(n,) means and standard deviations, in units of the values, without the noise of single observations."""
        mean, parts = self.reduced(self.covariance(points, self.seen))
        like, level, lone = self.terms(points.t, points.t)
        variance = like + level + (points.trial != NOBODY) * lone - (parts**2).sum(axis=0)
        return mean, self.scale * np.sqrt(np.maximum(variance, 0))

    def _parts(self, theta: Array) -> tuple[Array, Array, float]:
        """Length scales, variances and pace, and a."""
        d = len(self.columns)
        return np.exp(theta[:d]), np.exp(theta[d:-1]), float(theta[-1])

    def _fit(self, seen: Points, targets: Array) -> Array:
        """The most probable hyperparameters."""
        d, n = len(self.columns), len(targets)
        mean, deviation = np.array([*[SCALE] * d, *PRIOR.values()]).T
        squares = _squares(seen.x, seen.x, self.columns)
        times = seen.t[:, None] + seen.t
        same = seen.trial[:, None] == seen.trial

        def loss(theta: Array) -> tuple[float, Array]:
            """Negative log posterior, up to a constant, and its gradient."""
            scales, (worth, own, common, offset, swerve, noise, pace), early = self._parts(theta)
            scaled = squares / scales[:, None, None] ** 2
            matern, slope = _matern(scaled)
            decay, lone = pace / (pace + times), pace / (pace + seen.t)
            load = 1 + early * lone
            outer = np.outer(load, load)
            parts = [
                worth * outer * matern,
                own * matern * decay,
                common * decay,
                offset * same,
                swerve * same * decay,
                noise * np.eye(n),
            ]
            covariance = LEVEL + sum(parts) + JITTER * np.eye(n)
            factor = cho_factor(covariance, lower=True)
            weights = cho_solve(factor, targets)
            outward = (np.outer(weights, weights) - cho_solve(factor, np.eye(n))) / 2
            bend = np.outer(lone, load)
            quicker = np.outer(lone * (1 - lone), load)
            slopes = [
                *(((worth * outer + own * decay) * slope) * one for one in scaled),
                *parts,
                worth * early * matern * (quicker + quicker.T) + (parts[1] + parts[2] + parts[4]) * (1 - decay),
                worth * matern * (bend + bend.T),
            ]
            z = (theta - mean) / deviation
            value = targets @ weights / 2 + np.log(np.diag(factor[0])).sum() + z @ z / 2
            return float(value), z / deviation - np.array([(outward * one).sum() for one in slopes])

        bounds = list(zip(mean - 4 * deviation, mean + 4 * deviation, strict=True))
        return np.asarray(minimize(loss, mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60}).x)


def _squares(a: Array, b: Array, columns: tuple[int, ...]) -> Array:
    """(parameters, len a, len b) squared distances along each parameter."""
    apart = (a.T[:, :, None] - b.T[:, None, :]) ** 2
    return np.asarray(np.add.reduceat(apart, np.cumsum((0, *columns[:-1])), axis=0))


def _matern(scaled: Array) -> tuple[Array, Array]:
    """Matern-5/2 at squared distances by parameter, and what each of these times it is the slope by log length."""
    distance = np.sqrt(5 * scaled.sum(axis=0))
    fall = np.exp(-distance)
    return (1 + distance + distance**2 / 3) * fall, 5 / 3 * (1 + distance) * fall
