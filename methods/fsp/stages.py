"""FSP transfer as three stages: teacher -> transfer -> finetune (Kim & Bae 2020, fig. 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from methods.cost import count
from methods.data.dataset import Info
from methods.fsp.paper import fsp_loss, fsp_matrix, soft_target_loss
from methods.method import Configs, Method, Recipe, Stage, State, States, Worker
from methods.metrics import validation
from methods.nets.cifar import CifarNet, Sectioned, Vgg16
from methods.space import choice, real
from methods.training import Batch, Player, Training


@dataclass(frozen=True)
class Teacher(Training):
    arch: str = choice(
        "resnet26", ("resnet26", "vgg26", "vgg16_bn"), help="vgg26: the depth and filters of resnet26, no shortcuts"
    )
    augment: str = choice("crop", ("none", "crop", "crop_flip"))


@dataclass(frozen=True)
class Transfer(Training):
    weight: float = real(1.0, 1e-2, 10.0, log=True, search=True, help="lambda of eq. (1)")
    lr: float = real(0.05, 1e-3, 0.3, log=True, search=True, help="first learning rate of the transfer")
    mode: str = choice("two_stage", ("two_stage", "joint"), help="eq. (1) alone, or cross-entropy + eq. (1)")
    depth: int = choice(14, tuple(range(8, 111, 6)), help="of the student, 6n+2")
    augment: str = choice("crop", ("none", "crop", "crop_flip"))


@dataclass(frozen=True)
class Finetune(Training):
    distill: float = real(0.0, 0.0, 1.0, help="share of soft-target distillation in the loss (Hinton et al. 2015)")
    temperature: float = real(4.0, 1.0, 20.0, help="of the soft targets")
    augment: str = choice("crop", ("none", "crop", "crop_flip"))


def teacher_net(arch: str, info: Info) -> Sectioned:
    """A teacher that is to be trained, or to be filled with its weights."""
    return Vgg16(info) if arch == "vgg16_bn" else CifarNet(info, 26, shortcut=arch == "resnet26")


def frozen_teacher(worker: Worker, state: State) -> Sectioned:
    net = teacher_net(state.spec["arch"], worker.data.info)
    net.load_state_dict(dict(state.tensors))
    return worker.place(net).eval().requires_grad_(False)


class Projected(nn.Module):
    """A student whose maps are brought to the teacher's channels by learned 1x1 convolutions where they differ.

    The projections exist only while the flow is transferred.
    """

    def __init__(self, student: CifarNet, teacher: Sectioned) -> None:
        super().__init__()
        self.student = student
        # Two of each section, for its first and its last map.
        self.project = nn.ModuleList(
            nn.Identity() if own == theirs else nn.Conv2d(own, theirs, 1, bias=False)
            for mine, other in zip(student.pairs, teacher.pairs, strict=True)
            for own, theirs in zip(mine, other, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x (b, c, h, w) -> logits and the three FSP matrices in the teacher's shapes."""
        logits, maps = self.student.sections(x)
        first = [project(pair[0]) for project, pair in zip(self.project[::2], maps, strict=True)]
        last = [project(pair[1]) for project, pair in zip(self.project[1::2], maps, strict=True)]
        return logits, [fsp_matrix(one, other) for one, other in zip(first, last, strict=True)]


def train_teacher(worker: Worker, config: Teacher, needs: States) -> State:
    """Stage 0: the teacher on labels. Trained once, shared by all trials."""
    net = worker.place(teacher_net(config.arch, worker.data.info))
    val = worker.data.val

    def loss(batch: Batch) -> dict[str, Tensor]:
        return {"loss": config.cross_entropy(net(batch.x).float(), batch.y)}

    def validate() -> dict[str, float]:
        return validation(worker.predict(net, val.x), val.y)

    worker.fit(Player(net, loss, config), validate=validate)
    return State(net.state_dict(), {"arch": config.arch}, validate())


