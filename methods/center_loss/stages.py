"""Cross-entropy and the centre-aligned term in one stage (section 2-2 of the report)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.center_loss.nets import Network
from methods.center_loss.paper import TERMS, centre_aligned, class_means, class_sums, kmeans_centres, moved
from methods.cost import count
from methods.data.dataset import Info
from methods.method import Configs, Method, Recipe, Stage, State, States, Trained, Worker
from methods.metrics import validation
from methods.space import choice, integer, numbers, real
from methods.training import Batch, Player, Training

START_ROWS = 10_000  # enough to place some centres, and K-means takes seconds


@dataclass(frozen=True)
class Joint(Training):
    """The report's training is the default; where it prints nothing, its Keras decides or the card says what does."""

    weight: float = real(0.1, 1e-3, 100.0, log=True, search=True, help="w, of the centre-aligned term")
    margin: float = real(2.0, 0.1, 10.0, log=True, search=True, help="distance at which other centres cease to push")
    lr: float = real(1e-3, 1e-4, 0.3, log=True, search=True, help="first learning rate")
    term: str = choice("hinge", (*TERMS, "none"), help="hinge: pull and push; none: cross-entropy alone")
    start: str = choice("kmeans", ("kmeans", "means", "random"), help="where the centres are put at first")
    begin: int = integer(0, 0, 2000, help="epochs of cross-entropy alone, before the centres are put anywhere")
    centres: str = choice("averaged", ("averaged", "learned"), help="moved towards batch means, or by the optimiser")
    rate: float = real(0.5, 0.0, 1.0, help="of averaged centres: alpha of Wen et al.")
    width: int = integer(64, 4, 512, help="filters of the first block")
    features: int = integer(512, 2, 4096, log=True, help="units of the first dense layer")
    batch_norm: bool = choice(True, (True, False))
    dropout: float = real(0.25, 0.0, 0.9)
    patience: int = integer(100, 1, 2000, help="stop after so many epochs without a better validation accuracy")
    epochs: int = integer(150, 0, 2000, help="passes over the training split at most")
    optimizer: str = choice("adam", ("sgd", "adam", "adamw", "rmsprop"))
    weight_decay: float = real(0.0, 0.0, 0.1)
    schedule: str = choice("step", ("constant", "cosine", "step"), help="of the learning rate, per step")
    milestones: tuple[float, ...] = numbers((10, 20, 30), 0, 2000, help="epochs at which `step` changes the rate")
    factors: tuple[float, ...] = numbers((0.5, 0.1, 0.05), 0, 1, help="the rate from each milestone on, as a share")


class Aligned(nn.Module):
    """The network and its centres (classes, features), which train together; only the network is deployed."""

    centres: Tensor

    def __init__(self, network: Network, learned: bool) -> None:
        super().__init__()
        self.network = network
        zeros = torch.zeros_like(network.head.weight)
        if learned:
            self.centres = nn.Parameter(zeros)
        else:
            self.register_buffer("centres", zeros)


def network(config: Joint, info: Info) -> Network:
    return Network(info, config.width, config.features, config.batch_norm, config.dropout)


