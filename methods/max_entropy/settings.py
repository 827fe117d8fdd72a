"""What can be set: the configuration of each stage of `max_entropy`, with defaults and ranges."""

from __future__ import annotations

from dataclasses import dataclass

from bo_distill.methods.max_entropy import paper
from bo_distill.methods.nets.resnet18 import STEMS
from bo_distill.methods.space import choice, integer, real
from bo_distill.methods.training import OPTIMIZERS, SCHEDULES, Training

NOISES = ("none", "input", "strength")


@dataclass(frozen=True)
class Classify(Training):
    stem: str = choice("cifar", STEMS, help="imagenet: 7x7 stride 2 and max-pool, for images of 200 pixels")
    width: int = integer(64, 4, 128, log=True, help="channels of the first section; 64 is ResNet-18")
    blocks: int = integer(2, 1, 3, help="per section; 2 is ResNet-18")
    epochs: int = integer(30, 0, 2000)
    nesterov: bool = choice(True, (True, False))


@dataclass(frozen=True)
class Augment(Training):
    objective: str = choice("corrected", paper.OBJECTIVES, help="sign of L_ME as printed, turned, or plain -H")
    weight: float = real(2.0, 1e-1, 1e2, log=True, search=True, help="lambda")
    affine: str = choice("bounded", ("bounded", "free"), help="free: entries of theta as the regressor gives them")
    bound: float = real(
        0.25,
        1e-2,
        1.0,
        log=True,
        search=True,
        help="how far an entry of theta may move, if bounded",
        idle={"affine": ("free",)},
    )
    colour: str = choice("none", ("none", "affine"), help="affine: of each channel, beside the map (Suzuki 2022)")
    noise: str = choice("strength", NOISES, help="none: one map per image; input: may be ignored; strength: ranges")
    guard: str = choice(
        "teacher", ("discriminator", "teacher", "none"), help="what holds against L_ME: D, or a teacher's cross-entropy"
    )
    apply: str = choice("fixed", ("fixed", "learned"), help="the share of images that are augmented")
    probability: float = real(0.5, 0.0, 1.0, help="that share, or where it starts, then within 0.01 to 0.99")
    padding: str = choice("reflection", paper.PADDINGS, help="outside of the image; zeros tell a discriminator the map")
    discriminator_lr: float = real(1e-4, 1e-6, 1.0, log=True, help="of plain sgd", idle={"guard": ("teacher", "none")})
    epochs: int = integer(5, 0, 2000)
    optimizer: str = choice("adam", OPTIMIZERS)
    lr: float = real(1e-3, 1e-5, 1e-1, log=True, search=True, help="of the augmenter")
    weight_decay: float = real(0.0, 0.0, 0.1)
    schedule: str = choice("constant", SCHEDULES)
    smoothing: float = real(0.0, 0.0, 0.0, help="the augmenter is given no labels")


@dataclass(frozen=True)
class Finetune(Training):
    learned: bool = choice(True, (True, False), help="train on the augmenter's images")
    order: str = choice(
        "sequence", ("sequence", "alternate"), help="alternate: the augmenter takes a step per batch too"
    )
    decay: float = real(
        0.99,
        0.0,
        1.0,
        help="of the moving average that is the teacher of the alternate order",
        idle={"order": ("sequence",)},
    )
    epochs: int = integer(30, 0, 2000)
    lr: float = real(0.02, 1e-6, 10.0, log=True)
    nesterov: bool = choice(True, (True, False))
