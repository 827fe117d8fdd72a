"""A method whose trials take a second, whose accuracy is a formula, and which fails in the way that it is told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bo_distill.methods.data.dataset import Info
from bo_distill.methods.method import Configs, Method, Recipe, Stage, State, States, Worker
from bo_distill.methods.space import choice, integer, real
from bo_distill.methods.training import Batch, Player, Training

FAULTS = ("none", "nan", "inf", "memory", "error", "killed", "killed once")


@dataclass(frozen=True)
class Only(Training):
    x: float = real(0.5, 0.0, 1.0, search=True)
    y: float = real(0.5, 0.0, 1.0, search=True)
    fault: str = choice("none", FAULTS)
    rank: int = integer(0, 0, 99, help="the rank that fails")
    pause: float = real(0.0, 0.0, 600.0, help="seconds that an epoch takes longer")
    epochs: int = integer(3, 0, 2000)
    batch_size: int = integer(512, 2, 8192)


def network(info: Info) -> nn.Module:
    features = int(torch.tensor(info.shape).prod())
    return nn.Sequential(nn.Flatten(), nn.Linear(features, len(info.classes)))


def accuracy(settings: Mapping[str, Any]) -> float:
    """What a trial of these settings reports on validation."""
    return 1 - (settings["only.x"] - 0.3) ** 2 - (settings["only.y"] - 0.6) ** 2


def train(worker: Worker, config: Only, needs: States) -> State:
    net = worker.place(network(worker.data.info))
    worker.checkpoint_seconds = 0.0  # type: ignore[attr-defined]  # one after every epoch
    seen: list[float] = []

    def loss(batch: Batch) -> dict[str, Tensor]:
        seen.append(batch.epoch)
        value = F.cross_entropy(net(batch.x), batch.y)
        if batch.epoch == int(batch.epoch):
            time.sleep(config.pause)
        if int(batch.epoch) == 2 and worker.rank == config.rank:
            match config.fault:
                case "nan" | "inf":
                    value = value + float(config.fault)
                case "memory":
                    torch.empty(2**60)
                case "error":
                    raise RuntimeError("told to fail")
                case "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "killed once" if seen[0] == 0:  # a training that goes on from a checkpoint has seen no epoch 0
                    os.kill(os.getpid(), signal.SIGKILL)
        return {"loss": value, "process": torch.tensor(float(os.getpid()))}

    def validate() -> dict[str, float]:
        return {"val_accuracy": accuracy({"only.x": config.x, "only.y": config.y})}

    worker.fit(Player(net, loss, config), validate=validate)
    return State(net.state_dict(), {}, validate())


def model(configs: Configs, states: States, info: Info) -> nn.Module:
    net = network(info)
    net.load_state_dict(dict(states["only"].tensors))
    return net


METHOD = Method(
    name="trivial",
    paper="none",
    kind="image",
    stages=(Stage("only", Only, train),),
    recipes={"quick": Recipe("digits")},
    model=model,
    costs=lambda configs, info: {"model": network(info)},
)
