"""`label_embedding` as a value: its stages, recipes, controls and costs, and what is made of a finished run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from bo_distill.methods.cost import count
from bo_distill.methods.data.dataset import Info
from bo_distill.methods.label_embedding.nets import Ensemble, base_net, weights
from bo_distill.methods.label_embedding.paper import average_macs, members
from bo_distill.methods.label_embedding.settings import RULES, Base, Cluster, Experts, Route
from bo_distill.methods.label_embedding.stages import Answers, choose_route, find_clusters, train_base, train_experts
from bo_distill.methods.method import Configs, Control, Method, Recipe, Stage, States, Trained, stretched
from bo_distill.methods.metrics import accuracy
from bo_distill.methods.nets.wrn import WideResNet
from bo_distill.methods.training import Training


def model(configs: Configs, states: States, info: Info) -> Ensemble:
    """The trained ensemble; a cluster of one class has no expert."""
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
    """MACs of one image in the base."""
    info = trained.worker.data.info
    return float(count(model(trained.configs, trained.states, info).get_submodule("base"), info).macs)


def networks(configs: Configs, info: Info) -> dict[str, nn.Module]:
    """The base, and as "model" the ensemble on an image that is rerouted: its dearest case.

    Which classes share a cluster is not known before training and hardly changes the cost; an even deal stands in.
    The average over a split, which depends on the share rerouted, is the metric `macs`.
    """
    config, route, classes = configs["base"], configs["route"], len(info.classes)

    def net(classes: int) -> nn.Module:
        """A wide residual network over so many classes, not trained."""
        return WideResNet(config.depth, config.width, classes, info.mean, info.std, config.dropout)

    assignment = torch.arange(classes) % configs["cluster"].count
    experts = {str(j): net(len(own)) for j, own in enumerate(members(assignment)) if len(own) > 1}
    always = replace(route, threshold=0.0 if route.threshold < 1 else 1.0)
    return {"model": Ensemble(net(classes), experts, assignment, torch.ones(2), always), "base": net(classes)}


def training_macs(stage: str) -> Callable[[Configs, Info], int]:
    """Every image is in one cluster: an epoch of all experts together costs an epoch of the base. Where each class is a
    cluster of its own there are none."""

    def macs(configs: Configs, info: Info) -> int:
        """Three forward passes of an image, for every epoch of the stage."""
        if stage == "experts" and configs["cluster"].count >= len(info.classes):
            return 0
        epochs: int = configs[stage].epochs
        return 3 * count(networks(configs, info)["base"], info).macs * info.train_size * epochs

    return macs


def base_longer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fair comparison: the base goes on for the experts' epochs on all classes, and answers alone."""
    changes = {"cluster.count": 1, "route.threshold": 0.0, "route.rule": "hard", "route.tuned": False}
    return {**changes, "experts.start": "base"} if settings.get("experts.start") == "scratch" else changes


def random_clusters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Do the clusters matter? Experts of as many classes, dealt at random; e, which costs nothing, is chosen anew."""
    return {"cluster.shuffle": True, "route.tuned": True}


def two_networks(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A plain ensemble: two networks of all classes share the epochs of base and experts and answer by their mean."""
    epochs = settings["base.epochs"] + settings["experts.epochs"]
    second = max(epochs // 2, 1)
    alike = {f"experts.{field.name}": settings[f"base.{field.name}"] for field in fields(Training)}
    return {
        **stretched(settings, "base", max(epochs - second, 1)),
        **alike,
        **stretched({**settings, **alike}, "experts", second),
        "experts.start": "scratch",
        "cluster.count": 1,
        "route.threshold": 0.0,
        "route.rule": "average",
        "route.tuned": False,
    }


METHOD = Method(
    name="label_embedding",
    paper="Park 2021, An Efficient Deep Learning Ensemble Using a Distribution of Label Embedding",
    kind="image",
    stages=(
        Stage("base", Base, train_base, macs=training_macs("base")),
        Stage("cluster", Cluster, find_clusters, needs=("base",)),
        # An expert is right about its own classes, which says little of the ensemble.
        Stage(
            "experts", Experts, train_experts, needs=("base", "cluster"), macs=training_macs("experts"), judged=False
        ),
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
    controls={
        "base_longer": Control(base_longer, tunes=("experts.lr",)),
        "random_clusters": Control(random_clusters, tunes=("cluster.count",)),
        "ensemble": Control(two_networks),
    },
    metrics=metrics,
    figures="bo_distill.methods.label_embedding.figures",
    published="bo_distill.methods.label_embedding.published",
)
