"""The cluster ensemble as four stages: base -> cluster -> experts -> route (Park 2021, III).

Only `base` and `experts` train. The experts' cache key holds the clustering and not the threshold: a search over
(S, e) trains each S once, and a new e is one pass over the validation logits that the two stages stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from methods.cost import count
from methods.data.dataset import Info
from methods.label_embedding.paper import (
    average_macs,
    cluster,
    combine,
    confusion,
    dispatch,
    entropy,
    members,
    own_cluster,
    temperature,
)
from methods.method import Configs, Method, Recipe, Stage, State, States, Trained, Worker
from methods.metrics import accuracy, validation
from methods.nets.wrn import WideResNet
from methods.space import choice, integer, real
from methods.training import AUGMENTATIONS, Batch, Player, Training

RULES = ("hard", "soft", "top")


@dataclass(frozen=True)
class Base(Training):
    depth: int = choice(16, tuple(range(10, 101, 6)), help="of the wide residual network, 6n + 4")
    width: int = integer(2, 1, 20, help="its widening factor")
    dropout: float = real(0.0, 0.0, 0.9, help="between the convolutions of a block; 0 and 0.3 were published")
    epochs: int = integer(40, 0, 2000)
    nesterov: bool = choice(True, (True, False))
    augment: str = choice("crop_flip", AUGMENTATIONS)


@dataclass(frozen=True)
class Cluster:
    count: int = integer(9, 1, 30, log=True, search=True, help="S, clusters and so experts; never more than classes")
    method: str = choice("spectral", ("spectral", "agglomerative", "kmeans", "confusion"), help="see paper.cluster")
    affinity: str = choice("shifted", ("shifted", "clipped", "angular"), help="of spectral, from the cosines")
    shuffle: bool = choice(False, (True, False), help="deal the classes at random to clusters of the same sizes")


@dataclass(frozen=True)
class Experts(Training):
    epochs: int = integer(15, 0, 2000, help="of each expert, over the rows of its own classes")
    lr: float = real(0.01, 1e-5, 1.0, log=True)
    nesterov: bool = choice(True, (True, False))
    augment: str = choice("crop_flip", AUGMENTATIONS)


@dataclass(frozen=True)
class Route:
    threshold: float = real(0.2, 0.0, 1.0, search=True, help="e as a share of log C, the largest entropy")
    tuned: bool = choice(False, (True, False), help="take the e that is best on validation in place of `threshold`")
    rule: str = choice("hard", RULES, help="one expert, a mixture of all, a mixture of the top m")
    top: int = integer(3, 1, 100, help="m of the rule top")
    calibrate: bool = choice(True, (True, False), help="temperatures of base and experts, from validation")


def base_net(state: State, classes: int) -> WideResNet:
    """A network of the base's shape with so many classes, its weights still random."""
    return WideResNet(classes=classes, **state.spec)


def weights(state: State, prefix: str) -> dict[str, Tensor]:
    """The tensors of a state whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in state.tensors.items() if name.startswith(prefix)}


def train_base(worker: Worker, config: Base, needs: States) -> State:
    """Stage 0: the classifier of all classes. Its validation logits are kept for clustering and routing."""
    info, val = worker.data.info, worker.data.val
    spec: dict[str, Any] = {
        "depth": config.depth,
        "width": config.width,
        "dropout": config.dropout,
        "mean": info.mean,
        "std": info.std,
    }
    net = worker.place(WideResNet(classes=len(info.classes), **spec))

    def loss(batch: Batch) -> dict[str, Tensor]:
        return {"loss": config.cross_entropy(net(batch.x).float(), batch.y)}

    worker.fit(Player(net, loss, config), validate=lambda: validation(worker.predict(net, val.x), val.y))
    logits = worker.predict(net, val.x)
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    return State({**tensors, "val_logits": logits}, spec, validation(logits, val.y))


def find_clusters(worker: Worker, config: Cluster, needs: States) -> State:
    """Stage 1: which classes go together. No training; `stability` is the mean adjusted Rand index of five seeds."""
    from itertools import combinations

    from sklearn.metrics import adjusted_rand_score

    base, val = needs["base"], worker.data.val
    confused = confusion(base.tensors["val_logits"], val.y)
    # A search's range does not know the data: beyond the classes, each is a cluster of its own.
    clusters = min(config.count, len(worker.data.info.classes))
    found = [
        cluster(base.tensors["net.head.weight"], confused, clusters, config.method, config.affinity, seed)
        for seed in range(5)
    ]
    # Rank 0's answer is everyone's: eigenvectors may differ between machines by more than rounding.
    assignment = worker.total((found[0] * (worker.rank == 0)).to(worker.device)).cpu()
    if config.shuffle:
        generator = torch.Generator().manual_seed(worker.seed)
        assignment = assignment[torch.randperm(len(assignment), generator=generator)]
    sizes = torch.bincount(assignment)
    return State(
        {"assignment": assignment},
        metrics={
            "stability": sum(adjusted_rand_score(a, b) for a, b in combinations(found, 2)) / 10,
            "clusters": len(sizes),
            "largest": int(sizes.max()),
            "smallest": int(sizes.min()),
        },
    )


def sub_classifier(base: State, classes: Tensor) -> WideResNet:
    """The base with the head's rows of `classes` only: it starts as the base asked about these classes alone."""
    net = base_net(base, len(classes))
    start = weights(base, "net.")
    for name in ("head.weight", "head.bias"):
        start[name] = start[name][classes]
    net.load_state_dict(start)
    return net


