"""Locks: one holder on a folder and on an object store, whether it is stopped, killed, or began at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bo_distill.distributed import locks
from bo_distill.distributed.locks import LockLost, Taken, locked
from bo_distill.distributed.storage import Conflict, Storage
from bo_distill.methods.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
BEAT = 0.3
HOLDER = f"""
import sys
import threading
from bo_distill.distributed import locks
from bo_distill.distributed.storage import Storage
locks.HEARTBEAT = {BEAT}
locks.purpose.set("trial 3 of s")
try:
    with locks.locked(Storage(sys.argv[1]), ".lock") as lock:
        print("held", lock.generation, flush=True)
        for line in sys.stdin:
            try:
                lock.check()
                print("mine", flush=True)
            except locks.LockLost as lost:
                print(lost, flush=True)
except locks.Taken as taken:
    print("taken", taken, flush=True)
"""


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(locks, "HEARTBEAT", BEAT)
    return Storage(tmp_path if request.param == "folder" else request.getfixturevalue("bucket"))


@contextmanager
def holder(storage: Storage) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, storage.uri], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def asked(process: subprocess.Popen[str]) -> str:
    assert process.stdin
    process.stdin.write("check\n")
    process.stdin.flush()
    return said(process)


def test_the_second_is_told_who_holds_it(place: Storage) -> None:
    with locked(place, ".lock") as lock, pytest.raises(Taken, match=rf"process {os.getpid()} on .* since .*delete"):
        lock.check()
        with locked(place, ".lock"):
            raise AssertionError
    with locked(place, ".lock"):
        assert place.list() == []  # no listing shows it


def test_of_two_that_begin_together_one_gets_it(place: Storage) -> None:
    with holder(place) as one, holder(place) as other:
        words = sorted([said(one).split()[0], said(other).split()[0]])
    assert words == ["held", "taken"]


def test_a_killed_holder_holds_nothing(place: Storage) -> None:
    with holder(place) as first:
        assert said(first).startswith("held")
    with holder(place) as second:
        assert said(second).startswith("held")


def test_a_holder_that_was_stopped_on_a_folder_still_holds_it(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with holder(storage) as first:
        assert said(first).startswith("held")
        os.kill(first.pid, signal.SIGSTOP)
        with pytest.raises(Taken, match=f"process {first.pid}"), locked(storage, ".lock"):
            raise AssertionError
        os.kill(first.pid, signal.SIGCONT)
        assert asked(first) == "mine"


def test_a_holder_that_was_stopped_on_an_object_store_finds_out(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", BEAT)
    storage = Storage(bucket)
    with holder(storage) as first:
        assert said(first) == "held 1"
        os.kill(first.pid, signal.SIGSTOP)
        with locked(storage, ".lock") as lock:
            assert lock.generation == 2
            os.kill(first.pid, signal.SIGCONT)
            assert "was taken over by another process" in asked(first)
            first.stdin.close()  # type: ignore[union-attr]
            first.wait(20)
            lock.check()  # what the first one did when it ended took nothing away
            with pytest.raises(Taken), locked(storage, ".lock"):
                raise AssertionError
    with locked(storage, ".lock") as lock:
        assert lock.generation == 3


def test_where_the_file_system_has_no_locks_a_person_can_break_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a file that exists is held, by a holder on another machine that died, too."""

    def none(lock: object, *_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", none)
    storage, file = Storage(tmp_path), tmp_path / ".lock"
    with locked(storage, ".lock") as lock, pytest.raises(Taken, match=f"process {os.getpid()} on .*delete {file}"):
        lock.check()
        with locked(storage, ".lock"):
            raise AssertionError
    assert not file.exists()
    file.write_text("1\nanother-machine\n")
    with pytest.raises(Taken, match=f"delete {file} if it is gone"), locked(storage, ".lock"):
        raise AssertionError
    file.unlink()
    with locked(storage, ".lock"):
        pass


def test_waiting_is_explained(
    place: Storage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    with holder(place) as first:
        assert said(first).startswith("held")
        threading.Timer(2, first.kill).start()
        with locked(place, ".lock", wait=True, what="stage teacher") as lock:
            lock.check()
    assert f"waiting for stage teacher, held by trial 3 of s (process {first.pid} on" in caplog.text
    assert "delete" not in caplog.text, "it is free at once when that process is gone"


def test_a_damaged_lock_is_taken_over(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.1)
    storage = Storage(bucket)
    storage.write_bytes(".lock", b"\x00garbage")
    with locked(storage, ".lock") as lock:
        lock.check()


def test_a_renewal_whose_answer_was_lost_is_known_again(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 60.0)  # this test renews by hand
    storage = Storage(bucket)
    put = storage.write_versioned

    def lost(*words: Any) -> str:
        put(*words)
        monkeypatch.setattr(storage, "write_versioned", put)
        raise UsageError("no answer")

    with locked(storage, ".lock") as lock:
        assert isinstance(lock, locks._Lease)
        monkeypatch.setattr(storage, "write_versioned", lost)
        lock._renew_or_lose()
        lock._renew_or_lose()
        lock.check()
        assert storage.read_versioned(".lock")[1] == lock.version
        storage.write_bytes(".lock", b'{"token": "another"}')
        lock._renew_or_lose()
        with pytest.raises(LockLost):
            lock.check()


def test_a_renewal_outlives_a_read_that_fails(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 60.0)  # this test renews by hand
    storage = Storage(bucket)

    def refused(*words: Any) -> str:
        raise Conflict

    def reset(name: str) -> tuple[bytes, str]:
        raise OSError("connection reset")

    with locked(storage, ".lock") as lock:
        assert isinstance(lock, locks._Lease)
        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_versioned", refused)
            patch.setattr(storage, "read_versioned", reset)
            lock._renew_or_lose()
        before = lock.version
        lock._renew_or_lose()
        lock.check()
        assert lock.version != before, "renewed, as soon as the store answers"


def test_a_lease_counts_from_when_its_renewal_was_sent(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.2)
    storage = Storage(bucket)
    put = storage.write_versioned

    def slow(*words: Any) -> str:
        answer = put(*words)
        threading.Event().wait(0.7)  # longer than three heartbeats: another process may have taken the lock over
        return answer

    with locked(storage, ".lock") as lock:
        monkeypatch.setattr(storage, "write_versioned", slow)
        assert isinstance(lock, locks._Lease)
        lock._renew_or_lose()
        with pytest.raises(LockLost):
            lock.check()
        monkeypatch.setattr(storage, "write_versioned", put)


def test_a_versioned_file_is_replaced_only_by_who_read_it_last(bucket: str) -> None:
    storage = Storage(bucket)
    first = storage.write_versioned("a", b"1", "")
    with pytest.raises(Conflict):
        storage.write_versioned("a", b"2", "")
    second = storage.write_versioned("a", b"2", first)
    with pytest.raises(Conflict):
        storage.write_versioned("a", b"3", first)
    assert storage.read_versioned("a") == (b"2", second)
    with pytest.raises(FileNotFoundError):
        storage.read_versioned("b")
