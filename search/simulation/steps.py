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
from bo_distill.search.simulation.clock import SLOWNESS, Simulated, stream, winner_of
from bo_distill.search.simulation.problems import Problem, Recorded


def length_of(problem: Problem) -> Length:
    """Of a training; the first epochs that have no value come before its curve."""
    if not problem.space:
        return Length(0, 1)
    middle = {name: domain.from_unit(0.5) for name, domain in problem.space.items()}
    known = ~np.isnan(problem.look_up(middle, stream(0)).curve)
    before = int(known.argmax())
    return Length(before, len(known) - before)


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
    """One study. Its trials, the one trained last at the end, with the values that the searcher expects them to reach,
    whether they have ended or not; and the truth of the configuration that the searcher would have chosen after each
    of `looks` epochs, NaN where it had none.

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
    length = length_of(problem)
    budget, spent, asked = trials * sum(length), 0, 0
    known: dict[str, tuple[Simulated, Recorded]] = {}
    events: list[tuple[float, int, str, int]] = []  # (time, number of the step, trial, epochs of its curve)
    seen: list[float] = []
    shared_at = math.inf
    ended: dict[str, Simulated] = {}

    def start(now: float) -> bool:
        """Begin another step, if budget and searcher have one."""
        nonlocal asked, spent, shared_at
        step = searcher.suggest(str(len(known))) if spent < budget else None
        if not isinstance(step, Step):
            return False
        if step.trial_id not in known:
            shared_at = min(shared_at, now + problem.shared)
            rng = stream(seed, len(known))
            found = problem.look_up(step.settings, rng)
            slow = SLOWNESS if rng.random() < stragglers else 1.0
            found = found._replace(seconds=found.seconds * slow)
            known[step.trial_id] = Simulated(step.settings, now, found.truth, status="paused"), found
        trial, found = known[step.trial_id]
        epochs = length.before + step.epochs
        seconds = float(found.seconds[trial.epochs : epochs].sum())
        spent += epochs - trial.epochs
        trial.epochs, trial.seconds = epochs, trial.seconds + seconds
        heapq.heappush(events, (max(now, shared_at) + seconds, asked, step.trial_id, step.epochs))
        asked += 1
        return True

    def choice() -> float:
        estimates = searcher.estimates()
        return known[max(estimates, key=lambda name: estimates[name].value)][0].truth if estimates else math.nan

    for _ in range(workers):
        if not start(0.0):
            break
    while events:
        now, _, name, epochs = heapq.heappop(events)
        trial, found = known[name]
        while len(seen) < len(looks) and spent > looks[len(seen)]:
            seen.append(choice())
        values = found.curve[length.before : length.before + epochs].tolist()
        curve = {epoch: value for epoch, value in enumerate(values, 1) if not math.isnan(value)}
        trial.finished, trial.macs = now, found.macs * trial.epochs / sum(length)
        trial.curve = curve
        ended.pop(name, None)
        ended[name] = trial
        searcher.on_trial_paused(name, curve) if epochs < length.curve else end(searcher, name, trial, values[-1])
        start(now + overhead)
    for name, estimate in searcher.estimates().items():
        ended[name].value = estimate.value
    return list(ended.values()), [*seen, *(choice() for _ in looks[len(seen) :])]


def end(searcher: PausingSearcher, name: str, trial: Simulated, value: float) -> None:
    """Tell of a trial that has come to its end."""
    trial.status, trial.value = "done", value
    searcher.on_trial_complete(name, {METRIC: value})


def looked(trials: Sequence[Simulated], looks: Sequence[float]) -> list[float]:
    """The truth of what a study without pauses would have chosen after each of `looks` epochs."""
    spent = list(accumulate(trial.epochs for trial in trials))
    winners = [winner_of(trials[: bisect_right(spent, look)]) for look in looks]
    return [winner.truth if winner else math.nan for winner in winners]


class Goal(NamedTuple):
    """What a grid of whole trainings chose: its true value, the noise of a trial there, and the grid's epochs."""

    truth: float
    noise: float
    epochs: int


def grid_best(problem: Problem, trainings: int, seed: int) -> Goal:
    """The choice of a grid of so many whole trainings, by their last values."""
    grid = make_searcher("grid", problem.space, seed, trainings)
    points = list(iter(lambda: grid.suggest(""), grid.FINISHED))
    points *= -(-trainings // len(points))  # over several seeds, where the trainings are more than the grid's points
    found = [problem.look_up(point, stream(seed, number, 2)) for number, point in enumerate(points[:trainings])]
    best = int(np.argmax([one.curve[-1] for one in found]))
    again = [problem.look_up(points[best], stream(seed, number, 3)) for number in range(64)]
    noise = float(np.std([one.curve[-1] - one.truth for one in again]))
    return Goal(found[best].truth, noise or math.ulp(1.0), sum(len(one.curve) for one in found))
