"""The storage on an object store: a server that speaks S3, in a process of its own on this machine."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from bo_distill.distributed.cache import StageCache, encode
from bo_distill.distributed.locks import Lock, LockLost
from bo_distill.distributed.loop import Stopped
from bo_distill.distributed.pipeline import run_stages
from bo_distill.distributed.storage import Storage
from bo_distill.distributed.worker import LocalWorker
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import State
from bo_distill.search.rows.compaction import compact, verify
from bo_distill.search.rows.files import write_row
from bo_distill.search.rows.row import Row, from_table
from bo_distill.search.rows.sql import read
from bo_distill.search.run import main
from bo_distill.search.study.ledger import Study
from helpers.made_up import made_up
from helpers.tiny import tiny_images
from helpers.trivial import METHOD, accuracy

ROOT = Path(__file__).resolve().parents[2]


def row(study: str, trial: int) -> Row:
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=trial)
    return Row(
        study=study, trial=trial, phase="search", method="trivial", searcher="random", data="digits",
        data_fingerprint="0", recipe="quick", seed=0, config={"only.x": trial / 100}, status="done", seconds=1.0,
        device="cpu", precision="float32", python="3", torch="2", started=now, finished=now, version="0",
    )  # fmt: skip


def test_files_come_and_go(bucket: str) -> None:
    storage = Storage(bucket)
    storage.check_writable()
    assert storage.list() == [] and not storage.exists("a")
    storage.write_bytes("a/one.json", b"first")
    storage.write_bytes("a/one.json", b"second")
    storage.write_bytes("a/b/two.gz", b"as it is")
    assert storage.list() == ["a/b/two.gz", "a/one.json"] and storage.list("a/b") == ["a/b/two.gz"]
    assert storage.read_bytes("a/one.json") == b"second" and storage.read_bytes("a/b/two.gz") == b"as it is"
    storage.move("a/one.json", "c/one.json")
    assert storage.list() == ["a/b/two.gz", "c/one.json"]
    storage.delete("c/one.json")
    storage.delete("c/one.json")
    assert storage.list() == ["a/b/two.gz"]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("c/one.json")
    with pytest.raises(FileNotFoundError):
        storage.move("c/one.json", "d/one.json")


def test_a_large_object_comes_in_one_piece(bucket: str) -> None:
    storage, content = Storage(bucket), bytes(12 * 2**20)  # from 5 MB on, obstore would send it in parts
    storage.write_bytes("a/b", content)
    assert storage.list() == ["a/b"] and storage.read_bytes("a/b") == content
    _, version = storage.read_versioned("a/b")
    assert "-" not in version, "the tag of an object that came in parts ends in their number"


def test_an_address_with_a_key_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="AWS_SECRET_ACCESS_KEY") as refused:
        Storage("s3://key:sesame@bucket/results")
    assert "sesame" not in str(refused.value)


def test_a_bucket_that_is_not_there_is_refused_in_one_line(bucket: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fsp", "--storage=s3://no-such-bucket/results"]) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: --storage s3://no-such-bucket/results cannot be") and said.count("\n") == 1


def _write(uri: str, study: str, first: int, count: int) -> None:
    storage = Storage(uri)
    for trial in range(first, first + count):
        write_row(storage, row(study, trial))


def test_writers_that_write_at_once_lose_no_row(bucket: str) -> None:
    context = multiprocessing.get_context("spawn")
    # Two studies, two processes each; the last of a study's writers writes rows that the first has written too.
    work = [("a", 0, 15), ("a", 10, 15), ("b", 0, 15), ("b", 10, 15)]
    processes = [context.Process(target=_write, args=(bucket, *task)) for task in work]
    for process in processes:
        process.start()
    storage = Storage(bucket)
    while any(process.is_alive() for process in processes):
        compact(storage)  # beside them
        time.sleep(0.5)
    assert all(process.exitcode == 0 for process in processes)
    compact(storage)
    table = read(storage)
    assert sorted(zip(table["study"].to_pylist(), table["trial"].to_pylist(), strict=True)) == [
        (study, trial) for study in "ab" for trial in range(25)
    ]
    assert verify(storage) == []
    assert {r.config["only.x"] for r in from_table(table)} == {trial / 100 for trial in range(25)}


def test_a_truncated_row_is_set_aside_and_the_rest_kept(bucket: str) -> None:
    storage = Storage(bucket)
    _write(bucket, "a", 0, 3)
    name = storage.list("leaderboard/rows")[1]
    storage.write_bytes(name, storage.read_bytes(name)[:-9])
    assert read(storage)["trial"].to_pylist() == [0, 2]
    assert len(storage.list("leaderboard/quarantine")) == 1


@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_truncated_stage_is_computed_again(bucket: str, length: int) -> None:
    cache, content = StageCache(Storage(bucket)), encode(State({"w": torch.ones(50)}))
    cache.put("s", "key", content)
    assert cache.get("s", "key") == content
    cache.storage.write_bytes(cache.name("s", "key"), content[:length])
    assert cache.get("s", "key") is None and cache.storage.list("stages") == []


def test_training_goes_on_from_its_checkpoint(bucket: str) -> None:
    configs = METHOD.configure("quick", {"only.batch_size": 32})

    def train(uri: str, stop: int) -> tuple[list[int], Any]:
        epochs: list[int] = []

        def on_epoch(row: Any) -> bool:
            epochs.append(row["epoch"])
            return bool(row["epoch"] == stop)

        worker = LocalWorker(tiny_images(), seed=3)
        try:
            return epochs, run_stages(
                worker, METHOD, configs, StageCache(Storage(uri)), shared_seed=0, on_epoch=on_epoch
            )
        except Stopped:
            return epochs, None

    assert train(bucket, 2) == ([1, 2], None)
    left = Storage(bucket).list("stages")
    assert len(left) == 1 and left[0].endswith(".pt")
    epochs, resumed = train(bucket, 0)
    assert epochs == [1, 2, 3], "the first is told again, not trained again"
    seconds = [r["seconds"] for r in resumed.states["only"].history]
    _, whole = train(f"{bucket}-whole", 0)
    for name, tensor in whole.states["only"].tensors.items():
        assert torch.equal(tensor, resumed.states["only"].tensors[name])
    assert len(seconds) == 3 and all("progress" not in name for name in Storage(bucket).list("stages"))


def test_a_study_is_kept_and_can_be_moved(bucket: str) -> None:
    study = made_up(Storage(bucket))
    again = Study.open(Storage(bucket), study.plan.task.study)
    assert again.trials == study.trials and again.plan == study.plan and again.complete
    moved = Storage(f"{bucket}-moved")
    for name in study.storage.list():
        moved.write_bytes(name, study.storage.read_bytes(name))
    there = Study.open(moved, study.plan.task.study)
    assert there.trials == study.trials and there.outcome(0) == study.outcome(0)
    with pytest.raises(UsageError, match="none of this name"):
        Study.open(Storage(f"{bucket}-nowhere"), study.plan.task.study)


def test_a_ledger_that_does_not_follow_from_the_last_is_refused(bucket: str) -> None:
    """As where a holder that was taken for dead writes between two looks at its lock."""
    storage = Storage(bucket)
    made_up(storage, "s", trials=2)
    first, second = (Study.open(storage, "s") for _ in range(2))
    with first.locked():
        first.save()
        second._last, second._version = storage.read_versioned("studies/s/ledger.json")
        second._lock = Lock()
        second.trials = second.trials[:1]
        second.save()
        with pytest.raises(LockLost, match="study s: another process goes on with it"):
            first.save()
    assert len(Study.open(storage, "s").trials) == 1


@pytest.mark.slow
def test_two_searches_at_once_on_one_bucket(bucket: str) -> None:
    words = [
        "tests.helpers.trivial:METHOD",
        "--random",
        "--trials=2",
        "--seeds=1",
        "--concurrency=1",
        f"--storage={bucket}",
    ]
    searches = [
        subprocess.Popen(
            [sys.executable, "-m", "search.run", *words, f"--seed={seed}"], cwd=ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        ) for seed in (0, 1)
    ]  # fmt: skip
    for search in searches:
        _, said = search.communicate()
        assert search.returncode == 0, said
    rows = from_table(read(Storage(bucket)))
    assert len(rows) == 6 and len({(r.study, r.trial) for r in rows}) == 6 and len({r.study for r in rows}) == 2
    for found in rows:
        assert found.val_accuracy == pytest.approx(accuracy({"only.x": 0.5, "only.y": 0.5, **found.config}))
    assert sum(name.endswith("report.html") for name in Storage(bucket).list("studies")) == 2
