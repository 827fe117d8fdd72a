"""Cleaning removes what nobody needs, and nothing that a study or a running search does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from bo_distill.distributed.cache import StageCache, encode
from bo_distill.distributed.locks import Lock, locked
from bo_distill.distributed.pipeline import stage_keys
from bo_distill.distributed.storage import Storage
from bo_distill.distributed.worker import Runtime
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import State
from bo_distill.search.api.own_data import kept
from bo_distill.search.storage import main
from bo_distill.search.study.cleaning import clean
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Plan, Task
from bo_distill.search.study.winner import stored_states
from helpers.made_up import made_up

DAY = 86_400


def aged(storage: Storage, names: Iterable[str], days: float = 1) -> None:
    for name in names:
        os.utime(storage.local_path(name), (0, time.time() - days * DAY))


def left(storage: Storage, key: str) -> list[str]:
    """A stage that nobody needs, with all that its making may leave; returns the names."""
    cache = StageCache(storage)
    with cache.lock("fsp.teacher", key):
        cache.put("fsp.teacher", key, encode(State({})))
    cache.checkpoints("fsp.teacher", key, Lock()).save("0", b"epochs")
    names = [
        f"stages/{dot}fsp.teacher-{key}{end}" for dot, end in (("", ".pt"), ("", ".progress/0.pt"), (".", ".lock"))
    ]
    aged(storage, names)
    return names


@pytest.fixture
def study(storage: Storage) -> Study:
    """One that needs all stages that are there."""
    study = made_up(storage, "s", trials=3)
    list(clean(storage))
    return study


def test_what_nobody_needs_goes_and_the_study_keeps_what_it_needs(study: Study) -> None:
    storage = study.storage
    before = {entry.name for entry in storage.entries()}
    names = left(storage, "0" * 20)
    storage.write_bytes("leaderboard/.12ab.aside", b"half")
    storage.write_bytes("stages/.34cd.aside", b"under way")
    aged(storage, ["leaderboard/.12ab.aside"])
    now = {entry.name for entry in storage.entries()}
    said = list(clean(storage, dry_run=True))
    assert {entry.name for entry in storage.entries()} == now, "a dry run only says"
    assert list(clean(storage)) == said
    assert {entry.name for entry in storage.entries()} == before | {"stages/.34cd.aside"}
    assert [removal.name for removal in said] == [
        names[0], "stages/fsp.teacher-00000000000000000000.progress", names[2], "leaderboard/.12ab.aside",
    ]  # fmt: skip
    assert said[-1].size == 4 and all(removal.size for removal in said[:2])
    for trial in study.of_phase("final"):
        stored_states(study, trial)
    assert list(clean(storage)) == []


def test_once_the_winner_is_retrained_the_search_s_own_trials_keep_what_all_share(storage: Storage) -> None:
    made_up(storage, "s", trials=3)
    before = set(storage.list("stages"))

    def last(status: str) -> None:
        study = Study.open(storage, "s")
        study.trials[-1].status = status
        study.save()

    last("running")
    list(clean(storage))
    assert set(storage.list("stages")) == before, "its search may go on"
    last("done")
    list(clean(storage))
    gone = {"stages/fsp.transfer-00transfer.pt", "stages/fsp.finetune-00finetune.pt"}
    assert set(storage.list("stages")) == before - gone


def test_what_a_running_search_needs_stays(study: Study) -> None:
    """Its trial under way looks for stages that no finished trial names, and holds the lock of another's."""
    storage, task = study.storage, study.plan.task
    study = Study.open(storage, "s")
    study.know_data()
    study.save_plan()
    running = study.trials[4]
    running.status = "running"
    study.save()
    configs = study.method.configure(task.recipe, {**task.settings, **running.job.settings})
    keys = stage_keys(study.method, configs, study.plan.fingerprint, running.job.seed, task.seed, Runtime(), 1)
    names = left(storage, keys["teacher"])
    StageCache(storage).checkpoints("fsp.transfer", keys["transfer"], Lock()).save("0", b"to go on from")
    checkpoint = f"stages/fsp.transfer-{keys['transfer']}.progress/0.pt"
    aged(storage, [checkpoint])
    computing = left(storage, "c" * 20)
    with study.locked(), StageCache(storage).lock("fsp.teacher", "c" * 20):
        list(clean(storage))
        assert storage.exists(names[0]) and storage.exists(checkpoint)
        assert all(map(storage.exists, computing)), "another process is at work on it"
        assert not storage.exists(names[1]), "what led to a result goes"
    assert {removal.name for removal in clean(storage)} >= {computing[0], computing[2]}
    assert storage.exists(names[0]) and storage.exists(checkpoint)


def test_fresh_checkpoints_stay(storage: Storage) -> None:
    StageCache(storage).checkpoints("fsp.teacher", "a", Lock()).save("0", b"epochs")
    assert list(clean(storage)) == []
    aged(storage, ["stages/fsp.teacher-a.progress/0.pt"])
    assert [removal.what for removal in clean(storage)] == ["checkpoints"]


