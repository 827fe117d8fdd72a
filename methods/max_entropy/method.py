"""`max_entropy` as a value: its stages, recipes, controls and costs, and what is made of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from bo_distill.methods.cost import count
from bo_distill.methods.data.dataset import Info
from bo_distill.methods.max_entropy.nets import Augmenter, augmenter_net, classifier_net, discriminator, filled
from bo_distill.methods.max_entropy.settings import Augment, Classify, Finetune
from bo_distill.methods.max_entropy.stages import (
    finetune,
    frozen_classifier,
    measure,
    train_augmenter,
    train_classifier,
)
from bo_distill.methods.method import Configs, Control, Method, Recipe, Stage, States, Trained, stretched


def model(configs: Configs, states: States, info: Info) -> nn.Module:
    """The fine-tuned classifier; nothing is augmented when it answers."""
    return filled(classifier_net(states["classifier"].spec, info), states["finetune"], "classifier")


def networks(configs: Configs, info: Info) -> dict[str, nn.Module]:
    """All networks that are trained, before training: their costs are counted."""
    config: Classify = configs["classifier"]
    return {
        "model": classifier_net({"stem": config.stem, "width": config.width, "blocks": config.blocks}, info),
        "augmenter": augmenter_net(configs["augmenter"], info),
        "discriminator": discriminator(info.mean, info.std),
    }


def passes(config: Augment, alternate: bool) -> int:
    """Forward passes of the classifier that one image costs in a step of G; a gradient by the image is one more."""
    teacher = 2 if alternate and config.guard == "teacher" else 0  # in sequence the teacher is the classifier
    plain = (2 if teacher else 1) if config.apply == "learned" else 0
    return 2 + teacher + plain


def classifier_macs(configs: Configs, info: Info) -> int:
    """MACs of training the classifier: three forward passes of an image, for every epoch."""
    config: Classify = configs["classifier"]
    return 3 * count(networks(configs, info)["model"], info).macs * info.train_size * config.epochs


def step_macs(configs: Configs, info: Info, alternate: bool) -> int:
    """Multiply-adds of one image in one step of G and D."""
    one = {name: count(net, info).macs for name, net in networks(configs, info).items()}
    config: Augment = configs["augmenter"]
    # D: forward and by the image in G's step, then twice with weights in its own, on an image that G makes again.
    guard = 8 * one["discriminator"] + one["augmenter"] if config.guard == "discriminator" else 0
    return 3 * one["augmenter"] + passes(config, alternate) * one["model"] + guard


def augmenter_macs(configs: Configs, info: Info) -> int:
    """MACs of training G and D: a step of both for each image, for every epoch."""
    config: Augment = configs["augmenter"]
    return step_macs(configs, info, alternate=False) * info.train_size * config.epochs


def finetune_macs(configs: Configs, info: Info) -> int:
    """MACs of the fine-tuning: three passes of the classifier, and what G costs where it augments or is trained on."""
    config: Finetune = configs["finetune"]
    nets = networks(configs, info)
    one = 3 * count(nets["model"], info).macs
    if config.learned:
        one += count(nets["augmenter"], info).macs
        one += step_macs(configs, info, alternate=True) if config.order == "alternate" else 0
    return one * info.train_size * config.epochs


def without(augment: str) -> Any:
    """A control: the same classifier, fine-tuned for as many epochs on images that are augmented as named instead."""

    def control(settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that change: no augmenter, and a fixed augmentation, if any, in its place."""
        return {"augmenter.epochs": 0, "finetune.learned": False, "finetune.augment": augment}

    return control


def printed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All as it is but the sign of the loss."""
    return {"augmenter.objective": "printed"}


def as_printed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's augmenter, with all that its remedies change turned off."""
    return {f"augmenter.{name}": value for name, value in PAPER.items()}


