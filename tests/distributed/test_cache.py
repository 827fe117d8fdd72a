"""The stage cache: what changes a key, what a broken file costs, and that two who ask compute once."""

from __future__ import annotations

import importlib
import multiprocessing
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from bo_distill.distributed import cache as cache_module
from bo_distill.distributed.cache import StageCache, code_digest, decode, digest, encode, stage_key
from bo_distill.distributed.locks import Lock, LockLost
from bo_distill.distributed.pipeline import run_stages
from bo_distill.distributed.storage import Storage
from bo_distill.distributed.worker import LocalWorker
from bo_distill.methods import get
from bo_distill.methods.method import State
from helpers.tiny import tiny_images

KEY: dict[str, Any] = {
    "stage": "fsp.teacher",
    "module": "bo_distill.methods.fsp.stages",
    "config": {"lr": 0.1},
    "upstream": {"before": "abc"},
    "data": "fingerprint",
    "seed": 0,
    "device": "cpu",
    "precision": "float32",
    "ranks": 1,
}


@pytest.mark.parametrize(
    "change",
    [{"stage": "fsp.transfer"}, {"module": "bo_distill.methods.nets.cifar"}, {"config": {"lr": 0.2}},
     {"upstream": {"before": "abd"}}, {"data": "other"}, {"seed": 1}, {"device": "cuda"}, {"precision": "bfloat16"}],
)  # fmt: skip
def test_a_key_changes_with_everything_that_a_result_follows_from(change: dict[str, Any]) -> None:
    assert stage_key(**KEY) == stage_key(**KEY) != stage_key(**{**KEY, **change})


@pytest.mark.parametrize(("norm", "told"), [("global", False), ("group", False), ("local", True)])
def test_a_key_changes_with_the_ranks_where_each_normalises_by_its_own_rows(norm: str, told: bool) -> None:
    own = {**KEY, "config": {"norm": norm}}
    assert (stage_key(**own) != stage_key(**{**own, "ranks": 2})) is told


def test_a_key_changes_with_torch_but_not_with_its_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for version in ("2.14.0+cpu", "2.14.1", "2.15.0"):
        monkeypatch.setattr(torch, "__version__", version)
        keys.append(stage_key(**KEY))
    assert keys[0] == keys[1] != keys[2]


class Tree:
    """Modules on disk, which are read and not imported; `edit` changes one and gives the digest."""

    def __init__(self, folder: Path, module: str, files: dict[str, str]) -> None:
        self.folder, self.module = folder, module
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    def edit(self, name: str | None = None, old: str = "", new: str = "") -> str:
        if name:
            text = (self.folder / name).read_text()
            assert old in text
            (self.folder / name).write_text(text.replace(old, new, 1))
        importlib.invalidate_caches()
        for remembered in (code_digest, cache_module._folder):
            remembered.cache_clear()
        return code_digest(self.module)