def test_age(storage: Storage) -> None:
    for key, days in (("old", 40), ("new", 20)):
        aged(storage, left(storage, key), days)
    list(clean(storage, older=30 * DAY))
    assert not storage.exists("stages/fsp.teacher-old.pt") and storage.exists("stages/fsp.teacher-new.pt")


def test_a_trial_that_begins_meanwhile_keeps_what_it_finds(study: Study) -> None:
    """Needed is asked again under the stages' locks: a trial is in the ledger before it looks for a stage."""
    storage = study.storage
    (result, *_) = left(storage, "d" * 20)
    cleaning = clean(storage)
    outcome = study.outcome(0)
    outcome.stage_keys = {"teacher": "d" * 20}

    def begins(*_: object, **__: object) -> object:
        study.save_outcome(0, outcome)
        return locked(*_, **__)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bo_distill.search.study.cleaning.locked", begins)
        list(cleaning)
    assert storage.exists(result)


def test_a_study_that_cannot_be_read_stops_it(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    storage = study.storage
    (result, *_) = left(storage, "e" * 20)
    storage.write_bytes("studies/s/study.json", b"{")
    with pytest.raises(UsageError, match="clean removes nothing; a study that is past mending"):
        list(clean(storage))
    assert storage.exists(result)
    assert main(["clean", "--unused", f"--storage={storage.uri}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    storage = study.storage
    left(storage, "f" * 20)
    assert main(["show", f"--storage={storage.uri}"]) == 0
    said = capsys.readouterr().out
    assert "fsp.teacher" in said and "unused" in said
    assert main(["clean", "--unused", "--dry-run", f"--storage={storage.uri}"]) == 0
    assert "3 would be removed, " in capsys.readouterr().out
    assert main(["clean", "--older=2d", f"--storage={storage.uri}"]) == 0
    assert capsys.readouterr().out == "0 removed, 0 bytes\n"
    assert main(["clean", "--older=12h", f"--storage={storage.uri}"]) == 0
    assert f"stages/fsp.teacher-{'f' * 20}.pt: result that no study needs, 0.00 MB\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["clean"], ["clean", "--older=x"], ["clean", "--older=1d", "--unused"], ["show", "--unused"]]
)
def test_bad_words_are_one_line(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, f"--storage={tmp_path}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["show", f"--storage={tmp_path / 'none'}"]) == 2
    assert not (tmp_path / "none").exists()


def test_a_study_s_own_ledger_is_asked(study: Study) -> None:
    (result, *_) = left(study.storage, "a" * 20)
    outcome = study.outcome(1)
    outcome.stage_keys = {"teacher": "a" * 20}
    study.save_outcome(1, outcome)
    assert json.loads(study.storage.read_bytes("studies/s/trials/1.json"))["stage_keys"]
    list(clean(study.storage))
    assert study.storage.exists(result)


def test_signs_that_stopped_a_trial_go_once_nobody_runs_the_study(study: Study) -> None:
    sign = "studies/s/stop/3"
    study.storage.write_bytes(sign, b"")
    with study.locked():
        assert list(clean(study.storage)) == []
    assert [removal.name for removal in clean(study.storage, dry_run=True)] == [sign] and study.storage.exists(sign)
    assert [removal.name for removal in clean(study.storage)] == [sign] and not study.storage.exists(sign)


def test_a_study_that_has_not_noted_its_data_keeps_what_it_will_look_for(study: Study) -> None:
    """As one of version 0.1: what its next trial shares with the others is known by the data itself."""
    assert not study.plan.fingerprint
    study.trials[4].status = "running"
    study.save()
    task, running = study.plan.task, study.trials[4].job
    configs = study.method.configure(task.recipe, {**task.settings, **running.settings})
    keys = stage_keys(study.method, configs, study.info.fingerprint, running.seed, task.seed, Runtime(), 1)
    (result, *_) = left(study.storage, keys["teacher"])
    list(clean(study.storage))
    assert study.storage.exists(result)


def test_rows_that_a_program_handed_over_go_with_the_last_study_of_them(storage: Storage) -> None:
    images, labels = np.arange(64, dtype=np.uint8).reshape(16, 2, 2), [*"ab"] * 8
    used, place = kept((images, labels), storage)
    kept((images[::-1], labels), storage)
    task = Task("s", "fsp", "quick", DataSpec(used, directory=place), {}, storage.uri, 0)
    Study(storage, Plan(task, "random", (), 1, fingerprint="known")).save_plan()
    assert list(clean(storage)) == [], "a study of them may be about to be written"
    aged(storage, storage.list("arrays"))
    gone = {removal.name for removal in clean(storage)}
    assert len(gone) == 2 and all(used.partition(":")[2] in name for name in storage.list("arrays"))
    storage.delete_folder("studies/s")
    assert len(list(clean(storage))) == 2 and not storage.list("arrays")
