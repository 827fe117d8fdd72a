"""What a stage hands to the training loop: batches, players and how they are optimised.

A `Player` is a network, the loss that it minimises and its optimiser. One player is ordinary training; two are an
adversarial pair; the loop gives each its turn on the same batch. The loop itself lives in `distributed.loop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from bo_distill.methods.errors import UsageError
from bo_distill.methods.space import choice, integer, numbers, real

AUGMENTATIONS = (
    "none",
    "crop",
    "crop_flip",
    "rotate_flip",
    "randaugment",
    "trivialaugment",
    "crop_trivialaugment",
    "crop_flip_randaugment",
    "crop_flip_trivialaugment",
)

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "muon")
NORMS = ("group", "global", "local")
SCHEDULES = ("constant", "cosine", "linear", "step")


@dataclass(frozen=True)
class Training:
    """How one network is trained. A stage's own configuration extends this and gives its own defaults."""

    epochs: int = integer(10, 0, 2000, help="passes over the training split; 0 leaves the network as it starts")
    batch_size: int = integer(128, 2, 8192, log=True, help="images or sentences per step, over all workers together")
    optimizer: str = choice(
        "sgd", OPTIMIZERS, help="muon: orthogonalised momentum on convolutions (Jordan et al. 2024)"
    )
    lr: float = real(0.1, 1e-6, 10.0, log=True, help="first learning rate")
    momentum: float = real(0.9, 0.0, 0.999, help="of sgd, muon and rmsprop", idle={"optimizer": ("adam", "adamw")})
    nesterov: bool = choice(
        False,
        (True, False),
        help="of sgd and muon (Sutskever et al. 2013)",
        idle={"optimizer": ("adam", "adamw", "rmsprop")},
    )
    weight_decay: float = real(5e-4, 0.0, 0.1)
    decayed: str = choice("all", ("all", "matrices"), help="matrices: neither biases nor norms (He et al. 2019)")
    smoothing: float = real(0.0, 0.0, 0.9, help="label smoothing, epsilon of Szegedy et al. 2016")
    schedule: str = choice(
        "cosine", SCHEDULES, help="of the rate, per step; linear after a warm-up is triangular (Smith 2017)"
    )
    warmup: float = real(0.0, 0.0, 2000.0, help="epochs of linear warm-up")
    milestones: tuple[float, ...] = numbers((), 0, 2000, help="epochs at which `step` changes the rate")
    factors: tuple[float, ...] = numbers((), 0, 1, help="the rate after each milestone, as a share of the first one")
    augment: str = choice("none", AUGMENTATIONS, help="of training images, drawn anew for each epoch")
    clip: float = real(0.0, 0.0, 1e6, help="largest norm of the gradient of all weights together; 0 leaves it as it is")
    norm: str = choice("global", NORMS, help="rows whose batch statistics are taken together; local: each worker's own")
    group: int = integer(
        0,
        0,
        8192,
        help="rows of a group for norm=group; 0 is a quarter of the batch, at least 16",
        idle={"norm": ("global", "local")},
    )

    def __post_init__(self) -> None:
        if self.schedule == "step" and len(self.milestones) != len(self.factors):
            raise UsageError(
                f"milestones={self.milestones} and factors={self.factors}: give as many of one as of the other"
            )
        if self.schedule == "step" and list(self.milestones) != sorted(self.milestones):
            raise UsageError(f"milestones={self.milestones}: give them in ascending order, and the factors likewise")

    def groups(self, rows: int) -> int:
        """How many groups, equal up to a row, a batch of so many rows is cut into for batch norm."""
        return max(1, rows // self.group if self.group else min(4, rows // 16))

    def rehearsed(self, epochs: int, **others: Any) -> Self:
        """The same training cut short, at a rate of zero: an epoch costs what it does, and a few rows cannot diverge.

        Args:
            epochs: at most so many.
            others: fields that must change with them.
        """
        return replace(self, epochs=min(self.epochs, epochs), lr=0.0, **others)

    def learning_rate(self, epoch: float) -> float:
        """The rate at a (fractional) epoch. A pure function of time, so that resuming needs no scheduler state."""
        if epoch < self.warmup:
            return self.lr * max(epoch, 1e-3) / self.warmup
        done = min((epoch - self.warmup) / max(self.epochs - self.warmup, 1e-9), 1.0)
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1.0 + math.cos(math.pi * done))
        if self.schedule == "linear":
            return self.lr * (1.0 - done)
        if self.schedule == "step":
            passed = sum(epoch >= milestone for milestone in self.milestones)
            return self.lr * (self.factors[passed - 1] if passed else 1.0)
        return self.lr

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy with smoothed labels: a share `smoothing` is spread evenly over all classes.

        Args:
            logits: (b, classes).
            y: (b,) int64.
        """
        return functional.cross_entropy(logits, y, label_smoothing=self.smoothing)


@dataclass(frozen=True)
class Batch:
    """This rank's rows of one global batch.

    Attributes:
        x: images (b, c, h, w) float in [0, 1], augmented; or sentences (b, length) int64, 0 is padding.
        y: labels (b,) int64, or (b, tasks) where a sentence carries several.
        index: (b,) rows of the training split.
        seed: drawn for this global batch; the same on every rank.
        rows: which rows of the global batch these are.
        size: rows of the global batch.
        epoch: fractional epoch, from 0.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    seed: int
    rows: slice
    size: int
    epoch: float

    def randn(self, *shape: int) -> Tensor:
        """(b, *shape) standard normal noise that does not depend on how many ranks share the batch."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.size, *shape, generator=generator)[self.rows].to(self.x.device)


Loss = Callable[[Batch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Player:
    """A network that a loss moves.

    Attributes:
        net: the module whose parameters with `requires_grad` this player updates.
        loss: batch -> {"loss": scalar to minimise, further scalars to log}. A mean over the batch's rows.
        training: optimiser and schedule. The first player's epochs, batch size and augmentation are the loop's.
    """

    net: nn.Module
    loss: Loss
    training: Training
