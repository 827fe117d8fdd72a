"""Bayesian optimisation as a Ray Tune searcher, built on bayesian-optimization 3.x over the unit cube.

A Gaussian process is fitted to the trials seen so far, and the next trial goes where the expected improvement is
largest (Jones, Schonlau, Welch 1998, "Efficient global optimization of expensive black-box functions"). Trials under
way enter with a constant lie (Ginsbourger, Le Riche, Carraro 2010, "Kriging is well-suited to parallelize
optimization"). The kernel is Matern-5/2 with a length scale per parameter, as in Snoek, Larochelle, Adams 2012,
"Practical Bayesian optimization of machine learning algorithms", and rounds integers and categories inside, as in
Garrido-Merchan, Hernandez-Lobato 2020, "Dealing with categorical and integer-valued variables".

Division of labour: bayes_opt holds the parameters, the observations and the Gaussian process, wraps its kernel so that
it sees rounded points, and has the formula of expected improvement. Ours are the coordinates (log scales, levels), the
fit with priors and noise, the lies and the search for the best candidate.
"""

from __future__ import annotations

import copy
import json
import math
import os
import warnings
from collections.abc import Callable, Sequence, Set
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from bayes_opt import BayesianOptimization
from bayes_opt.acquisition import ExpectedImprovement
from bayes_opt.parameter import FloatParameter, wrap_kernel
from bayes_opt.target_space import TargetSpace
from numpy.typing import NDArray
from ray.tune.search import UNDEFINED_METRIC_MODE, UNDEFINED_SEARCH_SPACE, Searcher
from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform, Quantized, Uniform
from ray.tune.search.variant_generator import assign_value, parse_spec_vars
from scipy.optimize import minimize
from scipy.stats import qmc
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

__all__ = ["BayesSearch"]

Config = dict[str, Any]
Row = tuple[float, ...]  # a point of the unit cube: one coordinate in [0, 1] per parameter
Array = NDArray[np.floating[Any]]

# Hyperparameters are fitted to at most this many observations, because each of some thirty steps costs their number
# cubed. The posterior is always that of all observations.
FITTED = 128
# Keeps the Cholesky factor of 1,000 near-identical points positive definite.
JITTER = 1e-8
# Spread of the steps around the best candidates, round by round, on the unit cube.
SCALES = (0.1, 0.03, 0.01, 0.003)


class _Axis(FloatParameter):
    """One searched parameter as a coordinate in [0, 1], which is all that bayes_opt needs to know of it.

    The coordinate runs evenly, or evenly in the logarithm, over [first, last]. Where the parameter has `levels`, each
    integer k from first to last - 1 owns the cell [k, k + 1): every coordinate in it means the same value, and `snap`
    moves it to the middle of the cell.
    """

    columns = 1  # that the kernel sees

    def __init__(self, name: str, text: str, first: float, last: float, log: bool = False, discrete: bool = True):
        if not (math.isfinite(first) and math.isfinite(last) and first < last):
            raise ValueError(f"{name}: {text} holds no range to search")
        super().__init__(name, (0.0, 1.0))
        self.text, self.first, self.last, self.log = text, first, last, log
        self.low, self.high = self._scale(first), self._scale(last)
        self.levels = last - first if discrete else math.inf

    def _scale(self, raw: Any) -> Any:
        return np.log(raw) if self.log else raw

    def unit(self, raw: Any) -> Any:
        return (self._scale(raw) - self.low) / (self.high - self.low)

    def raw(self, unit: Array) -> Array:
        scaled = self.low + unit * (self.high - self.low)
        raw = np.exp(scaled) if self.log else scaled
        return raw if self.levels == math.inf else np.clip(np.floor(raw), self.first, self.last - 1)

    def middle(self, level: Any) -> Any:
        return (self.unit(level) + self.unit(level + 1)) / 2

    def snap(self, unit: Array) -> Array:
        return unit if self.levels == math.inf else np.asarray(self.middle(self.raw(unit)))

    def kernel_transform(self, value: Array) -> Array:
        return self.snap(value)

    def refusal(self, value: Any) -> ValueError:
        return ValueError(f"{self.name}: {value!r} is not in {self.text}")


