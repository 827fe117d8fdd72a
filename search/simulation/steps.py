"""A study whose trials are paused and taken up again, under a virtual clock."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from bo_distill.methods.errors import UsageError
from bo_distill.search.searchers.base import METRIC, Length, PausingSearcher, Step
from bo_distill.search.searchers.registry import make_searcher
from bo_distill.search.simulation.clock import Simulated, attempted, makespan, stream, winner_of
from bo_distill.search.simulation.problems import Problem, Recorded


def length_of(problem: Problem) -> Length:
    """Of a training; the first epochs that have no value come before its curve."""
    if not problem.space:
        return Length(0, 1)
    middle = {name: domain.from_unit(0.5) for name, domain in problem.space.items()}
    known = ~np.isnan(problem.look_up(middle, stream(0)).curve)
    before = int(known.argmax())
    return Length(before, len(known) - before)


class StepQueue:
    """Paused trials on the virtual clock: those that are known, and which of them trains until when.

    Args:
        seed, stragglers: see `simulate_steps`.

    Attributes:
        trials: with what each would come to, by name.
        spent: epochs.
    """

    def __init__(self, problem: Problem, *, seed: int, stragglers: float) -> None:
        self.problem, self.seed, self.stragglers = problem, seed, stragglers
        self.length = length_of(problem)
        self.trials: dict[str, tuple[Simulated, Recorded]] = {}
        self.spent = 0
        self._started = 0
        self._shared_at = math.inf
        self._events: list[tuple[float, int, str, int]] = []  # (time, number of the step, trial, epochs of its curve)

    def start(self, now: float, step: Step) -> None:
        """Train a trial on, or a new one."""
        if step.trial_id not in self.trials:
            self._shared_at = min(self._shared_at, now + self.problem.shared)
            found, _ = attempted(self.problem, step.settings, self.seed, len(self.trials), self.stragglers)
            self.trials[step.trial_id] = Simulated(step.settings, now, found.truth, status="paused"), found
        trial, found = self.trials[step.trial_id]
        epochs = self.length.before + step.epochs
        seconds = float(found.seconds[trial.epochs : epochs].sum())
        self.spent += epochs - trial.epochs
        trial.epochs, trial.seconds = epochs, trial.seconds + seconds
        heapq.heappush(self._events, (max(now, self._shared_at) + seconds, self._started, step.trial_id, step.epochs))
        self._started += 1

    @property
    def running(self) -> int:
        """How many trials train."""
        return len(self._events)

    def next_end(self) -> tuple[str, Simulated]:
        """Let time pass until a trial pauses or ends; its name, and what is known of it."""
        now, _, name, epochs = heapq.heappop(self._events)
        trial, found = self.trials[name]
        values = found.curve[self.length.before : self.length.before + epochs].tolist()
        trial.curve = {epoch: value for epoch, value in enumerate(values, 1) if not math.isnan(value)}
        trial.finished, trial.macs = now, found.macs * trial.epochs / sum(self.length)
        if epochs == self.length.curve:
            trial.status, trial.value = "done", values[-1]
        return name, trial


def chosen(searcher: PausingSearcher) -> str | None:
    """The trial that the searcher expects to reach most; None where it expects nothing of any yet."""
    expected = searcher.estimates()
    return max(expected, key=lambda name: expected[name].value, default=None)


def simulate_steps(
    problem: Problem,
    searcher: PausingSearcher,
    *,
    trials: int,
    workers: int = 1,
    seed: int = 0,
    stragglers: float = 0.0,
    failures: float = 0.0,
    asha: bool = False,
    overhead: float = 0.0,
    looks: Sequence[float] = (),
) -> tuple[list[Simulated], list[float]]:
    """One study. Its trials, the one trained last at the end: that which the searcher chooses, as a study trains it to
    its end beyond the budget; and the truth of the configuration that the searcher would have chosen after each of
    `looks` epochs, NaN where it had none.

    Args:
        trials: budget: the epochs of so many whole trainings.
        workers, seed, stragglers, overhead: as in `search.simulation.clock.simulate`.
        failures, asha: refused but for 0 and False: a step is trained to its end.
        looks: ascending.

    Raises:
        UsageError: failures or asha.
    """
    if failures or asha:
        raise UsageError(f"--{'asha' if asha else 'failures'}: not with a searcher that pauses trials; leave one out")
    queue = StepQueue(problem, seed=seed, stragglers=stragglers)
    budget = trials * sum(queue.length)
    seen: list[float] = []
    ended: dict[str, Simulated] = {}

    def choice() -> float:
        best = chosen(searcher)
        return math.nan if best is None else queue.trials[best][0].truth

    def fill(now: float) -> None:
        """Begin steps while a worker is free, and budget and searcher have one; a searcher may have had none for some
        workers until another step ended."""
        while queue.running < workers:
            step = searcher.suggest(str(len(queue.trials))) if queue.spent < budget else None
            if not isinstance(step, Step):
                break
            queue.start(now, step)

    fill(0.0)
    while queue.running:
        name, trial = queue.next_end()
        while len(seen) < len(looks) and queue.spent > looks[len(seen)]:
            seen.append(choice())
        ended.pop(name, None)
        ended[name] = trial
        if trial.status == "done":
            searcher.on_trial_complete(name, {METRIC: trial.value})
        else:
            searcher.on_trial_paused(name, trial.curve)
        fill(trial.finished + overhead)
    seen += [choice() for _ in looks[len(seen) :]]
    winner = chosen(searcher)
    if winner is not None and ended[winner].status == "paused":
        queue.start(makespan(list(ended.values())), Step(winner, dict(ended.pop(winner).settings), queue.length.curve))
        ended[winner] = queue.next_end()[1]
    return list(ended.values()), seen


def within(trials: Sequence[Simulated], epochs: float) -> list[Simulated]:
    """Those that had ended when so many epochs were spent."""
    return list(trials[: bisect_right(list(accumulate(trial.epochs for trial in trials)), epochs)])


def looked(trials: Sequence[Simulated], looks: Sequence[float]) -> list[float]:
    """The truth of what a study without pauses would have chosen after each of `looks` epochs."""
    winners = [winner_of(within(trials, look)) for look in looks]
    return [winner.truth if winner else math.nan for winner in winners]


class Goal(NamedTuple):
    """What a grid of whole trainings chose: its true value, that of what the same trainings under other seeds chose,
    the noise of a trial there, and the grid's epochs."""

    truth: float
    again: float
    noise: float
    epochs: int


def grid_best(problem: Problem, trainings: int, seed: int) -> Goal:
    """The choice of a grid of so many whole trainings, by their last values."""
    grid = make_searcher("grid", problem.space, seed, trainings)
    points = list(iter(lambda: grid.suggest(""), grid.FINISHED))
    points *= -(-trainings // len(points))  # over several seeds, where the trainings are more than the grid's points

    def found(draw: int) -> list[Recorded]:
        """The trainings, their noise of this draw."""
        return [problem.look_up(point, stream(seed, number, draw)) for number, point in enumerate(points[:trainings])]

    def best(trials: Sequence[Recorded]) -> int:
        """The number of the one that is chosen."""
        return int(np.argmax([one.curve[-1] for one in trials]))

    first, second = found(2), found(4)
    again = [problem.look_up(points[best(first)], stream(seed, number, 3)) for number in range(64)]
    noise = float(np.std([one.curve[-1] - one.truth for one in again]))
    epochs = sum(len(one.curve) for one in first)
    return Goal(first[best(first)].truth, second[best(second)].truth, noise or math.ulp(1.0), epochs)
