"""The stage cache: what changes a key, what a broken file costs, and that two who ask compute once."""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed.cache import StageCache, code_digest, decode, encode, stage_key
from distributed.pipeline import run_stages
from distributed.storage import Storage
from distributed.worker import LocalWorker
from helpers.tiny import tiny_images
from methods import get
from methods.method import State

KEY: dict[str, Any] = {
    "stage": "fsp.teacher",
    "module": "methods.fsp.stages",
    "config": {"lr": 0.1},
    "upstream": {"before": "abc"},
    "data": "fingerprint",
    "seed": 0,
    "precision": "float32",
}


@pytest.mark.parametrize(
    "change",
    [{"stage": "fsp.transfer"}, {"module": "methods.nets.cifar"}, {"config": {"lr": 0.2}},
     {"upstream": {"before": "abd"}}, {"data": "other"}, {"seed": 1}, {"precision": "bfloat16"}],
)  # fmt: skip
def test_a_key_changes_with_everything_that_a_result_follows_from(change: dict[str, Any]) -> None:
    assert stage_key(**KEY) == stage_key(**KEY) != stage_key(**{**KEY, **change})


@pytest.mark.parametrize("stages", ["from made_up_method.helper import f\n", "from .helper import f\n"])
def test_a_key_follows_the_code_but_not_its_comments(
    stages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a method from outside the project, too."""
    package = tmp_path / "made_up_method"
    package.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    (package / "__init__.py").write_text("")
    (package / "figures.py").write_text("colour = 1\n")

    def digest(helper: str, figures: str = "colour = 1\n") -> str:
        (package / "helper.py").write_text(helper)
        (package / "stages.py").write_text(stages + "from made_up_method import figures\n")
        (package / "figures.py").write_text(figures)
        importlib.invalidate_caches()
        code_digest.cache_clear()
        return code_digest("made_up_method.stages")

    first = digest("def f(): return 1\n")
    assert digest("# a word\ndef f():\n    return 1\n") == first
    assert digest("def f(): return 1\n", figures="colour = 2\n") == first
    assert digest("def f(): return 2\n") != first
    for name in [name for name in sys.modules if name.startswith("made_up_method")]:
        del sys.modules[name]
    code_digest.cache_clear()


def test_a_state_survives_its_file() -> None:
    state = State(
        {"w": torch.randn(3, 4).t(), "half": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)},
        {"depth": 14, "names": ["a", "b"]},
        {"val_accuracy": 0.5},
        ({"epoch": 1, "loss": 0.25},),
    )
    back = decode(encode(state))
    for name, tensor in state.tensors.items():
        assert torch.equal(back.tensors[name], tensor) and back.tensors[name].dtype == tensor.dtype
    assert (back.spec, back.metrics, back.history) == (state.spec, state.metrics, state.history)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_result_is_said_and_made_anew(
    length: int, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    cache, content = StageCache(storage), encode(State({"w": torch.ones(50)}))
    cache.put("s", "key", content)
    assert cache.get("s", "key") == content
    storage.write_bytes(cache.name("s", "key"), content[:length])
    assert cache.get("s", "key") is None
    assert "computed again" in caplog.text
    assert not storage.exists(cache.name("s", "key"))


def test_a_broken_checkpoint_only_costs_its_epochs(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    progress = StageCache(storage).progress("s", "key")
    progress.save("0", b"not a checkpoint")
    worker = LocalWorker(tiny_images(), checkpoints=progress)
    assert worker.load_checkpoint("0") is None
    assert "starts over" in caplog.text
    assert worker.load_checkpoint("1") is None


def _teacher(folder: str, queue: Any) -> None:
    torch.set_num_threads(1)
    method = get("fsp")
    configs = method.configure("quick", {f"{s}.epochs": 1 for s in ("teacher", "transfer", "finetune")})
    run = run_stages(LocalWorker(tiny_images(), seed=1), method, configs, StageCache(Storage(folder)), shared_seed=0)
    queue.put(run.cached)


def test_two_trials_that_want_the_same_stage_at_once_compute_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_teacher, args=(str(tmp_path), queue)) for _ in range(2)]
    for process in processes:
        process.start()
    found = sorted(queue.get(timeout=200) for _ in processes)
    for process in processes:
        process.join()
    assert len(found[0]) + len(found[1]) == 3, "each of the three stages was computed by one of the two"
    assert len(Storage(tmp_path).list("stages")) == 3


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_hold, args=(str(tmp_path),))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.05)
    process.kill()
    process.join()
    with StageCache(Storage(tmp_path)).lock("s", "key"):
        pass


def _hold(folder: str) -> None:
    with StageCache(Storage(folder)).lock("s", "key"):
        Path(folder, "held").touch()
        time.sleep(600)
