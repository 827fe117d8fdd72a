"""A search of its own for each control that has hyperparameters of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.method import Control
from bo_distill.search.evidence.summary import tuned
from bo_distill.search.run import main
from bo_distill.search.study.conductor import Conductor, Finished
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Outcome, Plan, Task
from bo_distill.search.study.searches import later_runs
from helpers.one import ONE
from helpers.tiny import tiny_images

METHOD = dataclasses.replace(
    ONE,
    controls={
        "plain": Control(lambda settings: {"head.weight": 0.0}, tunes=("head.lr",)),
        "halved": Control(lambda settings: {"head.weight": settings["head.weight"] / 2}),
    },
)


def accuracy(job: Job) -> float:
    """Large weights are better, and without weight a rate of 0.02 is."""
    weight, rate = job.settings["head.weight"], job.settings.get("head.lr", 0.1)
    return 0.5 + 0.01 * weight - (abs(rate - 0.02) if weight == 0 else 0.0)


def opened(storage: Storage, plan: Plan | None = None) -> Study:
    study = Study(storage, plan) if plan else Study.open(storage, "s")
    study.method, study.info = METHOD, tiny_images().info
    if plan:
        study.save_plan()
    return study


def ended(storage: Storage, plan: Plan, at_once: int, again: bool) -> list[Job]:
    """Jobs of a study from begin to end, `at_once` in flight; `again`: by a fresh process after each trial."""
    conductor, jobs, flying = Conductor(opened(storage, plan)), [], []
    for _ in range(200):
        try:
            while len(flying) < at_once and (trial := conductor.ask()):
                flying.append(trial)
                jobs.append(trial.job)
        except Finished:
            return jobs
        trial = flying.pop(0)
        conductor.settle(trial, Outcome(val={"accuracy": accuracy(trial.job)}))
        if again and not flying:
            conductor = Conductor(opened(storage))
    raise AssertionError("it does not end")


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("searcher", ["random", "grid", "bo"])
def test_a_control_is_searched_like_the_winner_and_then_retrained(
    searcher: str, at_once: int, storage: Storage
) -> None:
    task = Task("s", "one", "quick", DataSpec("digits"), {}, storage.uri, 0)
    plan = Plan(task, searcher, ("head.weight",), 6, seeds=2, tune_controls=True)
    jobs = ended(storage, plan, at_once, again=at_once == 1)
    assert [job.phase for job in jobs] == ["search"] * 6 + ["tune"] * 6 + ["final"] * 2 + ["control"] * 4
    none = Study(storage, plan)
    none.method = METHOD
    assert later_runs(none) == later_runs(opened(storage)) == 12
    own = [job for job in jobs if job.phase == "tune"]
    assert {(job.control, job.seed, job.settings["head.weight"]) for job in own} == {("plain", 0, 0.0)}
    rates = {job.settings["head.lr"]: accuracy(job) for job in own}
    assert len(rates) == 6, "six different rates were tried"
    plain, halved = ([job for job in jobs if (job.phase, job.control) == ("control", c)] for c in METHOD.controls)
    assert {job.settings["head.lr"] for job in plain} == {max(rates, key=lambda rate: rates[rate])}
    winner = next(job for job in jobs if job.phase == "final")
    assert {job.settings["head.weight"] for job in halved} == {winner.settings["head.weight"] / 2}
    assert "head.lr" not in halved[0].settings and {job.seed for job in plain} == {1, 2} == {job.seed for job in halved}
    study = opened(storage)
    assert study.complete and [name for name, _ in tuned(study)] == ["plain"]


def test_an_interrupted_search_of_a_control_goes_on(storage: Storage) -> None:
    """One trial of it was under way, one had ended: that one is not asked for again, and the other runs first."""
    task = Task("s", "one", "quick", DataSpec("digits"), {}, storage.uri, 0)
    plan = Plan(task, "bo", ("head.weight",), 3, seeds=1, tune_controls=True)
    conductor = Conductor(opened(storage, plan))
    for _ in range(3):
        trial = conductor.ask()
        assert trial
        conductor.settle(trial, Outcome(val={"accuracy": accuracy(trial.job)}))
    first, second = conductor.ask(), conductor.ask()
    assert first and second and first.job.phase == second.job.phase == "tune"
    conductor.settle(second, Outcome(status="failed", reason="diverged"))
    again = Conductor(opened(storage))
    trial = again.ask()
    assert trial and trial.job == first.job
    again.settle(trial, Outcome(val={"accuracy": 0.5}))
    third = again.ask()
    assert third and third.job.phase == "tune" and third.job.settings not in (first.job.settings, second.job.settings)
    assert again.ask() is None, "nothing is retrained before its search has ended"


@pytest.mark.parametrize("words", [["--no-controls"], ["--seeds=0"]])
def test_there_must_be_controls(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fsp", "--tune-controls", *words, f"--storage={tmp_path / 'results'}"]) == 2
    assert "--tune-controls: the study has no controls" in capsys.readouterr().err


def test_a_grid_too_small_for_a_control_is_refused_before_it_is_paid_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["center_loss", "--data=digits", "--grid", "--search=joint.lr", "--trials=3", "--tune-controls"]
    assert main([*words, f"--storage={tmp_path / 'results'}"]) == 2
    said = capsys.readouterr().err
    assert "3 trials: a grid over joint.weight, joint.margin, joint.lr takes at least 8; give as many" in said
    assert not (tmp_path / "results").exists()