def train_experts(worker: Worker, config: Experts, needs: States) -> State:
    """Stage 2: one sub-classifier per cluster of two classes or more, each alone on its rank.

    Column k of `val_logits` (rows, C) holds the logit of class k by the expert of k's cluster; 0 where there is none.
    """
    base, train, val = needs["base"], worker.data.train, worker.data.val
    assignment = needs["cluster"].tensors["assignment"]

    def run(worker: Worker, classes: Tensor) -> State:
        net = worker.place(sub_classifier(base, classes))
        number = torch.full_like(assignment, -1)
        number[classes] = torch.arange(len(classes))
        targets, inside = number[train.y], number[val.y] >= 0

        def loss(batch: Batch) -> dict[str, Tensor]:
            return {"loss": config.cross_entropy(net(batch.x).float(), batch.y)}

        def validate() -> dict[str, float]:
            # Not called val_accuracy: fewer classes compete than in the base, and a scheduler must not compare them.
            return {"inside_accuracy": accuracy(worker.predict(net, val.x[inside]), number[val.y[inside]])}

        worker.fit(
            Player(net, loss, config),
            rows=(targets >= 0).nonzero().squeeze(1),
            targets=targets,
            validate=validate if inside.any() else None,
        )
        weights = {name: value.cpu() for name, value in net.state_dict().items()}
        return State({**weights, "val_logits": worker.predict(net, val.x)})

    groups = {j: classes for j, classes in enumerate(members(assignment)) if len(classes) > 1}
    states = worker.each(groups.values(), run)
    logits = torch.zeros(len(val), len(assignment))
    tensors: dict[str, Tensor] = {}
    for (j, classes), state in zip(groups.items(), states, strict=True):
        logits[:, classes] = state.tensors["val_logits"]
        tensors |= {f"{j}.{name}": value for name, value in state.tensors.items() if name != "val_logits"}
    oracle = own_cluster(logits, val.y, assignment)
    return State({**tensors, "val_logits": logits}, metrics={"oracle_accuracy": accuracy(oracle, val.y)})


def choose_route(worker: Worker, config: Route, needs: States) -> State:
    """Stage 3: temperatures, and the ensemble's accuracy at this threshold, from stored logits alone."""
    y, assignment = worker.data.val.y, needs["cluster"].tensors["assignment"]
    base, experts = needs["base"].tensors["val_logits"], needs["experts"].tensors["val_logits"]
    temperatures = torch.ones(2)
    if config.calibrate:
        temperatures[0] = temperature(base, y)
        temperatures[1] = temperature(own_cluster(experts, y, assignment), y)
    own = Answers(base / temperatures[0], experts / temperatures[1], y, assignment, config.top)
    threshold = own.best_threshold(config.rule) if config.tuned else config.threshold
    asked = own.asked(threshold, config.rule)
    return State(
        {"temperatures": temperatures},
        {"threshold": threshold},
        metrics={
            **validation(own.ensemble(threshold, config.rule), y),
            "rerouted": float(asked.any(1).double().mean()),
            "base_temperature": float(temperatures[0]),
            "expert_temperature": float(temperatures[1]),
        },
    )


