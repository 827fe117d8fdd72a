"""One trial: the method's stages for one configuration, in this process or on Ray Train's workers."""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
import socket
import time
from collections.abc import Callable

import torch

from bo_distill.distributed.cache import StageCache, digest
from bo_distill.distributed.locks import purpose
from bo_distill.distributed.loop import Stopped
from bo_distill.distributed.machine import peak_memory, processor
from bo_distill.distributed.pipeline import Run, run_stages
from bo_distill.distributed.storage import Storage
from bo_distill.distributed.worker import LocalWorker, Runtime, best_runtime, prepare
from bo_distill.methods import get
from bo_distill.methods.data import load, load_test
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import Configs, EpochRow, Method, States, Trained
from bo_distill.methods.metrics import classification
from bo_distill.methods.outside import trust
from bo_distill.search.study.curve import length_of, reached
from bo_distill.search.study.records import Job, Outcome, Task, failed, on_validation

GPU_REFUSED = re.compile("CUDA error|cuDNN error|CUBLAS_STATUS")


def stop_sign(task: Task, number: int) -> str:
    """The file whose presence tells a trial to end early."""
    return f"studies/{task.study}/stop/{number}"


def perform(
    task: Task,
    job: Job,
    report: Callable[[EpochRow], None],
    *,
    rank: int = 0,
    world_size: int = 1,
    until: float | None = None,
) -> Outcome:
    """Run a trial on this rank.

    A pruned, paused, interrupted or diverged trial is an outcome; other errors are raised.

    Args:
        report: called with each epoch's row.
        until: time at which the trial is to have ended, finished or not: it stops at the checkpoint of the last epoch
            that ends before.
    """
    prepare(task.cpus)
    started, outcome = time.monotonic(), Outcome(started=time.time(), nodes=[socket.gethostname()])
    storage = Storage(task.storage)
    purpose.set(f"trial {job.number} of {task.study}")
    trust(task.method)  # the process that sent the task has looked at it
    method = get(task.method)
    configs = method.configure(task.recipe, {**task.settings, **job.settings})
    runtime = note_machine(outcome, task)
    worker = LocalWorker(load(task.data), seed=job.seed, runtime=runtime, rank=rank, world_size=world_size)

    run = Run()
    curve, epochs = "", math.inf
    if task.stoppable or job.until is not None:
        curve, length = length_of(method, configs)
        epochs = length.curve

    def on_epoch(row: EpochRow) -> bool:
        outcome.history.append(dict(row))
        report(row)
        trained = len(reached(outcome.history, curve))
        if job.until is not None and trained >= job.until:
            outcome.status, outcome.reason = "paused", None
            return True
        if until is not None and time.time() + row["seconds"] > until:
            outcome.status, outcome.reason = "interrupted", "its time was up"
            return True
        # After the last epoch there is nothing to save any more.
        return task.stoppable and rank == 0 and trained < epochs and storage.exists(stop_sign(task, job.number))

    try:
        run_stages(worker, method, configs, StageCache(storage), shared_seed=task.seed, on_epoch=on_epoch, run=run)
    except Stopped:
        outcome.epochs = run.epochs + outcome.history[-1]["epoch"]
        if outcome.status not in ("interrupted", "paused"):
            outcome.status, outcome.reason = "pruned", "stopped by the scheduler"
        seen = [row for row in outcome.history if "val_accuracy" in row]
        if seen:
            outcome.val = on_validation({n: value for n, value in seen[-1].items() if n.startswith("val_")})
    except FloatingPointError as error:
        outcome.status, outcome.reason = "failed", f"diverged: {error}"
    else:
        outcome.status, outcome.reason = "done", None
        note(outcome, run, method)
        if task.measured:
            outcome.val = {**measured(Trained(worker, configs, run.states, worker.data.val), method), **outcome.val}
        if job.phase in ("final", "control"):
            score(outcome, task, job, worker, method, configs, run.states)
    own = [row for row in outcome.history if row.get("stage") not in outcome.cached]
    outcome.cpu_seconds = sum(row.get("cpu_seconds", 0.0) for row in own)
    outcome.seconds = time.monotonic() - started
    outcome.memory = peak_memory()
    return outcome


def note_machine(outcome: Outcome, task: Task) -> Runtime:
    """Keep on what a trial runs, and return it."""
    runtime = best_runtime(task.precision)
    outcome.device = torch.cuda.get_device_name() if runtime.device == "cuda" else "cpu"
    outcome.precision, outcome.processor = runtime.precision, processor()
    return runtime


def note(outcome: Outcome, run: Run, method: Method) -> None:
    """Keep what the stages took and came to."""
    outcome.val = on_validation(run.states[method.stages[-1].name].metrics)
    outcome.stage_seconds, outcome.stage_keys, outcome.cached = run.seconds, run.keys, run.cached
    outcome.shared_stages = {stage.name: digest(run.states[stage.name]) for stage in method.stages if stage.shared}
    outcome.epochs = run.epochs
    outcome.history = [{"stage": name, **row} for name, state in run.states.items() for row in state.history]


def score(
    outcome: Outcome, task: Task, job: Job, worker: LocalWorker, method: Method, configs: Configs, states: States
) -> None:
    """Read the test split, once, for a configuration that was chosen without it."""
    test = load_test(task.data)
    trained = Trained(worker, configs, states, test)
    outcome.test = measured(trained, method)
    # Of a control's seeds, and of a line's of a paper's table, a page shows the first one's tables at most.
    shown = job.phase == "final" or job.seed == task.seed + 1
    if method.figures and shown and worker.world_size == 1:
        evidence = importlib.import_module(method.figures)
        outcome.tables = {name: dataclasses.asdict(table) for name, table in evidence.tables(trained).items()}


def measured(trained: Trained, method: Method) -> dict[str, float]:
    """What the whole network answers on a split, and the method's own figures of it."""
    worker, split = trained.worker, trained.split
    net = worker.place(method.model(trained.configs, trained.states, worker.data.info))
    labels = split.y if split.y.dim() == 1 else split.y[:, 0]
    return {**classification(worker.predict(net, split.x), labels), **method.metrics(trained)}


def attempt(task: Task, job: Job, report: Callable[[EpochRow], None], until: float | None = None) -> Outcome:
    """A trial in this process. One that fails is a result; what may be no fault of its own is not.

    Raises:
        UsageError: the storage cannot be written, or what else the user can mend.
        Exception: of the GPU: its memory is full, which others may share, or it refuses this process from now on. The
            trial is to run again, in another process.
    """
    started = time.time()
    try:
        return perform(task, job, report, until=until)
    except UsageError:
        raise
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or GPU_REFUSED.search(str(error)):
            raise
        outcome = failed(error, started)
        note_machine(outcome, task)
        return outcome
