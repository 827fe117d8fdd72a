"""The cluster's file by Ray's own rules, and what fits where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from distributed.cluster import layout
from methods.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def config() -> Any:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_the_file(config: Any) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"
    assert prepared["available_node_types"]["gpu"]["resources"] == {"CPU": 8, "GPU": 1}


def test_the_file_is_safe_to_share(config: Any) -> None:
    text = (ROOT / "cluster.yaml").read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret|aws_access_key|password|token", text, re.IGNORECASE)
    assert "--dashboard-host=127.0.0.1" in text and "0.0.0.0" not in text
    assert "SecurityGroup" not in text, "Ray's own group opens ssh only"
    assert config["available_node_types"]["gpu"]["min_workers"] == 0
    assert len(re.findall("# EDIT [123] of 3", text)) == 3


def test_the_nodes_install_from_the_lock(config: Any) -> None:
    assert any("-c requirements.lock" in line for line in config["setup_commands"])
    lock = (ROOT / "requirements.lock").read_text()
    assert re.search(r"^ray==\d", lock, re.MULTILINE)
    assert "://" not in lock, "the lock names no registry"


@pytest.mark.parametrize(
    ("resources", "workers", "concurrency", "expected"),
    [
        ({"CPU": 2.0}, 1, None, (1, 0.0, 2)),
        ({"CPU": 2.0}, 2, None, (1, 0.0, 1)),
        ({"CPU": 8.0}, 1, 2, (4, 0.0, 2)),
        ({"CPU": 16.0, "GPU": 2.0}, 1, None, (8, 1.0, 2)),
        ({"CPU": 16.0, "GPU": 1.0}, 1, 4, (4, 0.25, 4)),
        ({"CPU": 16.0, "GPU": 4.0}, 2, None, (4, 1.0, 2)),
    ],
)
def test_trials_fit(
    resources: dict[str, float], workers: int, concurrency: int | None, expected: tuple[Any, ...]
) -> None:
    place = layout(resources, workers=workers, concurrency=concurrency)
    assert (place.cpus, place.gpus, place.concurrency) == expected
    assert place.cpus * place.workers * place.concurrency <= resources["CPU"]
    assert place.gpus * place.workers * place.concurrency <= resources.get("GPU", 0.0)


@pytest.mark.parametrize(
    ("resources", "workers", "concurrency"),
    [({"CPU": 2.0}, 3, None), ({"CPU": 2.0}, 1, 3), ({"CPU": 8.0, "GPU": 1.0}, 2, None)],
)
def test_what_can_never_run_is_refused(resources: dict[str, float], workers: int, concurrency: int | None) -> None:
    with pytest.raises(UsageError, match="at most"):
        layout(resources, workers=workers, concurrency=concurrency)
