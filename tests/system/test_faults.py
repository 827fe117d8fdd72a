"""What is lost when something dies: nothing that was finished."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, RayTaskError

from bo_distill.distributed.cache import StageCache
from bo_distill.distributed.loop import Stopped
from bo_distill.distributed.pipeline import run_stages
from bo_distill.distributed.storage import Storage
from bo_distill.distributed.worker import LocalWorker
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError
from bo_distill.search.execution import trainable
from bo_distill.search.execution.tune import LostTrials, StudySearch
from bo_distill.search.rows.compaction import verify
from bo_distill.search.run import main
from bo_distill.search.study.conductor import Conductor, Finished
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import ATTEMPTS, Job, Outcome, Plan, Task
from helpers.running import TRIVIAL, named, rows_of, run, start, study_of, until
from helpers.tiny import tiny_images
from helpers.trivial import METHOD, accuracy


class Killed(BaseException):
    """Stands for SIGKILL: nothing that is in memory is seen again."""


def begin(storage: Storage, searcher: str, trials: int, name: str = "s") -> Study:
    task = Task(name, TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 0, "float32")
    study = Study(storage, Plan(task, searcher, ("only.x", "only.y"), trials, seeds=1))
    study.save_plan()
    return study


def carry_on(storage: Storage) -> Study:
    """Run what is left of the study without Ray; trials take no time and find what the formula says."""
    study = Study.open(storage, "s")
    conductor = Conductor(study)
    while True:
        try:
            trial = conductor.ask()
        except Finished:
            return study
        assert trial
        found = {"accuracy": 0.5} if trial.job.phase == "final" else {}
        value = accuracy({"only.x": 0.5, "only.y": 0.5, **trial.job.settings})
        conductor.settle(trial, Outcome(val={"accuracy": value}, test=found, started=time.time(), seconds=1.0))


def settings(study: Study) -> list[tuple[str, Any]]:
    return [(trial.job.phase, dict(trial.job.settings)) for trial in study.trials]


@pytest.mark.parametrize(("searcher", "trials", "from_write"), [("random", 3, 0), ("bo", 6, 26)])
def test_a_kill_at_any_write_changes_nothing(
    searcher: str, trials: int, from_write: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ledger, details and row of every trial are written; the process ends before each of these in turn."""
    whole = Storage(tmp_path / "whole")
    begin(whole, searcher, trials)
    expected = carry_on(whole)
    assert expected.complete and len(expected.trials) == trials + 1
    write, move = Storage.write_bytes, Storage.move
    count, last = 0, 0

    def dying(real: Callable[..., None]) -> Callable[..., None]:
        def act(*words: Any) -> None:
            nonlocal count
            count += 1
            if count == last:
                raise Killed
            real(*words)

        return act

    last = from_write
    while True:
        last += 1
        count = 0
        storage = Storage(tmp_path / f"{last}")
        begin(storage, searcher, trials)
        with monkeypatch.context() as patch:
            patch.setattr(Storage, "write_bytes", dying(write))
            patch.setattr(Storage, "move", dying(move))
            try:
                carry_on(storage)
            except Killed:
                pass
            else:
                break
        study = carry_on(storage)
        assert settings(study) == settings(expected), f"killed before write {last}"
        assert study.complete and [t.val_accuracy for t in study.trials] == [t.val_accuracy for t in expected.trials]
        assert [row.trial for row in rows_of(storage.uri)] == list(range(trials + 1))
    assert last > 6 * (trials + 1), "all writes had their turn"


