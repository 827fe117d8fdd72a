"""A study goes on: longer, by another searcher, in another place."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bo_distill.distributed.ray.cluster import Layout
from bo_distill.distributed.storage import Storage
from bo_distill.distributed.worker import Runtime
from bo_distill.methods.data import load
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError
from bo_distill.methods.space import Choice, Real
from bo_distill.search.api.calls import run
from bo_distill.search.api.searching import check_controls
from bo_distill.search.command.asking import asked_for, make_plan, resumed
from bo_distill.search.command.config import command
from bo_distill.search.command.summary import print_summary
from bo_distill.search.evidence.advice import advice, ended
from bo_distill.search.evidence.summary import summarise
from bo_distill.search.execution.comparison import opened
from bo_distill.search.execution.place import settled
from bo_distill.search.rows.row import from_table
from bo_distill.search.rows.sql import read
from bo_distill.search.run import main, parser
from bo_distill.search.searchers.base import METRIC
from bo_distill.search.searchers.random import random_point
from bo_distill.search.study.conductor import Conductor
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import ATTEMPTS, Job, Outcome, Plan, Task, Trial
from bo_distill.search.study.searches import searcher_of, told
from helpers.carrying import carried
from helpers.data_files import folder, image
from helpers.running import TRIVIAL
from helpers.trivial import METHOD, accuracy

SPACE = METHOD.space(("only.x", "only.y"))


def begin(storage: Storage, searcher: str, trials: int | None, seeds: int = 0, **how: Any) -> Study:
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 0, "float32")
    study = Study(storage, Plan(task, searcher, how.pop("space", tuple(SPACE)), trials, seeds=seeds, **how))
    study.save_plan()
    return study


def resume(storage: Storage, *words: str) -> Study:
    """As the command does, up to where Ray would start."""
    args = parser().parse_args(["--resume=s", *words, f"--storage={storage.uri}"])
    study = Study.open(storage, "s")
    study.plan = resumed(args, study)
    with study.locked():
        study.save_plan()
    return study


def carry_on(study: Study, stop: int | None = None) -> Conductor:
    """Run what is left, but leave trial `stop` unfinished."""

    def outcome(trial: Trial) -> Outcome:
        value = accuracy({"only.x": 0.5, "only.y": 0.5, **trial.job.settings})
        found = {"accuracy": value} if trial.job.phase == "final" else {}
        return Outcome(val={"accuracy": value}, test=found, started=time.time(), seconds=1.0)

    return carried(study, outcome, stop)


def points(study: Study) -> list[dict[str, Any]]:
    return [{name: trial.job.settings[name] for name in SPACE} for trial in study.of_phase("search")]


def test_another_searcher_is_told_what_was_found(storage: Storage) -> None:
    carry_on(begin(storage, "random", 6))
    study = resume(storage, "--bo", "--trials=+3")
    assert (study.plan.searcher, study.plan.trials) == ("bo", 9)
    bayes = carry_on(study)
    assert len(bayes.inner.save_state()["observed"]) == 9
    assert points(study)[:6] == [random_point(SPACE, 0, number) for number in range(6)]
    # Six points are past the Sobol start of a two-dimensional search: the model proposes, and near the best.
    best = max(trial.val_accuracy or 0 for trial in study.trials[6:])
    assert best > max(trial.val_accuracy or 0 for trial in study.trials[:6])
    study = resume(storage, "--random", "--trials=+2")
    carry_on(study)
    assert points(study)[9:] == [random_point(SPACE, 0, number) for number in (9, 10)], "no draw comes twice"


def test_a_trial_under_way_reports_to_the_searcher_that_follows(storage: Storage) -> None:
    carry_on(begin(storage, "random", 5), stop=3)
    study = resume(storage, "--bo")
    assert [trial.finished for trial in study.trials] == [True, True, True, False]
    bayes = carry_on(study)
    state = bayes.inner.save_state()
    assert len(study.trials) == 5 and study.complete and len(state["observed"]) == 5 and not state["pending"]
    assert points(study)[3] == random_point(SPACE, 0, 3)


@pytest.mark.parametrize("searcher", ["bo", "random"])
def test_what_a_trial_under_way_finds_is_told_of_its_own_configuration(storage: Storage, searcher: str) -> None:
    plan = replace(begin(storage, "random", 5).plan, metrics=("val_accuracy", "params"))
    trials = [
        Trial(Job(number, "search", random_point(SPACE, 3, number), 0), 0.0, "done", 0.5, values={"params": 9.0})
        for number in range(4)
    ]
    trials[1].status = "running"
    searcher_ = told(Study(storage, plan, trials), searcher, SPACE, trials, {}, 9)
    searcher_.on_trial_complete("1", {METRIC: [0.7, -1.0]})
    found = searcher_.save_state()
    if searcher == "bo":
        assert found["asked"]["1"] == random_point(SPACE, 3, 1) and found["ended"]["1"] == [0.7, -1.0]
    assert searcher_.suggest("5") not in [random_point(SPACE, 3, number) for number in range(4)]


def test_a_switch_that_is_cut_short_is_made_again(storage: Storage) -> None:
    """The plan already names the new searcher; the ledger still holds the old one's state."""
    carry_on(begin(storage, "random", 4))
    resume(storage, "--bo", "--trials=+2")
    again = resume(storage)
    assert again.plan.searcher == "bo" and again.searcher_state is None
    assert len(carry_on(again).inner.save_state()["observed"]) == 6