@pytest.fixture
def forget() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    code_digest.cache_clear()
    cache_module._folder.cache_clear()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A copy of this project's methods and training, read in place of the real ones."""
    root = Path(cache_module.__file__).parents[1]
    for package in ("methods", "distributed"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))

    def source(name: str) -> str | None:
        path = tmp_path.joinpath(*name.removeprefix("bo_distill.").split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return file.read_text() if file.exists() else None

    monkeypatch.setattr(cache_module, "_source", source)
    return Tree(tmp_path, "bo_distill.methods.fsp.stages", {})


REMAKES_NOTHING = {
    "a recipe": ("methods/fsp/method.py", '"teacher.epochs": 8', '"teacher.epochs": 9'),
    "a control": ("methods/fsp/method.py", '"finetune.distill": 0.0', '"finetune.distill": 0.1'),
    "a MAC count": ("methods/cost.py", '"einsum"', '"einsum", "dot"'),
    "a MAC count of a method": ("methods/fsp/method.py", "(3 * student + teacher)", "(4 * student + teacher)"),
    "a figure": ("methods/fsp/figures.py", "(9, 6)", "(9, 5)"),
    "a table of the paper": ("methods/fsp/published.py", "90.32", "90.33"),
    "a docstring": ("methods/fsp/stages.py", "Stage 0: the teacher", "Stage 0: a teacher"),
    "a comment": ("methods/fsp/stages.py", "# Until", "# Before"),
    "an annotation": ("methods/fsp/stages.py", "dict[str, Tensor]", "Mapping[str, Tensor]"),
    "a default": ("methods/fsp/settings.py", "real(1.0, 1e-2, 10.0", "real(2.0, 1e-2, 20.0"),
    "a field's help": ("methods/fsp/settings.py", "of the student, 6n+2", "of the student"),
    "what leaves a field without effect": ("methods/fsp/settings.py", '"epochs": (0,)', '"epochs": (0, 1)'),
    "another method's loss": ("methods/center_loss/paper.py", "delta: float = 1e-3", "delta: float = 1.0"),
    "how a search reads a range": ("methods/space.py", "not math.isfinite(value)", "math.isnan(value)"),
}


@pytest.mark.parametrize("what", list(REMAKES_NOTHING))
def test_a_stage_is_not_made_again_for(what: str, checkout: Tree) -> None:
    assert checkout.edit(*REMAKES_NOTHING[what]) == checkout_digest(checkout, REMAKES_NOTHING[what])


REMAKES = {
    "a loss": ("methods/fsp/paper.py", "F.mse_loss(s, t)", "F.l1_loss(s, t)"),
    "a stage": ("methods/fsp/stages.py", "config.weight * net", "2 * config.weight * net"),
    "a network": ("methods/nets/cifar.py", "bias=False", "bias=True"),
    "a network of the method": ("methods/fsp/nets.py", "1, bias=False", "1, bias=True"),
    "the loop": ("distributed/loop.py", "optimizer.step()", "optimizer.step(), optimizer.step()"),
    "an optimiser": ("distributed/optimizers.py", "alpha=0.9", "alpha=0.8"),
    "a schedule": ("methods/training.py", "self.lr * 0.5 *", "self.lr * 0.4 *"),
    "an augmentation": ("methods/data/augment.py", "def ", "import math\n\n\ndef "),
}


@pytest.mark.parametrize("what", list(REMAKES))
def test_a_stage_is_made_again_for(what: str, checkout: Tree) -> None:
    assert checkout.edit(*REMAKES[what]) != checkout_digest(checkout, REMAKES[what])


def checkout_digest(tree: Tree, edited: tuple[str, str, str]) -> str:
    """The digest before the edit."""
    name, old, new = edited
    return tree.edit(name, new, old)


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize("line", ["from made_up_method.helper import f\n", "from .helper import f\n"])
def test_a_method_outside_the_project_brings_its_package(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    files = {"__init__.py": "", "figures.py": "colour = 1\n", "helper.py": "def f(): return 1\n"}
    files["stages.py"] = line + "from made_up_method import figures\n"
    tree = Tree(tmp_path, "made_up_method.stages", {f"made_up_method/{name}": text for name, text in files.items()})
    first = tree.edit()
    assert tree.edit("made_up_method/helper.py", "def f()", "# a word\ndef f()") == first
    second = tree.edit("made_up_method/helper.py", "return 1", "return 2")
    assert second != first
    assert tree.edit("made_up_method/figures.py", "1", "2") != second, "a person's module of this name may compute"


@pytest.mark.usefixtures("forget")
def test_a_method_outside_the_project_brings_the_modules_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    files = {
        "my_method.py": "import torch\nimport my_losses\nfrom my_parts import nets\n",
        "my_losses.py": "import json\nfrom my_numbers import SCALE\n",
        "my_numbers.py": "SCALE = 1\n",
        "my_parts/__init__.py": "",
        "my_parts/nets.py": "WIDTH = 1\n",
        "beside.py": "UNUSED = 1\n",
    }
    tree = Tree(tmp_path, "my_method", files)
    digests = [tree.edit()]
    for file in ("my_method.py", "my_losses.py", "my_numbers.py", "my_parts/nets.py"):
        (tmp_path / file).write_text((tmp_path / file).read_text() + "MORE = 1\n")
        digests.append(tree.edit())
    assert len(set(digests)) == 5
    assert tree.edit("beside.py", "1", "2") == digests[-1], "nobody imports it"


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
    progress = StageCache(storage).checkpoints("s", "key", Lock())
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


def test_results_are_told_apart_by_their_tensors_alone() -> None:
    state = State({"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}, history=({"epoch": 1, "seconds": 2.0},))
    same = decode(encode(state))
    assert digest(same) == digest(State({"n": state.tensors["n"], "w": state.tensors["w"].clone()})) == digest(state)
    for other in (torch.arange(6.0), torch.arange(6.0).reshape(2, 3) + 1, torch.arange(6).reshape(2, 3)):
        assert digest(State({"w": other, "n": state.tensors["n"]})) != digest(state)
    assert digest(State({"w": torch.ones(3, dtype=torch.bfloat16)})) != digest(State({"w": torch.ones(3)}))


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


def test_a_holder_that_lost_its_lock_keeps_no_result(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(Lock):
        def check(self) -> None:
            raise LockLost("taken over")

    monkeypatch.setattr(LocalWorker, "checkpoint_seconds", 0.0)
    monkeypatch.setattr(StageCache, "lock", lambda self, stage, key: nullcontext(Lost()))
    method, cache = get("fsp"), StageCache(storage)
    configs = method.configure("quick", {f"{s}.epochs": 2 for s in ("teacher", "transfer", "finetune")})
    run = run_stages(LocalWorker(tiny_images(), seed=1), method, configs, cache, shared_seed=0)
    assert list(run.states) == ["teacher", "transfer", "finetune"] and not storage.list("stages")


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
