"""A name in a storage that one process holds alone, on whatever machine.

    with locked(storage, "studies/s/.lock") as lock:
        lock.check()  # before a write that only the holder may make

On a file system the system's own lock is used: it is freed when its holder dies, and kept while its holder is stopped.
On an object store the lock is an object that is only ever replaced by a conditional put: the holder renews it every
`HEARTBEAT` seconds, and whoever sees it unchanged for three of them takes it over with the next generation. A holder
that was asleep meanwhile finds out with its next renewal, and before it writes by `Lock.check`. Clocks of different
machines are never compared.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any

from bo_distill.distributed.storage import Conflict, Storage
from bo_distill.methods.errors import UsageError

log = logging.getLogger(__name__)

HEARTBEAT = 5.0  # seconds between two renewals
PATIENCE = 5.0  # seconds of waiting that need no explanation

purpose: ContextVar[str] = ContextVar("purpose", default="")
"""What this process does, such as "trial 3 of STUDY": who waits for one of its locks is told so."""


class Taken(Exception):
    """Another process holds the lock; the message says which, and how to break the lock if that process is gone."""


class LockLost(UsageError):
    """Another process took the lock over, as this one gave no sign of life. It may write nothing more."""


class Lock:
    """A lock that this process holds.

    Attributes:
        generation: how often the lock was taken, this time included; 0 on a file system, where nobody can take it over.
    """

    generation = 0

    def check(self) -> None:
        """Make sure that this process still holds the lock.

        Raises:
            LockLost: it does not.
        """


@contextlib.contextmanager
def locked(storage: Storage, name: str, *, wait: bool = False, what: str = "") -> Iterator[Lock]:
    """Hold `name` alone.

    Args:
        name: of the lock's file; it starts with a dot, so that no listing shows it.
        wait: for another holder to let go; after `PATIENCE` seconds it is said for whom. Otherwise refuse at once.
        what: it guards, for that line; its name by default.

    Raises:
        Taken: another process holds it and `wait` is false.
        UsageError: the storage cannot be written.
    """
    if storage.is_local:
        with _file_lock(storage, name, wait, what or name) as lock:
            yield lock
        return
    lease = _Lease(storage, name, what or name)
    lease.acquire(wait)
    try:
        yield lease
    finally:
        lease.release()


def _me() -> dict[str, Any]:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": now, "purpose": purpose.get()}


def _holder(words: Mapping[str, Any]) -> str:
    if "pid" not in words or "host" not in words:
        return "another process"
    process = f"process {words['pid']} on {words['host']} since {words.get('since')}"
    return f"{words['purpose']} ({process})" if words.get("purpose") else process


@contextlib.contextmanager
def _file_lock(storage: Storage, name: str, wait: bool, what: str) -> Iterator[Lock]:
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

    path = storage.local_path(name)
    owner = path.with_name(f"{path.name}.owner")  # not in the lock's own file, which every attempt empties
    lock: BaseFileLock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=PATIENCE if wait else 0)
        except NotImplementedError:  # this file system has no locks: a file that exists is held
            lock = SoftFileLock(path)
            lock.acquire(timeout=PATIENCE if wait else 0)
    except Timeout:
        holder = _holder(_read_owner(owner))
        if not wait:
            raise Taken(f"held by {holder}; wait for it, end it, or delete {path} if it is gone") from None
        remedy = f"; delete {path} if that is gone" if isinstance(lock, SoftFileLock) else ""
        log.warning("waiting for %s, held by %s%s", what, holder, remedy)
        lock.acquire()
    except OSError as error:
        raise storage.not_writable(error) from error
    try:
        with contextlib.suppress(OSError):
            owner.write_text(json.dumps(_me()))
        yield Lock()
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        lock.release()


def _read_owner(path: Path) -> dict[str, Any]:
    try:
        words = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return words if isinstance(words, dict) else {}


class _Lease(Lock):
    """A lock on an object store: JSON of its holder and generation, replaced by conditional puts alone."""

    def __init__(self, storage: Storage, name: str, what: str) -> None:
        self.storage, self.name, self.what = storage, name, what
        self.own = {"token": uuid.uuid4().hex, **_me()}
        self.version = ""
        self.beats = 0
        self.renewed = 0.0
        self.lost = False
        self.guard, self.ended = threading.Lock(), threading.Event()

    def acquire(self, wait: bool) -> None:
        """Take the lock once its holder lets go or gives no sign of life; without `wait`, refuse if it is held."""
        said = not wait
        while not self._try():
            found, version = self._read()
            if not found:
                continue
            time.sleep(3 * HEARTBEAT)
            again, later = self._read()
            if later == version and self._take(again, later):
                break
            if later != version and found.get("token") == again.get("token"):
                if not wait:
                    path = self.storage.path(self.name)
                    raise Taken(f"held by {_holder(again)}; wait for it, end it, or delete {path} if it is gone")
                if not said:
                    log.warning("waiting for %s, held by %s", self.what, _holder(again))
                    said = True
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()

    def _try(self) -> bool:
        """Take a lock that is free."""
        found, version = self._read()
        return not found.get("token") and self._take(found, version)

    def _read(self) -> tuple[dict[str, Any], str]:
        try:
            content, version = self.storage.read_versioned(self.name)
        except FileNotFoundError:
            return {}, ""
        except OSError as error:
            raise self.storage.not_writable(error) from error
        try:
            words = json.loads(content)
        except ValueError:  # damaged: nobody can renew it, so it is taken over
            words = {"token": "unreadable"}
        return words if isinstance(words, dict) else {"token": "unreadable"}, version

    def _take(self, found: Mapping[str, Any], version: str) -> bool:
        generation = found.get("generation", 0)
        self.generation = (generation if isinstance(generation, int) else 0) + 1
        self.version = version
        try:
            self._renew()
        except Conflict:
            return False
        return True

    def _renew(self, **changes: Any) -> None:
        sent = time.monotonic()  # others may see it, and count from there, long before its answer is here
        try:
            self._put(changes)
        except Conflict:
            found, version = self._read()
            if found.get("token") != self.own["token"]:
                raise
            self.version = version  # of an earlier put, whose answer was lost
            sent = time.monotonic()
            self._put(changes)
        self.renewed = sent

    def _put(self, changes: Mapping[str, Any]) -> None:
        self.beats += 1  # no two contents are equal, so no two versions are
        words = {**self.own, "generation": self.generation, "beat": self.beats, **changes}
        self.version = self.storage.write_versioned(self.name, json.dumps(words).encode(), self.version)

    def _beat(self) -> None:
        while not self.ended.wait(HEARTBEAT):
            self._renew_or_lose()

    def _renew_or_lose(self) -> None:
        with self.guard:
            if self.lost or self.ended.is_set():
                return
            try:
                self._renew()
            except Conflict:
                self.lost = True
            except UsageError as error:  # a network that fails for a moment; the next renewal may come through
                log.warning("%s could not be renewed: %s", self.name, error)

    def check(self) -> None:
        """LockLost if another process may have taken over."""
        if time.monotonic() - self.renewed > 2 * HEARTBEAT:
            self._renew_or_lose()
        if self.lost or time.monotonic() - self.renewed > 3 * HEARTBEAT:
            raise LockLost(
                f"{self.storage.path(self.name)} was taken over by another process while this one gave no sign of "
                "life; this one stops, and what it had kept is there"
            )

    def release(self) -> None:
        """Leave the lock free. The object stays, for the next generation to be counted on."""
        self.ended.set()
        self.thread.join()
        with contextlib.suppress(Conflict, UsageError):
            if not self.lost:
                self._renew(token="", pid=None)
