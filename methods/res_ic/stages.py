"""Res-IC as two stages: the backbone with all its exits, then the exit policy, which trains nothing."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from bo_distill.methods.data.dataset import Info, Split
from bo_distill.methods.method import State, States, Worker
from bo_distill.methods.metrics import validation
from bo_distill.methods.res_ic.choosing import choose
from bo_distill.methods.res_ic.nets import Networks, ResIC, task_columns, task_sizes
from bo_distill.methods.res_ic.paper import (
    class_weights,
    dropout_mask,
    exit_losses,
    exit_weights,
    sentence_lengths,
    total_loss,
)
from bo_distill.methods.res_ic.policies import Exits
from bo_distill.methods.res_ic.settings import Backbone, Stopping
from bo_distill.methods.training import Batch, Player


def by_task(logits: Tensor, split: Split, info: Info, macs: list[tuple[int, ...]]) -> list[Exits]:
    """What `Networks` says of a split, (n, E, classes of all tasks), task by task; `macs` has an entry for each."""
    labels, lengths = split.y.view(len(split), -1), sentence_lengths(split.x)
    return [
        Exits(logits[:, :, columns], labels[:, task], lengths, info.shape[0], tuple(own))
        for task, (columns, own) in enumerate(zip(task_columns(info), macs, strict=False))
    ]


def train_backbone(worker: Worker, config: Backbone, needs: States) -> State:
    """Eq. 1 for each group of tasks. Leaves the weights, and what all exits say of the validation split."""
    info, val = worker.data.info, worker.data.val
    nets = worker.place(Networks(config, info))
    macs = nets.macs(info.shape[0])
    train_y, val_y = (split.y.view(len(split), -1) for split in (worker.data.train, val))
    sizes = task_sizes(info)

    def train(net: ResIC, group: list[int]) -> None:
        """Train the network of one group of tasks, all exits at once."""
        own = task_columns(info, group)
        balance = [class_weights(train_y[:, task], sizes[task], config.balance) for task in group]
        weights = [None if weight is None else weight.to(worker.device) for weight in balance]

        def loss(batch: Batch) -> dict[str, Tensor]:
            """Exits' cross-entropies, mean over tasks, weighted as configured."""
            # Drawn by the batch, so that it does not depend on how many workers share the batch.
            keep = dropout_mask(batch.randn(sum(net.widths)), config.dropout) if config.dropout else None
            logits, y = net(batch.x, keep), batch.y.view(len(batch.y), -1)
            each = torch.stack(
                [
                    exit_losses(logits[:, :, columns], y[:, task], weight)
                    for task, columns, weight in zip(group, own, weights, strict=True)
                ]
            ).mean(0)
            if config.weighting == "none":
                return {"loss": each[-1]}
            factors = exit_weights(config.weighting, macs[group[0]], batch.epoch / config.epochs)
            total = total_loss(each, [config.exit_weight * factor for factor in factors])
            return {"loss": total, "first_exit": each[0], "last_exit": each[-1]}

        def validate() -> dict[str, float]:
            """Accuracy and cross-entropy of the group's first task at its last exit."""
            return validation(worker.predict(net, val.x)[:, -1, : sizes[group[0]]], val_y[:, group[0]])

        worker.fit(Player(net, loss, config), validate=validate, keep="best")

    for net, group in zip(nets, nets.groups, strict=True):
        train(net, group)
    logits = worker.predict(nets, val.x)
    tensors = {f"net.{name}": tensor for name, tensor in nets.state_dict().items()} | {"val_logits": logits}
    metrics = validation(logits[:, -1, : sizes[0]], val_y[:, 0])
    return State(tensors, {"macs": [list(own) for own in macs]}, metrics)


def choose_exit(worker: Worker, config: Stopping, needs: States) -> State:
    """The policy of each task, chosen on validation from stored logits."""
    info, val, backbone = worker.data.info, worker.data.val, needs["backbone"]
    tasks = by_task(backbone.tensors["val_logits"], val, info, backbone.spec["macs"])
    policies = [
        choose(config.rule, exits, config.goal, config.threshold, delta=config.delta, alpha=config.alpha)
        for exits in tasks
    ]
    exit, answer = policies[0].decide(tasks[0].logits, tasks[0].lengths)
    macs = float(torch.tensor(tasks[0].macs, dtype=torch.float64)[exit].mean())
    metrics = validation(answer, tasks[0].y) | {"macs": macs}
    return State({}, {"policies": [dataclasses.asdict(policy) for policy in policies]}, metrics)
