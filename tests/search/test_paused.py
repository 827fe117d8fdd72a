"""A study whose trials are paused and taken up again: its ledger, its kills, its winner."""

from __future__ import annotations

import dataclasses
import random
import time
from pathlib import Path
from typing import Any

import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.methods import get
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import EpochRow
from bo_distill.search.command.asking import asked_for
from bo_distill.search.command.run_options import parser
from bo_distill.search.compare import main as compare
from bo_distill.search.execution.trial import perform, stop_sign
from bo_distill.search.run import main
from bo_distill.search.searchers.base import Length
from bo_distill.search.study.conductor import Conductor, Finished
from bo_distill.search.study.curve import length_of
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Outcome, Plan, Task, Trial
from helpers.running import TRIVIAL, rows_of, run, start, study_of, until
from helpers.tiny import TINY_SETTINGS
from helpers.trivial import accuracy

EPOCHS = 9
BUDGET = 3


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def begun(storage: Storage) -> Study:
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {"only.epochs": EPOCHS}, storage.uri, 0, "float32")
    study = Study(storage, Plan(task, "curves", ("only.x", "only.y"), BUDGET, seeds=0))
    study.save_plan()
    return study


def trained(trial: Trial) -> Outcome:
    """What comes of a trial that is trained as far as its job says."""
    end = accuracy(trial.job.settings)
    until = trial.job.until or EPOCHS
    rows = [
        {"stage": "only", "epoch": n, "val_accuracy": end - 0.3 * (1 / n - 1 / EPOCHS), "seconds": 1.0}
        for n in range(1, until + 1)
    ]
    status: Any = "done" if until == EPOCHS else "paused"
    val = {"accuracy": rows[-1]["val_accuracy"]}
    return Outcome(status, val=val, history=rows, started=time.time(), seconds=1.0, epochs=until)


def test_more_trainings_are_counted_from_what_was_spent(storage: Storage) -> None:
    study = begun(storage)
    study.plan = dataclasses.replace(study.plan, trials=None, seconds=60.0, out_of_time=True, over=True)
    settings = {"only.x": 0.5, "only.y": 0.5}
    jobs = [Job(n, "search", settings, 0, until=epochs) for n, epochs in enumerate((None, 3, 3, 3, 6))]
    study.trials = [Trial(job, 0.0, "pruned" if job.until else "done", 0.5) for job in jobs]
    study.save_plan()
    study.save()
    args = parser().parse_args(["--resume=s", "--trials=+2", f"--trust={TRIVIAL.partition(':')[0]}"])
    args.storage = storage.uri
    assert asked_for(args, storage).plan.trials == 5, "8 / 3 trainings, and 2"


class Killed(Exception):
    pass


