"""Ray on a laptop or at an address, and how much of it one trial may take."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import urlparse

from methods.errors import UsageError

# Must be set before Ray is imported anywhere in the process.
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # `uv run` would upload the folder and build an environment of its own
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # is also how long a report is under way to Tune
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one more process to start for every trial
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # epochs of stages that see no labels report no accuracy
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True)
class Layout:
    """What one trial takes of the cluster, and how many run side by side.

    Attributes:
        workers: processes that share one trial's batches. 1 trains in the trial's own process.
        cpus: cores of each worker, and the threads that it may use.
        gpus: of each worker.
        concurrency: trials at once.
    """

    workers: int
    cpus: int
    gpus: float
    concurrency: int


def machine() -> dict[str, float]:
    """What a Ray of this process would have."""
    import torch

    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(torch.cuda.device_count())}


def layout(resources: dict[str, float], *, workers: int, concurrency: int | None) -> Layout:
    """How trials fit on `resources` ("CPU", "GPU").

    Raises:
        UsageError: more workers or trials than can ever run; a search would wait for ever.
    """
    cpus, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
    if workers > cpus:
        raise UsageError(f"--workers {workers}: there are {cpus} CPUs; give at most {cpus}")
    if gpus and workers > gpus:
        raise UsageError(
            f"--workers {workers}: there are {gpus:g} GPUs and each worker takes one; give at most {gpus:g}"
        )
    most = cpus // workers
    if concurrency is not None and concurrency > most:
        raise UsageError(
            f"--concurrency {concurrency} trials of {workers} workers: {cpus} CPUs hold {most}; give at most {most}"
        )
    at_once = concurrency or (max(1, min(most, int(gpus) // workers)) if gpus else most)
    gpu_share = (1.0 if workers > 1 else min(1.0, gpus / at_once)) if gpus else 0.0
    return Layout(workers, max(1, cpus // (at_once * workers)), gpu_share, at_once)


def check_address(address: str, seconds: float = 10.0) -> None:
    """Find out in seconds whether anything answers at host:port or ray://host:port.

    Raises:
        UsageError: nothing does.
    """
    parsed = urlparse(address if "://" in address else f"ray://{address}")
    try:
        if not parsed.hostname or not parsed.port:
            raise ValueError("not host:port")
        with socket.create_connection((parsed.hostname, parsed.port), timeout=seconds):
            pass
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--address {address}: {error}; give auto on the head node, host:port or ray://host:port"
        ) from None


def reach(now: dict[str, float]) -> dict[str, float]:
    """What the cluster may grow to: all its node types at their most, where it has an autoscaler; else what is there.

    Ray has no public word for this; Ray Train asks the same way.
    """
    import ray

    most = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    # A type without an upper end counts as endless, which says nothing of what will ever be there.
    return now | {name: float(value) for name, value in most.items() if now.get(name, 0) < value < 2**31}


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[dict[str, float]]:
    """A Ray to run on: the one at `address`, or a one-node Ray of this process that ends with it. Yields its `reach`.

    Raises:
        UsageError: no Ray answers at `address`.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    import logging

    import ray

    # Ray's workers look for modules where this process finds them; `distributed` is also a public package's name.
    root = str(Path(__file__).resolve().parent.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        if address:
            environment = {"working_dir": root, "excludes": [".git", "results", "docs", "*.parquet", "*.safetensors"]}
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)
        else:
            ray.init(
                "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": root}},
            )
    except ConnectionError as error:
        raise UsageError(
            f"--address {address}: no Ray answers ({str(error).splitlines()[0]}); start one first"
        ) from None
    try:
        yield reach(ray.cluster_resources())
    finally:
        ray.shutdown()


@contextlib.contextmanager
def chatter_to(path: Path) -> Iterator[TextIO]:
    """Send all that this process writes to stdout and stderr, C++ code included, to a file. Yields the real stderr."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = os.dup(1), os.dup(2)
    with open(path, "ab", buffering=0) as file, os.fdopen(os.dup(err), "w", buffering=1) as terminal:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.close(out)
            os.close(err)