def test_a_grid_is_followed_by_a_searcher_but_follows_none(storage: Storage) -> None:
    carry_on(begin(storage, "grid", None))
    asked = len(Study.open(storage, "s").trials)
    with pytest.raises(UsageError, match=r"give --trials \+N"):
        resume(storage, "--bo")
    study = resume(storage, "--bo", "--trials=+2")
    carry_on(study)
    assert len(study.trials) == asked + 2
    with pytest.raises(UsageError, match="a grid has the trials that it has"):
        resume(storage, "--grid")


def test_a_search_that_has_read_the_test_split_is_over(storage: Storage) -> None:
    carry_on(begin(storage, "random", 3, seeds=1))
    for words in (["--bo"], ["--trials=+2"], ["--time=1h"], ["--seeds=2"]):
        with pytest.raises(UsageError, match=r"test split has been read.*--extend s begins a new study.*the cache"):
            resume(storage, *words)


def extend(storage: Storage, *words: str) -> Study:
    """As the command does, up to where Ray would start."""
    study = asked_for(parser().parse_args(["--extend=s", *words, f"--storage={storage.uri}"]), storage)
    study.save_plan()
    return study


@pytest.mark.parametrize("seeds", [0, 1])
def test_a_search_that_patience_ended_goes_on_when_more_is_asked_for(seeds: int, storage: Storage) -> None:
    carry_on(begin(storage, "random", 30, seeds, patience=3))
    before = len(Study.open(storage, "s").of_phase("search"))
    assert before < 30
    study = (extend if seeds else resume)(storage, "--trials=+10")
    assert not study.complete
    carry_on(study)
    assert len(study.of_phase("search")) >= before + 3, "patience counts the new trials alone"
    assert Study.open(storage, study.plan.task.study).complete


@pytest.mark.parametrize("words", [["--bo"], ["--trials=+9"], ["--time=1h"], ["--confirm=3"], ["--patience=9"]])
def test_a_search_whose_best_were_run_again_is_over(words: list[str], storage: Storage) -> None:
    carry_on(begin(storage, "random", 12, confirm=2))
    study = Study.open(storage, "s")
    found = f"--storage {storage.uri} --trust tests.helpers.trivial"
    both = f"--extend s {found} --trials +N searches on; --resume s {found} --seeds 3"
    assert study.complete and both in " ".join(advice(study))
    with pytest.raises(UsageError, match=r"run again over fresh seeds, so its search is over; --extend s begins a new"):
        resume(storage, *words)
    assert not study.test_notes()
    carry_on(resume(storage, "--seeds=2"))
    assert len(Study.open(storage, "s").of_phase("final")) == 2


