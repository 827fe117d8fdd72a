"""What can be set: the configuration of each stage of `label_embedding`, with defaults and ranges."""

from __future__ import annotations

from dataclasses import dataclass

from bo_distill.methods.space import choice, integer, real
from bo_distill.methods.training import AUGMENTATIONS, Training

RULES = ("hard", "soft", "top", "average")


@dataclass(frozen=True)
class Base(Training):
    depth: int = choice(16, tuple(range(10, 101, 6)), help="of the wide residual network, 6n + 4")
    width: int = integer(2, 1, 20, help="its widening factor")
    dropout: float = real(0.0, 0.0, 0.9, help="between the convolutions of a block; 0 and 0.3 were published")
    epochs: int = integer(40, 0, 2000)
    nesterov: bool = choice(True, (True, False))
    augment: str = choice("crop_flip", AUGMENTATIONS)


@dataclass(frozen=True)
class Cluster:
    count: int = integer(9, 1, 30, log=True, search=True, help="S, clusters and so experts; never more than classes")
    method: str = choice("spectral", ("spectral", "agglomerative", "kmeans", "confusion"), help="see paper.cluster")
    affinity: str = choice(
        "shifted",
        ("shifted", "clipped", "angular"),
        help="of spectral, from the cosines",
        idle={"method": ("agglomerative", "kmeans", "confusion")},
    )
    shuffle: bool = choice(False, (True, False), help="deal the classes at random to clusters of the same sizes")


@dataclass(frozen=True)
class Experts(Training):
    epochs: int = integer(15, 0, 2000, help="of each expert, over the rows of its own classes")
    lr: float = real(0.01, 1e-5, 1.0, log=True)
    nesterov: bool = choice(True, (True, False))
    augment: str = choice("crop_flip", AUGMENTATIONS)
    start: str = choice("base", ("base", "scratch"), help="from the base's weights, or from random ones")


@dataclass(frozen=True)
class Route:
    threshold: float = real(
        0.2, 0.0, 1.0, search=True, help="e as a share of log C, the largest entropy", idle={"tuned": (True,)}
    )
    tuned: bool = choice(False, (True, False), help="take the e that is best on validation in place of `threshold`")
    rule: str = choice("hard", RULES, help="one expert, a mixture of all, of the top m, or of all and the base")
    top: int = integer(3, 1, 100, help="m of the rule top", idle={"rule": ("hard", "soft", "average")})
    calibrate: bool = choice(True, (True, False), help="temperatures of base and experts, from validation")