class Ensemble(nn.Module):
    """The deployed ensemble: images (b, c, h, w) in [0, 1] -> log-probabilities (b, C).

    An expert runs on the rows that ask for it and on no other. An exported graph has no such choice: there every expert
    runs on every row, and what was not asked for is not used; the answers are the same.
    """

    assignment: Tensor
    temperatures: Tensor

    def __init__(
        self, base: nn.Module, experts: Mapping[str, nn.Module], assignment: Tensor, temperatures: Tensor, route: Route
    ) -> None:
        super().__init__()
        self.base, self.experts, self.route = base, nn.ModuleDict(experts), route
        self.register_buffer("assignment", assignment)
        self.register_buffer("temperatures", temperatures)
        self.groups = [classes.tolist() for classes in members(assignment)]
        self.columns = torch.cat(members(assignment)).argsort().tolist()  # of each class, with the groups side by side

    def forward(self, x: Tensor) -> Tensor:
        clusters, route = len(self.groups), self.route
        base = self.base(x).float() / self.temperatures[0]
        asked = dispatch(base, self.assignment, route.threshold, route.rule, route.top, clusters)
        experts = self.everywhere if torch.compiler.is_exporting() else self.where
        return combine(base, experts(x, asked), self.assignment, asked, route.rule, clusters)

    def where(self, x: Tensor, asked: Tensor) -> Tensor:
        """Experts' logits (b, C) in the rows and columns for which they are asked."""
        logits = x.new_zeros(len(x), len(self.assignment))
        for j, expert in self.experts.items():
            rows = asked[:, int(j)].nonzero()
            logits[rows, self.groups[int(j)]] = expert(x[rows.squeeze(1)]).float() / self.temperatures[1]
        return logits

    def everywhere(self, x: Tensor, asked: Tensor) -> Tensor:
        """Experts' logits (b, C) in all rows."""
        alone = x.new_zeros(x.shape[0], 1)
        parts = [self.experts[str(j)](x).float() if len(g) > 1 else alone for j, g in enumerate(self.groups)]
        return torch.cat(parts, 1)[:, self.columns] / self.temperatures[1]


def model(configs: Configs, states: States, info: Info) -> Ensemble:
    assignment = states["cluster"].tensors["assignment"]
    base = base_net(states["base"], len(assignment))
    base.load_state_dict(weights(states["base"], "net."))
    experts = {}
    for j, classes in enumerate(members(assignment)):
        if len(classes) > 1:
            experts[str(j)] = base_net(states["base"], len(classes))
            experts[str(j)].load_state_dict(weights(states["experts"], f"{j}."))
    return Ensemble(base, experts, assignment, states["route"].tensors["temperatures"], routing(configs, states))


def routing(configs: Configs, states: States) -> Route:
    """The route's settings with the threshold that was chosen."""
    return replace(configs["route"], threshold=states["route"].spec["threshold"])


