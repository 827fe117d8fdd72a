"""What can be set: the configuration of each stage of `fsp`, with defaults and ranges."""

from __future__ import annotations

from dataclasses import dataclass

from bo_distill.methods.space import choice, real
from bo_distill.methods.training import Training


@dataclass(frozen=True)
class Teacher(Training):
    arch: str = choice(
        "resnet26", ("resnet26", "vgg26", "vgg16_bn"), help="vgg26: the depth and filters of resnet26, no shortcuts"
    )
    augment: str = choice("crop", ("none", "crop", "crop_flip"))


@dataclass(frozen=True)
class Transfer(Training):
    weight: float = real(1.0, 1e-2, 10.0, log=True, search=True, help="lambda of eq. (1)", idle={"epochs": (0,)})
    lr: float = real(
        0.05, 1e-3, 0.3, log=True, search=True, help="first learning rate of the transfer", idle={"epochs": (0,)}
    )
    mode: str = choice("two_stage", ("two_stage", "joint"), help="eq. (1) alone, or cross-entropy + eq. (1)")
    balance: str = choice(
        "none",
        ("none", "start", "learned"),
        help="of the sections: as printed, each divided by its value at the start, or learned (Kendall et al. 2018)",
    )
    depth: int = choice(14, tuple(range(8, 111, 6)), help="of the student, 6n+2")
    augment: str = choice("crop", ("none", "crop", "crop_flip"))
    clip: float = real(5.0, 0.0, 1e6, help="largest norm of the gradient; eq. (1) is of fourth order in the weights")


@dataclass(frozen=True)
class Finetune(Training):
    distill: float = real(0.0, 0.0, 1.0, help="share of soft-target distillation in the loss (Hinton et al. 2015)")
    temperature: float = real(4.0, 1.0, 20.0, help="of the soft targets", idle={"distill": (0.0,)})
    soft: str = choice(
        "kd", ("kd", "dkd"), help="dkd: label and other classes apart (Zhao et al. 2022)", idle={"distill": (0.0,)}
    )
    beta: float = real(
        8.0,
        0.0,
        100.0,
        help="of dkd, weight of the other classes; the label's is 1",
        idle={"distill": (0.0,), "soft": ("kd",)},
    )
    standardise: bool = choice(
        False, (True, False), help="both logits to deviation 1 before (Sun et al. 2024)", idle={"distill": (0.0,)}
    )
    augment: str = choice("crop", ("none", "crop", "crop_flip"))