def transfer(worker: Worker, config: Transfer, needs: States) -> State:
    """Stage 1: the student learns the teacher's flow, eq. (1); in mode `joint` together with the labels."""
    student = CifarNet(worker.data.info, config.depth)
    teacher = frozen_teacher(worker, needs["teacher"])
    net = worker.place(Projected(student, teacher))
    val = worker.data.val

    def loss(batch: Batch) -> dict[str, Tensor]:
        logits, mine = net(batch.x)
        with torch.no_grad():
            theirs = [fsp_matrix(first, last) for first, last in teacher.sections(batch.x)[1]]
        flow = fsp_loss(theirs, mine)
        if config.mode == "two_stage":
            return {"loss": config.weight * flow, "fsp": flow}
        labels = config.cross_entropy(logits.float(), batch.y)
        return {"loss": labels + config.weight * flow, "fsp": flow, "labels": labels}

    def validate() -> dict[str, float]:
        return validation(worker.predict(student, val.x), val.y)

    # Until the labels are seen, accuracy is chance and must not reach a scheduler.
    history = worker.fit(Player(net, loss, config), validate=validate if config.mode == "joint" else None)
    metrics = {"fsp": history[-1]["fsp"]} if history else {}
    return State(student.state_dict(), {"depth": config.depth}, metrics)


def finetune(worker: Worker, config: Finetune, needs: States) -> State:
    """Stage 2: the student on labels, from where the transfer left it; optionally with the teacher's soft targets."""
    spec = needs["transfer"].spec
    net = CifarNet(worker.data.info, spec["depth"])
    net.load_state_dict(dict(needs["transfer"].tensors))
    worker.place(net)
    teacher = frozen_teacher(worker, needs["teacher"]) if config.distill else None
    val = worker.data.val

    def loss(batch: Batch) -> dict[str, Tensor]:
        logits = net(batch.x).float()
        labels = config.cross_entropy(logits, batch.y)
        if teacher is None:
            return {"loss": labels}
        with torch.no_grad():
            theirs = teacher(batch.x)
        soft = soft_target_loss(logits, theirs, config.temperature)
        return {"loss": (1 - config.distill) * labels + config.distill * soft, "labels": labels, "soft": soft}

    def validate() -> dict[str, float]:
        return validation(worker.predict(net, val.x), val.y)

    worker.fit(Player(net, loss, config), validate=validate)
    return State(net.state_dict(), spec, validate())


def model(configs: Configs, states: States, info: Info) -> nn.Module:
    """The fine-tuned student; the teacher is not needed any more."""
    net = CifarNet(info, states["finetune"].spec["depth"])
    net.load_state_dict(dict(states["finetune"].tensors))
    return net


def networks(configs: Configs, info: Info) -> dict[str, nn.Module]:
    return {
        "model": CifarNet(info, configs["transfer"].depth),
        "teacher": teacher_net(configs["teacher"].arch, info),
    }


@cache
def macs(arch: str, depth: int, info: Info) -> tuple[int, int]:
    """Multiply-adds of one image forward through student and teacher; a backward pass costs twice as much again."""
    return count(CifarNet(info, depth), info).macs, count(teacher_net(arch, info), info).macs


def teacher_macs(configs: Configs, info: Info) -> int:
    _, teacher = macs(configs["teacher"].arch, configs["transfer"].depth, info)
    return 3 * teacher * info.train_size * configs["teacher"].epochs


def transfer_macs(configs: Configs, info: Info) -> int:
    student, teacher = macs(configs["teacher"].arch, configs["transfer"].depth, info)
    return (3 * student + teacher) * info.train_size * configs["transfer"].epochs


def finetune_macs(configs: Configs, info: Info) -> int:
    student, teacher = macs(configs["teacher"].arch, configs["transfer"].depth, info)
    soft = teacher if configs["finetune"].distill else 0
    return (3 * student + soft) * info.train_size * configs["finetune"].epochs


def student_alone(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same fine-tuning without a transfer before it."""
    return {"transfer.epochs": 0, "finetune.distill": 0.0}


def student_alone_equal_epochs(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The transfer's epochs given to the labels instead: the fair comparison."""
    epochs = settings["transfer.epochs"] + settings["finetune.epochs"]
    return {"transfer.epochs": 0, "finetune.distill": 0.0, "finetune.epochs": epochs}


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
            },
        ),
    },
    model=model,
    costs=networks,
    controls={"student_alone": student_alone, "equal_epochs": student_alone_equal_epochs},
    figures="methods.fsp.figures",
    published="methods.fsp.published",
)
