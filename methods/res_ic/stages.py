"""Res-IC as two stages: the backbone with all its exits, then the exit policy, which trains nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from methods.data.dataset import Info, Split
from methods.errors import UsageError
from methods.method import Configs, Method, Recipe, Stage, State, States, Trained, Worker
from methods.metrics import accuracy, macro_f1, validation
from methods.res_ic.nets import BLOCKS, STEM, ResIC, exit_macs
from methods.res_ic.paper import (
    BALANCES,
    WEIGHTINGS,
    class_weights,
    dropout_mask,
    exit_losses,
    exit_weights,
    sentence_lengths,
    total_loss,
)
from methods.res_ic.policies import GOALS, RULES, EarlyExit, Exits, Policy, choose, oracle
from methods.space import choice, integer, real
from methods.training import Batch, Player, Training


@dataclass(frozen=True)
class Backbone(Training):
    optimizer: str = choice("adamw", ("sgd", "adam", "adamw", "rmsprop"))
    lr: float = real(1e-3, 1e-4, 1e-1, log=True, search=True, help="first learning rate")
    weight_decay: float = real(1e-2, 0.0, 0.1)
    warmup: float = real(0.5, 0.0, 100.0, help="epochs of linear warm-up")
    augment: str = choice("none", ("none",))
    depth: int = choice(18, tuple(BLOCKS), search=True, help="Res-IC18 or Res-IC34; 10 has one block per width")
    width: int = integer(64, 4, 512, log=True, help="channels of the first blocks")
    dropout: float = real(0.1, 0.0, 0.9, search=True, help="before each exit's last layer")
    exit_weight: float = real(1.0, 1e-2, 10.0, log=True, search=True, help="multiplies the sum in eq. (1)")
    weighting: str = choice("paper", WEIGHTINGS, help="i/N, the ramp of SDN, 1, or no internal classifiers at all")
    balance: str = choice("none", BALANCES, help="class weights: one over the count, its root, or none")
    tasks: str = choice("separate", ("first", "separate", "joint"), help="a network for each task, or one for all")


@dataclass(frozen=True)
class Stopping:
    rule: str = choice("confidence", tuple(RULES))
    goal: str = choice("accurate", GOALS, help="best accuracy; fewest MACs at the last exit's accuracy; `threshold`")
    threshold: float = real(0.9, 0.0, 1.0, help="of the score, for goal `given`")


def task_sizes(info: Info) -> list[int]:
    """Classes of each task."""
    return [len(names) for _, names in info.tasks]


def task_columns(info: Info) -> list[slice]:
    """Where each task's logits lie among those of all tasks."""
    return [slice(*ends) for ends in pairwise(accumulate(task_sizes(info), initial=0))]


class Networks(nn.ModuleList):
    """One network for each group of tasks that share their blocks; groups and tasks in order.

    x (b, length) int64 -> logits (b, E, classes of all tasks side by side).
    """

    def __init__(self, config: Backbone, info: Info) -> None:
        if info.shape[0] < STEM:
            raise UsageError(f"max_length {info.shape[0]}: Res-IC's first layer reads {STEM} characters; keep as many")
        tasks = list(range(len(info.tasks)))
        self.groups = {"first": [[0]], "separate": [[task] for task in tasks], "joint": [tasks]}[config.tasks]
        sizes, internal = task_sizes(info), config.weighting != "none"
        super().__init__(
            ResIC(len(info.vocabulary), sum(sizes[task] for task in group), config.depth, config.width, internal)
            for group in self.groups
        )

    def __iter__(self) -> Iterator[ResIC]:
        return cast(Iterator[ResIC], super().__iter__())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([net(x) for net in self], 2)

    def macs(self, length: int) -> list[tuple[int, ...]]:
        """For each task, multiply-adds of one sentence that leaves at each exit."""
        return [tuple(exit_macs(net, length)) for net, group in zip(self, self.groups, strict=True) for _ in group]


def restored(config: Backbone, info: Info, state: State) -> Networks:
    """The trained networks."""
    nets = Networks(config, info)
    nets.load_state_dict({name[4:]: tensor for name, tensor in state.tensors.items() if name.startswith("net.")})
    return nets.eval()


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
        own = [slice(*ends) for ends in pairwise(accumulate((sizes[task] for task in group), initial=0))]
        balance = [class_weights(train_y[:, task], sizes[task], config.balance) for task in group]
        weights = [None if weight is None else weight.to(worker.device) for weight in balance]

        def loss(batch: Batch) -> dict[str, Tensor]:
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
    policies = [choose(config.rule, exits, config.goal, config.threshold) for exits in tasks]
    exit, answer = policies[0].decide(tasks[0].logits, tasks[0].lengths)
    macs = float(torch.tensor(tasks[0].macs, dtype=torch.float64)[exit].mean())
    metrics = validation(answer, tasks[0].y) | {"macs": macs}
    return State({}, {"policies": [dataclasses.asdict(policy) for policy in policies]}, metrics)


