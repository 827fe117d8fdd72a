"""A study under a virtual clock."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from bo_distill.methods.errors import UsageError
from bo_distill.methods.space import Searched
from bo_distill.search.evidence.statistics import Course
from bo_distill.search.searchers.base import Estimate
from bo_distill.search.searchers.curves import Curve, Reporter
from bo_distill.search.simulation.problems import Array, Problem, Recorded, Settings
from bo_distill.search.study.records import ATTEMPTS

if TYPE_CHECKING:
    from bo_distill.search.study.ledger import Study

SLOWNESS = 5.0  # of a straggler


@dataclass
class Simulated:
    """One trial on the virtual clock; times in seconds since the study began."""

    settings: Settings
    started: float
    truth: float
    status: str = "running"
    finished: float = math.inf
    value: float = math.nan
    seconds: float = 0.0
    macs: float = 0.0
    epochs: int = 0
    curve: Curve = field(default_factory=dict)  # by the epochs that have a value, up to its end


def stream(seed: int, *place: int) -> np.random.Generator:
    """A random generator for each trial. Random search draws from the same seed, and shares no draw with it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))


def attempted(
    problem: Problem, settings: Settings, seed: int, number: int, stragglers: float
) -> tuple[Recorded, np.random.Generator]:
    """What a trial comes to, as slow as it is, and the generator for what else happens to it.

    Numbered, so that what happens to a trial does not hang on how many ran beside it.
    """
    rng = stream(seed, number)
    found = problem.look_up(settings, rng)
    return found._replace(seconds=found.seconds * (SLOWNESS if rng.random() < stragglers else 1.0)), rng


@dataclass(frozen=True)
class Prospect:
    """What becomes of a trial that nothing stops: its value and the time after each epoch, and the MACs of one."""

    curve: Array
    times: Array
    macs: float
    fails: bool


class EventQueue:
    """Trials on the virtual clock: those that run, and what happens to them next.

    Args:
        seed, stragglers, failures, asha: see `simulate`.
    """

    def __init__(self, problem: Problem, *, seed: int, stragglers: float, failures: float, asha: bool) -> None:
        self.problem, self.seed, self.asha = problem, seed, asha
        self.stragglers, self.failures = stragglers, failures
        self.started = 0
        self.running: dict[int, Simulated] = {}
        self._prospects: dict[int, Prospect] = {}
        self._events: list[tuple[float, int, int]] = []  # (time, trial, epochs done)
        self._shared_at = math.inf
        self._scheduler: Any = None
        self._before = 0  # epochs before those that have a value

    def start(self, now: float, settings: Settings) -> None:
        """Start the next trial."""
        number = self.started
        prospect, truth, macs = self._drawn(number, now, settings)
        self.running[number] = Simulated(settings, now, truth, macs=macs)
        self._prospects[number] = prospect
        epochs = len(prospect.curve)
        if self.asha and not prospect.fails:
            if self._scheduler is None:
                from bo_distill.search.execution.asha import asha_scheduler

                self._before = int((~np.isnan(prospect.curve)).argmax())
                self._scheduler = asha_scheduler("value", epochs - self._before)
            self._scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(number)))
        first = 1 if self.asha and not prospect.fails else epochs
        heapq.heappush(self._events, (float(prospect.times[first - 1]), number, first))
        self.started += 1

    def _drawn(self, number: int, now: float, settings: Settings) -> tuple[Prospect, float, float]:
        """A trial's prospect from `now` on, its true value and the MACs of all its epochs."""
        (curve, seconds, macs, truth), rng = attempted(self.problem, settings, self.seed, number, self.stragglers)
        self._shared_at = min(self._shared_at, now + self.problem.shared)
        deaths, lost = 0, max(0.0, self._shared_at - now)
        while deaths < ATTEMPTS and rng.random() < self.failures:
            lost += float(seconds.sum()) * rng.random()
            deaths += 1
        fails = deaths == ATTEMPTS
        times = np.full(len(curve), now + lost) if fails else now + lost + np.cumsum(seconds)
        return Prospect(curve, times, macs / len(curve), fails), truth, macs

    def next_end(self) -> tuple[int, Simulated]:
        """Let time pass until a trial ends; its number, and what came of it."""
        while True:
            now, number, epoch = heapq.heappop(self._events)
            trial, prospect = self.running[number], self._prospects[number]
            if prospect.fails:
                trial.status = "failed"
                break
            value = float(prospect.curve[epoch - 1])
            done = epoch == len(prospect.curve)
            if done or (not math.isnan(value) and self._falls_behind(number, epoch, value)):
                trial.status = "done" if done else "pruned"
                trial.value, trial.macs, trial.epochs = value, prospect.macs * epoch, epoch
                seen = enumerate(prospect.curve[:epoch].tolist(), 1)
                trial.curve = {place: value for place, value in seen if not math.isnan(value)}
                break
            heapq.heappush(self._events, (float(prospect.times[epoch]), number, epoch + 1))
        trial.finished, trial.seconds = now, now - trial.started
        return number, self.running.pop(number)

    def _falls_behind(self, number: int, epoch: int, value: float) -> bool:
        """Whether the scheduler would stop the trial."""
        told = {"epoch": epoch - self._before, "value": value}
        return bool(self._scheduler.on_trial_result(None, SimpleNamespace(trial_id=str(number)), told) == "STOP")


