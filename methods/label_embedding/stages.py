"""The cluster ensemble as four stages: base -> cluster -> experts -> route (Park 2021, III).

Only `base` and `experts` train. The experts' cache key holds the clustering and not the threshold: a search over
(S, e) trains each S once, and a new e is one pass over the validation logits that the two stages stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from bo_distill.methods.label_embedding.nets import sub_classifier
from bo_distill.methods.label_embedding.paper import (
    cluster,
    combine,
    confusion,
    dispatch,
    entropy,
    members,
    own_cluster,
)
from bo_distill.methods.label_embedding.settings import Base, Cluster, Experts, Route
from bo_distill.methods.method import State, States, Worker
from bo_distill.methods.metrics import accuracy, temperature, validation
from bo_distill.methods.nets.wrn import WideResNet
from bo_distill.methods.training import Batch, Player


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
        """Cross-entropy."""
        return {"loss": config.cross_entropy(net(batch.x).float(), batch.y)}

    worker.fit(Player(net, loss, config), validate=lambda: validation(worker.predict(net, val.x), val.y))
    logits = worker.predict(net, val.x)
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    return State({**tensors, "val_logits": logits}, spec, validation(logits, val.y))


def find_clusters(worker: Worker, config: Cluster, needs: States) -> State:
    """Stage 1: which classes go together. No training; `stability` is the mean adjusted Rand index of five seeds."""

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


def train_experts(worker: Worker, config: Experts, needs: States) -> State:
    """Stage 2: one sub-classifier per cluster of two classes or more, each alone on its rank.

    Column k of `val_logits` (rows, C) holds the logit of class k by the expert of k's cluster; 0 where there is none.
    """
    base, train, val = needs["base"], worker.data.train, worker.data.val
    assignment = needs["cluster"].tensors["assignment"]

    def run(worker: Worker, classes: Tensor) -> State:
        """Train the expert for `classes`, which it numbers from 0."""
        net = worker.place(sub_classifier(base, classes, config.start))
        number = torch.full_like(assignment, -1)
        number[classes] = torch.arange(len(classes))
        targets, inside = number[train.y], number[val.y] >= 0

        def loss(batch: Batch) -> dict[str, Tensor]:
            """Cross-entropy over the expert's own classes."""
            return {"loss": config.cross_entropy(net(batch.x).float(), batch.y)}

        def validate() -> dict[str, float]:
            """Accuracy on the validation rows of the expert's own classes."""
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
        """Which experts each row asks for, (n, clusters) bool."""
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
