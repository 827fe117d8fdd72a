"""A trial as Ray runs it: Tune's trainable, alone or with Ray Train's workers beside it."""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

import ray
from ray import tune

from bo_distill.distributed.ranks import Ranks
from bo_distill.distributed.ray.cluster import NodeLost, alive, await_loss, dead_actors
from bo_distill.distributed.ray.private import raised_by_ranks
from bo_distill.methods.errors import UsageError
from bo_distill.methods.records import decoded
from bo_distill.search.execution.trial import attempt, perform
from bo_distill.search.study.records import Job, Outcome, Task


def in_process(config: dict[str, Any], task: Task) -> None:
    """Tune's trainable where one worker trains: here.

    Raises:
        UsageError: the storage cannot be written, which ends the search and not the trial alone.
        Exception: of the GPU, as `attempt` says.
    """
    with heard(report := lambda row: tune.report(dict(row))):
        outcome = attempt(task, decoded(Job, config["job"]), report)
    outcome.nodes = [ray.get_runtime_context().get_node_id()]
    tune.report({"outcome": json.dumps(dataclasses.asdict(outcome))})


def on_workers(config: dict[str, Any], task: Task) -> None:
    """Tune's trainable where several workers share each batch: Ray Train's, kept from trial to trial.

    Raises:
        UsageError: as `in_process`, of any rank.
        ray.train.TrainingFailedError: a worker died or failed; when one dies, the others fail too. Who counts the
            attempts runs the trial again.
        distributed.ray.cluster.NodeLost: that is why.
    """
    from ray.train import WorkerGroupError

    nodes = alive()
    crew = Crew.of(task)
    try:
        outcome = crew.perform(decoded(Job, config["job"]), lambda row: tune.report(dict(row)))
    except WorkerGroupError as error:
        for each in raised_by_ranks(error):
            if isinstance(each, UsageError):
                raise each from None
        if not dead_actors(error) and await_loss(nodes):
            raise NodeLost(str(error)) from None
        raise
    tune.report({"outcome": json.dumps(dataclasses.asdict(outcome))})


class _Reported(logging.Handler):
    """Hands warnings of the trial's own thread over as rows."""

    def __init__(self, report: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__(logging.WARNING)
        self.report, self.thread = report, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Report {"said": the warning}."""
        if record.thread == self.thread:  # Tune takes reports of no other
            self.report({"said": record.getMessage()})


@contextmanager
def heard(report: Callable[[Mapping[str, Any]], None]) -> Iterator[None]:
    """Let the search, which has the terminal, say what the project warns of in here: for whom a trial waits, which file
    was set aside. What a trial's process prints goes to Ray's files."""
    ours, handler = logging.getLogger("bo_distill"), _Reported(report)
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)


class Crew:
    """Ray Train's workers for one trial after another. To start them takes seconds, which only the first trial pays.

    Tune keeps the process of a trial for the next one, and the crew lives as long as that process. Jobs go to rank 0,
    and epochs and outcomes come back, over a connection of their own: a worker's report would wait for the next of
    the controller's polls.
    """

    present: Crew | None = None  # of this process

    def __init__(self, task: Task) -> None:
        self.task = task
        self.key = secrets.token_bytes(32)
        self.listener = Listener((ray.util.get_node_ip_address(), 0), authkey=self.key)
        self.error: Exception | None = None
        self.line: Connection | None = None
        self.over = False  # the workers are gone
        self.thread = threading.Thread(target=self._train, daemon=True)
        self.thread.start()
        self.line = self._called()

    @classmethod
    def of(cls, task: Task) -> Crew:
        """The crew of this process, where it is one for such trials; else a new one."""
        if cls.present is None or cls.present.task != task:
            if cls.present:
                cls.present.end()
            cls.present = Crew(task)
        return cls.present

    def _called(self) -> Connection | None:
        """The connection that rank 0 opens; None where the workers died before, of what `perform` says.

        Whoever else calls here, such as a scan of ports, does not have the key and is left alone.
        """
        while not self.over:
            try:
                line = self.listener.accept()
                return None if self.over else line
            except (EOFError, OSError, AuthenticationError):
                time.sleep(0.05)  # where it is this machine that lacks something, it stays so for a while
        return None

    def perform(self, job: Job, report: Callable[[Mapping[str, Any]], None]) -> Outcome:
        """Run a trial on all workers. `report` is called with each epoch's row.

        Raises:
            Exception: what ended the workers, as Ray Train raises it.
        """
        try:
            if not self.line:
                raise EOFError
            self.line.send(job)
            while not isinstance(said := self.line.recv(), Outcome):
                report(said)
            return said
        except (EOFError, OSError):
            self.end()
            raise self.error or RuntimeError("the workers ended without a word") from None

    def end(self) -> None:
        """Let the workers go, and wait until they are gone."""
        if self.line:
            self.line.close()
        self.listener.close()  # first: a rank 0 that only now calls must not wait
        self.thread.join()
        Crew.present = None

    def _train(self) -> None:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        task = self.task
        resources = {"CPU": float(task.cpus)} | ({"GPU": task.gpus} if task.gpus else {})
        try:
            with tempfile.TemporaryDirectory(prefix="search-") as scratch:
                TorchTrainer(
                    rank_of_trials,
                    train_loop_config={"task": task, "address": self.listener.address, "key": self.key},
                    # While a rank waits for a stage that another trial trains, the others wait for it in a collective;
                    # and all wait for the next trial.
                    torch_config=TorchConfig(timeout_s=7 * 24 * 3600),
                    scaling_config=ScalingConfig(
                        num_workers=task.workers, use_gpu=task.gpus > 0, resources_per_worker=resources
                    ),
                    run_config=RunConfig(storage_path=scratch),
                ).fit()
        except Exception as error:  # for the trial's thread
            self.error = error
        finally:
            self.over = True
            if not self.line:  # they never came, and the trial's thread still waits for them to call
                with suppress(EOFError, OSError, AuthenticationError):
                    Client(self.listener.address, authkey=self.key).close()


def rank_of_trials(config: dict[str, Any]) -> None:
    """What Ray Train runs on each worker: trials, until the process that asks for them is gone."""
    from ray import train

    context = train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size())
    line = None if ranks.rank else Client(tuple(config["address"]), authkey=config["key"])

    def asked() -> Job | None:
        """The next job; None when there will be none."""
        try:
            return line.recv() if line else None
        except EOFError:
            return None

    def report(row: Mapping[str, Any]) -> None:
        """Hand an epoch's row to the trial, from the rank that it listens to."""
        if line:
            line.send(dict(row))

    while (job := ranks.from_first(asked())) is not None:
        with heard(report):
            outcome = perform(config["task"], job, report, rank=ranks.rank, world_size=ranks.size)
        outcome.nodes = ranks.gathered(ray.get_runtime_context().get_node_id())
        if line:
            line.send(outcome)