def first_centres(worker: Worker, net: Network, start: str) -> Tensor:
    """Centres (classes, features) for the features that `net` has now, the same on all ranks."""
    train, classes = worker.data.train, len(worker.data.info.classes)
    few = slice(None, None, -(-len(train) // START_ROWS))
    f, y = worker.predict(net.layers, train.x[few]), train.y[few]
    centres = f.new_zeros(classes, f.shape[1])
    if worker.rank == 0:  # not on every rank: two machines may round, and so cluster, differently
        if start == "kmeans":
            centres = kmeans_centres(f, y, classes, worker.seed % 2**32)
        elif start == "means":
            centres = class_means(f, y, classes)
        else:
            rows = torch.randperm(len(f), generator=torch.Generator().manual_seed(worker.seed))
            centres = f[rows[:classes]]
    return worker.total(centres.to(worker.device))


def train(worker: Worker, config: Joint, needs: States) -> State:
    """Cross-entropy + w * centre-aligned term."""
    val = worker.data.val
    net = worker.place(Aligned(network(config, worker.data.info), config.centres == "learned"))

    def loss(batch: Batch) -> dict[str, Tensor]:
        if config.term != "none" and batch.epoch == config.begin:
            with torch.no_grad():
                net.centres.copy_(first_centres(worker, net.network, config.start))
        f, logits = net.network.train_forward(batch)
        f, logits = (out.to(net.centres.dtype) for out in (f, logits))  # not in bf16
        labels = config.cross_entropy(logits, batch.y)
        parts = {"cross_entropy": labels, "accuracy": (logits.argmax(1) == batch.y).float().mean()}
        if config.term == "none" or batch.epoch < config.begin:
            return {"loss": labels, **parts}
        term = centre_aligned(f, batch.y, net.centres, config.margin, config.term)
        if config.centres == "averaged":
            sums, counts = class_sums(f.detach(), batch.y, len(net.centres))
            whole = worker.total(torch.cat([sums, counts[:, None]], 1))
            # A new tensor: the old centres are part of the graph whose gradient is still to come.
            net.centres = moved(net.centres, whole[:, :-1], whole[:, -1], config.rate)
        return {"loss": labels + config.weight * term, **parts, "aligned": term}

    def validate() -> dict[str, float]:
        return validation(worker.predict(net.network, val.x), val.y)

    worker.fit(Player(net, loss, config), validate=validate, patience=config.patience)
    return State(net.state_dict(), {}, validate())


def model(configs: Configs, states: States, info: Info) -> Network:
    net = network(configs["joint"], info)
    weights = states["joint"].tensors.items()
    net.load_state_dict({k.removeprefix("network."): v for k, v in weights if k.startswith("network.")})
    return net


def costs(configs: Configs, info: Info) -> dict[str, nn.Module]:
    return {"model": network(configs["joint"], info)}


def macs(configs: Configs, info: Info) -> int:
    """A backward pass costs twice a forward one; the centres cost nothing beside them."""
    joint: Joint = configs["joint"]
    return 3 * count(network(joint, info), info).macs * info.train_size * joint.epochs


def metrics(trained: Trained) -> dict[str, float]:
    """Statistics of the feature space (`methods.features`)."""
    from methods.center_loss import figures

    return figures.statistics(trained)


def changed(**fields: Any) -> Any:
    """A control that changes these fields of the winner."""
    return lambda settings: {f"joint.{name}": value for name, value in fields.items()}


PLAIN = {
    "joint.term": "none",
    "joint.epochs": 30,
    "joint.batch_norm": False,
    "joint.schedule": "constant",
}
NORMED = {**PLAIN, "joint.batch_norm": True}
STEPPED = {**NORMED, "joint.schedule": "step"}

# The six networks of section 3-1, thirty epochs each, as settings to be laid over the `paper` recipe.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "a": PLAIN,
    "b": NORMED,
    "c": STEPPED,
    "d": {**STEPPED, "joint.augment": "rotate_flip"},
    # The rate of SGD is not printed, and 0.001 hardly moves it: Keras's default, with the printed shares and momentum.
    "e": {**STEPPED, "joint.optimizer": "sgd", "joint.lr": 0.01, "joint.momentum": 0.9},
    "f": {**STEPPED, "joint.optimizer": "rmsprop", "joint.momentum": 0.0},
}

METHOD = Method(
    name="center_loss",
    paper="Park, Lee, Min & Ham, image classification with a K-means centre-aligned loss (student report)",
    kind="image",
    stages=(Stage("joint", Joint, train, macs=macs),),
    recipes={
        "quick": Recipe(
            data="digits",
            settings={
                "joint.width": 16,
                "joint.features": 64,
                "joint.epochs": 8,
                "joint.batch_size": 64,
                "joint.lr": 3e-3,
                "joint.schedule": "cosine",
            },
        ),
        "paper": Recipe(data="cifar10"),
        "modern": Recipe(
            data="cifar10",
            settings={
                "joint.epochs": 100,
                "joint.optimizer": "sgd",
                "joint.lr": 0.1,
                "joint.nesterov": True,
                "joint.weight_decay": 5e-4,
                "joint.schedule": "cosine",
                "joint.warmup": 5.0,
                "joint.augment": "crop_flip",
            },
        ),
    },
    model=model,
    costs=costs,
    controls={
        "cross_entropy": changed(term="none"),
        "class_means": changed(start="means"),
        "pull_only": changed(term="pull"),
        "push_only": changed(term="push"),
    },
    metrics=metrics,
    figures="methods.center_loss.figures",
    published="methods.center_loss.published",
)
