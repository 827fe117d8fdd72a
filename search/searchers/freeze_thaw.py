"""Bayesian search that reads learning curves: trainings are paused, and taken up again where that promises most.

A model of all curves (`search.searchers.curve_model`) says where each configuration would end, tried or not. What is
trained next, and how far, is what is expected to gain most for its cost: how much better the best mean is expected to
be once the new epochs are seen (the knowledge gradient; Frazier, Powell, Dayanik 2009, "The knowledge-gradient policy
for correlated normal beliefs"), at the best of several horizons, per epoch. Then it is trained to the next pause, and
all is weighed again, as in Swersky, Snoek, Adams 2014, "Freeze-thaw Bayesian optimization".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr

from bo_distill.search.searchers.base import METRIC, Estimate, Length, Settings, Space, Step, check_same
from bo_distill.search.searchers.cube import Array, Cube, Row, axes_of, one_thread, random_state
from bo_distill.search.searchers.curve_model import NOBODY, CurveModel, Points
from bo_distill.search.searchers.process import fenced, finite

RATIO = math.sqrt(2)  # from one pause to the next, in epochs
SOONEST = 1 / 16  # of a training: the first pause
GROWTH = 1.3  # the model is fitted anew whenever there are so many times the observations
FITTED = 128  # observations at most that it is fitted to
POOL = 64  # new configurations that are weighed, and about as many near good ones
SPREADS = (0.1, 0.02)  # of steps from good configurations, on the unit cube, round by round


def make(
    word: str, space: Space, seed: int, trials: int | None, first: Sequence[Settings], length: Length
) -> FreezeThaw:
    """The search that reads curves; it begins with the configurations of `first`."""
    return FreezeThaw(Cube(axes_of(space)), length, seed=seed, first=first)


def pauses(epochs: int) -> list[int]:
    """After how many epochs of a training so long it may pause; the last is its end."""
    count = math.ceil(math.log(1 / SOONEST) / math.log(RATIO))
    return sorted({math.ceil(epochs / RATIO**number) for number in range(count + 1)})


class FreezeThaw:
    """Proposes steps: a configuration, new or paused, and how far it is trained.

    What is proposed follows from the seed and what was asked and told before, and from nothing else. A trial that
    failed counts as the worst value seen.

    Args:
        cube: what is searched.
        length: of every training.
        seed: not negative.
        first: configurations that are begun before others, in this order.
    """

    FINISHED = "FINISHED"

    def __init__(self, cube: Cube, length: Length, *, seed: int, first: Sequence[Settings] = ()) -> None:
        self.cube, self.length, self.seed = cube, length, seed
        self.pauses = pauses(length.curve)
        self.reason = ""
        self._queue: list[list[float | None]] = [cube.encode(point, partial=True) for point in first]
        self._rows: dict[str, Row] = {}  # of each trial, in the order in which they were begun
        self._reached: dict[str, int] = {}  # epochs that it was trained, or is being trained
        self._running: dict[str, int] = {}  # epochs that it is trained to
        self._over: list[str] = []  # trained to their end, or failed
        self._seen: list[tuple[str, int, float | None]] = []  # trial, epoch, value; None: failed
        self._asked = 0
        self._model: tuple[int, CurveModel] | None = None  # of how many observations

    def suggest(self, trial_id: str) -> Any:
        """The next step: of a paused trial, or of a new one that will bear this id; None while only trials under way
        can tell; FINISHED."""
        if trial_id in self._running:
            return self._step(trial_id)
        rng = random_state(self.seed, self._asked)
        known = np.array([*self._rows.values()]).reshape(-1, len(self.cube.axes))
        begun = len(self._rows)
        new: Array | None
        if begun < len(self._queue):
            asked = np.array(self._queue[begun], dtype=float)
            chosen, new = trial_id, np.where(np.isnan(asked), self.cube.sobol(self.seed, begun), asked)
        elif begun < len(self.cube.axes) + 3 or not self._finite():
            drawn = self.cube.unseen(self.cube.sobol(self.seed, begun)[None], known)
            drawn = drawn if len(drawn) else self.cube.draw(rng, known)
            if len(drawn):
                chosen, new = trial_id, drawn[0]
            else:
                return self._none_new()
        else:
            with warnings.catch_warnings(), one_thread():
                found = self._choose(trial_id, known, rng)
            if found is None:
                return self._none_new()
            chosen, new = found
        if new is not None:
            self._rows[chosen] = tuple(self.cube.encode(self.cube.decode(new)))
            self._reached[chosen] = 0
        self._asked += 1
        self._running[chosen] = next(pause for pause in self.pauses if pause > self._reached[chosen])
        return self._step(chosen)

    def _step(self, trial_id: str) -> Step:
        return Step(trial_id, self.cube.decode(np.array(self._rows[trial_id])), self._running[trial_id])

    def _none_new(self) -> Any:
        if self._running:
            return None
        self.reason = "every configuration was tried"
        return self.FINISHED

    def _finite(self) -> list[float]:
        return [value for _, _, value in self._seen if value is not None]

    # -- what is told

    def on_trial_paused(self, trial_id: str, curve: Mapping[int, float]) -> None:
        """Hear what a trial has reached; it can be taken up again."""
        self._note(trial_id, curve)
        self._reached[trial_id] = self._running.pop(trial_id)

    def on_trial_complete(self, trial_id: str, result: Settings | None = None, error: bool = False) -> None:
        """Hear what came of a trial that has ended: `result[METRIC]`, and the curve so far was told before. It may have
        been trained on without being asked for: the best one is, when the search is over."""
        self._running.pop(trial_id, None)
        if trial_id not in self._rows or trial_id in self._over:
            return
        self._reached[trial_id] = self.length.curve
        self._over.append(trial_id)
        value = None if error or not result else finite(result.get(METRIC))
        self._seen.append((trial_id, self.length.curve, value))

    def on_trial_stopped(self, trial_id: str, estimate: Estimate | None) -> None:
        """A trial that something else has stopped is not taken up again."""
        if self._running.pop(trial_id, None) is not None:
            self._over.append(trial_id)

    def add_evaluated_point(self, parameters: Settings, value: float | None, error: bool = False) -> None:
        """Take a trial of another search that has ended."""
        name = f"earlier {len(self._rows)}"
        self._rows[name] = tuple(self.cube.encode(parameters))
        self._reached[name], self._running[name] = 0, self.length.curve
        self.on_trial_complete(name, None if value is None else {METRIC: value}, error)

    def _note(self, trial_id: str, curve: Mapping[int, float]) -> None:
        done = {epoch for name, epoch, _ in self._seen if name == trial_id}
        self._seen += [
            (trial_id, epoch, value)
            for epoch, value in curve.items()
            if epoch in self.pauses and epoch not in done and finite(value) is not None
        ]

    # -- what the model makes of it

    def estimates(self) -> dict[str, Estimate]:
        """Of each trial that was begun: what its configuration is expected to reach, and how sure that is."""
        model = self._known()
        if model is None:
            return {}
        names = list(self._rows)
        mean, deviation = model.predict(self._ends([self._rows[name] for name in names]))
        return {name: Estimate(*pair) for name, *pair in zip(names, mean.tolist(), deviation.tolist(), strict=True)}

    def _features(self, rows: Any) -> Array:
        points = np.array(rows, dtype=float).reshape(-1, len(self.cube.axes))
        return self.cube.each(points, lambda axis, unit: axis.kernel_transform(unit[:, None]))

    def _ends(self, rows: Any) -> Points:
        x = self._features(rows)
        return Points(x, np.ones(len(x)), np.full(len(x), NOBODY))

    def _known(self) -> CurveModel | None:
        """The model of all that was seen; None where nothing was."""
        if not self._finite():
            return None
        count = len(self._seen)
        if self._model is None or self._model[0] != count:
            numbers = {name: number for number, name in enumerate(self._rows)}
            seen = Points(
                self._features([self._rows[name] for name, _, _ in self._seen]),
                np.array([epoch / self.length.curve for _, epoch, _ in self._seen]),
                np.array([numbers[name] for name, _, _ in self._seen]),
            )
            values = fenced([value for _, _, value in self._seen])
            fitted = 1
            while (more := math.ceil(fitted * GROWTH)) <= min(count, FITTED):
                fitted = more
            columns = tuple(axis.columns for axis in self.cube.axes.values())
            earlier = self._model[1] if self._model else None
            self._model = count, CurveModel(columns, seen, values, fitted, earlier)
        return self._model[1]

    def _choose(self, trial_id: str, known: Array, rng: np.random.RandomState) -> tuple[str, Array | None] | None:
        """The trial to train on, and the configuration if it is a new one; None where there is nothing to train."""
        model = self._known()
        assert model
        names = list(self._rows)
        begun = self._ends(known)
        if self._running:
            under_way = [names.index(name) for name in self._running]
            until = np.array([epochs / self.length.curve for epochs in self._running.values()])
            model = model.believing(Points(begun.x[under_way], until, np.array(under_way)))
        mean, _ = model.reduced(model.covariance(begun, model.seen))
        paused = [i for i, name in enumerate(names) if name not in self._running and name not in self._over]
        gains = Gains(model, begun, mean, self.length, self.pauses)
        best: tuple[float, str, Array | None] = -math.inf, "", None
        if paused:
            reached = np.array([self._reached[names[i]] for i in paused])
            scores = gains.of(begun.x[paused], np.array(paused), reached)
            best = float(scores.max()), names[paused[scores.argmax()]], None
        hair = self.cube.hair(model.indistinct())
        pool = self.cube.draw(rng, known, hair, POOL)
        if len(pool):
            good = known[np.argsort(-mean)[:5]]
            scores = gains.of_new(self._features(pool))
            for spread in SPREADS:
                around = np.vstack([pool[np.argsort(-scores)[:5]], good])
                children = self.cube.neighbours(np.repeat(around, 4, axis=0), spread, rng)
                children = self.cube.unseen(children, known, hair)
                if not len(children):
                    break
                pool = np.vstack([pool, children])
                scores = np.concatenate([scores, gains.of_new(self._features(children))])
            if scores.max() > best[0]:
                best = float(scores.max()), trial_id, pool[scores.argmax()]
        return best[1:] if best[1] else None

    # -- what is kept

    def save_state(self) -> Settings:
        """All that later proposals follow from, as JSON."""
        return {
            "space": self.cube.describe(),
            "length": list(self.length),
            "seed": self.seed,
            "queue": self._queue,
            "rows": self._rows,
            "reached": self._reached,
            "running": self._running,
            "over": self._over,
            "seen": self._seen,
            "asked": self._asked,
            "reason": self.reason,
        }

    def restore_state(self, state: Settings) -> None:
        """Go on where `save_state` was called; ValueError if that was another space or another length of training."""
        check_same(state.get("space"), self.cube.describe())
        if list(self.length) != list(state["length"]):
            raise ValueError(f"the saved search is of trainings of {state['length']} epochs, now {list(self.length)}")
        self.seed, self.reason, self._asked = state["seed"], state["reason"], state["asked"]
        self._queue = [list(row) for row in state["queue"]]
        self._rows = {name: tuple(row) for name, row in state["rows"].items()}
        self._reached, self._running = dict(state["reached"]), dict(state["running"])
        self._over, self._seen = list(state["over"]), [(name, epoch, value) for name, epoch, value in state["seen"]]
        self._model = None


class Gains:
    """How much the best mean is expected to rise by what further epochs would show, per epoch.

    Args:
        begun: the ends of all trials that were begun.
        mean: (n,) expected there.
        pauses: epochs of a curve.
    """

    def __init__(self, model: CurveModel, begun: Points, mean: Array, length: Length, pauses: Sequence[int]) -> None:
        self.model, self.begun, self.mean, self.length, self.pauses = model, begun, mean, length, pauses
        self.leaders = np.argsort(-mean)[:2]
        self.parts = model.reduced(model.covariance(self._of_leaders(), model.seen))[1]

    def _of_leaders(self) -> Points:
        return Points(*(part[self.leaders] for part in self.begun))

    def of_new(self, x: Array) -> Array:
        """(n,) of configurations that no trial has."""
        return self.of(x, np.full(len(x), len(self.mean)), np.zeros(len(x), dtype=int))

    def of(self, x: Array, trial: Array, reached: Array) -> Array:
        """(n,) gain for each epoch, at the horizon at which it is largest.

        Args:
            x: (n, columns) configurations as the kernel sees them.
            trial: (n,) whose; one more than there are: a new one's.
            reached: (n,) epochs of its curve.
        """
        model = self.model
        alike, to_leaders = model.likeness(x, model.seen.x), model.likeness(self.begun.x[self.leaders], x)
        fresh = trial == len(self.mean)
        same = None if fresh.all() else trial[:, None] == model.seen.trial
        mean, parts = model.reduced(model.to_seen(1.0, alike))
        # The best of the others: the second where the first is this trial itself.
        second = (trial == self.leaders[0]).astype(int) * (len(self.leaders) - 1)
        ahead = np.abs(mean - self.mean[self.leaders[second]]) / model.scale
        best = np.full(len(x), -np.inf)
        horizons = [pause for pause in self.pauses if pause > reached.min()]
        for pause in [*horizons[:-1:2], horizons[-1]]:
            t = pause / self.length.curve
            seen = model.reduced(model.to_seen(t, alike, same))[1]
            like, level, _ = model.terms(1.0, t)
            rival = like * to_leaders + level - self.parts.T @ seen
            shared = like + level - (parts * seen).sum(axis=0) - rival[second, np.arange(len(x))]
            variance = sum(model.terms(t, t)) + model.noise - (seen**2).sum(axis=0)
            deviation = np.maximum(np.abs(shared) / np.sqrt(np.maximum(variance, 1e-12)), 1e-12)
            z = ahead / deviation
            gain = deviation * (np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) - z * ndtr(-z))
            cost = np.maximum(pause - reached + self.length.before * fresh, 1)
            best = np.maximum(best, np.where(pause > reached, gain / cost, -np.inf))
        return best