def test_a_clock_that_jumps_back_leaves_sound_rows(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(storage, "random", 4)
    now, real = time.time() + 10**6, time.time

    def falling() -> float:
        nonlocal now
        now -= 3600
        return now

    monkeypatch.setattr(time, "time", falling)
    study = carry_on(storage)
    monkeypatch.setattr(time, "time", real)
    assert study.complete and verify(storage) == []
    rows = rows_of(storage.uri)
    assert [row.trial for row in rows] == list(range(5))
    assert all(row.queue_seconds >= 0 and row.finished >= row.started for row in rows)


@pytest.mark.parametrize("keep", [0, 50, -3])
def test_a_truncated_ledger_costs_its_last_event(
    keep: int, storage: Storage, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(storage, "bo", 3)
    expected = carry_on(storage)
    ledger = f"{expected.folder}/ledger.json"
    storage.write_bytes(ledger, storage.read_bytes(ledger)[:keep])
    before = Study.open(storage, "s")
    assert "ledger.json cannot be read" in capfd.readouterr().err
    assert [trial.finished for trial in before.trials] == [True, True, True, False]
    study = carry_on(storage)
    assert settings(study) == settings(expected) and study.complete
    assert [row.trial for row in rows_of(storage.uri)] == list(range(4))


def test_a_study_that_cannot_be_read_is_one_line(storage: Storage, capfd: pytest.CaptureFixture[str]) -> None:
    begin(storage, "bo", 3)
    carry_on(storage)
    for name in ("ledger.json", "ledger.previous.json"):
        storage.write_bytes(f"studies/s/{name}", b'{"trials": [')
    assert main(["--resume=s", f"--storage={storage.uri}"]) == 2
    said = capfd.readouterr().err
    assert "ledger.json cannot be read" in said and "restore it from a copy" in said and said.count("\n") == 1
    storage.write_bytes("studies/s/study.json", b"{")
    assert main(["--resume=s", f"--storage={storage.uri}"]) == 2
    assert "study.json cannot be read" in capfd.readouterr().err


def test_a_truncated_checkpoint_costs_its_epochs_only(storage: Storage) -> None:
    configs = METHOD.configure("quick", {"only.batch_size": 32})

    def train(cache: StageCache, stop: int) -> Any:
        try:
            worker = LocalWorker(tiny_images(), seed=3)
            return run_stages(worker, METHOD, configs, cache, shared_seed=0, on_epoch=lambda r: r["epoch"] == stop)
        except Stopped:
            return None

    assert train(StageCache(storage), 3) is None
    (left,) = storage.list("stages")
    storage.write_bytes(left, storage.read_bytes(left)[:1000])
    again = train(StageCache(storage), 0)
    whole = train(StageCache(Storage(f"{storage.uri}-whole")), 0)
    for name, tensor in whole.states["only"].tensors.items():
        assert torch.equal(tensor, again.states["only"].tensors[name])


def test_a_second_driver_is_refused(storage: Storage, capfd: pytest.CaptureFixture[str]) -> None:
    begin(storage, "random", 3)
    with Study.open(storage, "s").locked():
        assert main(["--resume=s", f"--storage={storage.uri}"]) == 2
        assert "study s: another process is running it" in capfd.readouterr().err


def test_a_node_that_is_lost_uses_up_no_retry(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    lost_nodes = [True, True, False, True, True, False, True, False]
    monkeypatch.setattr("bo_distill.search.execution.tune.node_lost", lambda error: lost_nodes.pop(0))
    search = StudySearch(Conductor(begin(storage, "random", 1)))
    deaths = []
    while lost_nodes:
        job = search.suggest("tune's")["job"]
        assert job["number"] == 0
        search.lost("tune's", ActorDiedError())
        deaths.append(Study.open(storage, "s").trials[0].deaths)
    assert deaths == [0, 0, 1, 1, 1, 2, 2, 3] and max(deaths) == ATTEMPTS
    (trial,) = Study.open(storage, "s").trials
    assert trial.status == "failed" and trial.reason == "its process died 3 times: killed, or out of memory"
    (row,) = rows_of(storage.uri)
    assert row.reason == trial.reason


def test_a_storage_that_fails_ends_the_search_and_not_the_trial(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = StudySearch(Conductor(begin(storage, "random", 2)))
    search.suggest("one's")
    search.suggest("two's")
    with pytest.raises(UsageError, match=r"^full for the trial$"):
        search.lost("one's", RayTaskError("train", "Traceback ...", UsageError("full for the trial")))

    def full(*_: Any) -> None:
        raise UsageError("full for the driver")

    monkeypatch.setattr(Storage, "write_bytes", full)
    with pytest.raises(UsageError):
        search.on_trial_complete("two's", {"outcome": json.dumps(dataclasses.asdict(Outcome()))})
    # Tune catches that and calls it the trial's error.
    with pytest.raises(UsageError, match="full for the driver"):
        LostTrials(search, "here").on_trial_error(0, [], None)
    assert not any(trial.finished for trial in Study.open(storage, "s").trials)


def test_a_trial_whose_process_ray_cannot_start_is_run_again(storage: Storage, tmp_path: Path) -> None:
    """Tune keeps no error to load then."""
    search = StudySearch(Conductor(begin(storage, "random", 1)))
    words = tmp_path / "error.txt"
    words.write_text("Failure # 1 (occurred at 12:00)\nFailed to startup worker\nafter retrying 5 times.\n")
    for attempt in range(ATTEMPTS):
        search.suggest(str(attempt))
        trial = SimpleNamespace(trial_id=str(attempt), pickled_error_file=None, error_file=str(words))
        LostTrials(search, "here").on_trial_error(0, [], trial)
    (trial_of_study, *_) = Study.open(storage, "s").trials
    assert trial_of_study.status == "failed"
    assert trial_of_study.reason == "RuntimeError: Failed to startup worker after retrying 5 times."


def test_what_a_rank_says_that_the_user_can_mend_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in one process: Ray Train's error of a group of workers holds what each of them raised."""
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    class Crew:
        def perform(self, *_: Any) -> None:
            raise WorkerGroupError("two lines", {1: UserExceptionWithTraceback(UsageError("full"), "Traceback ...")})

    monkeypatch.setattr(trainable, "alive", dict)
    monkeypatch.setattr(trainable.Crew, "of", lambda task: Crew())
    with pytest.raises(UsageError, match=r"^full$"):
        trainable.on_workers({"job": dataclasses.asdict(Job(0, "search", {}, 0))}, None)  # type: ignore[arg-type]


def test_a_search_whose_node_is_gone_ends(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray mostly ends the search itself. Where it does not, Tune would wait for ever for a place for the next trial."""
    search = StudySearch(Conductor(begin(storage, "random", 2)))
    freed: list[int] = []
    monkeypatch.setattr("bo_distill.search.execution.tune.free_orphans", lambda: freed.append(1))
    monkeypatch.setattr("bo_distill.search.execution.tune.alive", lambda: {"here": {}})
    LostTrials(search, "here").on_step_begin(0, [])
    assert freed == [1]
    monkeypatch.setattr("bo_distill.search.execution.tune.alive", lambda: {"elsewhere": {}})
    with pytest.raises(SystemExit, match="is gone; go on with --resume s --storage"):
        LostTrials(search, "here").on_step_begin(0, [])


def test_trials_that_fail_are_rows_with_their_reasons(tmp_path: Path) -> None:
    """One search whose grid is the faults; `killed once` kills the process of its first attempt."""
    code, said = run(TRIVIAL, "--grid", "--search=only.fault", "--seeds=1", "--quiet", storage=tmp_path)
    assert (code, said) == (3, ""), "finished, with failed trials"
    study, rows = study_of(tmp_path), {row.config["only.fault"]: row for row in rows_of(tmp_path)[:-1]}
    found = {fault: (row.status, row.reason) for fault, row in rows.items()}
    assert found["none"] == found["killed once"] == ("done", None)
    assert found["nan"] == ("failed", "diverged: only: the loss is nan in epoch 3 at learning rate 0.025")
    assert found["inf"] == ("failed", "diverged: only: the loss is inf in epoch 3 at learning rate 0.025")
    assert found["error"] == ("failed", "RuntimeError: told to fail")
    assert found["killed"] == ("failed", "its process died 3 times: killed, or out of memory")
    assert found["memory"][0] == "failed" and "can't allocate memory" in str(found["memory"][1])
    assert len(study.trials) == 8 and study.complete and [row.trial for row in rows_of(tmp_path)] == list(range(8))
    deaths = {str(trial.job.settings["only.fault"]): trial.deaths for trial in study.trials[:7]}
    assert deaths == {**dict.fromkeys(deaths, 0), "killed once": 1, "killed": ATTEMPTS}
    (again,) = (trial for trial in study.trials if trial.job.settings["only.fault"] == "killed once")
    processes = [epoch["process"] for epoch in study.outcome(again.job.number).history]
    assert len(processes) == 3 and len(set(processes)) == 2, "it went on from its last checkpoint in another process"


DYING_IN_A_ROW = """
import os, signal, sys
replace = os.replace
def dying(source, target):
    if "leaderboard/rows" in str(target) and any(target.parent.glob("*.parquet")):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = dying
from bo_distill.search.run import main
sys.exit(main(sys.argv[1:]))
"""


def check_resumed(storage: Path, trials: int, before: Study) -> None:
    """Resume the study; all of its trials are there once, and what was finished before is as it was."""
    code, said = run(f"--resume={before.plan.task.study}", storage=storage)
    assert code == 0, said
    study = study_of(storage)
    assert study.complete and [row.trial for row in rows_of(storage)] == list(range(trials))
    for earlier in before.trials:
        if earlier.finished:
            assert study.trials[earlier.job.number] == earlier
    from bo_distill.search.searchers.random import random_point

    fields = METHOD.fields()
    space = {name: fields[name].domain for name in study.plan.space}
    for trial in study.of_phase("search"):
        assert {name: trial.job.settings[name] for name in space} == random_point(space, 0, trial.job.number)
        assert trial.val_accuracy == pytest.approx(accuracy(trial.job.settings))


RANDOM = (TRIVIAL, "--random", "--trials=3", "--seeds=1", "--concurrency=1")


@pytest.mark.slow
def test_a_driver_killed_in_the_middle_of_a_row(tmp_path: Path) -> None:
    code, _ = run(*RANDOM, storage=tmp_path, program=("-c", DYING_IN_A_ROW))
    assert code == -signal.SIGKILL
    rows = tmp_path / "leaderboard" / "rows"
    assert len(list(rows.glob("*.parquet"))) == 1 and len(list(rows.glob(".*.aside"))) == 1, "one whole, one half"
    before = study_of(tmp_path)
    assert [trial.status for trial in before.trials] == ["done", "running"]
    check_resumed(tmp_path, 4, before)


@pytest.mark.slow
def test_a_head_that_dies_ends_the_search_and_it_resumes(tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    process = start(*RANDOM, "--set=only.pause=0.5", storage=tmp_path, env=environment)
    until(lambda: rows_of(tmp_path), process)
    (head,) = named(process.pid, "gcs_server")
    os.kill(head, signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode not in (0, 3)
    check_resumed(tmp_path, 4, study_of(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim", ["a worker, by itself", "ray::RayTrainWorker", "ray::TrainController", "ray::ImplicitFunc"]
)
def test_a_process_of_a_trial_of_two_workers_dies(victim: str, tmp_path: Path) -> None:
    """A worker, Ray Train's controller or the trial's own: the trial goes on, and the next one does not wait."""
    alone = victim.startswith("a worker")
    fault = ("--set=only.fault=killed once", "--set=only.rank=1") if alone else ("--set=only.pause=1",)
    process = start(TRIVIAL, "--random", "--trials=1", "--seeds=1", "--workers=2", *fault, storage=tmp_path)
    if not alone:
        until(lambda: Storage(tmp_path).list("stages"), process)  # it has trained for an epoch
        os.kill(named(process.pid, victim)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    study = study_of(tmp_path)
    assert [(trial.status, trial.deaths > 0) for trial in study.trials] == [("done", True), ("done", alone)]
    assert [row.trial for row in rows_of(tmp_path)] == [0, 1]
    processes = [epoch["process"] for epoch in study.outcome(0).history]
    assert len(processes) == 3 and len(set(processes)) == 2, "it went on from its last checkpoint"


@pytest.mark.slow
def test_a_disk_that_is_full_ends_the_search_in_one_line(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"no small disk can be made here: {mount.stderr.strip()}")
    try:
        process = start(*RANDOM, "--set=only.pause=0.5", "--quiet", storage=disk)
        until(lambda: rows_of(disk), process)
        with open(disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
            while True:
                filler.write(bytes(4096))
        _, said = process.communicate(timeout=200)
        assert process.returncode == 2 and said.count("\n") == 1
        assert said == f"error: --storage {disk} cannot be written: No space left on device; give a folder that can\n"
        (disk / "filler").unlink()
        check_resumed(disk, 4, study_of(disk))
    finally:
        subprocess.run(["umount", disk], check=True)
