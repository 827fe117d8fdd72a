"""One trial: the method's stages for one configuration, in this process or on Ray Train's workers."""

from __future__ import annotations

import dataclasses
import importlib
import json
import resource
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from methods.data.dataset import DataSpec
from methods.errors import UsageError

Phase = Literal["search", "confirm", "final", "control"]
Status = Literal["done", "failed", "pruned", "interrupted"]


@dataclass(frozen=True)
class Task:
    """What all trials of a study have in common; travels to the workers.

    Attributes:
        study: its name, which is also its folder under `studies/`.
        method, recipe, data: as on the command line.
        settings: fixed for all trials ("stage.field" -> value).
        storage: URI.
        seed: of the shared stages.
        precision: "auto", "float32" or "bfloat16".
        workers, cpus, gpus: as in `distributed.cluster.Layout`.
        stoppable: look for a scheduler's stop sign after every epoch.
    """

    study: str
    method: str
    recipe: str
    data: DataSpec
    settings: Mapping[str, Any]
    storage: str
    seed: int
    precision: str = "auto"
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    stoppable: bool = False


@dataclass(frozen=True)
class Job:
    """What one trial does.

    Attributes:
        number: unique in the study.
        phase: "search" and "confirm" choose on validation; "final" and "control" are also scored on test.
        settings: beside the task's.
        seed: of the stages that are not shared.
        control: name of the control, or None.
    """

    number: int
    phase: Phase
    settings: Mapping[str, Any]
    seed: int
    control: str | None = None


@dataclass
class Outcome:
    """What came of a trial; plain JSON."""

    status: Status = "done"
    reason: str | None = None
    val: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    stage_keys: dict[str, str] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    epochs: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    started: float = 0.0
    device: str = "cpu"
    precision: str = "float32"
    nodes: list[str] = field(default_factory=list)
    memory: int | None = None


def stop_sign(task: Task, number: int) -> str:
    """The file whose presence tells a trial to end early."""
    return f"studies/{task.study}/stop/{number}"


def perform(
    task: Task, job: Job, report: Callable[[Mapping[str, Any]], None], *, rank: int = 0, world_size: int = 1
) -> Outcome:
    """Run a trial on this rank. `report` is called with each epoch's row.

    A pruned or diverged trial is an outcome; other errors are raised.
    """
    import torch

    from distributed.cache import StageCache
    from distributed.loop import Stopped
    from distributed.pipeline import run_stages
    from distributed.storage import Storage
    from distributed.worker import LocalWorker, best_runtime
    from methods import get
    from methods.data import load

    torch.set_num_threads(task.cpus)
    started, outcome = time.monotonic(), Outcome(started=time.time(), nodes=[socket.gethostname()])
    storage = Storage(task.storage)
    method = get(task.method)
    configs = method.configure(task.recipe, {**task.settings, **job.settings})
    runtime = best_runtime(task.precision)
    outcome.device = torch.cuda.get_device_name() if runtime.device == "cuda" else "cpu"
    outcome.precision = runtime.precision
    worker = LocalWorker(load(task.data), seed=job.seed, runtime=runtime, rank=rank, world_size=world_size)

    def on_epoch(row: Mapping[str, Any]) -> bool:
        outcome.history.append(dict(row))
        report(row)
        return task.stoppable and rank == 0 and storage.exists(stop_sign(task, job.number))

    try:
        run = run_stages(worker, method, configs, StageCache(storage), shared_seed=task.seed, on_epoch=on_epoch)
    except Stopped:
        outcome.status, outcome.reason = "pruned", "stopped by the scheduler"
        seen = [row for row in outcome.history if "val_accuracy" in row]
        outcome.val = {name: value for name, value in seen[-1].items() if name.startswith("val_")} if seen else {}
    except FloatingPointError as error:
        outcome.status, outcome.reason = "failed", f"diverged: {error}"
    else:
        outcome.val = dict(run.states[method.stages[-1].name].metrics)
        outcome.stage_seconds, outcome.stage_keys, outcome.cached = run.seconds, run.keys, run.cached
        outcome.epochs = run.epochs
        outcome.history = [{"stage": name, **row} for name, state in run.states.items() for row in state.history]
        if job.phase in ("final", "control"):
            score(outcome, task, job, worker, method, configs, run.states)
    outcome.seconds = time.monotonic() - started
    outcome.memory = peak_memory()
    return outcome


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def score(outcome: Outcome, task: Task, job: Job, worker: Any, method: Any, configs: Any, states: Any) -> None:
    """Read the test split, once, for a configuration that was chosen without it."""
    from methods.data import load_test
    from methods.method import Trained
    from methods.metrics import classification

    test = load_test(task.data)
    net = worker.place(method.model(configs, states, worker.data.info))
    labels = test.y if test.y.dim() == 1 else test.y[:, 0]
    trained = Trained(worker, configs, states, test)
    outcome.test = {**classification(worker.predict(net, test.x), labels), **method.metrics(trained)}
    if method.figures and worker.rank == 0 and worker.world_size == 1:
        evidence = importlib.import_module(method.figures)
        outcome.tables = {name: dataclasses.asdict(table) for name, table in evidence.tables(trained).items()}