@dataclass(frozen=True)
class Answers:
    """What base and experts say of every row of a split; all that routing reads.

    Attributes:
        base: calibrated logits, (n, C).
        experts: column k is by the expert of k's cluster, calibrated, (n, C).
        y: (n,).
        assignment: (C,).
        top: m of the rule "top".
    """

    base: Tensor
    experts: Tensor
    y: Tensor
    assignment: Tensor
    top: int

    def asked(self, threshold: float, rule: str) -> Tensor:
        return dispatch(self.base, self.assignment, threshold, rule, self.top)

    def ensemble(self, threshold: float, rule: str) -> Tensor:
        """Log-probabilities (n, C)."""
        return combine(self.base, self.experts, self.assignment, self.asked(threshold, rule), rule)

    def curve(self, rule: str, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """Accuracy, and experts asked per image, at each threshold (t,): one pass over the logits for all of them."""
        share = entropy(self.base) / math.log(self.base.shape[1])
        uncertain = share.unsqueeze(0) >= thresholds.unsqueeze(1)
        base = self.base.argmax(1) == self.y
        routed = self.ensemble(0.0, rule).argmax(1) == self.y
        needs_expert = torch.bincount(self.assignment) > 1
        experts = (self.asked(0.0, rule) & needs_expert).sum(1)
        return torch.where(uncertain, routed, base).double().mean(1), (uncertain * experts).double().mean(1)

    def best_threshold(self, rule: str) -> float:
        """The threshold at which the rule is most accurate; of equals the largest, which asks the fewest experts."""
        thresholds = torch.linspace(0, 1, 101)
        right, _ = self.curve(rule, thresholds)
        return float(thresholds[len(right) - 1 - right.flip(0).argmax()])

    def perfect(self, logits: Tensor) -> float:
        """Accuracy when each row's cluster is known."""
        return accuracy(own_cluster(logits, self.y, self.assignment), self.y)


def answers(trained: Trained) -> Answers:
    """Validation's logits as they were stored; on another split, one pass of the base and of all experts."""
    worker, states, x = trained.worker, trained.states, trained.split.x
    assignment, temperatures = states["cluster"].tensors["assignment"], states["route"].tensors["temperatures"]
    if x is worker.data.val.x:
        base, experts = (states[name].tensors["val_logits"] for name in ("base", "experts"))
    else:
        net = worker.place(model(trained.configs, states, worker.data.info))
        base, experts = worker.predict(net.base, x), torch.zeros(len(x), len(assignment))
        for j, expert in net.experts.items():
            experts[:, assignment == int(j)] = worker.predict(expert, x)
    top: int = trained.configs["route"].top
    return Answers(base / temperatures[0], experts / temperatures[1], trained.split.y, assignment, top)


def metrics(trained: Trained) -> dict[str, float]:
    """Accuracies of the routing rules at the chosen threshold, of base and perfect routing, and the average cost.

    `headroom_share` is how much of the way from the base to perfect routing the chosen rule goes; `macs` are
    multiply-adds per image, to be held against the base (1) and an ensemble of two networks (2).
    """
    own, route = answers(trained), routing(trained.configs, trained.states)
    base, oracle = accuracy(own.base, own.y), own.perfect(own.experts)
    asked = own.asked(route.threshold, route.rule)
    chosen = accuracy(own.ensemble(route.threshold, route.rule), own.y)
    one = base_macs(trained)
    return {
        "base_accuracy": base,
        **{f"{rule}_accuracy": accuracy(own.ensemble(route.threshold, rule), own.y) for rule in RULES},
        "oracle_accuracy": oracle,
        "base_oracle_accuracy": own.perfect(own.base),
        "headroom_share": (chosen - base) / (oracle - base) if oracle > base else 0.0,
        "rerouted": float(asked.any(1).double().mean()),
        "macs": average_macs(asked, own.assignment, one, one),
        "macs_ratio": average_macs(asked, own.assignment, 1.0, 1.0),
    }


def base_macs(trained: Trained) -> float:
    info = trained.worker.data.info
    return float(count(model(trained.configs, trained.states, info).get_submodule("base"), info).macs)


def networks(configs: Configs, info: Info) -> dict[str, nn.Module]:
    """The base, and as "model" the ensemble on an image that is rerouted: its dearest case.

    Which classes share a cluster is not known before training and hardly changes the cost; an even deal stands in.
    The average over a split, which depends on the share rerouted, is the metric `macs`.
    """
    config, route, classes = configs["base"], configs["route"], len(info.classes)

    def net(classes: int) -> nn.Module:
        return WideResNet(config.depth, config.width, classes, info.mean, info.std, config.dropout)

    assignment = torch.arange(classes) % configs["cluster"].count
    experts = {str(j): net(len(own)) for j, own in enumerate(members(assignment)) if len(own) > 1}
    always = replace(route, threshold=0.0 if route.threshold < 1 else 1.0)
    return {"model": Ensemble(net(classes), experts, assignment, torch.ones(2), always), "base": net(classes)}


def training_macs(stage: str) -> Callable[[Configs, Info], int]:
    """Every image is in one cluster: an epoch of all experts together costs an epoch of the base."""

    def macs(configs: Configs, info: Info) -> int:
        epochs: int = configs[stage].epochs
        return 3 * count(networks(configs, info)["base"], info).macs * info.train_size * epochs

    return macs


def base_longer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fair comparison: the base goes on for the experts' epochs on all classes, and answers alone."""
    return {"cluster.count": 1, "route.threshold": 0.0, "route.rule": "hard", "route.tuned": False}


def random_clusters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Do the clusters matter? Experts of as many classes, dealt at random."""
    return {"cluster.shuffle": True}


METHOD = Method(
    name="label_embedding",
    paper="Park 2021, An Efficient Deep Learning Ensemble Using a Distribution of Label Embedding",
    kind="image",
    stages=(
        Stage("base", Base, train_base, macs=training_macs("base")),
        Stage("cluster", Cluster, find_clusters, needs=("base",)),
        Stage("experts", Experts, train_experts, needs=("base", "cluster"), macs=training_macs("experts")),
        Stage("route", Route, choose_route, needs=("base", "cluster", "experts")),
    ),
    recipes={
        "quick": Recipe(
            data="glyphs",
            settings={
                "base.depth": 10,
                "base.width": 1,
                "base.epochs": 8,
                "base.batch_size": 64,
                "base.augment": "none",
                "experts.epochs": 2,
                "experts.batch_size": 64,
                "experts.augment": "none",
            },
            train_size=4000,
            val_size=1000,
        ),
        "cifar100": Recipe(
            data="cifar100",
            settings={
                "base.epochs": 6,
                "base.batch_size": 64,
                "base.lr": 0.05,
                "experts.epochs": 2,
                "experts.batch_size": 64,
            },
            train_size=20000,
        ),
        "paper": Recipe(
            data="cifar100",
            settings={
                "base.depth": 28,
                "base.width": 10,
                "base.epochs": 200,
                "base.schedule": "step",
                "base.milestones": (60, 120, 160),
                "base.factors": (0.2, 0.04, 0.008),
                "experts.epochs": 15,
                "route.calibrate": False,
            },
        ),
    },
    model=model,
    costs=networks,
    controls={"base_longer": base_longer, "random_clusters": random_clusters},
    metrics=metrics,
    figures="methods.label_embedding.figures",
    published="methods.label_embedding.published",
)