def simulate(
    problem: Problem,
    searcher: Any,
    *,
    trials: int,
    workers: int = 1,
    seed: int = 0,
    stragglers: float = 0.0,
    failures: float = 0.0,
    asha: bool = False,
    overhead: float = 0.0,
    epochs: float = math.inf,
    reporter: Callable[[Any], Reporter] = Reporter,
) -> list[Simulated]:
    """One study as an event queue runs it; the trials in the order in which they ended.

    Args:
        searcher: asked and told as in a real search.
        trials: budget.
        epochs: a budget, too: no trial starts once those that have ended had so many.
        workers: trials at once.
        seed: of noise, stragglers and failures.
        stragglers: share of trials that take five times as long.
        failures: share of attempts that die at a random moment; the third death fails the trial.
        asha: Ray's scheduler looks at every epoch but the last; a trial that it stops ends there, as one of a single
            worker does in a real search. One of several workers ends an epoch later there.
        overhead: seconds between a trial's end and the next one's start.
        reporter: how the searcher hears of what came of its trials.
    """
    queue = EventQueue(problem, seed=seed, stragglers=stragglers, failures=failures, asha=asha)
    ended: list[Simulated] = []
    to_searcher = reporter(searcher)

    def fill(now: float) -> None:
        """Start trials while a worker is free, and the budget and the searcher have one; a searcher may have had none
        for some workers until another trial ended."""
        while len(queue.running) < workers:
            spent = sum(trial.epochs for trial in ended)
            settings = searcher.suggest(str(queue.started)) if queue.started < trials and spent < epochs else None
            if not isinstance(settings, dict):
                break
            queue.start(now, settings)

    fill(0.0)
    while queue.running:
        number, trial = queue.next_end()
        ended.append(trial)
        final = None if math.isnan(trial.value) else trial.value
        to_searcher.report(str(number), trial.status, final, trial.curve)
        fill(trial.finished + overhead)
    return ended


def course(trials: Sequence[Simulated]) -> Course:
    """What a comparison sees of a simulated study: a trial that was stopped early or paused is not one to choose."""
    return Course(
        tuple(trial.value if trial.status == "done" else math.nan for trial in trials),
        tuple(trial.seconds for trial in trials),
        tuple(trial.macs for trial in trials),
    )


def winner_of(trials: Sequence[Simulated]) -> Simulated | None:
    """The trial that the study would name its winner."""
    return max((trial for trial in trials if trial.status == "done"), key=lambda trial: trial.value, default=None)


def makespan(trials: Sequence[Simulated]) -> float:
    """Seconds from the study's begin to its last trial's end."""
    return max((trial.finished for trial in trials), default=0.0)


@dataclass(frozen=True)
class Replayed:
    """Trials that are known already, in the order in which they were asked for: a problem and its own searcher."""

    seconds: tuple[float, ...]
    space: dict[str, Searched] = field(default_factory=dict)
    shared: float = 0.0
    unit: str = "accuracy"
    defaults: Settings = field(default_factory=dict)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The trial's number, as its configuration."""
        return {"number": int(trial_id)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """What came of a trial changes nothing here."""

    def on_trial_stopped(self, trial_id: str, estimate: Estimate | None) -> None:
        """Nor does what it would have reached."""

    def variant(self, study: int) -> Replayed:
        """Itself."""
        return self

    def look_up(self, settings: Settings, rng: np.random.Generator) -> Recorded:
        """A trial of one epoch that lasted as long as it did; its value does not matter."""
        return Recorded(np.zeros(1), np.array([self.seconds[settings["number"]]]), 0.0, 0.0)


def makespans(study: Study, overhead: float = 0.0) -> tuple[float, float]:
    """(simulated, real) seconds from a study's first trial to its last one's end.

    The simulation is given each trial's duration and as many workers as were seen at work at once; when each trial
    starts is its own affair.

    Raises:
        UsageError: no trial of the study is finished.
    """
    outcomes = [study.outcome(trial.job.number) for trial in study.trials if trial.finished]
    if not outcomes:
        raise UsageError(f"study {study.plan.task.study}: no trial is finished; run it first")
    begun = [o.started for o in outcomes]
    over = [o.started + o.seconds for o in outcomes]
    at_once = max(sum(a <= moment < b for a, b in zip(begun, over, strict=True)) for moment in begun)
    known = Replayed(tuple(o.seconds for o in outcomes))
    found = simulate(known, known, trials=len(outcomes), workers=at_once, overhead=overhead)
    return makespan(found), max(over) - min(begun)