def carried_out(storage: Storage, chance: random.Random | None, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The steps of a study; where there is `chance`, its process is killed before, while or after one is kept."""
    steps: list[Any] = []
    conductor = Conductor(begun(storage))
    kills = 0
    while True:
        try:
            trial = conductor.ask()
        except Finished:
            break
        assert trial
        step = trial.job.number, trial.job.until, dict(trial.job.settings)
        if not steps or steps[-1] != step:
            steps.append(step)
        moment = chance.choice(("before", "while", "after", "never")) if chance else "never"
        with monkeypatch.context() as patch:
            if moment == "while":
                patch.setattr(Study, "save", killed)
            try:
                if moment != "before":
                    conductor.settle(trial, trained(trial))
            except Killed:
                pass
        if moment != "never":
            kills += 1
            conductor = Conductor(Study.open(storage, "s"))
    assert chance is None or kills >= 20
    return steps


def killed(study: Study) -> None:
    raise Killed


def test_a_kill_at_any_moment_changes_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = carried_out(Storage(str(tmp_path / "whole")), None, monkeypatch)
    cut = carried_out(Storage(str(tmp_path / "cut")), random.Random(3), monkeypatch)
    assert cut == whole and len(whole) > 12
    one, other = (Study.open(Storage(str(tmp_path / name)), "s") for name in ("whole", "cut"))
    assert [(t.status, t.val_accuracy, t.estimate) for t in one.trials] == [
        (t.status, t.val_accuracy, t.estimate) for t in other.trials
    ]
    assert one.searcher_state == other.searcher_state


def test_the_budget_is_of_epochs_and_the_winner_has_ended(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = carried_out(storage, None, monkeypatch)
    study = Study.open(storage, "s")
    spent = sum(trial.job.until or EPOCHS for trial in study.trials) / EPOCHS
    assert BUDGET <= spent <= BUDGET + 2 and len(study.trials) > BUDGET
    assert study.complete and {trial.status for trial in study.trials} == {"done", "pruned"}
    best = study.best()
    assert best and best.status == "done" and best.estimate is not None
    assert all(t.estimate <= best.estimate for t in study.ranked() if t.estimate is not None)
    assert study.searcher_state
    ends = {name for name, epoch, _ in study.searcher_state["seen"] if epoch == EPOCHS}
    assert ends == {str(t.job.number) for t in study.trials if t.status == "done"}, "the last one, too, is heard of"
    again = [number for number, _, _ in steps]
    assert len(again) > len(set(again)), "some trial was taken up again"
    rows = {row.trial: row for row in rows_of(storage.uri)}
    assert set(rows) == {trial.job.number for trial in study.trials}
    assert rows[best.job.number].epochs == EPOCHS and rows[best.job.number].seconds == again.count(best.job.number)
    pruned = [rows[trial.job.number] for trial in study.trials if trial.status == "pruned"]
    assert all(0 < row.epochs < EPOCHS for row in pruned), "the table says how far each trial went"


def test_the_epochs_of_a_trial_that_was_stopped_are_counted_by_stage(storage: Storage) -> None:
    settings = dict(TINY_SETTINGS["fsp"])
    task = Task("s", "fsp", "quick", DataSpec("digits", train_size=64), settings, storage.uri, 0, "float32")
    task = dataclasses.replace(task, stoppable=True)

    def told(row: EpochRow) -> None:
        """As a scheduler that has seen enough."""
        if row["stage"] == "finetune":
            storage.write_bytes(stop_sign(task, 0), b"")

    outcome = perform(task, Job(0, "search", {"finetune.epochs": 3}, 0), told)
    stages = {row["stage"]: row["epoch"] for row in outcome.history}
    assert outcome.status == "pruned" and stages["finetune"] == 1 and len(stages) == 3
    assert outcome.epochs == sum(stages.values()) == len(outcome.history)
    assert outcome.cpu_seconds == sum(row["cpu_seconds"] for row in outcome.history) > 0
    assert perform(task, Job(0, "search", {"finetune.epochs": 1}, 0), told).status == "done", "nothing is left to stop"


def test_a_paused_training_goes_on_where_it_was(storage: Storage) -> None:
    task = Task("s", TRIVIAL, "quick", DataSpec("digits", train_size=64), {"only.epochs": 4}, storage.uri, 0, "float32")
    settings = {"only.epochs": 4, "only.x": 0.2}
    for reach in (1, 3):
        outcome = perform(task, Job(0, "search", settings, 0, until=reach), lambda row: None)
        assert (outcome.status, outcome.epochs) == ("paused", reach)
        assert [row["epoch"] for row in outcome.history] == list(range(1, reach + 1))
        assert outcome.val["accuracy"] == accuracy({"only.x": 0.2, "only.y": 0.5})
        again = perform(task, Job(0, "search", settings, 0, until=reach), lambda row: None)
        assert (again.status, again.history) == ("paused", outcome.history), "a kill before it was kept costs no epoch"
    rest: list[Any] = []
    whole = perform(task, Job(0, "search", settings, 0), rest.append)
    assert whole.status == "done" and whole.epochs == 4
    other = dataclasses.replace(task, storage=f"{storage.uri}/other")
    once = perform(other, Job(0, "search", settings, 0), lambda row: None)
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in once.history]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("fsp", ("finetune", Length(3, 6))),
        ("center_loss", ("joint", None)),
        ("res_ic", ("backbone", None)),
        ("max_entropy", ("finetune", None)),
    ],
)
def test_a_trial_s_curve_is_that_of_the_last_stage_of_its_own_that_trains(method: str, expected: Any) -> None:
    found = get(method)
    stage, length = length_of(found, found.configure("quick", {}))
    assert stage == expected[0] and expected[1] in (None, length)
    with pytest.raises(UsageError, match="trains in epochs"):
        length_of(found, {stage.name: None for stage in found.stages})


@pytest.mark.parametrize("option", ["--asha", "--curves"])
def test_trials_whose_epochs_say_nothing_of_their_accuracy_are_not_compared_by_them(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["label_embedding", option, "--dry-run"]) == 2
    assert "while experts trains, nobody knows how accurate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--curves", "--random"], "--random"),
        (["--curves", "--asha"], "--asha"),
        (["--curves", "--search", "transfer.lr,finetune.epochs"], "finetune.epochs"),
    ],
)
def test_what_curves_cannot_be_joined_with(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fsp", *words, "--dry-run"]) == 2
    assert said in capsys.readouterr().err


def test_a_comparison_of_whole_trials_refuses_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(["fsp", "--searchers", "bo,curves"]) == 2
    assert "search.replay" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_search_that_is_killed_goes_on_with_its_curves(tmp_path: Path) -> None:
    words = ["--bo", "--curves", "--data=digits", "--train-size=64", "--trials=2", "--seeds=0", "--concurrency=1"]
    words += ["--set=epochs=6", "--set=pause=0.5", "--search=x,y"]
    process = start(TRIVIAL, *words, storage=tmp_path)

    def paused() -> bool:
        return bool(list(tmp_path.glob("studies/*/study.json"))) and any(
            trial.status == "paused" for trial in study_of(tmp_path).trials
        )

    until(paused, process)
    process.kill()
    process.wait()
    before = study_of(tmp_path)
    code, said = run(f"--resume={before.plan.task.study}", storage=tmp_path)
    after = study_of(tmp_path)
    assert code == 0 and after.complete, said
    assert [t.job.settings for t in after.trials[: len(before.trials)]] == [t.job.settings for t in before.trials]
