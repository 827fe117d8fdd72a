"""The Gaussian process of a search: its kernel, and its fit with priors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from bayes_opt.parameter import wrap_kernel
from scipy.optimize import minimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from bo_distill.search.searchers.cube import Array

# Hyperparameters are fitted to at most this many observations, because each of some thirty steps costs their number
# cubed. The posterior is always that of all observations.
FITTED = 128


# Keeps the Cholesky factor of 1,000 near-identical points positive definite.
JITTER = 1e-8


class Matern52(Matern):
    """One length scale per parameter, shared by the columns of a category."""

    def __init__(self, length_scale: Any = 1.0, length_scale_bounds: Any = (1e-2, 1e2), columns: Any = (1,)) -> None:
        super().__init__(length_scale, length_scale_bounds, nu=2.5)
        self.columns = columns

    def __call__(self, X: Array, Y: Array | None = None, eval_gradient: bool = False) -> Any:
        kernel = Matern(np.repeat(self.length_scale, self.columns), nu=2.5)
        if not eval_gradient:
            return kernel(X, Y)
        value, gradient = kernel(X, eval_gradient=True)
        return value, np.add.reduceat(gradient, np.cumsum((0, *self.columns[:-1])), axis=2)


def fit_with_priors(objective: Callable[[Array], Any], start: Array, bounds: Array) -> tuple[Array, float]:
    """Most probable log hyperparameters, in the form that scikit-learn's `optimizer` takes.

    With a dozen noisy observations the likelihood alone is content with no length scale at all. The priors are on
    targets of unit variance: signal variance about 1, length scales about half the range, noise wide about 1e-4. One
    start, at their mode, led to trials as good as three starts did.
    """
    scales = len(start) - 2
    mean = np.array([0.0, *[math.log(0.5)] * scales, math.log(1e-4)])
    deviation = np.array([1.5, *[0.8] * scales, 3.0])

    def posterior(theta: Array) -> tuple[float, Array]:
        """Negative log posterior, up to a constant, and its gradient at the logarithms of the hyperparameters."""
        loss, slope = objective(theta)
        z = (theta - mean) / deviation
        return loss + z @ z / 2, slope + z / deviation

    found = minimize(posterior, mean, jac=True, method="L-BFGS-B", bounds=bounds)
    return found.x, found.fun


def fenced(values: Sequence[float | None]) -> Array:
    """Values to be made large as a model takes them: None, a failure, as the worst; those far below the others as a
    fence three times the interquartile range under the lower quartile, so that one divergence does not drown the
    differences between the rest.

    Args:
        values: at least one of them a number.
    """
    finite = [value for value in values if value is not None]
    lower, upper = np.quantile(finite, (0.25, 0.75))
    fence = lower - 3 * (upper - lower) if upper > lower else -math.inf
    worst = max(min(finite), fence)
    return np.array([worst if value is None else max(value, fence) for value in values])


def standardised(values: Array) -> tuple[Array, float]:
    """Values of mean 0 and deviation 1, and what they were divided by."""
    scale = float(values.std()) or 1.0
    return (values - values.mean()) / scale, scale


def fit(
    gp: GaussianProcessRegressor, transform: Callable[[Array], Array], points: Array, targets: Array, variances: Any
) -> tuple[Any, float]:
    """Fit a process to observations, so that it predicts the function and not a trial.

    Args:
        gp: unfitted, its kernel a sum of signal and noise.
        transform: of points into what the kernel sees.
        points: (n, d).
        targets: (n,) standardised.
        variances: (n,) or one, beyond the noise that all have.

    Returns:
        the kernel of the signal, and the variance of the noise.
    """
    extra = np.broadcast_to(JITTER + variances, targets.shape)
    order = np.argsort(-targets)
    if len(order) > FITTED:  # half of them the best, half from there to the worst in even steps
        rest = np.linspace(FITTED // 2, len(order) - 1, FITTED // 2).astype(int)
        order = order[np.concatenate([np.arange(FITTED // 2), rest])]
    gp.set_params(alpha=extra[order]).fit(points[order], targets[order])
    # It is asked how good the function may be, not how lucky a trial: the noise moves from the kernel, where it would
    # be part of the predicted deviation, to the observations.
    signal, noise = gp.kernel_.k1, gp.kernel_.k2.noise_level
    gp.set_params(kernel=wrap_kernel(signal, transform), alpha=noise + extra, optimizer=None)
    gp.fit(points, targets)
    return signal, noise


def believing(gp: GaussianProcessRegressor, points: Array) -> GaussianProcessRegressor:
    """A fitted process that has seen at points (n, d) what it predicts there: its mean stays as it is, and nothing is
    left to learn at them."""
    more = GaussianProcessRegressor(gp.kernel, optimizer=None)
    more.set_params(alpha=np.append(gp.alpha, np.full(len(points), gp.alpha.min())))
    return more.fit(np.vstack([gp.X_train_, points]), np.concatenate([gp.y_train_, gp.predict(points)]))


def finite(value: float | None) -> float | None:
    """The value; None where it is no number, or so large that its square would be none."""
    number = math.nan if value is None else float(value)
    return number if abs(number) < 1e100 else None
