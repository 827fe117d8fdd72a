"""`search.searchers` as a Ray Tune searcher, over any space that Tune can describe."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real as AnyReal
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import UNDEFINED_METRIC_MODE, UNDEFINED_SEARCH_SPACE, Searcher
from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform, Quantized, Uniform
from ray.tune.search.variant_generator import assign_value, parse_spec_vars

from bo_distill.methods import space as spaces
from bo_distill.search.searchers.base import check_same
from bo_distill.search.searchers.bayesian import Proposer
from bo_distill.search.searchers.cube import Array, Axis, Config, Cube, Scale

__all__ = ["BayesSearch"]


@dataclass(frozen=True)
class Multiples:
    """The multiples of a step; `count` says of which whole numbers, and how they lie on [0, 1]."""

    count: spaces.Integer
    step: float
    low: float
    high: float

    @property
    def levels(self) -> float:
        return self.count.levels

    def check(self, value: Any) -> float:
        """The value as a float; ValueError if it is no multiple of the step or out of range."""
        number = value / self.step
        if not math.isclose(round(number), number, abs_tol=1e-9):
            raise ValueError(str(self))
        self.count.check(round(number))
        return float(value)

    def to_unit(self, value: float) -> float:
        return self.count.to_unit(round(value / self.step))

    def from_unit(self, unit: float) -> float:
        number = self.count.from_unit(unit) * self.step
        # Twelve digits, so that 3 * 0.1 is 0.3.
        return number if isinstance(number, int) else min(max(float(f"{number:.12g}"), self.low), self.high)

    def cell(self, unit: Any) -> Any:
        return self.count.cell(unit)

    def middle(self, cell: Any) -> Any:
        return self.count.middle(cell)


class _Number(Axis):
    """A float or an integer."""

    def to_float(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, AnyReal) or not math.isfinite(value):
            raise ValueError(f"{self.name}: {value!r} is not in {self.text}")
        number = float(value)
        whole = isinstance(self.domain, spaces.Integer) and number.is_integer()
        return super().to_float(int(number) if whole else number)


def _number(name: str, domain: Float | Integer) -> Axis:
    """uniform, loguniform, randint, lograndint and their quantised kin."""
    sampler, step = domain.get_sampler(), 1
    text = f"{type(domain).__name__} {domain.domain_str}"
    first: Any = domain.lower
    last: Any = domain.upper
    whole, quantized = isinstance(domain, Integer), isinstance(sampler, Quantized)
    if quantized:
        sampler, step = sampler.get_sampler(), sampler.q
        text += f" in steps of {step}"
    log = isinstance(sampler, LogUniform)
    text = f"log {text}" if log else text
    scale: Scale
    if quantized and not (whole and step == 1):  # else Tune leaves the upper end out
        count = spaces.Integer(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9), log)
        scale = Multiples(count, step, first, last)
    elif whole:
        scale = spaces.Integer(first, last - 1, log)
    else:
        scale = spaces.Real(first, last, log)
    if not (math.isfinite(first) and math.isfinite(last) and first < last and scale.levels > 0):
        raise ValueError(f"{name}: {text} holds no range to search")
    return _Number(name, scale, text)


def _choice(name: str, options: Iterable[Any]) -> Axis:
    different: list[Any] = []
    for option in options:
        try:
            if not any(spaces.same(other, option) for other in different):
                different.append(option)
        except ValueError:  # two arrays are neither equal nor not
            raise ValueError(f"{name}: a choice between arrays is not supported; choose between their names") from None
    plain = [o if isinstance(o, str | int | float | None) else type(o).__name__ for o in different]
    if not different:
        raise ValueError(f"{name}: choice {plain} holds no range to search")
    return Axis(name, spaces.Choice(tuple(different)), f"choice {plain}")


def _axis(name: str, domain: Domain) -> Axis:
    sampler: Any = domain.get_sampler() if isinstance(domain, Float | Integer | Categorical) else None
    base = sampler.get_sampler() if isinstance(sampler, Quantized) else sampler
    if isinstance(domain, Categorical) and isinstance(base, Uniform):
        if any(any(parse_spec_vars({"": option})[1:]) for option in domain.categories):
            raise ValueError(f"{name}: a choice between search spaces is not supported")
        return _choice(name, domain.categories)
    if isinstance(domain, Float | Integer) and isinstance(base, Uniform | LogUniform):
        return _number(name, domain)
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


class _TuneCube(Cube):
    """A Tune search space, nested and with constants, as the unit cube, and back."""

    def __init__(self, space: Config) -> None:
        constants, domains, grids = parse_spec_vars(space)
        self.space, self.constants = space, dict(constants)
        self.paths: dict[str, tuple[Any, ...]] = {}
        axes: dict[str, Axis] = {}
        for path, domain in domains + grids:
            name = "/".join(map(str, path))
            if name in axes:
                raise ValueError(f"{name}: two entries of the search space have this path")
            self.paths[name], axes[name] = path, _axis(name, domain)
        if not axes:
            raise ValueError("the search space is empty: no entry is a domain such as tune.uniform(0, 1)")
        super().__init__(axes)

    def value(self, config: Config, name: str) -> Any:
        found: Any = config
        for key in self.paths[name]:
            try:
                found = found[key]
            except TypeError:  # something that has no entries stands where the space goes deeper
                raise LookupError(key) from None
        return found

    def check_names(self, config: Config) -> None:
        """Refuse an entry that is neither a parameter nor a constant of the space."""
        for path, value in parse_spec_vars(config)[0]:
            searched = any(path[: len(known)] == known for known in self.paths.values())
            if not searched and not (path in self.constants and spaces.same(self.constants[path], value)):
                raise ValueError(f"{'/'.join(map(str, path))}: {value!r} is not part of the search space")

    def decode(self, point: Array) -> Config:
        config = copy.deepcopy(self.space)
        for name, value in super().decode(point).items():
            assign_value(config, self.paths[name], value)
        return config


def _space_as_json(space: Any) -> Any:
    """A search space as JSON; None where an option or a constant is no JSON value."""

    def written(value: Any) -> Any:
        if isinstance(value, dict):
            return {"dict": [[key, written(entry)] for key, entry in value.items()]}
        if isinstance(value, list | tuple):
            return {type(value).__name__: [written(entry) for entry in value]}
        if isinstance(value, Categorical):
            return {"choice": [written(option) for option in value.categories]}
        if isinstance(value, Float | Integer):
            sampler, step = value.get_sampler(), None
            if isinstance(sampler, Quantized):
                sampler, step = sampler.get_sampler(), sampler.q
            log = isinstance(sampler, LogUniform)
            return {type(value).__name__: [value.lower, value.upper, log, step]}
        if value is None or isinstance(value, str | int | float):
            return {"is": value}
        raise TypeError(type(value).__name__)

    try:
        text = json.dumps(written(space), allow_nan=False)
    except (TypeError, ValueError):
        return None
    return json.loads(text)


def _space_from_json(content: Any) -> Any:
    """What `_space_as_json` wrote."""
    ((kind, inner),) = content.items()
    match kind:
        case "dict":
            return {key: _space_from_json(entry) for key, entry in inner}
        case "list" | "tuple":
            return (list if kind == "list" else tuple)(_space_from_json(entry) for entry in inner)
        case "choice":
            return tune.choice([_space_from_json(option) for option in inner])
        case "is":
            return inner
    lower, upper, log, step = inner
    domain: Any = (Float if kind == "Float" else Integer)(lower, upper)
    domain = domain.loguniform() if log else domain.uniform()
    return domain if step is None else domain.quantized(step)


def _check_mode(mode: str | None) -> None:
    if mode not in (None, "min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', not {mode!r}")


class BayesSearch(Proposer, Searcher):
    """Propose trials by expected improvement under a Gaussian process (`search.searchers.bayesian.Proposer` says how).

    Usable in any Tune script::

        tuner = tune.Tuner(
            train,
            param_space={"lr": tune.loguniform(1e-4, 1e-1), "net": {"depth": tune.randint(1, 9)}},
            tune_config=tune.TuneConfig(metric="accuracy", mode="max", num_samples=30, search_alg=BayesSearch()),
        )

    Args:
        metric: name of the reported value. None: taken from `tune.TuneConfig`.
        mode: "min" or "max". None: taken from `tune.TuneConfig`.
        space: nested dict of constants and Tune domains: uniform, loguniform, randint, lograndint, their quantised
            forms, and choice, whose options are ordered if all are numbers and unordered otherwise. Configurations
            come back in the same shape. None: taken from `tune.Tuner(param_space=...)`.
        seed: None: another one each time.
        points_to_evaluate: configurations to try first, in this order; a parameter that one leaves out is filled in.
        n_initial: trials before the model takes over, known ones included. None: three more than parameters.
        evaluated_rewards: the metric at each of `points_to_evaluate`, which are then known instead of tried first.

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
        seed: int | None = 0,
        points_to_evaluate: Sequence[Config] | None = None,
        evaluated_rewards: Sequence[float] | None = None,
        n_initial: int | None = None,
    ) -> None:
        _check_mode(mode)
        Searcher.__init__(self, metric=metric, mode=mode)
        self._begin(seed, n_initial)
        self._asked = list(points_to_evaluate or ())
        self._told: list[tuple[Config, float | None]] = []  # before the space was known
        if evaluated_rewards is not None:
            if len(evaluated_rewards) != len(self._asked):
                raise ValueError(
                    f"evaluated_rewards: {len(evaluated_rewards)} values for {len(self._asked)} points_to_evaluate"
                )
            self._told, self._asked = list(zip(self._asked, evaluated_rewards, strict=True)), []
        self._cube: _TuneCube | None = None
        self._restored_space: list[str] | None = None
        if space is not None:
            self._define(space)

    def _define(self, space: Config) -> None:
        cube = _TuneCube(space)
        if self._restored_space is not None:
            check_same(self._restored_space, cube.describe())
        else:
            for point in self._asked:
                cube.check_names(point)
            self._queue = [cube.encode(point, partial=True) for point in self._asked]
        self._cube = cube
        told, self._told = self._told, []
        for parameters, value in told:
            self.add_evaluated_point(parameters, value)

    def _known_cube(self) -> _TuneCube:
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
        cube = _TuneCube(config)
        if self._restored_space is not None:
            check_same(self._restored_space, cube.describe())
        unchanged = cube.describe() == self._cube.describe()
        if unchanged:
            self._cube = cube
        return unchanged

    def suggest(self, trial_id: str) -> Any:
        """The configuration to try next, in the shape of the space, constants included.

        Args:
            trial_id: what `on_trial_complete` will call it; until then it is pending.

        Returns:
            A configuration; None while only trials under way can tell whether there is one; `Searcher.FINISHED` once
            every configuration of a finite space was proposed or observed, or nothing new is worth a trial.

        Raises:
            RuntimeError: the space, the metric or the mode is not known yet.
        """
        self._known_cube()
        if not self._metric or not self._mode:
            raise RuntimeError(
                UNDEFINED_METRIC_MODE.format(cls=type(self).__name__, metric=self._metric, mode=self._mode)
            )
        return super().suggest(trial_id)

    def add_evaluated_point(
        self,
        parameters: Config,
        value: float | None,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:
        """Take a result from elsewhere, such as an earlier search. It is checked once the space is known."""
        if self._cube is None:
            self._told.append((parameters, None if error else value))
        else:
            super().add_evaluated_point(parameters, value, error, pruned, intermediate_values)

    def on_pause(self, trial_id: str) -> None:
        """A trial that a scheduler paused stays pending."""

    def on_unpause(self, trial_id: str) -> None:
        """It was pending all the while."""

    def save_state(self) -> Config:
        """All that the search goes on from, as JSON: a blank searcher that it is given to can go on."""
        told = [[parameters, value] for parameters, value in self._told]
        state = super().save_state() if self._cube else {"queue": list(self._asked), "told": told}
        space = _space_as_json(self._cube.space) if self._cube else None
        return {**state, "metric": self._metric, "mode": self._mode, "tune": space}

    def restore_state(self, state: Config) -> None:
        """Go on where `save_state` was called: seed, points to evaluate and the rest are as they were there.

        Raises:
            ValueError: the state is of another space. Where the space is not known yet, it is raised once it is.
        """
        self._metric, self._mode = self._metric or state.get("metric"), self._mode or state.get("mode")
        if "space" not in state:  # nothing was known when it was saved
            self._asked, self._told = state["queue"], [(point, value) for point, value in state["told"]]
            return
        if self._cube is None and state.get("tune") is not None:
            self._asked = []
            self._define(_space_from_json(state["tune"]))
            self._restored_space = state["space"]
        if self._cube is not None:
            super().restore_state(state)
        else:
            self._restored_space = state["space"]
            self._take(state)

    def save(self, checkpoint_path: str) -> None:
        """Write the state to a file as JSON; the file is whole or not there. Tune calls this at its checkpoints."""
        aside = Path(f"{checkpoint_path}.{os.getpid()}.tmp")
        aside.write_text(json.dumps(self.save_state(), allow_nan=False), encoding="utf-8")
        aside.replace(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote; see `restore_state`."""
        self.restore_state(json.loads(Path(checkpoint_path).read_text(encoding="utf-8")))
