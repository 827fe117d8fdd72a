"""What a stage's worker promises where ranks could part ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from distributed.worker import LocalWorker
from helpers.tiny import tiny_images
from methods.errors import UsageError
from methods.method import State, Worker
from methods.training import Training


def item(worker: Worker, number: int) -> State:
    if number == 2:
        raise FloatingPointError("loss nan in epoch 1")
    return State({})


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    worker = LocalWorker(tiny_images(), rank=rank, world_size=2)
    with pytest.raises(FloatingPointError, match="loss nan in epoch 1"):
        worker.each(range(4), item)
    met = [None, None]
    dist.all_gather_object(met, rank)  # the next meeting is the next for both
    assert met == [0, 1]
    dist.destroy_process_group()


def test_an_item_that_diverges_on_one_rank_ends_all(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path),), nprocs=2)


def test_a_rate_for_every_milestone() -> None:
    Training(schedule="step", milestones=(60, 120), factors=(0.2, 0.04))
    Training(milestones=(60, 120))
    with pytest.raises(UsageError, match="as many of one as of the other"):
        Training(schedule="step", milestones=(60, 120, 160), factors=(0.2, 0.04))