class _Number(_Axis):
    """uniform, loguniform, randint, lograndint and their quantised kin; a level k stands for k * step."""

    def __init__(self, name: str, domain: Float | Integer) -> None:
        sampler, self.domain, self.step = domain.get_sampler(), domain, 1
        whole, quantized = isinstance(domain, Integer), isinstance(sampler, Quantized)
        first, last = domain.lower, domain.upper
        text = f"{type(domain).__name__} {domain.domain_str}"
        if quantized:
            sampler, self.step = sampler.get_sampler(), sampler.q
            text += f" in steps of {self.step}"
            if not (whole and self.step == 1):  # the one case in which Tune leaves the upper end out
                first = math.ceil(first / self.step - 1e-9)
                last = math.floor(last / self.step + 1e-9) + 1
        log = isinstance(sampler, LogUniform)
        super().__init__(name, f"log {text}" if log else text, first, last, log, discrete=whole or quantized)

    def to_param(self, value: Any) -> float:
        number = self.raw(value).item() * self.step
        if isinstance(self.domain, Integer):
            return int(number)
        # Twelve digits, so that a value that was given comes back as given: 0.1, not 0.09999999999999998.
        return min(max(float(f"{number:.12g}"), self.domain.lower), self.domain.upper)

    def to_float(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise self.refusal(value)
        number = float(value) / self.step
        if self.levels < math.inf:
            level = round(number)
            if not (self.first <= level < self.last and math.isclose(level, number, abs_tol=1e-9)):
                raise self.refusal(value)
            return float(self.middle(level))
        if not self.first <= number <= self.last:
            raise self.refusal(value)
        return float(self.unit(number))


class _Choice(_Axis):
    """tune.choice: numbers are levels in ascending order, all else is one-hot to the kernel."""

    def __init__(self, name: str, domain: Categorical) -> None:
        options: list[Any] = []
        for option in domain.categories:
            if any(parse_spec_vars({"": option})[1:]):
                raise ValueError(f"{name}: a choice between search spaces is not supported")
            if not any(_same(option, other) for other in options):
                options.append(option)
        self.ordered = all(isinstance(option, Real) and not isinstance(option, bool) for option in options)
        self.options = sorted(options) if self.ordered else options
        self.columns = 1 if self.ordered else len(options)
        plain = [o if isinstance(o, str | int | float | None) else type(o).__name__ for o in self.options]
        super().__init__(name, f"choice {plain}", 0, len(options))

    def to_param(self, value: Any) -> Any:
        return self.options[int(self.raw(value).item())]

    def to_float(self, value: Any) -> float:
        for level, option in enumerate(self.options):
            if _same(option, value):
                return float(self.middle(level))
        raise self.refusal(value)

    def kernel_transform(self, value: Array) -> Array:
        if self.ordered:
            return self.snap(value)
        # Any two options are as far apart as the two ends of a number's range.
        return np.equal(self.raw(value), np.arange(len(self.options))) / math.sqrt(2)


def _same(option: Any, value: Any) -> bool:
    """Equal, but True is not 1."""
    return isinstance(option, bool) == isinstance(value, bool) and bool(option == value)


def _axis(name: str, domain: Domain) -> _Axis:
    sampler: Any = domain.get_sampler() if isinstance(domain, Float | Integer | Categorical) else None
    base = sampler.get_sampler() if isinstance(sampler, Quantized) else sampler
    if isinstance(domain, Categorical) and isinstance(base, Uniform):
        return _Choice(name, domain)
    if isinstance(domain, Float | Integer) and isinstance(base, Uniform | LogUniform):
        return _Number(name, domain)
    if domain.is_grid():
        kind = "grid_search"
    elif domain.is_function():
        kind = "sample_from"
    else:
        kind = "randn" if str(base) == "Normal" else type(domain).__name__
    raise ValueError(
        f"{name}: BayesSearch cannot search {kind}; it takes uniform, loguniform, quniform, "
        "qloguniform, randint, lograndint, qrandint, qlograndint and choice"
    )


class _Cube:
    """A Tune search space as the unit cube, and back."""

    def __init__(self, space: Config) -> None:
        constants, domains, grids = parse_spec_vars(space)
        self.space, self.constants = space, dict(constants)
        self.paths: dict[str, tuple[Any, ...]] = {}
        self.axes: dict[str, _Axis] = {}
        for path, domain in domains + grids:
            name = "/".join(map(str, path))
            if name in self.axes:
                raise ValueError(f"{name}: two entries of the search space have this path")
            self.paths[name], self.axes[name] = path, _axis(name, domain)
        if not self.axes:
            raise ValueError("the search space is empty: no entry is a domain such as tune.uniform(0, 1)")
        self.size = math.prod(axis.levels for axis in self.axes.values())

    def describe(self) -> list[str]:
        return [f"{name}: {axis.text}" for name, axis in self.axes.items()]

    def encode(self, config: Config, partial: bool = False) -> list[Any]:
        """A coordinate for each parameter of a nested config; None where a partial one does not say."""
        row: list[Any] = []
        for name, path in self.paths.items():
            value: Any = config
            try:
                for key in path:
                    value = value[key]
            except (KeyError, IndexError, TypeError):
                if not partial:
                    raise ValueError(f"{name}: missing from {config!r}") from None
                row.append(None)
            else:
                row.append(self.axes[name].to_float(value))
        return row

    def check_names(self, config: Config) -> None:
        """Refuse an entry that is neither a parameter nor a constant of the space."""
        for path, value in parse_spec_vars(config)[0]:
            searched = any(path[: len(known)] == known for known in self.paths.values())
            if not searched and not (path in self.constants and _same(self.constants[path], value)):
                raise ValueError(f"{'/'.join(map(str, path))}: {value!r} is not part of the search space")

    def decode(self, point: Array) -> Config:
        config = copy.deepcopy(self.space)
        for (name, path), unit in zip(self.paths.items(), point, strict=True):
            assign_value(config, path, self.axes[name].to_param(unit))
        return config

    def each(self, points: Array, of: Callable[[_Axis, Array], Array]) -> Array:
        return np.column_stack([of(axis, points[:, i]) for i, axis in enumerate(self.axes.values())])

    def unseen(self, points: Array, known: Set[Row]) -> Array:
        """The points, snapped, less those that were proposed before (which only a finite space can repeat)."""
        snapped = self.each(points, lambda axis, unit: axis.snap(unit))
        return snapped[[row not in known for row in self.cells(points)]] if self.size < math.inf else snapped

    def cells(self, points: Array) -> list[Row]:
        """What tells the points of a finite space apart: the number of each parameter's level."""
        return [tuple(row) for row in self.each(points, lambda axis, unit: axis.raw(unit)).tolist()]

    def draw(self, rng: np.random.RandomState, known: Set[Row], count: int = 2000) -> Array:
        """Random points, at least one, that were not proposed before; all that there are where `count` holds them."""
        if self.size <= count:
            levels = [axis.middle(np.arange(axis.first, axis.last)) for axis in self.axes.values()]
            grid = np.stack(np.meshgrid(*levels), axis=-1).reshape(-1, len(levels))
            return rng.permutation(self.unseen(grid, known))
        while not len(points := self.unseen(rng.random_sample((count, len(self.axes))), known)):
            pass
        return points


class _Matern52(Matern):
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


def _fit_with_priors(objective: Callable[[Array], Any], start: Array, bounds: Array) -> tuple[Array, float]:
    """Most probable log hyperparameters, in the form that scikit-learn's `optimizer` takes.

    With a dozen noisy observations the likelihood alone is content with no length scale at all. The priors are on
    targets of unit variance: signal variance about 1, length scales about half the range, noise wide about 1e-4. One
    start, at their mode, led to trials as good as three starts did.
    """
    scales = len(start) - 2
    mean = np.array([0.0, *[math.log(0.5)] * scales, math.log(1e-4)])
    deviation = np.array([1.5, *[0.8] * scales, 3.0])

    def posterior(theta: Array) -> tuple[float, Array]:
        loss, slope = objective(theta)
        z = (theta - mean) / deviation
        return loss + z @ z / 2, slope + z / deviation

    found = minimize(posterior, mean, jac=True, method="L-BFGS-B", bounds=bounds)
    return found.x, found.fun


class _LiarEI(ExpectedImprovement):
    """Expected improvement on the best posterior mean, with a constant lie for each pending point."""

    def __init__(self, cube: _Cube, pending: Sequence[Row], known: Set[Row]) -> None:
        super().__init__(xi=0.0)
        self.cube, self.pending, self.known = cube, list(pending), known

    def base_acq(self, mean: Array, std: Array) -> Array:
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
        """The point of the largest expected improvement.

        Args:
            gp: unfitted, its kernel a sum of signal and noise.
            target_space: every point observed, once.
            n_random: points drawn over the whole cube; a quarter as many are drawn about the best five observations.
            n_smart: how many of the best points each round keeps and looks around.
            fit_gp: not looked at; the process is always fitted.
            random_state: a `RandomState`.
        """
        points, targets = target_space.params, target_space.target
        targets = (targets - targets.mean()) / (targets.std() or 1.0)
        order = np.argsort(-targets)
        if len(order) > FITTED:  # half of them the best, half from there to the worst in even steps
            rest = np.linspace(FITTED // 2, len(order) - 1, FITTED // 2).astype(int)
            order = order[np.concatenate([np.arange(FITTED // 2), rest])]
        gp.fit(points[order], targets[order])
        # EI asks how good the function may be, not how lucky a trial: the noise moves from the kernel, where it would
        # be part of the predicted deviation, to the observations.
        signal, noise = gp.kernel_.k1, gp.kernel_.k2.noise_level
        gp.set_params(kernel=wrap_kernel(signal, target_space.kernel_transform), alpha=noise + JITTER, optimizer=None)
        gp.fit(points, targets)
        mean = gp.predict(points)
        self.y_max = mean.max()
        if self.pending:
            # The lie is the best mean: a pending point then offers no improvement, and its neighbours hardly any.
            lies = np.full(len(self.pending), self.y_max)
            gp.fit(np.vstack([points, self.pending]), np.concatenate([targets, lies]))
        acquire = self._get_acq(gp)

        best = points[np.argsort(-mean)[:5]]
        around = best[random_state.randint(len(best), size=n_random // 4)]
        spread = 10 ** random_state.uniform(-3, -0.5, size=(len(around), 1))
        pool = np.vstack([self.cube.draw(random_state, self.known, n_random), self._step(around, spread, random_state)])
        loss = acquire(pool)
        for scale in SCALES:
            kept = np.argsort(loss)[:n_smart]
            children = self._step(np.repeat(pool[kept], 32, axis=0), scale, random_state)
            if not len(children):  # a finite space all but used up
                break
            pool = np.vstack([pool[kept], children])
            loss = np.concatenate([loss[kept], acquire(children)])
        return pool[loss.argmin()]

    def _step(self, points: Array, scale: Any, rng: np.random.RandomState) -> Array:
        """Random neighbours: a normal step in every coordinate, now and then any other level in a discrete one."""
        moved = np.clip(points + scale * rng.standard_normal(points.shape), 0.0, 1.0)
        discrete = [axis.levels < math.inf for axis in self.cube.axes.values()]
        anew = (rng.random_sample(points.shape) < 0.2) & discrete
        return self.cube.unseen(np.where(anew, rng.random_sample(points.shape), moved), self.known)


def _check_same(saved: list[str], here: list[str]) -> None:
    if saved != here:
        raise ValueError(f"the saved search is of another space: {saved}, here {here}")


def _check_mode(mode: str | None) -> None:
    if mode not in (None, "min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', not {mode!r}")


class BayesSearch(Searcher):
    """Propose trials by expected improvement under a Gaussian process.

    Usable in any Tune script::

        tuner = tune.Tuner(
            train,
            param_space={"lr": tune.loguniform(1e-4, 1e-1), "net": {"depth": tune.randint(1, 9)}},
            tune_config=tune.TuneConfig(metric="accuracy", mode="max", num_samples=30, search_alg=BayesSearch()),
        )

    The first `n_initial` trials are a scrambled Sobol sequence, the others come from the model. What is proposed
    follows from the seed, the number of the proposal and what was observed and is pending until then, and from nothing
    else, so a restored search goes on as the saved one would have.

    A trial that failed, or reported NaN or infinity (or a number beyond 1e100), counts as the worst value seen. Values
    far below the others (three times the interquartile range under the lower quartile) count as that fence, so that
    one divergence does not drown the differences between good trials. A trial that ended without a value tells nothing.
    In a finite space no configuration is proposed twice, and when all were, `suggest` returns `Searcher.FINISHED`.

    Args:
        metric: name of the reported value. None: taken from `tune.TuneConfig`.
        mode: "min" or "max". None: taken from `tune.TuneConfig`.
        space: nested dict of constants and Tune domains: uniform, loguniform, randint, lograndint, their quantised
            forms, and choice, whose options are ordered if all are numbers and unordered otherwise. Configurations
            come back in the same shape. None: taken from `tune.Tuner(param_space=...)`.
        seed: non-negative integer.
        points_to_evaluate: configurations to try first, in this order, also where they repeat; a parameter that one
            leaves out is filled in from the Sobol sequence.
        n_initial: trials before the model takes over, `points_to_evaluate` and observed points included. None: three
            more than there are parameters. With 0 or 1 the model still waits for a first finite value.

    Raises:
        ValueError: naming the parameter, if a domain cannot be searched or holds no value, or a point to evaluate is
            not in the space; if the space has no domain; if `mode` is neither "min" nor "max".
    """

    def __init__(
        self,
        metric: str | None = None,
        mode: str | None = None,
        *,
        space: Config | None = None,
        seed: int = 0,
        points_to_evaluate: Sequence[Config] | None = None,
        n_initial: int | None = None,
    ) -> None:
        _check_mode(mode)
        super().__init__(metric=metric, mode=mode)
        self._seed = seed
        self._n_initial = n_initial
        self._asked = points_to_evaluate or ()
        self._cube: _Cube | None = None
        self._queue: list[list[float | None]] = []
        self._count = 0  # of proposals
        self._pending: dict[str, Row] = {}
        self._observed: list[tuple[Row, float | None]] = []  # None: failed
        self._silent: list[Row] = []  # ended without a value
        self._restored_space: list[str] | None = None
        if space is not None:
            self._define(space)

    def _define(self, space: Config) -> None:
        cube = _Cube(space)
        if self._restored_space is not None:
            _check_same(self._restored_space, cube.describe())
        else:
            for point in self._asked:
                cube.check_names(point)
            self._queue = [cube.encode(point, partial=True) for point in self._asked]
        self._cube = cube

    def _known_cube(self) -> _Cube:
        if self._cube is None:
            raise RuntimeError(UNDEFINED_SEARCH_SPACE.format(cls=type(self).__name__, space="space"))
        return self._cube

    def set_search_properties(self, metric: str | None, mode: str | None, config: Config, **spec: Any) -> bool:
        """Take what `tune.Tuner` was given; Tune calls this.

        Args:
            metric: replaces the constructor's, unless None.
            mode: replaces the constructor's, unless None.
            config: the search space.
            **spec: not looked at.

        Returns:
            Whether the space was taken: it is the first, or the same again (other constants allowed), so that one
            searcher can serve a second Tuner and go on from what it knows.

        Raises:
            ValueError: as for the constructor.
        """
        _check_mode(mode)
        self._metric, self._mode = metric or self._metric, mode or self._mode
        if self._cube is None:
            self._define(config)
            return True
        if not any(parse_spec_vars(config)[1:]):
            return False
        cube = _Cube(config)
        same = cube.describe() == self._cube.describe()
        if same:
            self._cube = cube
        return same

    def suggest(self, trial_id: str) -> Config | None:
        """The configuration to try next.

        Args:
            trial_id: what `on_trial_complete` will call it; until then it is pending.

        Returns:
            A configuration in the shape of the space, constants included; `Searcher.FINISHED` once every configuration
            of a finite space was proposed or observed.

        Raises:
            RuntimeError: the space, the metric or the mode is not known yet.
        """
        cube = self._known_cube()
        if not self._metric or not self._mode:
            raise RuntimeError(
                UNDEFINED_METRIC_MODE.format(cls=type(self).__name__, metric=self._metric, mode=self._mode)
            )
        rows = [*self._pending.values(), *(row for row, _ in self._observed), *self._silent]
        known = set(cube.cells(np.array(rows))) if rows and cube.size < math.inf else set()
        rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence((self._seed, self._count))))
        n_initial = len(cube.axes) + 3 if self._n_initial is None else self._n_initial
        if self._count < len(self._queue):
            asked = np.array(self._queue[self._count], dtype=float)  # None, left out, becomes NaN
            point = np.where(np.isnan(asked), self._sobol(cube)[0], asked)
        elif len(known) >= cube.size:
            return Searcher.FINISHED  # type: ignore[return-value]  # as Tune has it
        elif len(rows) < n_initial or all(value is None for _, value in self._observed):
            design = cube.unseen(self._sobol(cube), known)
            point = (design if len(design) else cube.draw(rng, known))[0]
        else:
            point = self._propose(cube, known, rng)
        config = cube.decode(point)
        self._count += 1
        # Encoded again, because a decoded float has twelve digits.
        self._pending[trial_id] = tuple(cube.encode(config))
        return config

    def _sobol(self, cube: _Cube) -> Array:
        """The point of the sequence that has this proposal's number, as the only row."""
        sobol = qmc.Sobol(len(cube.axes), rng=np.random.default_rng(self._seed))
        if self._count:
            sobol.fast_forward(self._count)
        return sobol.random(1)

    def _propose(self, cube: _Cube, known: Set[Row], rng: np.random.RandomState) -> Array:
        acquisition = _LiarEI(cube, list(self._pending.values()), known)
        axes: Any = cube.axes  # which bayes_opt takes, though its annotation knows of bounds only
        optimizer = BayesianOptimization(None, axes, acquisition, random_state=rng, verbose=0)
        optimizer.set_gp_params(
            kernel=ConstantKernel(1.0, (1e-2, 1e2))
            * _Matern52(np.ones(len(axes)), columns=tuple(axis.columns for axis in axes.values()))
            + WhiteKernel(1e-4, (1e-8, 1.0)),
            alpha=JITTER,
            normalize_y=False,
            n_restarts_optimizer=0,
            optimizer=_fit_with_priors,
        )
        for row, target in self._targets().items():
            optimizer.space.register(np.array(row), target)
        # One thread: these matrices are small, the cores are the trials', and their number must not change a sum.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")  # scikit-learn remarks on every length scale that ends at a bound
            return optimizer.space.params_to_array(optimizer.suggest())

    def _targets(self) -> dict[Row, float]:
        """What the model is to make large at each point observed: the mean of its values, after fence and penalty."""
        sign = 1.0 if self._mode == "max" else -1.0
        values = [sign * value for _, value in self._observed if value is not None]
        lower, upper = np.quantile(values, (0.25, 0.75))
        fence = lower - 3 * (upper - lower) if upper > lower else -math.inf
        worst = max(min(values), fence)
        at: dict[Row, list[float]] = {}
        for row, value in self._observed:
            at.setdefault(row, []).append(worst if value is None else max(sign * value, fence))
        return {row: float(np.mean(several)) for row, several in at.items()}

    def on_trial_complete(self, trial_id: str, result: Config | None = None, error: bool = False) -> None:
        """Take the outcome of a trial, also of one that a scheduler stopped early.

        Args:
            trial_id: as given to `suggest`; an unknown one is passed over.
            result: its last report. Without one, or without the metric in it, the trial is forgotten, though in a
                finite space its configuration is not proposed again.
            error: the trial failed and counts as the worst value seen, whatever it reported.
        """
        row = self._pending.pop(trial_id, None)
        if row is None:
            return
        if error:
            self._observed.append((row, None))
        elif result and self._metric in result:
            self._tell(row, result[self._metric])
        else:
            self._silent.append(row)

    def add_evaluated_point(
        self,
        parameters: Config,
        value: float | None,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:
        """Take a result from elsewhere, such as an earlier search; `add_evaluated_trials` comes here too.

        It counts towards `n_initial`, and a finite space does not propose it again.

        Args:
            parameters: a value for every searched parameter, nested as the space is; other entries are passed over.
            value: of the metric. None, NaN, infinite: the trial failed.
            error: the trial failed, whatever its value.
            pruned: not looked at; the value of a trial stopped early is a value.
            intermediate_values: not looked at.

        Raises:
            RuntimeError: the space is not known yet.
            ValueError: naming the parameter, if one is missing or outside its domain.
        """
        self._tell(tuple(self._known_cube().encode(parameters)), None if error else value)

    def _tell(self, row: Row, value: float | None) -> None:
        number = math.nan if value is None else float(value)
        self._observed.append((row, number if abs(number) < 1e100 else None))  # beyond it, squares overflow

    def save_state(self) -> Config:
        """All that later proposals follow from, as JSON can hold it: all but the space, the metric and the mode.

        Raises:
            RuntimeError: the space is not known yet.
        """
        return {
            "space": self._known_cube().describe(),
            "seed": self._seed,
            "n_initial": self._n_initial,
            "queue": list(self._queue),
            "count": self._count,
            "pending": dict(self._pending),
            "observed": list(self._observed),
            "silent": list(self._silent),
        }

    def restore_state(self, state: Config) -> None:
        """Go on where `save_state` was called: seed, points to evaluate and the rest are as they were there.

        Raises:
            ValueError: the state is of another space. Where the space is not known yet, it is raised once it is.
        """
        if self._cube is not None:
            _check_same(state["space"], self._cube.describe())
        self._restored_space = state["space"]
        self._seed, self._n_initial, self._count = state["seed"], state["n_initial"], state["count"]
        self._queue = [list(row) for row in state["queue"]]
        self._pending = {trial: tuple(row) for trial, row in state["pending"].items()}
        self._observed = [(tuple(row), value) for row, value in state["observed"]]
        self._silent = [tuple(row) for row in state["silent"]]

    def save(self, checkpoint_path: str) -> None:
        """Write the state to a file as JSON; the file is whole or not there. Tune calls this at its checkpoints."""
        aside = Path(f"{checkpoint_path}.{os.getpid()}.tmp")
        aside.write_text(json.dumps(self.save_state(), allow_nan=False), encoding="utf-8")
        aside.replace(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote; see `restore_state`."""
        self.restore_state(json.loads(Path(checkpoint_path).read_text(encoding="utf-8")))
