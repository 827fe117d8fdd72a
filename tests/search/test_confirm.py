"""Running the best again over fresh seeds before one of them wins."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.search.run import main
from bo_distill.search.searchers.grid import GRIDS, arranged
from bo_distill.search.study.conductor import Conductor, Finished
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Outcome, Plan, Task, Trial
from helpers.carrying import carried
from helpers.one import ONE
from helpers.tiny import tiny_images


def accuracy(job: Job) -> float:
    """One seed flatters small weights; the others show that large ones are better."""
    return 0.9 - 0.01 * job.settings["head.weight"] if job.seed == 0 else 0.5 + 0.01 * job.settings["head.weight"]


def test_the_winner_is_chosen_by_its_mean_within_the_budget(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Task("s", "one", "quick", DataSpec("digits"), {}, storage.uri, 0)
    plan = Plan(task, "random", ("head.weight",), 10, seeds=2, controls=False, confirm=2)
    study, jobs = Study(storage, plan), []
    study.save_plan()
    for number in range(99):
        # A fresh object each time, as after an interruption.
        study = Study.open(storage, "s") if number else study
        study.method, study.info = ONE, tiny_images().info
        conductor = Conductor(study)
        try:
            trial = conductor.ask()
        except Finished:
            break
        assert trial is not None
        jobs.append(trial.job)
        conductor.settle(trial, Outcome(val={"accuracy": accuracy(trial.job)}))
    assert [job.phase for job in jobs] == ["search"] * 4 + ["confirm"] * 6 + ["final"] * 2
    seeds = [{job.seed for job in jobs if job.phase == phase} for phase in ("search", "confirm", "final")]
    assert seeds == [{0}, {3, 4, 5}, {1, 2}]
    weights = sorted(job.settings["head.weight"] for job in jobs[:4])
    assert {job.settings["head.weight"] for job in jobs[4:10]} == set(weights[:2])
    assert {job.settings["head.weight"] for job in jobs[10:]} == {weights[1]}
    done = Study.open(storage, "s")
    assert done.complete and (best := done.best()) is not None and len(done.confirmed(best)) == 3

    # The test split was opened once, and whoever asks for more of it is refused and noted.
    (opened,) = done.test_notes()
    assert opened.event == "opened" and opened.what == f"trial {best.job.number}; seeds 1, 2"
    for words in (["--trials=+5"], ["--seeds=4"], ["--confirm=3"]):
        assert main(["--resume=s", *words, f"--storage={storage.uri}"]) == 2
        assert "test split has been read" in capsys.readouterr().err
    assert [(note.event, note.what) for note in done.test_notes()[1:]] == [
        ("refused", "--trials +5"),
        ("refused", "--seeds 4"),
        ("refused", "--confirm 3"),
    ]
    assert Study.open(storage, "s").trials == done.trials


def test_a_configuration_is_run_again_once_a_seed(storage: Storage) -> None:
    """A search over few configurations proposes some of them several times."""
    task = Task("s", "one", "quick", DataSpec("digits"), {}, storage.uri, 0)
    ranges = {"head.weight": "1:2:1"}
    study = Study(storage, Plan(task, "random", ("head.weight",), 16, seeds=0, confirm=3, ranges=ranges))
    study.method, study.info = ONE, tiny_images().info
    study.save_plan()
    carried(study, lambda trial: Outcome(val={"accuracy": accuracy(trial.job)}))
    runs = [(trial.job.settings["head.weight"], trial.job.seed) for trial in study.of_phase("confirm")]
    assert sorted(runs) == [(weight, seed) for weight in (1, 2) for seed in (1, 2, 3)]
    study.trials += [dataclasses.replace(trial) for trial in study.of_phase("confirm")]  # as an earlier version did
    assert (best := study.best()) and len(study.confirmed(best)) == 3
    study.plan = dataclasses.replace(study.plan, seeds=2, controls=False)
    carried(study, lambda trial: Outcome(val={"accuracy": accuracy(trial.job)}))
    assert {trial.job.seed for trial in study.of_phase("final")} == {4, 5}, "none that was seen in choosing"


def test_one_lucky_run_of_three_wins_nothing(storage: Storage) -> None:
    task = Task("s", "one", "quick", DataSpec("digits"), {}, storage.uri, 0)
    study = Study(storage, Plan(task, "random", ("head.weight",), 8, seeds=0, confirm=2))
    study.method, study.info = ONE, tiny_images().info
    study.save_plan()

    def came(trial: Trial) -> Outcome:
        first, _ = study.ranked()[:2] if trial.job.phase == "confirm" else (None, None)
        if first and trial.job.words == first.job.words:
            return Outcome(val={"accuracy": 0.99}) if trial.job.seed == 2 else Outcome("failed", "diverged")
        return Outcome(val={"accuracy": accuracy(trial.job)})

    carried(study, came)
    assert study.best() == study.ranked()[1]


def test_the_forms_of_a_grid() -> None:
    from bo_distill.methods.space import Choice, Integer, Real

    space = {"a": Real(0.0, 1.0), "b": Choice(("x", "y")), "c": Integer(1, 9)}
    plain, shuffled, offset, centred = (arranged(form, space, 18, 4) for form in GRIDS)
    key = lambda point: json.dumps(point)  # noqa: E731
    assert sorted(map(key, plain)) == sorted(map(key, shuffled)) and plain != shuffled
    assert len(plain) == len(offset) == len(centred) == 18
    assert {p["a"] for p in plain} == {0.0, 0.5, 1.0} and {p["b"] for p in centred} == {"x", "y"}
    assert sorted({p["a"] for p in centred}) == [0.166667, 0.5, 0.833333]
    low, middle, high = sorted({p["a"] for p in offset})
    assert 0 < low < 1 / 3 and abs(middle - low - 1 / 3) < 1e-5 and abs(high - middle - 1 / 3) < 1e-5
    assert arranged("grid-offset", space, 18, 5) != offset == arranged("grid-offset", space, 18, 4)