def test_a_search_is_complete_when_nothing_is_left(storage: Storage) -> None:
    for trials, patience in ((8, None), (30, 3)):
        carry_on(begin(storage, "random", trials, patience=patience), stop=1)
        assert not Study.open(storage, "s").complete, "between two trials"
        carry_on(Study.open(storage, "s"))
        assert Study.open(storage, "s").complete
        shutil.rmtree(storage.path("studies/s"))


def test_a_study_whose_folder_is_gone_writes_nothing(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    study = begin(storage, "random", 9, seconds=60.0)
    with study.locked():
        carry_on(study, stop=2)
        shutil.rmtree(storage.path("studies/s"))
        conductor, now = Conductor(study), time.monotonic() + 60
        monkeypatch.setattr("time.monotonic", lambda: now)
        with pytest.raises(UsageError, match=r"is gone or lost its study\.json"):
            conductor._searched()
    assert not storage.exists("studies/s/study.json")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"metrics": ("val_loss",)}, "--curves: stops trials by their accuracy; leave out --metric val_loss"),
        ({"asha": True}, "--curves: not with a study whose trials --asha stops"),
        ({"space": ("only.epochs",)}, "--curves: all trainings are as long as each other; leave only.epochs out"),
    ],
)
def test_an_extension_is_held_to_what_a_new_study_is(how: dict[str, Any], said: str, storage: Storage) -> None:
    study = begin(storage, "random", 3, seeds=1)
    study.plan = replace(study.plan, **how)
    study.save_plan()
    with pytest.raises(UsageError, match=said):
        extend(storage, "--curves", "--trials=+2")


@pytest.mark.parametrize("searcher", ["random", "bo", "curves"])
def test_why_a_search_had_no_more_is_said_after_an_interruption(searcher: str, storage: Storage) -> None:
    study = begin(storage, searcher, 9, seeds=1)
    study.plan = replace(study.plan, space=("only.x",), ranges={"only.x": "0:1:0.5"})
    study.save_plan()
    conductor = Conductor(study)
    conductor.inner.reason = "every configuration was tried"
    conductor._queue("final", {}, 1)
    conductor._save()
    again = Conductor(Study.open(storage, "s"))
    again._save()
    assert "of 9 trials: every configuration was tried" in str(ended(Study.open(storage, "s")))


def test_why_a_search_had_no_more_is_said_without_retrainings_too(storage: Storage) -> None:
    study = begin(storage, "bo", 9, space=("only.x",), ranges={"only.x": "0:1:0.5"})
    carried(study, lambda trial: Outcome(val={"accuracy": 0.5}))
    for one in (study, Study.open(storage, "s")):
        assert one.complete and "ended after 3 of 9 trials: every configuration was tried" in str(ended(one))


def test_what_other_studies_read_of_test_is_noted(storage: Storage) -> None:
    plan = begin(storage, "random", 2, seeds=1).plan
    for name in ("s", "t", "u"):
        task, fingerprint = replace(plan.task, study=name), "other" if name == "u" else "known"
        study = Study(storage, replace(plan, task=task, fingerprint=fingerprint))
        study.save_plan()
        carry_on(study)
    notes = [Study.open(storage, name).test_notes()[0] for name in "stu"]
    assert [note.earlier for note in notes] == [0, 1, 0]
    assert str(notes[1]).endswith("; read before by 1 other study of this method and data")


def test_a_control_that_cannot_run_is_refused_before_the_search(storage: Storage) -> None:
    words = ["fsp", "--recipe=paper", "--data=digits", "--set=finetune.epochs=1"]
    plan = make_plan(parser().parse_args([*words, "--set=transfer.epochs=30"]))
    check_controls(Study(storage, plan))  # milestones beyond the end never act
    plan = make_plan(parser().parse_args([*words, "--set=transfer.epochs=2000"]))
    with pytest.raises(UsageError, match=r"--controls equal_epochs: cannot run beside a winner of .*2001"):
        check_controls(Study(storage, plan))


