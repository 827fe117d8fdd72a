"""Trials in processes of this machine, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.study.records import Job, Outcome, Task


def quiet_trial(task: Task, job: Job) -> Outcome:
    """What a process of the pool does; its epochs are in the outcome."""
    from search.execution.trial import attempt

    return attempt(task, job, lambda row: None)


def end_with_parent() -> None:
    """Let a process of the pool end when the one that started it is killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Pool:
    """Processes that train side by side, and new ones where one of them was killed."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.start()

    def start(self) -> None:
        self.executor = ProcessPoolExecutor(self.processes, multiprocessing.get_context("spawn"), end_with_parent)

    def submit(self, task: Task, job: Job) -> Future[Outcome]:
        return self.executor.submit(quiet_trial, task, job)

    def ended(self, running: Iterable[Future[Outcome]]) -> set[Future[Outcome]]:
        """Those that have ended, once one has. Where a process was killed the executor breaks, and all are lost."""
        ended = wait(running, return_when=FIRST_COMPLETED).done
        if any(isinstance(future.exception(), BrokenProcessPool) for future in ended):
            ended = wait(running).done
            self.executor.shutdown()
            self.start()
        return ended
