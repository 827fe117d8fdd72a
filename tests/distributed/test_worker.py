"""What a stage's worker promises where ranks could part ways."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from bo_distill.distributed.cache import StageCache
from bo_distill.distributed.locks import Lock
from bo_distill.distributed.loop import Stopped
from bo_distill.distributed.storage import Storage
from bo_distill.distributed.worker import LocalWorker, Runtime, best_runtime, multiplies_bf16, prepare
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import State, Worker
from bo_distill.methods.training import Player, Training
from helpers.ranks import on_ranks
from helpers.tiny import tiny_images


def item(worker: Worker, number: int) -> State:
    if number == 2:
        raise FloatingPointError("loss nan in epoch 1")
    return State({})


def linear(worker: Worker, number: int) -> State:
    net = worker.place(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)))
    training = Training(epochs=3, lr=0.01)
    worker.fit(Player(net, lambda batch: {"loss": training.cross_entropy(net(batch.x), batch.y)}, training))
    return State({"seed": torch.tensor(worker.seed), "drawn": torch.rand(1), **net.state_dict()})


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    worker = LocalWorker(tiny_images(), rank=rank, world_size=2)
    with pytest.raises(FloatingPointError, match="loss nan in epoch 1"):
        worker.each(range(4), item)
    met = [None, None]
    dist.all_gather_object(met, rank)  # the next meeting is the next for both
    assert met == [0, 1]
    worker.each(range(3), lambda worker, number: State({"noise": torch.rand(number)}))
    dist.all_gather_object(met, float(torch.rand(())))
    assert met[0] == met[1], "both would build the same network now"
    linear(worker, 0)
    dist.all_gather_object(met, [row["cpu_seconds"] for row in worker.history])
    assert met[0] == met[1] and min(met[0]) > 0, "processor time is of both"  # type: ignore[call-overload]
    dist.destroy_process_group()


def test_an_item_that_diverges_on_one_rank_ends_all(tmp_path: Path) -> None:
    on_ranks(_rank, str(tmp_path))


def test_a_second_round_of_trainings_takes_neither_seeds_nor_checkpoints_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalWorker, "checkpoint_seconds", 0.0)
    worker = LocalWorker(
        tiny_images(), checkpoints=StageCache(Storage(tmp_path)).checkpoints("own.stage", "key", Lock())
    )

    rounds = [worker.each(range(2), linear) for _ in range(2)]
    assert len({int(state.tensors["seed"]) for states in rounds for state in states}) == 4
    assert not torch.equal(rounds[0][0].tensors["1.weight"], rounds[1][0].tensors["1.weight"])
    assert [(row["item"], row["epoch"]) for row in worker.history] == [(i, e) for i in range(4) for e in (1, 2, 3)]


def test_what_is_drawn_after_a_training_that_was_stopped_at_its_end_is_what_it_would_have_been(tmp_path: Path) -> None:
    checkpoints = StageCache(Storage(tmp_path)).checkpoints("own.stage", "key", Lock())
    with pytest.raises(Stopped):
        linear(LocalWorker(tiny_images(), on_epoch=lambda row: row["epoch"] == 3, checkpoints=checkpoints), 0)
    drawn = [linear(LocalWorker(tiny_images(), checkpoints=found), 0).tensors["drawn"] for found in (checkpoints, None)]
    assert torch.equal(*drawn)


def test_a_rate_for_every_milestone() -> None:
    Training(schedule="step", milestones=(60, 120), factors=(0.2, 0.04))
    Training(milestones=(60, 120))
    with pytest.raises(UsageError, match="as many of one as of the other"):
        Training(schedule="step", milestones=(60, 120, 160), factors=(0.2, 0.04))
    with pytest.raises(UsageError, match="ascending"):
        Training(schedule="step", milestones=(120, 60), factors=(0.04, 0.2))


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("sse2 avx512f avx512_bf16", True), ("avx2 amx_bf16 amx_tile", True), ("avx2 avx512f", False), ("", False)],
)
def test_bf16_where_the_processor_multiplies_it(
    flags: str, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("BO_DISTILL_PRECISION", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(flags.split(), True), raising=False)
    assert multiplies_bf16() is fast
    assert best_runtime() == Runtime("cpu", "bfloat16" if fast else "float32")
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t:\n")
    assert multiplies_bf16(tmp_path / "cpuinfo") is fast
    assert not multiplies_bf16(tmp_path / "no such file")


def test_the_environment_says_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    for precision in ("float32", "bfloat16"):
        monkeypatch.setenv("BO_DISTILL_PRECISION", precision)
        assert best_runtime().precision == precision
        assert best_runtime("float32").precision == "float32", "what was asked for is not overridden"
    monkeypatch.setenv("BO_DISTILL_PRECISION", "half")
    with pytest.raises(UsageError, match="BO_DISTILL_PRECISION=half: give one of float32, bfloat16"):
        best_runtime()


def faults() -> int:
    """Pages that the system gives this process while it asks for the same 64 MB, and frees them, ten times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _prepared(rank: int) -> None:
    given_back = faults()
    prepare(1)
    torch.ones(16 << 20)
    assert faults() < given_back / 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library allocates")
def test_what_a_step_frees_is_there_for_the_next() -> None:
    torch.multiprocessing.spawn(_prepared)