def chosen(states: States) -> list[Policy]:
    """The policy of each task."""

    def tuples(words: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in words.items()}

    return [Policy(**tuples(words)) for words in states["policy"].spec["policies"]]


def model(configs: Configs, states: States, info: Info) -> nn.Module:
    """The first task's network with its policy."""
    nets = restored(configs["backbone"], info, states["backbone"])
    return EarlyExit(next(iter(nets)), chosen(states)[0], task_columns(info)[0])


def networks(configs: Configs, info: Info) -> dict[str, nn.Module]:
    """What one sentence costs when it passes all exits, and without internal classifiers."""
    backbone: Backbone = configs["backbone"]
    plain = dataclasses.replace(backbone, weighting="none")
    return {"model": next(iter(Networks(backbone, info))), "without_internal": next(iter(Networks(plain, info)))}


def backbone_macs(configs: Configs, info: Info) -> int:
    config: Backbone = configs["backbone"]
    one = sum(exit_macs(net, info.shape[0])[-1] for net in Networks(config, info))
    return 3 * one * info.train_size * config.epochs


def measured(trained: Trained) -> list[tuple[Exits, Exits]]:
    """For each task, all exits on validation and on the split that is reported."""
    worker, state, info = trained.worker, trained.states["backbone"], trained.worker.data.info
    nets = worker.place(restored(trained.configs["backbone"], info, state))
    val = by_task(state.tensors["val_logits"], worker.data.val, info, state.spec["macs"])
    split = by_task(worker.predict(nets, trained.split.x), trained.split, info, state.spec["macs"])
    return list(zip(val, split, strict=True))


def metrics(trained: Trained) -> dict[str, float]:
    """Of each task: cost of the policy beside the last and the best fixed exit, the oracle and overthinking.

    "overthinking" is the share of sentences that an internal classifier has right and the last one wrong. The names
    of the second task's on end in its own, which also has the "accuracy" and "macro_f1" that every method gives the
    first.
    """
    info = trained.worker.data.info
    result: dict[str, float] = {}
    for (name, names), policy, (val, on) in zip(info.tasks, chosen(trained.states), measured(trained), strict=False):
        exit, answer = policy.decide(on.logits, on.lengths)
        macs = torch.tensor(on.macs, dtype=torch.float64)
        fixed, _ = choose("fixed", val).decide(on.logits, on.lengths)
        ever = on.right.gather(1, oracle(on)[:, None]).squeeze(1)
        found = {
            "macs": float(macs[exit].mean()),
            "macs_share": float(macs[exit].mean() / macs[-1]),
            "accuracy_last": float(on.right[:, -1].double().mean()),
            "accuracy_fixed": float(on.right.gather(1, fixed[:, None]).double().mean()),
            "accuracy_oracle": float(ever.double().mean()),
            "overthinking": float((ever & ~on.right[:, -1]).double().mean()),
        }
        if result:
            found |= {
                "accuracy": accuracy(answer, on.y),
                "macro_f1": macro_f1(answer.argmax(1), on.y, len(names)),
            }
            found = {f"{key}_{name}": value for key, value in found.items()}
        result |= found
    return result


def without_internal(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same network with its last classifier alone: joint training changes that one too."""
    return {"backbone.weighting": "none"}


METHOD = Method(
    name="res_ic",
    paper="Seong & Cha, internal learning tendency of a deep classifier by depth (Changwon National University)",
    kind="text",
    stages=(
        Stage("backbone", Backbone, train_backbone, macs=backbone_macs),
        Stage("policy", Stopping, choose_exit, needs=("backbone",)),
    ),
    recipes={
        "quick": Recipe(
            data="docstrings",
            settings={
                "backbone.width": 8,
                "backbone.depth": 10,
                "backbone.epochs": 3,
                "backbone.batch_size": 64,
                "backbone.lr": 2e-2,
                "backbone.tasks": "joint",
            },
            train_size=5000,
            val_size=1000,
        ),
        # The paper prints no optimiser, no epochs and no dropout rate: those are the defaults. The rest is the paper's.
        "paper": Recipe(
            data="docstrings", settings={"backbone.depth": 34, "policy.rule": "length", "policy.goal": "accurate"}
        ),
    },
    model=model,
    costs=networks,
    controls={"without_internal": without_internal},
    metrics=metrics,
    figures="methods.res_ic.figures",
    published="methods.res_ic.published",
)
