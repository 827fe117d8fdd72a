"""What can be set: the configuration of each stage of `center_loss`, with defaults and ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from bo_distill.methods.center_loss.paper import TERMS
from bo_distill.methods.errors import UsageError
from bo_distill.methods.space import choice, integer, numbers, real
from bo_distill.methods.training import OPTIMIZERS, SCHEDULES, Training

PLAIN, LINEAR = {"term": ("none",)}, {"head": ("linear",)}
"""Without the term, and without the cosine head, their settings change nothing."""


@dataclass(frozen=True)
class Joint(Training):
    """The report's training is the default; where it prints nothing, its Keras decides or the card says what does."""

    weight: float = real(0.1, 1e-3, 100.0, log=True, search=True, help="w, of the centre-aligned term", idle=PLAIN)
    margin: float = real(
        2.0,
        0.1,
        10.0,
        log=True,
        search=True,
        help="distance at which other centres cease to push",
        idle={"term": ("none", "pull", "ratio")},
    )
    lr: float = real(1e-3, 1e-4, 0.3, log=True, search=True, help="first learning rate")
    term: str = choice("hinge", (*TERMS, "none"), help="hinge: pull and push; none: cross-entropy alone")
    start: str = choice("kmeans", ("kmeans", "means", "random"), help="where the centres are put at first", idle=PLAIN)
    begin: int = integer(
        0, 0, 2000, help="epochs of cross-entropy alone, before the centres are put anywhere", idle=PLAIN
    )
    centres: str = choice(
        "averaged", ("averaged", "learned"), help="moved towards batch means, or by the optimiser", idle=PLAIN
    )
    rate: float = real(
        0.5, 0.0, 1.0, help="of averaged centres: alpha of Wen et al.", idle={**PLAIN, "centres": ("learned",)}
    )
    head: str = choice("linear", ("linear", "cosine"), help="cosine: unit features and weights, a margin (CosFace)")
    scale: float = real(30.0, 1.0, 100.0, log=True, help="s of CosFace, what a cosine is multiplied by", idle=LINEAR)
    cosine_margin: float = real(
        0.35, 0.0, 1.0, help="m of CosFace, taken off the cosine of the label while training", idle=LINEAR
    )
    width: int = integer(64, 4, 512, help="filters of the first block")
    features: int = integer(512, 2, 4096, log=True, help="units of the first dense layer")
    batch_norm: bool = choice(True, (True, False))
    dropout: float = real(0.25, 0.0, 0.9)
    patience: int = integer(100, 1, 2000, help="stop after so many epochs without a better validation accuracy")
    epochs: int = integer(150, 0, 2000, help="passes over the training split at most")
    optimizer: str = choice("adam", OPTIMIZERS)
    weight_decay: float = real(0.0, 0.0, 0.1)
    schedule: str = choice("step", SCHEDULES, help="of the learning rate, per step")
    milestones: tuple[float, ...] = numbers((10, 20, 30), 0, 2000, help="epochs at which `step` changes the rate")
    factors: tuple[float, ...] = numbers((0.5, 0.1, 0.05), 0, 1, help="the rate from each milestone on, as a share")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.term != "none" and 0 < self.epochs <= self.begin:
            raise UsageError(
                f"begin={self.begin}: the term {self.term} would never begin in {self.epochs} epochs; "
                f"give at most {self.epochs - 1}, or term=none"
            )
        if self.term != "none" and self.patience < self.begin:
            raise UsageError(
                f"patience={self.patience}: the training may end before the term {self.term} begins, after "
                f"{self.begin} epochs; give at least {self.begin}, or a smaller begin"
            )

    def rehearsed(self, epochs: int, **others: Any) -> Self:
        return super().rehearsed(epochs, begin=0, **others)
