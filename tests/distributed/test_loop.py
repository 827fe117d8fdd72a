"""What the loop does with gradients that are too large, and what it says of a loss that diverges."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bo_distill.distributed.cache import StageCache
from bo_distill.distributed.pipeline import run_stages
from bo_distill.distributed.storage import Storage
from bo_distill.distributed.worker import LocalWorker
from bo_distill.methods.method import State
from bo_distill.methods.training import Batch, Player, Training
from helpers.one import ONE
from helpers.tiny import tiny_images


def sgd(**changed: float) -> Training:
    return Training(**{"epochs": 1, "batch_size": 96, "momentum": 0.0, "weight_decay": 0.0, "lr": 0.1, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(("clip", "norm"), [(0.0, 15.0), (0.5, 0.5), (100.0, 15.0)])
def test_the_step_is_bounded_by_the_norm_of_all_weights_together(clip: float, norm: float) -> None:
    """A loss whose gradient is (3, 4) for each of nine pairs of weights: its norm is 15."""
    net = nn.Linear(2, 9, bias=False)
    before = net.weight.detach().clone()
    slope = torch.tensor([3.0, 4.0])

    LocalWorker(tiny_images()).fit(
        Player(net, lambda batch: {"loss": (net.weight * slope).sum()}, sgd(clip=clip, schedule="constant"))  # type: ignore[arg-type]
    )
    torch.testing.assert_close(net.weight.detach(), before - 0.1 * slope.expand(9, 2) * (norm / 15))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_divergence_names_the_part_that_broke_first(broken: float) -> None:
    net = nn.Linear(1, 1)

    def loss(batch: Batch) -> dict[str, Tensor]:
        fine = net.weight.square().sum()  # its gradient carries NaN on, one step later
        flow = net.bias.sum() * (broken if batch.epoch >= 1.5 else 1.0)
        return {"loss": fine + flow, "cross_entropy": fine, "flow": flow}

    training = sgd(epochs=3, batch_size=24, lr=0.03, schedule="constant")  # type: ignore[arg-type]
    with pytest.raises(
        FloatingPointError, match=r"^flow, a part of the loss, is (nan|-?inf) in epoch 2 at learning rate 0.03$"
    ):
        LocalWorker(tiny_images()).fit(Player(net, loss, training))


def test_a_divergence_names_its_stage(storage: Storage) -> None:
    def run(worker: Any, config: Any, needs: Any) -> State:
        net = nn.Linear(1, 1)
        worker.fit(Player(net, lambda batch: {"loss": net.weight.sum() * math.nan}, config))
        return State(net.state_dict())

    method = dataclasses.replace(ONE, stages=(dataclasses.replace(ONE.stages[0], run=run),))
    with pytest.raises(FloatingPointError, match=r"^head: the loss is nan in epoch 1 at learning rate 0.1$"):
        run_stages(LocalWorker(tiny_images()), method, method.configure("quick"), StageCache(storage), shared_seed=0)
    assert not storage.list("stages")
