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
from collections.abc import Sequence
from typing import Any

import numpy as np
from bayes_opt import BayesianOptimization
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel

from bo_distill.search.searchers.acquisition import WORTH, BelieverEI, Bill, NothingNew
from bo_distill.search.searchers.base import METRIC, Estimate, Space, StageCost, check_same
from bo_distill.search.searchers.cube import Array, Config, Cube, Row, axes_of, one_thread, random_state
from bo_distill.search.searchers.process import Matern52, fenced, finite, fit_with_priors
from bo_distill.search.searchers.transfer import Source


def make(word: str, space: Space, seed: int, trials: int | None, first: Sequence[Config]) -> Proposer:
    """The Bayesian searcher; it tries the configurations of `first` before its own."""
    return Proposer(Cube(axes_of(space)), METRIC, "max", seed=seed, points_to_evaluate=first)


class Proposer:
    """Propose trials by expected improvement under a Gaussian process.

    The first `n_initial` trials are a scrambled Sobol sequence, the others come from the model. Where there are other
    searches to learn from, every other one of these comes from the model too, as far as they rank trials rightly: what
    they mislead about shows in trials that they did not ask for. What is proposed
    follows from the seed, the number of the proposal and what was observed and is pending until then, and from nothing
    else, so a restored search goes on as the saved one would have.

    A trial that failed, or reported NaN or infinity (or a number beyond 1e100), counts as the worst value seen. Values
    far below the others (three times the interquartile range under the lower quartile) count as that fence, so that
    one divergence does not drown the differences between good trials. A trial that ended without a value tells nothing.
    No configuration is proposed twice, nor one so near to another that a trial could not tell them apart: a
    thousandth of a range, or the distance over which the model expects no more difference than a trial's noise.
    `suggest` returns `FINISHED` when all of a finite space was proposed, and when the model has expected no improvement
    for three more proposals in a row than there are parameters, which go where least is known, and expects none from
    what came of them either.

    Args:
        cube: what is searched.
        metric: name of the reported value.
        mode: "min" or "max".
        seed: non-negative integer; None: another one each time.
        points_to_evaluate: configurations to try first, in this order, also where they repeat; a parameter that one
            leaves out is filled in from the Sobol sequence.
        n_initial: trials before the model takes over, `points_to_evaluate` and observed points included. None: three
            more than there are parameters. With 0 or 1 the model still waits for a first finite value.

    Raises:
        ValueError: naming the parameter, if a point to evaluate is not in the space.
    """

    FINISHED = "FINISHED"  # as Tune's searchers have it
    acquisition: type[BelieverEI] = BelieverEI

    def __init__(
        self,
        cube: Cube,
        metric: str,
        mode: str,
        *,
        seed: int | None = 0,
        points_to_evaluate: Sequence[Config] = (),
        n_initial: int | None = None,
    ) -> None:
        self._metric: str | None = metric
        self._mode: str | None = mode
        self._begin(seed, n_initial)
        self._cube: Cube | None = cube
        self._queue += [cube.encode(point, partial=True) for point in points_to_evaluate]

    def _begin(self, seed: int | None, n_initial: int | None) -> None:
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._n_initial = n_initial
        self._queue: list[list[float | None]] = []
        self._count = 0  # of proposals
        self._pending: dict[str, Row] = {}
        self._observed: list[tuple[Row, float | None]] = []  # None: failed
        self._silent: list[Row] = []  # ended without a value
        self._stopped: dict[str, tuple[Row, Estimate | None]] = {}  # early
        self._learned: list[tuple[list[Row], list[float | None]]] = []  # of other searches; None: failed
        self._sources: list[Source] = []  # the same, as far as it was asked for
        self._costs: list[StageCost] = []  # by which improvement is weighed; none: all trials cost the same
        self._idle = 0  # proposals in a row from which no improvement was expected
        self.reason = ""

    def _known_cube(self) -> Cube:
        assert self._cube
        return self._cube

    def suggest(self, trial_id: str) -> Any:
        """The configuration to try next.

        Args:
            trial_id: what `on_trial_complete` will call it; until then it is pending, and asked again it is the same.

        Returns:
            A configuration; None while only trials under way can tell whether there is one; `FINISHED` once every
            configuration of a finite space was proposed or observed, or nothing new is worth a trial.
        """
        cube = self._known_cube()
        ended = [*self._observed, *self._stopped.values()]
        rows = [*self._pending.values(), *(row for row, _ in ended), *self._silent]
        known = np.array(rows).reshape(-1, len(cube.axes))
        if trial_id in self._pending:
            return cube.decode(np.array(self._pending[trial_id]))
        rng = random_state(self._seed, self._count)
        n_initial = len(cube.axes) + 3 if self._n_initial is None else self._n_initial
        initial = len(rows) < n_initial
        if self._count < len(self._queue):
            asked = np.array(self._queue[self._count], dtype=float)  # None, left out, becomes NaN
            point = np.where(np.isnan(asked), cube.sobol(self._seed, self._count), asked)
        elif cube.size < math.inf and len(rows) >= cube.size and cube.count(known) >= cube.size:
            self.reason = "every configuration was tried"
            return self.FINISHED
        elif all(value is None for _, value in self._observed) or (initial and (not self._learned or self._count % 2)):
            point = self._designed(cube, known, rng)
        else:
            found = self._propose(cube, known, rng, self._designed(cube, known, rng) if initial else None)
            if found is None:
                if self._pending:
                    return None  # what they bring may change that
                self.reason = "nothing new is worth a trial"
                return self.FINISHED
            point = found
        config = cube.decode(point)
        self._count += 1
        # Encoded again, because a decoded float has twelve digits.
        self._pending[trial_id] = tuple(cube.encode(config))
        return config

    def _designed(self, cube: Cube, known: Array, rng: np.random.RandomState) -> Array:
        """This proposal's point of the initial design."""
        design = cube.unseen(cube.sobol(self._seed, self._count)[None], known)
        return (design if len(design) else cube.draw(rng, known))[0]

    def _propose(self, cube: Cube, known: Array, rng: np.random.RandomState, design: Array | None) -> Array | None:
        """The model's proposal; None where there is none that is worth a trial.

        Args:
            design: (d,) what is proposed where there are other searches, but they are of no help.
        """
        idle = self._idle >= len(cube.axes) + 3 and cube.size == math.inf
        if idle and self._pending:
            return None
        evidence = self._evidence()
        variances = np.array([variance for *_, variance in evidence])
        pending = list(self._pending.values())
        for points, values in self._learned[len(self._sources) :]:
            self._sources.append(Source(np.array(points), fenced(self._signed(values))))
        acquisition = self.acquisition(cube, pending, known, variances, self._bill(cube), self._sources, design)
        axes: Any = cube.axes  # which bayes_opt takes, though its annotation knows of bounds only
        optimizer = BayesianOptimization(
            None, axes, acquisition, random_state=rng, verbose=0, allow_duplicate_points=True
        )
        optimizer.set_gp_params(
            kernel=ConstantKernel(1.0, (1e-2, 1e2))
            * Matern52(np.ones(len(axes)), columns=tuple(axis.columns for axis in axes.values()))
            + WhiteKernel(1e-4, (1e-8, 1.0)),
            normalize_y=False,
            n_restarts_optimizer=0,
            optimizer=fit_with_priors,
        )
        with warnings.catch_warnings(), one_thread():
            # scikit-learn remarks on every length scale that ends at a bound, bayes_opt on every repeat.
            warnings.simplefilter("ignore")
            for row, target, _ in evidence:
                optimizer.space.register(np.array(row), target)
            try:
                point = optimizer.space.params_to_array(optimizer.suggest())
            except NothingNew:
                return None
        if idle and acquisition.promise < WORTH:
            return None
        self._idle = self._idle + 1 if acquisition.promise < WORTH else 0
        return point

    def _bill(self, cube: Cube) -> Bill | None:
        """What a trial costs beside those whose stages were trained, or are being trained."""
        trained = [*self._pending.values(), *(row for row, value in self._observed if value is not None)]
        if not self._costs or not trained:
            return None
        numbers = {name: number for number, name in enumerate(cube.axes)}
        stages = [([numbers[name] for name in cost.fields if name in numbers], cost.seconds) for cost in self._costs]
        return Bill(stages, np.array(trained))

    def _evidence(self) -> list[tuple[Row, float, float]]:
        """(point, target, variance) of each trial: what the model is to make large, after fence and penalty, and how
        uncertain that is beyond a trial's noise. A point that was observed again is there again: so the model sees how
        far apart two trials of one configuration are, and trusts many more than one."""
        estimates = [(row, estimate) for row, estimate in self._stopped.values() if estimate]
        rows = [row for row, _ in [*self._observed, *estimates]]
        values = [*(value for _, value in self._observed), *(estimate.value for _, estimate in estimates)]
        variances = [*(0.0 for _ in self._observed), *(estimate.deviation**2 for _, estimate in estimates)]
        return list(zip(rows, fenced(self._signed(values)).tolist(), variances, strict=True))

    def _signed(self, values: Sequence[float | None]) -> list[float | None]:
        """Values of the metric, to be made large."""
        sign = 1.0 if self._mode == "max" else -1.0
        return [None if value is None else sign * value for value in values]

    def learn_from(self, trials: Sequence[tuple[Config, float | None]]) -> None:
        """Take another search's trials, of other data maybe, as a prior: see `search.searchers.transfer`.

        Args:
            trials: configurations of this space, with their values of the metric; None, NaN, infinite: it failed.

        Raises:
            ValueError: naming the parameter, if one is missing or outside its domain; fewer than two have a value.
        """
        values = [finite(value) for _, value in trials]
        if sum(value is not None for value in values) < 2:
            raise ValueError(f"learn_from: {len(values)} trials; give at least two that have a value")
        rows: list[Row] = [tuple(self._known_cube().encode(config)) for config, _ in trials]
        self._learned.append((rows, values))

    def weigh(self, costs: Sequence[StageCost]) -> None:
        """Seek what promises most per second from now on, by these costs; until told again."""
        self._costs = list(costs)

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

    def on_trial_stopped(self, trial_id: str, estimate: Estimate | None) -> None:
        """Take what a trial that was stopped early would have reached, in place of what was said of it before.

        Args:
            trial_id: as given to `suggest`; an unknown one is passed over.
            estimate: counts as an observation with that much more noise; None: nothing is known but that it was tried.
        """
        if trial_id in self._pending:
            self._stopped[trial_id] = self._pending.pop(trial_id), estimate
        elif trial_id in self._stopped:
            self._stopped[trial_id] = self._stopped[trial_id][0], estimate

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
        self._observed.append((row, finite(value)))

    def save_state(self) -> Config:
        """All that later proposals follow from, as JSON can hold it: all but the space, the metric and the mode."""
        return {
            "space": self._known_cube().describe(),
            "seed": self._seed,
            "n_initial": self._n_initial,
            "queue": list(self._queue),
            "count": self._count,
            "idle": self._idle,
            "learned": [[list(rows), list(values)] for rows, values in self._learned],
            "costs": [[list(cost.fields), cost.seconds] for cost in self._costs],
            "reason": self.reason,
            "pending": dict(self._pending),
            "observed": list(self._observed),
            "silent": list(self._silent),
            "stopped": dict(self._stopped),
        }

    def restore_state(self, state: Config) -> None:
        """Go on where `save_state` was called: seed, points to evaluate and the rest are as they were there.

        Raises:
            ValueError: the state is of another space.
        """
        check_same(state.get("space"), self._known_cube().describe())
        self._take(state)

    def _take(self, state: Config) -> None:
        self._seed, self._n_initial, self._count = state["seed"], state["n_initial"], state["count"]
        self._idle, self.reason = state["idle"], state.get("reason", "")
        self._costs = [StageCost(tuple(fields), seconds) for fields, seconds in state.get("costs", ())]
        self._learned = [([tuple(row) for row in rows], list(values)) for rows, values in state.get("learned", ())]
        self._sources = []
        self._queue = [list(row) for row in state["queue"]]
        self._pending = {trial: tuple(row) for trial, row in state["pending"].items()}
        self._observed = [(tuple(row), value) for row, value in state["observed"]]
        self._silent = [tuple(row) for row in state["silent"]]
        self._stopped = {
            trial: (tuple(row), None if estimate is None else Estimate(*estimate))
            for trial, (row, estimate) in state["stopped"].items()
        }
