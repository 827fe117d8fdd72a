"""Trials in processes of this machine, without Ray."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import TYPE_CHECKING

from bo_distill.methods.errors import UsageError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from multiprocessing.sharedctypes import Synchronized

    from bo_distill.search.study.records import Job, Outcome, Task


class _Aside(SpawnProcess):
    """A fresh process that is told of no script to import: one that searches without a guard would search in it."""

    def start(self) -> None:
        """Start it; what it runs must be importable by name."""
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = script


class Fresh(SpawnContext):
    """`multiprocessing` with processes that neither copy this one, whose threads a fork would copy half, nor run its
    script again."""

    Process = _Aside


def quiet_trial(task: Task, job: Job, until: float | None) -> Outcome:
    """What a process of the pool does; its epochs are in the outcome."""
    from bo_distill.search.execution.trial import attempt

    try:
        return attempt(task, job, lambda row: None, until)
    except UsageError:
        raise
    except Exception:  # of the GPU, which only a fresh process can use
        traceback.print_exc()
        os._exit(1)


def begin(number: Synchronized[int]) -> None:
    """Let a process of the pool end when the one that started it is killed, and give it a GPU, each in turn.

    Args:
        number: of the processes that began before this one.
    """
    import torch

    with number.get_lock():
        own, number.value = number.value, number.value + 1
    if torch.cuda.is_available():
        torch.cuda.set_device(own % torch.cuda.device_count())
    parent = multiprocessing.parent_process()

    def watch() -> None:
        """Wait for the parent to end, then end."""
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def pool_of(count: int) -> ProcessPoolExecutor:
    """So many fresh processes."""
    context = Fresh()
    return ProcessPoolExecutor(count, context, begin, (context.Value("i", 0),))


def _end_all_but(others: Sequence[BaseProcess]) -> None:
    """End the processes that this one began after these: a program that searches may have some of its own."""
    for process in multiprocessing.active_children():
        if process not in others:
            process.terminate()


@contextmanager
def side_by_side(count: int) -> Iterator[ProcessPoolExecutor]:
    """So many fresh processes; what they still do is given up when the block ends, and when this process does."""
    others = multiprocessing.active_children()
    with pool_of(count) as pool:
        try:
            yield pool
        finally:
            _end_all_but(others)


class Pool:
    """Processes that train side by side, and new ones where one of them was killed."""

    def __init__(self, processes: int) -> None:
        self.processes, self.others = processes, multiprocessing.active_children()
        self.start()

    def start(self) -> None:
        """Start the processes, anew where there were some."""
        self.executor = pool_of(self.processes)

    def submit(self, task: Task, job: Job, until: float | None = None) -> Future[Outcome]:
        """Run a trial; one that the time `until` cuts short ends as interrupted, and can go on.

        Where a process was killed since the last of them ended, this one is lost with those that ran beside it.
        """
        try:
            return self.executor.submit(quiet_trial, task, job, until)
        except BrokenProcessPool as error:
            lost: Future[Outcome] = Future()
            lost.set_exception(error)
            return lost

    def ended(self, running: Iterable[Future[Outcome]], until: float = math.inf) -> set[Future[Outcome]]:
        """Those that have ended, once one has; none where the time `until` comes first.

        Where a process was killed the executor breaks, and all are lost.
        """
        timeout = None if until == math.inf else max(0.0, until - time.time())
        ended = wait(running, timeout, return_when=FIRST_COMPLETED).done
        if any(isinstance(future.exception(), BrokenProcessPool) for future in ended):
            ended = wait(running).done
            self.executor.shutdown()
            self.start()
        return ended

    def close(self) -> None:
        """End all processes now. What they train can go on from its last checkpoint."""
        _end_all_but(self.others)
        self.executor.shutdown(cancel_futures=True)
