"""What this project uses of Ray that Ray does not call public: switches, a start, two tables. Each says what is public.

Looked at again with every release of Ray that pyproject.toml admits.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENVIRONMENT = {
    # Tune's older terminal output can be silenced by `verbose=0`; the newer one cannot. No public setting.
    "RAY_AIR_NEW_OUTPUT": "0",
    # `uv run` would upload the folder and build an environment of its own. Documented, but only as this variable.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Train V2 is the default of Ray 2.51; 2.50 needs to be told. Public.
    "RAY_TRAIN_V2_ENABLED": "1",
    # How soon a worker that died is noticed; 2 s by default. No public setting.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # One more process to start for every group of workers; `node_lost` finds out by itself. No public setting.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Its metrics go to a dashboard that a laptop does not run. Documented as this variable.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # A command answers signals itself. Documented as this variable.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Announced change of how a task without GPUs sees them; set, it is no warning. Named by that warning.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Nothing is reported to Ray's makers. Public.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Equal lines of different trials are different events. Public.
    "RAY_DEDUP_LOGS": "0",
    # Workers that Ray starts ahead lack our environment and are never used; and should one of them die, Ray's start
    # waits for it for ever. `_system_config` says the same and is no more public.
    "RAY_prestart_worker_first_driver": "0",
    # A job that was submitted with a working folder has one already. Documented as this variable.
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
    # No CSV, JSON and TensorBoard files of Tune's own beside the ledger. Public.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Epochs of stages that see no labels report no accuracy. Public.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # It would warn of a busy disk into a log that nobody reads. Public.
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def environment() -> dict[str, str]:
    """Variables to be set before Ray is imported anywhere in the process."""
    # Ray ends a process at once, with exit code 1, that finds its node's raylet dead, as when a scheduler signals every
    # process of a job. Told that this process is the raylet, it raises an error instead. No public setting.
    return {**ENVIRONMENT, "RAY_RAYLET_PID": str(os.getpid())}


@contextmanager
def own_session() -> Iterator[None]:
    """Give Ray's processes that are started in here a session of their own, where they die with this process anyway.

    A signal to this process's group, from a terminal, `timeout` or a scheduler, then reaches this process alone, which
    ends them in order. `ray.init` has no option for it. Elsewhere than on Linux it is the group by which Ray finds its
    processes when this one was killed.
    """
    from ray._private import services

    usual = services.ConsolePopen
    if sys.platform == "linux":
        services.ConsolePopen = functools.partial(usual, start_new_session=True)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        services.ConsolePopen = usual  # type: ignore[misc]


def died_with_its_node(actor_id: str) -> bool:
    """Whether Ray's actor table says that an actor went because its node did.

    `ActorDiedError` has this in words only, and its `preempted` is set only where a drain was announced.
    `ray.util.state.get_actor` is public and needs a dashboard, which a laptop does not run.
    """
    import ray

    cause = ray._private.state.actors(actor_id).get("DeathCause")
    context = cause and cause.actor_died_error_context
    return bool(context and context.reason == context.NODE_DIED)


def raised_by_ranks(error: Any) -> list[BaseException]:
    """The exceptions of the trained code in a `ray.train.WorkerGroupError`, which wraps each in a class of its own."""
    return [getattr(each, "_base_exc", each) for each in error.worker_failures.values()]


def orphaned_groups() -> Iterator[Any]:
    """Placement groups of this job that an actor made that is dead, as `remove_placement_group` takes them.

    `ray.util.placement_group_table` is public and does not say who made a group;
    `ray.util.state.list_placement_groups` does, and needs a dashboard.
    """
    import ray
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData as Group  # type: ignore[attr-defined]
    from ray.util.placement_group import PlacementGroup

    job = ray.get_runtime_context().get_job_id()
    for content in _tables().get_placement_group_table():
        group = Group.FromString(content)
        orphaned = group.creator_actor_id.strip(b"\xff") and group.creator_actor_dead and group.state != Group.REMOVED
        if orphaned and group.creator_job_id.hex() == job:
            yield PlacementGroup(ray.PlacementGroupID(group.placement_group_id))


def _tables() -> Any:
    """Ray's connection to the tables of its head."""
    import ray

    state: Any = ray._private.state.state
    if hasattr(state, "_connect_and_get_accessor"):
        return state._connect_and_get_accessor()
    state._check_connected()  # its name in Ray 2.50
    return state.global_state_accessor