def attempt(task: Task, job: Job, report: Callable[[Mapping[str, Any]], None]) -> Outcome:
    """A trial in this process. One that fails is a result; only the death of a process is not.

    Raises:
        UsageError: the storage cannot be written, or what else the user can mend.
    """
    started = time.time()
    try:
        return perform(task, job, report)
    except UsageError:
        raise
    except Exception as error:
        return failed(error, started)


def in_process(config: dict[str, Any], task: Task) -> None:
    """Tune's trainable where one worker trains: here.

    Raises:
        UsageError: the storage cannot be written, which ends the search and not the trial alone.
    """
    import ray
    from ray import tune

    outcome = attempt(task, Job(**config["job"]), lambda row: tune.report(dict(row)))
    outcome.nodes = [ray.get_runtime_context().get_node_id()]
    tune.report({"outcome": json.dumps(dataclasses.asdict(outcome))})


def on_workers(config: dict[str, Any], task: Task) -> None:
    """Tune's trainable where several workers share each batch: Ray Train, nested in the trial.

    Raises:
        ray.train.TrainingFailedError: a worker died or failed; when one dies, the others fail too. Who counts the
            attempts runs the trial again.
        distributed.cluster.NodeLost: that is why.
    """
    from ray.train import RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from distributed.cluster import NodeLost, alive, await_loss, dead_actors

    nodes = alive()
    resources = {"CPU": float(task.cpus)} | ({"GPU": task.gpus} if task.gpus else {})
    with tempfile.TemporaryDirectory(prefix="search-") as scratch:
        trainer = TorchTrainer(
            rank_of_trial,
            train_loop_config={"task": task, "job": config["job"]},
            # While a rank waits for a stage that another trial trains, the others wait for it in a collective.
            torch_config=TorchConfig(timeout_s=7 * 24 * 3600),
            scaling_config=ScalingConfig(
                num_workers=task.workers, use_gpu=task.gpus > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(storage_path=scratch, callbacks=[TuneReportCallback()]),  # type: ignore[list-item]
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            if not dead_actors(error) and await_loss(nodes):
                raise NodeLost(str(error)) from None
            raise


def rank_of_trial(config: dict[str, Any]) -> None:
    """What Ray Train runs on each worker."""
    import ray
    import torch.distributed as dist
    from ray import train

    context = train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    job = Job(**config["job"])
    outcome = perform(config["task"], job, lambda row: train.report(dict(row)), rank=rank, world_size=size)
    nodes: list[Any] = [None] * size
    dist.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
    outcome.nodes = nodes
    train.report({"outcome": json.dumps(dataclasses.asdict(outcome))})


def failed(error: BaseException, started: float) -> Outcome:
    """An error as a trial's outcome: its last line says what, the log of Ray's worker says where."""
    traceback.print_exception(error)
    lines = str(error).strip().splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[-1]}"[:300]
    seconds = max(0.0, time.time() - started)  # a clock may have been set back
    return Outcome(status="failed", reason=reason, started=started, seconds=seconds)