def test_test_stays_unread_until_seeds_are_asked_for(storage: Storage) -> None:
    carry_on(begin(storage, "random", 3, seeds=0))
    first = Study.open(storage, "s")
    assert first.complete and not first.test_notes() and "The test split is unread." in " ".join(advice(first))
    carry_on(resume(storage, "--trials=+2", "--seeds=0"))
    study = resume(storage, "--seeds=3")
    carry_on(study)
    assert [len(study.of_phase(phase)) for phase in ("search", "final")] == [5, 3]
    assert [note.event for note in study.test_notes()] == ["opened"]


def test_a_new_study_takes_the_trials_of_one_that_has_read_test(storage: Storage) -> None:
    carry_on(begin(storage, "random", 3, seeds=1))
    old = Study.open(storage, "s")
    args = parser().parse_args(["--extend=s", "--bo", "--trials=+2", "--seeds=1", f"--storage={storage.uri}"])
    study = asked_for(args, storage)
    assert (study.plan.extends, study.plan.trials, study.plan.searcher) == ("s", 5, "bo") and study.folder != old.folder
    assert not storage.exists(study.folder), "nothing is written yet"
    study.save_plan()
    assert Study.open(storage, study.plan.task.study).trials == study.trials, "a kill now loses none"
    carry_on(study)
    assert points(study)[:3] == points(old) and len(points(study)) == 5
    assert [t.job.seed for t in study.of_phase("search")] == [0] * 5, "so that the cache has their stages"
    assert Study.open(storage, study.plan.task.study).complete
    assert "extends s" in study.test_notes()[0].what
    with pytest.raises(UsageError, match=r"--extend s: say by how much; give --trials \+N"):
        asked_for(parser().parse_args(["--extend=s"]), storage)


