"""A study under a virtual clock."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from methods.errors import UsageError
from methods.space import Searched
from search.evidence.statistics import Course

if TYPE_CHECKING:
    from search.study.ledger import Study
from search.simulation.problems import Array, Problem, Recorded, Settings
from search.study.records import ATTEMPTS

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


def stream(seed: int, *place: int) -> np.random.Generator:
    """A random generator for each trial. Random search draws from the same seed, and shares no draw with it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))


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
) -> list[Simulated]:
    """One study as an event queue runs it; the trials in the order in which they ended.

    Args:
        searcher: asked and told as in a real search.
        trials: budget.
        workers: trials at once.
        seed: of noise, stragglers and failures.
        stragglers: share of trials that take five times as long.
        failures: share of attempts that die at a random moment; the third death fails the trial.
        asha: Ray's scheduler looks at every epoch; a trial that it stops ends with its next epoch, as in a real search.
        overhead: seconds between a trial's end and the next one's start.
    """
    scheduler: Any = None
    running: dict[int, Simulated] = {}
    plans: dict[int, tuple[Array, Array, float]] = {}  # value and time after each epoch, MACs of one
    events: list[tuple[float, int, int]] = []  # (time, trial, epochs done)
    ended: list[Simulated] = []
    asked, shared_at, stopping = 0, math.inf, set[int]()

    def start(now: float) -> bool:
        nonlocal asked, shared_at, scheduler
        if asked >= trials:
            return False
        settings = searcher.suggest(str(asked))
        if not isinstance(settings, dict):  # exhausted
            return False
        # Numbered, so that what happens to a trial does not hang on how many ran beside it.
        rng = stream(seed, asked)
        curve, seconds, macs, truth = problem.look_up(settings, rng)
        seconds = seconds * (SLOWNESS if rng.random() < stragglers else 1.0)
        shared_at = min(shared_at, now + problem.shared)
        deaths = 0
        lost = max(0.0, shared_at - now)
        while deaths < ATTEMPTS and rng.random() < failures:
            lost += float(seconds.sum()) * rng.random()
            deaths += 1
        trial = Simulated(settings, now, truth, macs=macs)
        running[asked] = trial
        if deaths == ATTEMPTS:
            trial.status = "failed"
            heapq.heappush(events, (now + lost, asked, len(curve)))
        else:
            plans[asked] = curve, now + lost + np.cumsum(seconds), macs / len(curve)
            if asha and scheduler is None:
                from search.execution.asha import asha_scheduler

                scheduler = asha_scheduler("value", len(curve))
            if scheduler:
                scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(asked)))
            first = 1 if asha else len(curve)
            heapq.heappush(events, (float(plans[asked][1][first - 1]), asked, first))
        asked += 1
        return True

    for _ in range(workers):
        if not start(0.0):
            break
    while events:
        now, number, epoch = heapq.heappop(events)
        trial = running[number]
        if trial.status == "running":
            curve, times, macs = plans[number]
            value = float(curve[epoch - 1])
            if epoch < len(curve) and number not in stopping:
                if not math.isnan(value):
                    report = {"epoch": epoch, "value": value}
                    if scheduler.on_trial_result(None, SimpleNamespace(trial_id=str(number)), report) == "STOP":
                        stopping.add(number)
                heapq.heappush(events, (float(times[epoch]), number, epoch + 1))
                continue
            trial.status = "pruned" if epoch < len(curve) else "done"
            trial.value, trial.macs = value, macs * epoch
        trial.finished, trial.seconds = now, now - trial.started
        ended.append(running.pop(number))
        known = not math.isnan(trial.value)
        searcher.on_trial_complete(
            str(number), {"val_accuracy": trial.value} if known else None, error=trial.status == "failed"
        )
        start(now + overhead)
    return ended


def course(trials: Sequence[Simulated]) -> Course:
    """What a comparison sees of a simulated study: a trial that was stopped early is not one to choose."""
    return Course(
        tuple(trial.value if trial.status == "done" else math.nan for trial in trials),
        tuple(trial.seconds for trial in trials),
        tuple(trial.macs for trial in trials),
    )


def chosen(trials: Sequence[Simulated]) -> Simulated | None:
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

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The trial's number, as its configuration."""
        return {"number": int(trial_id)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """What came of a trial changes nothing here."""

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
