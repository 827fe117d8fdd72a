"""`res_ic` as a value: its stages, recipes, controls and costs, and what is made of a finished run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from bo_distill.methods.data.dataset import Info
from bo_distill.methods.method import Configs, Control, Method, Recipe, Stage, States, Trained
from bo_distill.methods.metrics import accuracy, macro_f1
from bo_distill.methods.res_ic.choosing import choose
from bo_distill.methods.res_ic.nets import Networks, exit_macs, restored, task_columns
from bo_distill.methods.res_ic.policies import EarlyExit, Exits, Policy, oracle
from bo_distill.methods.res_ic.settings import Backbone, Stopping
from bo_distill.methods.res_ic.stages import by_task, choose_exit, train_backbone


def chosen(states: States) -> list[Policy]:
    """The policy of each task."""

    def tuples(words: Mapping[str, Any]) -> dict[str, Any]:
        """Lists, as JSON has them, as tuples."""
        return {name: tuple(value) if isinstance(value, list) else value for name, value in words.items()}

    return [Policy(**tuples(words)) for words in states["policy"].spec["policies"]]


def deployed(configs: Configs, states: States, info: Info) -> dict[str, EarlyExit]:
    """Each task that was trained -> its network with its policy."""
    nets = restored(configs["backbone"], info, states["backbone"])
    policies, result = chosen(states), {}
    for net, group in zip(nets, nets.groups, strict=True):
        for task, columns in zip(group, task_columns(info, group), strict=True):
            result[info.tasks[task][0]] = EarlyExit(net, policies[task], columns)
    return result


def model(configs: Configs, states: States, info: Info) -> nn.Module:
    """The first task's."""
    return deployed(configs, states, info)[info.tasks[0][0]]


def others(configs: Configs, states: States, info: Info) -> dict[str, nn.Module]:
    """Those of the further tasks."""
    first = info.tasks[0][0]
    return {name: net for name, net in deployed(configs, states, info).items() if name != first}


def networks(configs: Configs, info: Info) -> dict[str, nn.Module]:
    """What one sentence costs when it passes all exits, and without internal classifiers."""
    backbone: Backbone = configs["backbone"]
    plain = dataclasses.replace(backbone, weighting="none")
    return {"model": next(iter(Networks(backbone, info))), "without_internal": next(iter(Networks(plain, info)))}


def backbone_macs(configs: Configs, info: Info) -> int:
    """MACs of training all exits: three forward passes of a sentence at its last exit, for every epoch."""
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
    others=others,
    costs=networks,
    controls={
        "without_internal": Control(without_internal, tunes=("backbone.lr", "backbone.depth", "backbone.dropout"))
    },
    metrics=metrics,
    figures="bo_distill.methods.res_ic.figures",
    published="bo_distill.methods.res_ic.published",
)