def test_a_search_ends_when_its_time_is_spent(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """No new trial is proposed; the winner is retrained; going on for its seeds does not search on, --time does."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    study = begin(storage, "random", None)
    study.plan = replace(study.plan, seconds=60.0, seeds=0)
    study.save_plan()

    def spend(study: Study) -> int:
        study.listeners.append(lambda trial, outcome: now.__setitem__(0, now[0] + 25))
        carry_on(study)
        return len(study.of_phase("search"))

    assert spend(study) == 3
    spent = f"ended after 3 trials: its time, 60 s, was spent; --resume s --storage {storage.uri} --trust"
    assert spent in str(ended(study))
    assert spend(resume(storage)) == 3
    assert spend(resume(storage, "--time=1m")) == 6
    assert spend(resume(storage, "--trials=+1")) == 7
    study = resume(storage, "--seeds=2")
    assert spend(study) == 7 and len(study.of_phase("final")) == 2


def test_a_range_of_a_person_is_what_every_part_sees(storage: Storage) -> None:
    words = [TRIVIAL, "--data=digits", "--range", "x=0.2:0.4", "--range", "rank=0:8:4", "--search=y"]
    study = Study(storage, make_plan(parser().parse_args(words)))
    study.save_plan()
    found = Study.open(storage, study.plan.task.study)
    assert found.space == {"only.y": Real(0, 1), "only.x": Real(0.2, 0.4), "only.rank": Choice((0, 4, 8))}
    assert "--range only.x=0.2:0.4 --range only.rank=0:8:4" in command(found.plan)
    searcher = searcher_of(found)
    assert searcher and all(0.2 <= searcher.suggest(str(n))["only.x"] <= 0.4 for n in range(5))
    for again in ("0.2:0.4", "2e-1:.4:linear"):
        resumed(parser().parse_args(["--resume=s", f"--range=x={again}"]), found)
    with pytest.raises(UsageError, match=r"--range only.x 0:1: the study has 0.2:0.4.*leave it out"):
        resumed(parser().parse_args(["--resume=s", "--range=x=0:1"]), found)
    with pytest.raises(UsageError, match=r"--range only.x: --set fixes it"):
        make_plan(parser().parse_args([TRIVIAL, "--set=x=0.3", "--range=x=0.2:0.4"]))


def test_a_storage_can_be_moved(tmp_path: Path) -> None:
    carry_on(begin(Storage(tmp_path / "here"), "bo", 6), stop=4)
    whole = Storage(tmp_path / "whole")
    carry_on(begin(whole, "bo", 6))
    shutil.move(tmp_path / "here", tmp_path / "there")
    study = resume(Storage(tmp_path / "there"), "--data-dir=/elsewhere")
    assert study.plan.task.storage == str(tmp_path / "there") and study.plan.task.data.directory == "/elsewhere"
    carry_on(study)
    assert points(study) == points(Study.open(whole, "s")) and study.complete
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    "words",
    [["--seed=1"], ["--precision=bfloat16"], ["--asha"], ["--no-controls"], ["--train-size=9"], ["--set=only.x=0.9"]],
)
def test_what_a_study_fixes_is_not_passed_over(words: list[str], storage: Storage) -> None:
    carry_on(begin(storage, "random", 6), stop=2)
    with pytest.raises(UsageError, match=f"{words[0].partition('=')[0]}.*leave it out"):
        resume(storage, *words)


def test_confirming_stays_within_the_budget(storage: Storage) -> None:
    carry_on(begin(storage, "random", 12), stop=8)
    with pytest.raises(UsageError, match="takes 6 of --trials 12, and 9 were asked for already"):
        resume(storage, "--confirm=2")
    assert resume(storage, "--confirm=2", "--trials=+3").plan.searched == 9


def test_what_a_study_has_already_may_be_said_again(storage: Storage) -> None:
    carry_on(begin(storage, "random", 6), stop=2)
    words = (TRIVIAL, "--data=digits", "--recipe=quick", "--search=only.x,only.y", "--label-column=label", "--seed=0")
    assert resume(storage, *words).plan.trials == 6


@pytest.mark.parametrize("searcher", ["grid", "bo", "random"])
def test_ranges_that_have_changed_since_are_refused_in_one_line(searcher: str, storage: Storage) -> None:
    """A search over two different spaces would be neither."""
    carry_on(begin(storage, searcher, None if searcher == "grid" else 7), stop=5)
    study = Study.open(storage, "s")
    study.__dict__["space"] = {**SPACE, "only.x": Real(0.0, 2.0)}
    with pytest.raises(UsageError, match=r"only\.x: .*high=2\.0.*; start a new study"):
        searcher_of(study)
    study.__dict__["space"] = SPACE
    study.searcher_state = {"asked": 3}
    with pytest.raises(UsageError, match="earlier version"):
        searcher_of(study)


def test_the_precision_is_decided_once(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study that goes on with another kind of machine keeps the precision of its first."""
    place = Layout(workers=1, cpus=3, gpus=0.0, concurrency=1)
    study = begin(storage, "random", 6)
    asked = dataclasses.replace(study.plan, task=dataclasses.replace(study.plan.task, precision="auto"))
    first, second = Runtime("cpu", "bfloat16"), Runtime("cpu", "float32")
    monkeypatch.setattr("bo_distill.distributed.worker.best_runtime", lambda precision="auto": first)
    study.plan = replace(settled(asked, place, None), over=True)
    study.save_plan()
    assert (study.plan.task.precision, study.plan.task.cpus) == ("bfloat16", 3)
    monkeypatch.setattr("bo_distill.distributed.worker.best_runtime", lambda precision="auto": second)
    assert settled(resume(storage).plan, place, None).task.precision == "bfloat16"
    assert opened(storage, asked).plan.task.precision == "bfloat16", "a comparison's study too"


def test_the_result_names_the_winner(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    study = begin(storage, "random", 6)
    carry_on(study)
    print_summary(summarise(study, 1.0))
    best = study.best()
    assert best and f"The winner is trial {best.job.number}, " in capsys.readouterr().out


def test_a_study_knows_its_data_by_content(storage: Storage, own_cache: None, tmp_path: Path) -> None:
    """A folder that moved is the same data; one that changed is not, and an older study cannot tell."""
    study = begin(storage, "random", 3)
    data = folder(tmp_path / "here", {"a": 9, "b": 9})
    study = Study(storage, replace(study.plan, task=replace(study.plan.task, data=data)))
    with pytest.raises(UsageError, match="did not note its data"):
        resumed(parser().parse_args(["--resume=s", "--data=digits"]), study)
    study.know_data()
    study.save_plan()
    kept = study.plan.fingerprint
    assert kept == load(data).info.fingerprint and Study.open(storage, "s").account == load(data).info.account
    (tmp_path / "here").rename(tmp_path / "there")
    moved = resume(storage, f"--data=imagefolder:{tmp_path / 'there'}")
    moved.know_data()
    assert moved.plan.fingerprint == kept
    image(tmp_path / "there" / "c" / "1.png", 200)
    for value in (201, 202, 203):
        image(tmp_path / "there" / "c" / f"{value}.png", value)
    with pytest.raises(UsageError, match=r"study s: imagefolder:.*there is not the data of its trials"):
        run(resume="s", data=f"imagefolder:{tmp_path / 'there'}", storage=storage.uri)  # reads the folder anew


def test_data_that_the_networks_cannot_take_is_refused_before_ray_starts(
    own_cache: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder(tmp_path / "data", {"a": 9, "b": 9})
    words = ["center_loss", "--data", data.name, "--image-size=7", f"--storage={tmp_path / 'results'}"]
    assert main(words) == 2
    assert capsys.readouterr().err == ("error: images of 7x7: three poolings need at least 8x8; give larger ones\n")
    assert not (tmp_path / "results").exists()


def test_bad_usage_that_a_trial_finds_ends_the_search_with_its_line(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bo_distill.search.execution import tune as execution

    search = execution.StudySearch(Conductor(begin(storage, "random", 3)))
    assert search.suggest("t") is not None
    with pytest.raises(UsageError, match="too small"):
        search.lost("t", UsageError("too small; give more"))
    assert isinstance(search.problem, UsageError)
    begun = execution.StudySearch(Conductor(begin(Storage(f"{storage.uri}-full"), "random", 3)))

    def full(*_: Any) -> None:
        raise UsageError("full")

    monkeypatch.setattr(Storage, "write_bytes", full)
    with pytest.raises(UsageError, match="full"):
        begun.suggest("t")
    assert isinstance(begun.problem, UsageError)


def test_a_trial_that_found_the_gpu_full_runs_again_when_it_has_it_alone(storage: Storage) -> None:
    from bo_distill.search.execution import tune as execution

    search = execution.StudySearch(Conductor(begin(storage, "random", 4)))
    one, _ = (search.suggest(name)["job"]["number"] for name in ("one", "two"))
    search.lost("one", torch.OutOfMemoryError("CUDA out of memory"))
    assert [search.suggest(name)["job"]["number"] for name in ("three", "four")] == [2, 3], "the others go on"
    assert search.suggest("none") is None, "it would find the same neighbours"
    for name in ("two", "three", "four"):
        search.on_trial_complete(name, {"outcome": json.dumps(asdict(Outcome(val={"accuracy": 0.5})))})
    assert search.suggest("again")["job"]["number"] == one
    study = search.conductor.study
    assert [trial.deaths for trial in study.trials[:4]] == [1, 0, 0, 0]


def test_a_lost_trial_took_the_time_since_it_was_handed_out(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    conductor = Conductor(begin(storage, "random", 1))
    now = 1e9
    monkeypatch.setattr(time, "time", lambda: now)
    trial = conductor.ask()
    assert trial
    trial.asked, now = now - 500, now + 30  # it waited before
    for _ in range(ATTEMPTS):
        conductor.lost(trial, RuntimeError())
        trial = conductor.ask() if conductor.waiting else trial
    row = next(iter(from_table(read(storage))))
    assert (row.status, row.seconds, row.device, row.precision) == ("failed", 30.0, "cpu", "float32")
