"""`center_loss` as a value: its stages, recipes, controls and costs, and what is made of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bo_distill.methods import features
from bo_distill.methods.center_loss.nets import Network, network
from bo_distill.methods.center_loss.settings import Joint
from bo_distill.methods.center_loss.stages import train
from bo_distill.methods.cost import count
from bo_distill.methods.data.dataset import Info
from bo_distill.methods.method import Configs, Control, Method, Recipe, Stage, States, Trained

DENSE = "layers.dense"  # the space of the loss


def model(configs: Configs, states: States, info: Info) -> Network:
    """The trained network: images (b, c, h, w) in [0, 1] -> logits (b, classes)."""
    net = network(configs["joint"], info)
    weights = states["joint"].tensors.items()
    net.load_state_dict({k.removeprefix("network."): v for k, v in weights if k.startswith("network.")})
    return net


def costs(configs: Configs, info: Info) -> dict[str, nn.Module]:
    """The deployed network, not trained: its costs are counted."""
    return {"model": network(configs["joint"], info)}


def macs(configs: Configs, info: Info) -> int:
    """A backward pass costs twice a forward one; the centres cost nothing beside them."""
    joint: Joint = configs["joint"]
    return 3 * count(network(joint, info), info).macs * info.train_size * joint.epochs


def activations(trained: Trained, layer: str, x: Tensor) -> Tensor:
    """What a layer of the trained network puts out for rows `x` as a split holds them, (n, ...) on the CPU."""
    worker = trained.worker
    net = worker.place(model(trained.configs, trained.states, worker.data.info)).eval()
    return worker.predict(features.Activations(net, layer), x)


def metrics(trained: Trained) -> dict[str, float]:
    """Statistics of the first dense layer's output on the split; training rows vote in `knn_accuracy`."""
    train, split = trained.worker.data.train, trained.split
    known, known_y = features.thinned(train.x, 5000), features.thinned(train.y, 5000)
    return features.statistics(
        activations(trained, DENSE, known), known_y, activations(trained, DENSE, split.x), split.y
    )


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
        "cross_entropy": Control(changed(term="none"), tunes=("joint.lr",)),
        "class_means": Control(changed(start="means"), tunes=("joint.weight", "joint.margin", "joint.lr")),
        "pull_only": Control(changed(term="pull"), tunes=("joint.weight", "joint.lr")),
        "push_only": Control(changed(term="push"), tunes=("joint.weight", "joint.margin", "joint.lr")),
    },
    metrics=metrics,
    figures="bo_distill.methods.center_loss.figures",
    published="bo_distill.methods.center_loss.published",
)
