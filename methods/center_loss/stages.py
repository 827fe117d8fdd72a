"""Cross-entropy and the centre-aligned term in one stage (section 2-2 of the report)."""

from __future__ import annotations

import torch
from torch import Tensor

from bo_distill.methods.center_loss.nets import Aligned, Network, network
from bo_distill.methods.center_loss.paper import (
    centre_aligned,
    class_means,
    class_sums,
    kmeans_centres,
    moved,
    with_margin,
)
from bo_distill.methods.center_loss.settings import Joint
from bo_distill.methods.method import State, States, Worker
from bo_distill.methods.metrics import validation
from bo_distill.methods.training import Batch, Player

START_ROWS = 10_000  # enough to place some centres, and K-means takes seconds


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
        """Cross-entropy, and from epoch `begin` on the centre-aligned term; moves the centres."""
        if config.term != "none" and batch.epoch == config.begin:
            with torch.no_grad():
                net.centres.copy_(first_centres(worker, net.network, config.start))
        f, logits = net.network.features_and_logits(batch.x)
        f, logits = (out.to(net.centres.dtype) for out in (f, logits))  # not in bf16
        margin = config.cosine_margin if config.head == "cosine" else 0.0
        labels = config.cross_entropy(with_margin(logits, batch.y, config.scale, margin), batch.y)
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
        """Accuracy and cross-entropy on validation."""
        return validation(worker.predict(net.network, val.x), val.y)

    worker.fit(Player(net, loss, config), validate=validate, patience=config.patience)
    return State(net.state_dict(), {}, validate())
