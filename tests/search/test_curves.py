"""A trial that was stopped early is told by an estimate, in a real search and in a simulated one."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError
from bo_distill.methods.space import Real
from bo_distill.search.execution.asha import GracefulStop, halving
from bo_distill.search.execution.trial import stop_sign
from bo_distill.search.searchers.acquisition import BelieverEI
from bo_distill.search.searchers.base import Estimate
from bo_distill.search.searchers.bayesian import Proposer
from bo_distill.search.searchers.cube import Cube, axes_of
from bo_distill.search.searchers.curves import Reporter
from bo_distill.search.searchers.random import make, random_point
from bo_distill.search.searchers.registry import beginning, make_searcher
from bo_distill.search.simulation.clock import simulate
from bo_distill.search.simulation.problems import Recorded, function
from bo_distill.search.study.conductor import Conductor, Finished
from bo_distill.search.study.curve import curve_of
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Outcome, Plan, Task, Trial
from helpers.running import TRIVIAL
from helpers.trivial import METHOD

SPACE = {"x": Real(0, 1)}


class Heard:
    """A searcher that proposes at random and keeps what it hears."""

    FINISHED = "FINISHED"

    def __init__(self) -> None:
        self.inner = make("random", SPACE, 0, None, [])
        self.ended: dict[str, Any] = {}
        self.stopped: list[tuple[str, Estimate | None]] = []

    def suggest(self, trial_id: str) -> Any:
        return self.inner.suggest(trial_id)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.ended[trial_id] = result

    def on_trial_stopped(self, trial_id: str, estimate: Estimate | None) -> None:
        self.stopped.append((trial_id, estimate))


def rising(height: float, epochs: int = 9) -> dict[int, float]:
    """A smooth curve from 0.1 to this height."""
    rise = 1 - np.exp(-np.arange(1, epochs + 1) / 3)
    return dict(enumerate(0.1 + (height - 0.1) * rise / rise[-1]))


def until(curve: dict[int, float], epochs: int) -> dict[int, float]:
    return {epoch: value for epoch, value in curve.items() if epoch < epochs}


def test_an_estimate_is_near_the_end_and_made_anew() -> None:
    heard = Heard()
    reporter = Reporter(heard)  # type: ignore[arg-type]
    reporter.report("early", "pruned", None, until(rising(0.5), 2))
    assert heard.stopped == [("early", None)], "no trial has gone on from there yet"
    for number, height in enumerate((0.6, 0.5, 0.7)):
        reporter.report(str(number), "done", height, rising(height))
    reporter.report("never", "pruned", None, {})
    reporter.report("lost", "failed", None, until(rising(0.9), 3))
    trials = {trial for trial, _ in heard.stopped}
    assert trials == {"early", "never"} and set(heard.ended) == {"0", "1", "2", "lost"}
    told = [guess for trial, guess in heard.stopped if trial == "early" and guess]
    stop = until(rising(0.5), 2)[1]
    gains = [height - rising(height)[1] for height in (0.6, 0.5, 0.7)]
    assert [guess.value for guess in told] == pytest.approx(
        [min(stop + gain, best) for gain, best in ((gains[0], 0.6), (np.median(gains[:2]), 0.6), (gains[0], 0.7))]
    )
    assert abs(told[-1].value - 0.5) < 0.06 < 0.5 - stop, "far nearer to the truth than the value at the stop"
    spread = [abs(gain - gains[0]) for gain in gains]
    assert told[-1].deviation == pytest.approx(np.sqrt(np.mean(np.square(spread))))
    assert reporter.estimates["never"] is None and "lost" not in reporter.estimates


def test_no_estimate_is_above_the_best_that_was_seen() -> None:
    reporter = Reporter(Heard())  # type: ignore[arg-type]
    reporter.take("0", "done", 0.8, {0: 0.2, 1: 0.8})
    reporter.take("1", "pruned", 0.5, {0: 0.5})
    assert reporter.estimates["1"] == (0.8, pytest.approx(0.6)), "one gain does not say how far gains differ"


def test_a_simulated_search_hears_no_last_value_of_a_stopped_trial() -> None:
    heard = Heard()
    trials = simulate(Hill(), heard, trials=40, workers=2, asha=True)
    done = [trial for trial in trials if trial.status == "done"]
    assert len(done) == len(heard.ended) < 40
    assert sorted(result["val_accuracy"] for result in heard.ended.values()) == sorted(t.value for t in done)
    known = {trial: guess for trial, guess in heard.stopped if guess}
    assert len(known) == 40 - len(done)
    stopped = [trial for trial in trials if trial.status == "pruned"]
    assert {(trial.epochs, trial.macs, trial.seconds) for trial in stopped} == {(5, 5.0, 5.0)}, "where it was compared"
    off = [guess.value - stopped_truth(stopped, guess) for guess in known.values()]
    assert np.mean(np.abs(off)) < np.mean([trial.truth - trial.value for trial in stopped]) / 2


class Hill:
    """Smooth curves over one parameter."""

    space, shared, unit, defaults = SPACE, 0.0, "accuracy", {}

    def look_up(self, settings: Any, rng: Any) -> Any:
        height = 0.9 - 0.5 * (settings["x"] - 0.3) ** 2
        return Recorded(np.array(list(rising(height).values())), np.ones(9), 9.0, height)


def stopped_truth(trials: list[Any], guess: Estimate) -> float:
    """The nearest of the true ends."""
    return min((trial.truth for trial in trials), key=lambda truth: abs(truth - guess.value))


def test_the_ledger_says_what_was_told_and_a_study_goes_on_alike(storage: Storage) -> None:
    space = METHOD.space(("only.x", "only.y"))
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 0, "float32")
    study = Study(storage, Plan(task, "bo", tuple(space), 9, seeds=0, asha=True))
    study.save_plan()
    conductor = Conductor(study)
    trials = [conductor.ask() for _ in range(4)]
    for trial, status in zip(trials, ("pruned", "done", "done", "pruned"), strict=True):
        settle(conductor, trial, status)
    assert [trial.estimate is None for trial in study.trials] == [False, True, True, False]
    assert all(t.estimate > t.val_accuracy for t in study.trials if t.estimate and t.val_accuracy)
    assert {t.status for t in study.ranked()} == {"done"}
    again = Study.open(storage, "s")
    assert [t.estimate for t in again.trials] == [t.estimate for t in study.trials]
    for each in (conductor, later := Conductor(again)):
        for status in ("done", "pruned", "done"):
            settle(each, each.ask(), status)
    assert again.searcher_state == study.searcher_state and later.reporter
    assert [t.estimate for t in again.trials] == [t.estimate for t in study.trials]
    stopped = again.searcher_state["stopped"] if again.searcher_state else {}
    assert {int(n): value for n, (_, (value, _)) in stopped.items()} == {
        t.job.number: t.estimate for t in again.trials if t.status == "pruned"
    }


def test_another_searcher_hears_of_stopped_trials_by_estimates(storage: Storage) -> None:
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 0, "float32")
    study = Study(storage, Plan(task, "random", ("only.x", "only.y"), 9, seeds=0, asha=True))
    study.save_plan()
    conductor = Conductor(study)
    for status in ("pruned", "done", "done", "pruned"):
        settle(conductor, conductor.ask(), status)
    trials, study.searcher_state = study.trials, None
    study.plan = replace(study.plan, searcher="bo")
    other = Conductor(study)
    assert other.inner
    state = other.inner.save_state()
    assert len(state["observed"]) == 2 and not state["pending"]
    assert {int(n): value for n, (_, (value, _)) in state["stopped"].items()} == {n: trials[n].estimate for n in (0, 3)}
    study.searcher_state, study.plan = None, replace(study.plan, searcher="random")
    again = Conductor(study).ask()
    assert again and again.job.settings == random_point(METHOD.space(("only.x", "only.y")), 0, 4), "no draw comes twice"


def settle(conductor: Conductor, trial: Trial | None, status: Any) -> None:
    """End a trial: a curve of three epochs, or the first one of it."""
    assert trial
    height = 0.9 - 0.1 * (trial.job.settings["only.x"] - 0.5) ** 2
    values = list(rising(height, 3).values())[: 3 if status == "done" else 1]
    rows = [{"stage": "only", "epoch": epoch, "val_accuracy": value} for epoch, value in enumerate(values, 1)]
    conductor.settle(trial, Outcome(status, val={"accuracy": values[-1]}, history=rows, started=time.time()))


def test_points_of_a_curve_are_those_of_their_stage() -> None:
    rows = [{"stage": "a", "epoch": 1}, {"stage": "a", "epoch": 2, "val_accuracy": 0.2}]
    whole = Outcome(history=[*rows, {"stage": "b", "epoch": 1, "val_accuracy": 0.4}])  # epochs of the stage
    part = Outcome(history=[*rows, {"stage": "b", "epoch": 3, "val_accuracy": 0.3}])  # epochs of the trial
    assert list(curve_of(whole)) == list(curve_of(part)) == [("a", 0), ("b", 0)]


def test_the_first_trial_is_the_recipe_s_own() -> None:
    space = {"x": Real(0.0, 1.0), "y": Real(0.0, 1.0)}
    assert beginning("bo", space, {"x": 0.25, "y": 0.5, "z": 3}) == [{"x": 0.25, "y": 0.5}]
    assert beginning("bo", space, {"x": 0.25, "y": 7.0}) == [{"x": 0.25}], "a range does not hold it"
    assert beginning("bo", space, {}) == beginning("random", space, {"x": 0.25, "y": 0.5}) == []


@pytest.mark.parametrize("fixed", [{}, {"only.y": 0.9}])
def test_a_study_begins_with_the_defaults(storage: Storage, fixed: dict[str, Any]) -> None:
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), fixed, storage.uri, 0, "float32")
    space = tuple(name for name in ("only.x", "only.y") if name not in fixed)
    conductor = Conductor(Study(storage, Plan(task, "bo", space, 5, seeds=0)))
    trial = conductor.ask()
    assert trial and dict(trial.job.settings) == {"only.x": 0.5, "only.y": 0.5, **fixed}
    with pytest.raises(Finished):
        while True:
            settle(conductor, trial, "done")
            trial = conductor.ask()
    assert len(conductor.study.trials) == 5


def fitted(tell: Any) -> Any:
    """The process that a search fits to noisy values along a line and what `tell` adds to them."""
    kept: list[Any] = []

    class Kept(BelieverEI):
        def beside_pending(self, gp: Any, *rest: Any) -> Any:
            kept.append(gp)
            return super().beside_pending(gp, *rest)

    search = Proposer(Cube(axes_of(SPACE)), "val_accuracy", "max")
    search.acquisition = Kept
    rng = np.random.default_rng(0)
    for x in np.linspace(0, 1, 12):
        search.add_evaluated_point({"x": float(x)}, float(x * (1 - x) + 0.1 * rng.standard_normal()))
    tell(search)
    search.suggest("next")
    return kept[-1]


def test_a_point_observed_often_is_known_better() -> None:
    def deviation(times: int) -> float:
        def tell(search: Proposer) -> None:
            for offset in np.linspace(-0.1, 0.1, times):
                search.add_evaluated_point({"x": 0.45}, 0.25 + float(offset))

        return float(fitted(tell).predict(np.array([[0.45]]), return_std=True)[1][0])

    assert deviation(25) < 0.6 * deviation(2)


def test_an_estimate_counts_by_its_deviation() -> None:
    def mean(deviation: float) -> float:
        def tell(search: Proposer) -> None:
            search._pending["stopped"] = (0.45,)
            search.on_trial_stopped("stopped", Estimate(0.9, deviation))

        return float(fitted(tell).predict(np.array([[0.45]]))[0])

    sure, unsure = mean(0.0), mean(5.0)
    assert unsure < sure


def test_a_stopped_trial_s_configuration_is_not_proposed_again() -> None:
    problem = function("branin", 0.0)
    search = make_searcher("bo", problem.space, 0, None)
    first = search.suggest("0")
    search.on_trial_stopped("0", None)
    search.on_trial_stopped("unknown", Estimate(1.0, 0.0))
    other = make_searcher("bo", problem.space, 0, None)
    other.restore_state(search.save_state())
    assert [other.suggest("1")] == [search.suggest("1")] != [first]


def test_trials_are_stopped_by_the_epochs_of_the_stage_that_is_judged_and_not_by_its_first(storage: Storage) -> None:
    task = Task("s", "fsp", "quick", DataSpec("digits"), {"finetune.epochs": 12}, storage.uri, 0, "float32")
    study = Study(storage, Plan(task, "bo", ("transfer.lr",), 9, seeds=0, asha=True))
    scheduler = GracefulStop(study, "finetune", 12)
    scheduler.set_search_properties("val_accuracy", "max")  # as Tune does
    first = int(halving(12)["grace_period"])

    def stopped(number: int, stage: str, epoch: int, accuracy: float) -> bool:
        trial = SimpleNamespace(trial_id=str(number), config={"job": {"phase": "search", "number": number}})
        if epoch == 1:
            scheduler.on_trial_add(None, trial)
        row = {"stage": stage, "epoch": epoch, "val_accuracy": accuracy}
        assert scheduler.on_trial_result(None, trial, row) == scheduler.CONTINUE
        return storage.exists(stop_sign(task, number))

    for number in range(8):  # each behind the ones before it
        assert not stopped(number, "teacher", 1, 0.9 - number / 10)
        for epoch in range(1, first):
            assert not stopped(number, "finetune", epoch, 0.9 - number / 10)
        behind = stopped(number, "finetune", first, 0.9 - number / 10)
    assert first > 1 and behind
    for number in range(8, 16):
        ends = [stopped(number, "finetune", epoch, 0.9 - number / 100) for epoch in (1, 12)]
        assert not any(ends), "it has been trained to its end"


def judged(scheduler: GracefulStop, number: int, height: float, *, found: bool = False) -> bool:
    """Whether a trial of three epochs is told to stop; `found`: its epochs are, so that it reports none."""
    trial = SimpleNamespace(trial_id=uuid4().hex, config={"job": {"phase": "search", "number": number}})
    scheduler.on_trial_add(None, trial)
    rows = [{"stage": "only", "epoch": n, "val_accuracy": height * n} for n in (1, 2, 3)]
    for row in () if found else rows:
        scheduler.on_trial_result(None, trial, row)
    outcome = json.dumps(asdict(Outcome(val={"accuracy": 3 * height}, history=rows)))
    scheduler.on_trial_result(None, trial, {"outcome": outcome})
    return scheduler.study.storage.exists(stop_sign(scheduler.study.plan.task, number))


def test_a_trial_is_held_against_those_that_ended_before_an_interruption_and_those_that_were_found(
    storage: Storage,
) -> None:
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 0, "float32")
    study = Study(storage, Plan(task, "random", ("only.x", "only.y"), 9, seeds=0, asha=True))

    def begun() -> GracefulStop:
        scheduler = GracefulStop(study, "only", 3)
        scheduler.set_search_properties("val_accuracy", "max")  # as Tune does
        return scheduler

    assert not judged(begun(), 7, 0.1), "there is nothing to hold it against"
    assert not judged(scheduler := begun(), 0, 0.3, found=True) and judged(scheduler, 1, 0.1)
    study.save_plan()
    conductor = Conductor(study)
    settle(conductor, conductor.ask(), "done")
    settle(conductor, conductor.ask(), "pruned")
    assert judged(begun(), 2, 0.1) and not judged(begun(), 3, 0.5)


def test_a_sign_that_cannot_be_written_lets_the_trial_train_on(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 0, "float32")
    scheduler = GracefulStop(Study(storage, Plan(task, "random", ("only.x",), 9, seeds=0, asha=True)), "only", 3)
    scheduler.set_search_properties("val_accuracy", "max")  # as Tune does
    assert not judged(scheduler, 0, 0.3)
    asked = []

    def full(_: Storage, name: str, content: bytes) -> None:
        asked.append(name)
        raise UsageError("full")

    monkeypatch.setattr(Storage, "write_bytes", full)
    assert not judged(scheduler, 1, 0.1) and asked == [stop_sign(task, 1)]


def test_a_trial_that_died_and_runs_again_counts_once_among_those_that_others_are_held_against(
    storage: Storage,
) -> None:
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 0, "float32")
    scheduler = GracefulStop(Study(storage, Plan(task, "random", ("only.x",), 9, seeds=0, asha=True)), "only", 3)
    scheduler.set_search_properties("val_accuracy", "max")  # as Tune does
    assert not judged(scheduler, 0, 0.3)
    assert judged(scheduler, 1, 0.1)
    judged(scheduler, 1, 0.1)  # it died with that, and Tune gives it another id
    assert judged(scheduler, 2, 0.15), "the median of two is 0.2; were the worse one counted twice, it would be 0.1"


def test_what_a_stopped_trial_had_reached_is_no_result_for_patience(storage: Storage) -> None:
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 0, "float32")
    study = Study(storage, Plan(task, "random", ("only.x", "only.y"), 9, seeds=0, asha=True))

    def stale(*ended: tuple[Any, float]) -> int:
        study.trials = [
            Trial(Job(number, "search", {}, 0), 0.0, status, value) for number, (status, value) in enumerate(ended)
        ]
        return study.stale()

    assert stale(("done", 0.5), ("pruned", 0.9), ("done", 0.6)) == 0, "the best that there is"
    assert stale(("done", 0.5), ("pruned", 0.6), ("pruned", 0.7)) == 2


def test_a_stopped_trial_is_charged_what_it_trained(storage: Storage) -> None:
    task = Task("s", "fsp", "quick", DataSpec("digits"), {}, storage.uri, 0, "float32")
    conductor = Conductor(Study(storage, Plan(task, "random", ("transfer.lr",), 9, seeds=0, asha=True)))
    trial = conductor.ask()
    assert trial
    method, info = conductor.study.method, conductor.study.info
    configs = method.configure("quick", trial.job.settings)
    teacher, transfer, finetune = (stage.macs(configs, info) for stage in method.stages)
    row = {"stage": "finetune", "epoch": configs["finetune"].epochs // 2, "val_accuracy": 0.5}
    part = teacher + transfer + finetune * row["epoch"] / configs["finetune"].epochs
    for status, history, macs in (
        ("pruned", [row], part),
        ("pruned", [{"stage": "transfer", "epoch": configs["transfer"].epochs}], teacher + transfer),
        ("failed", [row], part),
        ("failed", [], None),
        ("done", [row], teacher + transfer + finetune),
    ):
        found = conductor.row(trial, Outcome(status, history=history))  # type: ignore[arg-type]
        assert found.macs_train == (None if macs is None else pytest.approx(macs, abs=1)), status