def sign_turned(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's augmenter with the sign of its loss turned and nothing else: collapse against cure."""
    return {**as_printed(settings), "augmenter.objective": "corrected"}


def alternate(settings: Mapping[str, Any]) -> dict[str, Any]:
    """G and the classifier in turn, for as many epochs as cost what the sequence does.

    The classifier's passes are counted; those of G and D are few beside them, and all are in the stages' MACs.
    """
    config = Augment(**{k.removeprefix("augmenter."): v for k, v in settings.items() if k.startswith("augmenter.")})
    spent = passes(config, alternate=False) * config.epochs + 3 * settings["finetune.epochs"]
    epochs = round(spent / (passes(config, alternate=True) + 3))
    return {"augmenter.epochs": 0, "finetune.order": "alternate", **stretched(settings, "finetune", epochs)}


def final_augmenter(trained: Trained) -> tuple[Augmenter, nn.Module]:
    """G and D as the last stage left them."""
    info, state = trained.worker.data.info, trained.states["finetune"]
    augmenter = filled(augmenter_net(trained.configs["augmenter"], info), state, "augmenter")
    critic = filled(discriminator(info.mean, info.std), state, "critic")
    return trained.worker.place(augmenter), trained.worker.place(critic)


def metrics(trained: Trained) -> dict[str, float]:
    """What `measure` finds on the split with the final augmenter, judged by the classifier before fine-tuning."""
    if not trained.configs["finetune"].learned:
        return {}
    augmenter, critic = final_augmenter(trained)
    judge = frozen_classifier(trained.worker, trained.states)
    return measure(trained.worker, trained.configs["augmenter"], augmenter, critic, judge, trained.split)


PAPER = {
    "objective": "printed",
    "weight": 2.0,
    "affine": "free",
    "colour": "none",
    "noise": "none",
    "guard": "discriminator",
    "apply": "fixed",
    "probability": 1.0,
    "padding": "zeros",
}


METHOD = Method(
    name="max_entropy",
    paper="Cho, Kim & Yoon, automatic data augmentation from the viewpoint of active learning (KAIST, in Korean)",
    kind="image",
    stages=(
        Stage("classifier", Classify, train_classifier, macs=classifier_macs, shared=True),
        Stage("augmenter", Augment, train_augmenter, needs=("classifier",), macs=augmenter_macs),
        Stage("finetune", Finetune, finetune, needs=("classifier", "augmenter"), macs=finetune_macs),
    ),
    recipes={
        "quick": Recipe(
            data="digits",
            settings={
                "classifier.width": 8,
                "classifier.blocks": 1,
                "classifier.epochs": 6,
                "classifier.batch_size": 64,
                "augmenter.epochs": 2,
                "augmenter.batch_size": 64,
                "finetune.epochs": 4,
                "finetune.batch_size": 64,
            },
        ),
        # What the text does not give (batch size, momentum, decay, padding, the STN) is as in the README's table.
        "paper": Recipe(
            data="cifar10",
            settings={
                "classifier.optimizer": "adam",
                "classifier.lr": 0.1,
                "classifier.epochs": 100,
                "classifier.schedule": "constant",
                "classifier.weight_decay": 0.0,
                **{f"augmenter.{name}": value for name, value in PAPER.items()},
                "augmenter.lr": 1e-4,
                "augmenter.epochs": 50,
                "finetune.optimizer": "adam",
                "finetune.lr": 0.01,
                "finetune.epochs": 100,
                "finetune.schedule": "constant",
                "finetune.weight_decay": 0.0,
            },
        ),
        # What a laptop can say about collapse and about the controls within minutes.
        "subset": Recipe(
            data="cifar10",
            train_size=3000,
            settings={
                "classifier.width": 8,
                "classifier.blocks": 1,
                "classifier.epochs": 12,
                "classifier.batch_size": 64,
                "augmenter.epochs": 4,
                "augmenter.batch_size": 64,
                "finetune.epochs": 5,
                "finetune.batch_size": 64,
            },
        ),
        "modern": Recipe(data="cifar10", settings={"classifier.augment": "crop_flip", "finetune.augment": "crop_flip"}),
    },
    model=model,
    costs=networks,
    controls={
        **{
            augment: Control(without(augment), tunes=("finetune.lr",))
            for augment in ("none", "crop", "crop_flip", "randaugment", "trivialaugment")
        },
        "printed": Control(printed, tunes=("augmenter.weight", "augmenter.bound", "augmenter.lr")),
        "as_printed": Control(as_printed, tunes=("augmenter.lr",)),
        "sign_turned": Control(sign_turned, tunes=("augmenter.lr",)),
        "alternate": Control(alternate, tunes=("augmenter.weight", "augmenter.bound", "augmenter.lr")),
    },
    metrics=metrics,
    figures="bo_distill.methods.max_entropy.figures",
    published="bo_distill.methods.max_entropy.published",
)
