"""Bayesian optimisation over typed ranges, on bayesian-optimization 3.x over the unit cube; asked and told as Ray
Tune's searchers are, but without Ray. `search.bayes` makes it one of those.

A Gaussian process is fitted to the trials seen so far, and the next trial goes where the expected improvement is
largest (Jones, Schonlau, Welch 1998, "Efficient global optimization of expensive black-box functions"). Trials under
way enter with their predicted mean, the "kriging believer" (Ginsbourger, Le Riche, Carraro 2010, "Kriging is
well-suited to parallelize optimization"). The kernel is Matern-5/2 with a length scale per parameter, as in Snoek,
Larochelle, Adams 2012, "Practical Bayesian optimization of machine learning algorithms", and rounds integers and
categories inside, as in Garrido-Merchan, Hernandez-Lobato 2020, "Dealing with categorical and integer-valued
variables".

Division of labour: bayes_opt holds the parameters, the observations and the Gaussian process, wraps its kernel so that
it sees rounded points, and has the formula of expected improvement. Ours are the coordinates (log scales, levels), the
fit with priors and noise, the pending points and the search for the best candidate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from numbers import Real as AnyReal
from typing import Any

import numpy as np
from bayes_opt import BayesianOptimization
from bayes_opt.acquisition import ExpectedImprovement
from bayes_opt.parameter import FloatParameter, wrap_kernel
from bayes_opt.target_space import TargetSpace
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import qmc
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

from methods.space import Choice, Domain, Integer, Real

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


class Axis(FloatParameter):
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


class Number(Axis):
    """A float or an integer; a level k stands for k * step.

    Args:
        ends: of the values, both included.
        whole: its values are int.
        discrete: it has levels.
    """

    def __init__(
        self,
        name: str,
        text: str,
        first: float,
        last: float,
        ends: tuple[float, float],
        *,
        log: bool = False,
        whole: bool = False,
        discrete: bool = False,
        step: float = 1,
    ) -> None:
        super().__init__(name, text, first, last, log, discrete)
        self.ends, self.whole, self.step = ends, whole, step

    def to_param(self, value: Any) -> float:
        number = self.raw(value).item() * self.step
        if self.whole:
            return int(number)
        # Twelve digits, so that a value that was given comes back as given: 0.1, not 0.09999999999999998.
        return min(max(float(f"{number:.12g}"), self.ends[0]), self.ends[1])

    def to_float(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, AnyReal) or not math.isfinite(value):
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


class Category(Axis):
    """One of several options: numbers are levels in ascending order, all else is one-hot to the kernel."""

    def __init__(self, name: str, options: Iterable[Any]) -> None:
        different: list[Any] = []
        for option in options:
            if not any(same(option, other) for other in different):
                different.append(option)
        self.ordered = all(isinstance(option, AnyReal) and not isinstance(option, bool) for option in different)
        self.options = sorted(different) if self.ordered else different
        self.columns = 1 if self.ordered else len(different)
        plain = [o if isinstance(o, str | int | float | None) else type(o).__name__ for o in self.options]
        super().__init__(name, f"choice {plain}", 0, len(different))

    def to_param(self, value: Any) -> Any:
        return self.options[int(self.raw(value).item())]

    def to_float(self, value: Any) -> float:
        for level, option in enumerate(self.options):
            if same(option, value):
                return float(self.middle(level))
        raise self.refusal(value)

    def kernel_transform(self, value: Array) -> Array:
        if self.ordered:
            return self.snap(value)
        # Any two options are as far apart as the two ends of a number's range.
        return np.equal(self.raw(value), np.arange(len(self.options))) / math.sqrt(2)


def same(option: Any, value: Any) -> bool:
    """Equal, but True is not 1."""
    return isinstance(option, bool) == isinstance(value, bool) and bool(option == value)


def axis_of(name: str, domain: Domain) -> Axis:
    match domain:
        case Real(low, high, log):
            return Number(name, f"{'log ' * log}Float ({low}, {high})", low, high, (low, high), log=log)
        case Integer(low, high, log):
            text = f"{'log ' * log}Integer ({low}, {high + 1})"
            return Number(name, text, low, high + 1, (low, high), log=log, whole=True, discrete=True)
        case Choice(options):
            return Category(name, options)
        case _:
            raise ValueError(f"{name}: a list of numbers cannot be searched")


class Cube:
    """Typed ranges as the unit cube, and back."""

    def __init__(self, axes: Mapping[str, Axis]) -> None:
        self.axes = dict(axes)
        self.size = math.prod(axis.levels for axis in self.axes.values())

    def describe(self) -> list[str]:
        return [f"{name}: {axis.text}" for name, axis in self.axes.items()]

    def value(self, config: Config, name: str) -> Any:
        """A parameter's value in a configuration.

        Raises:
            LookupError: it has none.
        """
        return config[name]

    def encode(self, config: Config, partial: bool = False) -> list[Any]:
        """A coordinate for each parameter of a configuration; None where a partial one does not say."""
        row: list[Any] = []
        for name, axis in self.axes.items():
            try:
                value = self.value(config, name)
            except LookupError:
                if not partial:
                    raise ValueError(f"{name}: missing from {config!r}") from None
                row.append(None)
            else:
                row.append(axis.to_float(value))
        return row

    def decode(self, point: Array) -> Config:
        return {name: axis.to_param(unit) for (name, axis), unit in zip(self.axes.items(), point, strict=True)}

    def each(self, points: Array, of: Callable[[Axis, Array], Array]) -> Array:
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


class _BelieverEI(ExpectedImprovement):
    """Expected improvement on the best posterior mean, where each pending point has the value that is predicted."""

    def __init__(self, cube: Cube, pending: Sequence[Row], known: Set[Row]) -> None:
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
            # The model is believed where trials are under way: there nothing is left to learn, and elsewhere its mean
            # stays as the observations have it. A lie of the best mean would make the neighbourhood look good.
            believed = gp.predict(np.array(self.pending))
            gp.fit(np.vstack([points, self.pending]), np.concatenate([targets, believed]))
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


def check_same(saved: list[str], here: list[str]) -> None:
    if saved != here:
        raise ValueError(f"the saved search is of another space: {saved}, here {here}")


class Proposer:
    """Propose trials by expected improvement under a Gaussian process.

    The first `n_initial` trials are a scrambled Sobol sequence, the others come from the model. What is proposed
    follows from the seed, the number of the proposal and what was observed and is pending until then, and from nothing
    else, so a restored search goes on as the saved one would have.

    A trial that failed, or reported NaN or infinity (or a number beyond 1e100), counts as the worst value seen. Values
    far below the others (three times the interquartile range under the lower quartile) count as that fence, so that
    one divergence does not drown the differences between good trials. A trial that ended without a value tells nothing.
    In a finite space no configuration is proposed twice, and when all were, `suggest` returns `FINISHED`.

    Args:
        cube: what is searched.
        metric: name of the reported value.
        mode: "min" or "max".
        seed: non-negative integer.
        points_to_evaluate: configurations to try first, in this order, also where they repeat; a parameter that one
            leaves out is filled in from the Sobol sequence.
        n_initial: trials before the model takes over, `points_to_evaluate` and observed points included. None: three
            more than there are parameters. With 0 or 1 the model still waits for a first finite value.

    Raises:
        ValueError: naming the parameter, if a point to evaluate is not in the space.
    """

    FINISHED = "FINISHED"  # as Tune's searchers have it

    def __init__(
        self,
        cube: Cube,
        metric: str,
        mode: str,
        *,
        seed: int = 0,
        points_to_evaluate: Sequence[Config] = (),
        n_initial: int | None = None,
    ) -> None:
        self._metric: str | None = metric
        self._mode: str | None = mode
        self._begin(seed, n_initial)
        self._cube: Cube | None = cube
        self._queue += [cube.encode(point, partial=True) for point in points_to_evaluate]

    def _begin(self, seed: int, n_initial: int | None) -> None:
        self._seed = seed
        self._n_initial = n_initial
        self._queue: list[list[float | None]] = []
        self._count = 0  # of proposals
        self._pending: dict[str, Row] = {}
        self._observed: list[tuple[Row, float | None]] = []  # None: failed
        self._silent: list[Row] = []  # ended without a value

    def _known_cube(self) -> Cube:
        assert self._cube
        return self._cube

    def suggest(self, trial_id: str) -> Any:
        """The configuration to try next.

        Args:
            trial_id: what `on_trial_complete` will call it; until then it is pending.

        Returns:
            A configuration; `FINISHED` once every configuration of a finite space was proposed or observed.
        """
        cube = self._known_cube()
        rows = [*self._pending.values(), *(row for row, _ in self._observed), *self._silent]
        known = set(cube.cells(np.array(rows))) if rows and cube.size < math.inf else set()
        rng = np.random.RandomState(np.random.MT19937(np.random.SeedSequence((self._seed, self._count))))
        n_initial = len(cube.axes) + 3 if self._n_initial is None else self._n_initial
        if self._count < len(self._queue):
            asked = np.array(self._queue[self._count], dtype=float)  # None, left out, becomes NaN
            point = np.where(np.isnan(asked), self._sobol(cube)[0], asked)
        elif len(known) >= cube.size:
            return self.FINISHED
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

    def _sobol(self, cube: Cube) -> Array:
        """The point of the sequence that has this proposal's number, as the only row."""
        sobol = qmc.Sobol(len(cube.axes), rng=np.random.default_rng(self._seed))
        if self._count:
            sobol.fast_forward(self._count)
        return sobol.random(1)

    def _propose(self, cube: Cube, known: Set[Row], rng: np.random.RandomState) -> Array:
        acquisition = _BelieverEI(cube, list(self._pending.values()), known)
        axes: Any = cube.axes  # which bayes_opt takes, though its annotation knows of bounds only
        optimizer = BayesianOptimization(None, axes, acquisition, random_state=rng, verbose=0)
        optimizer.set_gp_params(
            kernel=ConstantKernel(1.0, (1e-2, 1e2))
            * Matern52(np.ones(len(axes)), columns=tuple(axis.columns for axis in axes.values()))
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
            ValueError: naming the parameter, if one is missing or outside its domain.
        """
        self._tell(tuple(self._known_cube().encode(parameters)), None if error else value)

    def _tell(self, row: Row, value: float | None) -> None:
        number = math.nan if value is None else float(value)
        self._observed.append((row, number if abs(number) < 1e100 else None))  # beyond it, squares overflow

    def save_state(self) -> Config:
        """All that later proposals follow from, as JSON can hold it: all but the space, the metric and the mode."""
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
            ValueError: the state is of another space.
        """
        check_same(state["space"], self._known_cube().describe())
        self._take(state)

    def _take(self, state: Config) -> None:
        self._seed, self._n_initial, self._count = state["seed"], state["n_initial"], state["count"]
        self._queue = [list(row) for row in state["queue"]]
        self._pending = {trial: tuple(row) for trial, row in state["pending"].items()}
        self._observed = [(tuple(row), value) for row, value in state["observed"]]
        self._silent = [tuple(row) for row in state["silent"]]
