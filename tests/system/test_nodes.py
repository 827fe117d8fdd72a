"""Searches over several nodes, all on this machine, each with cores of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bo_distill.distributed.storage import Storage
from helpers.running import TRIVIAL, family, rows_of, start, study_of, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that offers no core, as in cluster.yaml, and two nodes of one core each."""
    from bo_distill.distributed.ray.private import ENVIRONMENT

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        # A node that dies is noticed after some seconds, not after half a minute.
        checks = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000}
        cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": checks})
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


def finish(process: Any) -> None:
    _, said = process.communicate(timeout=560)
    assert process.returncode == 0, said


def test_trials_lie_on_different_nodes(cluster: Any, tmp_path: Path) -> None:
    words = ["--random", "--trials=4", "--seeds=1", "--set=only.pause=1", f"--address={cluster.address}"]
    forecast, said = start(TRIVIAL, *words, "--dry-run", storage=tmp_path).communicate(timeout=400)
    assert "2 trials at once, each on 1 worker of 1 CPU" in forecast, said
    assert not any(tmp_path.iterdir())
    finish(start(TRIVIAL, *words, storage=tmp_path))
    rows = rows_of(tmp_path)
    assert len(rows) == 5 and all(len(row.nodes) == row.workers == 1 for row in rows)
    assert {row.nodes[0] for row in rows} == {node.node_id for node in cluster.worker_nodes}


def test_the_workers_of_one_trial_lie_on_two_nodes_and_one_node_is_lost(cluster: Any, tmp_path: Path) -> None:
    words = ["--workers=2", "--random", "--trials=1", "--seeds=1", "--set=only.pause=2", f"--address={cluster.address}"]
    process = start(TRIVIAL, *words, storage=tmp_path)
    until(lambda: Storage(tmp_path).list("stages"), process)  # the first trial has trained for an epoch
    lost = next(iter(cluster.worker_nodes))
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    finish(process)
    first, final = rows_of(tmp_path)
    there = {node.node_id for node in cluster.worker_nodes}
    assert set(first.nodes) == set(final.nodes) == there and len(there) == first.workers == 2
    study = study_of(tmp_path)
    assert [(trial.status, trial.deaths) for trial in study.trials] == [("done", 0)] * 2, "it used up no retry"
    processes = [epoch["process"] for epoch in study.outcome(0).history]
    assert len(processes) == 3 and len(set(processes)) == 2, "it went on from its last checkpoint"


def autoscaling(port: int) -> dict[str, Any]:
    """What `ray up` would give an autoscaler: no worker at first, two at most, gone when idle for three seconds."""
    empty: dict[str, Any] = {
        "docker": {}, "auth": {}, "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False,
        "rsync_exclude": [], "rsync_filter": [], "initialization_commands": [], "setup_commands": [],
        "head_setup_commands": [], "worker_setup_commands": [], "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }  # fmt: skip
    return empty | {
        "cluster_name": "fake",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.05,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "spot": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
    }


def test_a_cluster_grows_from_no_worker_and_shrinks(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "ray_bootstrap_config.yaml"  # at home, where `ray up` puts it
    config.write_text(yaml.safe_dump(autoscaling(port)))
    ray = Path(sys.executable).with_name("ray")
    # A Ray that a test started in this very process left there that a token is asked for, which the new HOME lacks.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = inherited | {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "0",
        "HOME": str(tmp_path),
    }
    # Ray's sockets lie there, and a socket's path may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        head = subprocess.Popen(
            [ray, "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=0",
             "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}",
             f"--autoscaling-config={config}"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            until(lambda: _answers(port), head)
            words = ["--random", "--trials=4", "--seeds=1", "--set=only.pause=2", f"--address=127.0.0.1:{port}"]
            search = start(TRIVIAL, *words, storage=tmp_path / "results", env=environment)
            finish(search)
            rows = rows_of(tmp_path / "results")
            assert len(rows) == 5 and {row.status for row in rows} == {"done"}
            assert len({node for row in rows for node in row.nodes}) == 2, "it grew to two workers"
            until(lambda: len(_raylets(folder)) == 1, head)  # the workers are gone, the head stays
        finally:
            left = [head.pid, *family(head.pid), *_raylets(folder)]
            head.terminate()
            head.wait(60)
            for process in left:
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _raylets(folder: str) -> list[int]:
    """The nodes of the Ray whose files lie in `folder`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().decode().split("\0")
                if words[0].endswith("/raylet") and any(folder in word for word in words):
                    found.append(int(process.name))
    return found
