"""A trial as Ray runs it: Tune's trainable, alone or with Ray Train's workers nested in it."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from typing import Any

from methods.records import decoded
from search.execution.trial import attempt, perform
from search.study.records import Job, Task


def in_process(config: dict[str, Any], task: Task) -> None:
    """Tune's trainable where one worker trains: here.

    Raises:
        UsageError: the storage cannot be written, which ends the search and not the trial alone.
    """
    import ray
    from ray import tune

    outcome = attempt(task, decoded(Job, config["job"]), lambda row: tune.report(dict(row)))
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

    from distributed.ray.cluster import NodeLost, alive, await_loss, dead_actors

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
    job = decoded(Job, config["job"])
    outcome = perform(config["task"], job, lambda row: train.report(dict(row)), rank=rank, world_size=size)
    nodes: list[Any] = [None] * size
    dist.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
    outcome.nodes = nodes
    train.report({"outcome": json.dumps(dataclasses.asdict(outcome))})
