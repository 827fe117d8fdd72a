"""`fsp` as a value: its stages, recipes, controls and costs, and what is made of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import nn

from bo_distill.methods.cost import count
from bo_distill.methods.data.dataset import Info
from bo_distill.methods.fsp.nets import teacher_net
from bo_distill.methods.fsp.settings import Finetune, Teacher, Transfer
from bo_distill.methods.fsp.stages import finetune, frozen_teacher, train_teacher, transfer
from bo_distill.methods.method import Configs, Control, Method, Recipe, Stage, States, Trained, stretched
from bo_distill.methods.metrics import accuracy
from bo_distill.methods.nets.cifar import CifarNet, Sectioned


def model(configs: Configs, states: States, info: Info) -> CifarNet:
    """The fine-tuned student; the teacher is not needed any more."""
    net = CifarNet(info, states["finetune"].spec["depth"])
    net.load_state_dict(dict(states["finetune"].tensors))
    return net


def teacher(trained: Trained) -> Sectioned:
    """The teacher with its weights, in eval mode."""
    return frozen_teacher(trained.worker, trained.states["teacher"])


def metrics(trained: Trained) -> dict[str, float]:
    """The teacher's accuracy on the split, beside which the student's is to be read."""
    split = trained.split
    return {"teacher_accuracy": accuracy(trained.worker.predict(teacher(trained), split.x), split.y)}


def networks(configs: Configs, info: Info) -> dict[str, nn.Module]:
    """The deployed student, and the teacher beside it, not trained: their costs are counted."""
    return {
        "model": CifarNet(info, configs["transfer"].depth),
        "teacher": teacher_net(configs["teacher"].arch, info),
    }


@cache
def macs(arch: str, depth: int, info: Info) -> tuple[int, int]:
    """Multiply-adds of one image forward through student and teacher; a backward pass costs twice as much again."""
    return count(CifarNet(info, depth), info).macs, count(teacher_net(arch, info), info).macs


def teacher_macs(configs: Configs, info: Info) -> int:
    """MACs of training the teacher: three forward passes of an image, for every epoch."""
    _, teacher = macs(configs["teacher"].arch, configs["transfer"].depth, info)
    return 3 * teacher * info.train_size * configs["teacher"].epochs


def transfer_macs(configs: Configs, info: Info) -> int:
    """MACs of the transfer: three passes of the student and one of the teacher."""
    student, teacher = macs(configs["teacher"].arch, configs["transfer"].depth, info)
    return (3 * student + teacher) * info.train_size * configs["transfer"].epochs


def finetune_macs(configs: Configs, info: Info) -> int:
    """MACs of the fine-tuning: three passes of the student, and one of a teacher that gives soft labels."""
    student, teacher = macs(configs["teacher"].arch, configs["transfer"].depth, info)
    soft = teacher if configs["finetune"].distill else 0
    return (3 * student + soft) * info.train_size * configs["finetune"].epochs


def student_alone(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same fine-tuning without a transfer before it."""
    return {"transfer.epochs": 0, "finetune.distill": 0.0}


def student_alone_equal_epochs(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The transfer's epochs given to the labels instead: the fair comparison."""
    epochs = settings["transfer.epochs"] + settings["finetune.epochs"]
    return {"transfer.epochs": 0, "finetune.distill": 0.0, **stretched(settings, "finetune", epochs)}


HE_2016 = {
    "epochs": 182,
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": (91, 137),
    "factors": (0.1, 0.01),
    "augment": "crop_flip",
}


METHOD = Method(
    name="fsp",
    paper="Kim & Bae 2020, flow-based transfer learning with a heterogeneous teacher (FSP: Yim et al. 2017)",
    kind="image",
    stages=(
        Stage("teacher", Teacher, train_teacher, macs=teacher_macs, shared=True),
        Stage("transfer", Transfer, transfer, needs=("teacher",), macs=transfer_macs),
        Stage("finetune", Finetune, finetune, needs=("teacher", "transfer"), macs=finetune_macs),
    ),
    recipes={
        "quick": Recipe(
            data="digits",
            settings={
                "teacher.epochs": 8,
                "teacher.batch_size": 64,
                "transfer.epochs": 3,
                "transfer.batch_size": 64,
                "finetune.epochs": 6,
                "finetune.batch_size": 64,
            },
        ),
        # The paper prints no epochs. These are those of He et al. 2016 (64,000 steps of 128 on 45,000 images) for
        # whatever sees labels, and a third of them for the transfer.
        "paper": Recipe(
            data="cifar10",
            settings={
                **{f"{stage}.{name}": value for stage in ("teacher", "finetune") for name, value in HE_2016.items()},
                **{f"transfer.{name}": value for name, value in HE_2016.items() if name != "lr"},
                "transfer.epochs": 60,
                "transfer.milestones": (30, 45),
                "transfer.clip": 0.0,
            },
        ),
    },
    model=model,
    costs=networks,
    controls={
        "equal_epochs": Control(student_alone_equal_epochs, tunes=("finetune.lr",)),
        "student_alone": Control(student_alone, tunes=("finetune.lr",)),
    },
    metrics=metrics,
    figures="bo_distill.methods.fsp.figures",
    published="bo_distill.methods.fsp.published",
)
