"""What other searches found, as a prior that is forgotten where it is wrong.

Each of them has a Gaussian process of its own. Their predictions are added to those of the search's own process, with
weights: how often each process, drawn from its posterior, ranks the search's own trials best. Feurer, Letham, Bakshy
2018, "Scalable meta-learning for Bayesian optimization using ranking-weighted Gaussian process ensembles" (RGPE). Only
ranks are compared, so a search on other data helps whatever its accuracies are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.linalg import cho_solve
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor

from bo_distill.search.searchers.cube import Array
from bo_distill.search.searchers.process import FITTED, believing, fit, standardised

SAMPLES = 256  # from each posterior


class Source:
    """Another search's trials, and its process, which is fitted when it is first asked for.

    Args:
        points: (n, d) of the cube.
        targets: (n,) to be made large.
    """

    def __init__(self, points: Array, targets: Array) -> None:
        self.points, self.targets = points, targets
        self._process: GaussianProcessRegressor | None = None

    def process(self, blank: GaussianProcessRegressor, transform: Callable[[Array], Array]) -> GaussianProcessRegressor:
        """Its process, of the same kind as an unfitted one."""
        if self._process is None:
            process = clone(blank)
            fit(process, transform, self.points, standardised(self.targets)[0], 0.0)
            self._process = process
        return self._process


class Ensemble:
    """Processes whose predictions are added.

    Args:
        members: each predicts standardised values; the first is the search's own.
        weights: of sum 1.
    """

    def __init__(self, members: Sequence[GaussianProcessRegressor], weights: Array) -> None:
        self.members = [(member, weight) for member, weight in zip(members, weights, strict=True) if weight]
        self.X_train_ = members[0].X_train_  # bayes_opt asks it for the number of dimensions

    def predict(self, points: Array, return_std: bool = False) -> Any:
        """(n,) mean, and with `return_std` the deviation too; as scikit-learn's processes have it."""
        if not return_std:
            return sum(weight * member.predict(points) for member, weight in self.members)
        found = [(member.predict(points, return_std=True), weight) for member, weight in self.members]
        mean = sum(weight * mean for (mean, _), weight in found)
        return mean, np.sqrt(sum((weight * deviation) ** 2 for (_, deviation), weight in found))

    def believing(self, points: Array) -> Ensemble:
        """One whose members have each seen at points (n, d) what they predict there."""
        members, weights = zip(*self.members, strict=True)
        return Ensemble([believing(member, points) for member in members], np.array(weights))


def weights(
    own: GaussianProcessRegressor, others: Sequence[GaussianProcessRegressor], rng: np.random.RandomState
) -> Array:
    """How often the own process, then each of the others, ranks the own trials best; (1 + others,) of sum 1.

    One that mostly does worse than all but the worst draws of the own one gets none: many bad ones would win by chance.
    """
    points, targets = own.X_train_, own.y_train_
    if len(targets) > FITTED:
        few = np.argsort(targets)[np.linspace(0, len(targets) - 1, FITTED).astype(int)]
    else:
        few = np.arange(len(targets))
    points, targets = points[few], targets[few]
    mean, deviation = without_itself(own)
    drawn = mean[few, None] + deviation[few, None] * rng.standard_normal((len(few), SAMPLES))
    losses = np.array(
        [
            misranked(drawn, targets[:, None], targets),
            *(
                misranked(sample, sample, targets)
                for sample in (other.sample_y(points, SAMPLES, random_state=rng) for other in others)
            ),
        ]
    )
    worse = np.median(losses, axis=1) > np.quantile(losses[0], 0.95)
    worse[0] = False
    losses = losses + rng.uniform(0, 0.5, losses.shape)  # ties are drawn
    losses[worse] = np.inf
    return np.bincount(losses.argmin(axis=0), minlength=len(losses)) / SAMPLES


def misranked(values: Array, beside: Array, targets: Array) -> Array:
    """(samples,) ordered pairs of trials that a draw has the other way round than the targets.

    Args:
        values: (n, samples) of the first of a pair.
        beside: (n, samples) or (n, 1), of the second.
        targets: (n,)
    """
    wrong = (values[:, None] < beside[None]) != (targets[:, None] < targets[None])[..., None]
    wrong[np.diag_indices(len(targets))] = False
    return np.asarray(wrong.sum(axis=(0, 1)))


def without_itself(gp: GaussianProcessRegressor) -> tuple[Array, Array]:
    """Mean and deviation (n,) that a process would have at each of its observations, were that one not known to it.

    Rasmussen, Williams 2006, "Gaussian processes for machine learning", equation 5.12, less the noise.
    """
    precision = np.diag(cho_solve((gp.L_, True), np.eye(len(gp.y_train_))))
    mean = gp.y_train_ - gp.alpha_ / precision
    return mean, np.sqrt(np.maximum(1 / precision - gp.alpha, 0.0))
