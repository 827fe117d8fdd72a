"""What can be set: the configuration of each stage of `res_ic`, with defaults and ranges."""

from __future__ import annotations

from dataclasses import dataclass

from bo_distill.methods.res_ic.choosing import GOALS
from bo_distill.methods.res_ic.nets import BLOCKS
from bo_distill.methods.res_ic.paper import BALANCES, WEIGHTINGS
from bo_distill.methods.res_ic.policies import RULES
from bo_distill.methods.space import choice, integer, real
from bo_distill.methods.training import OPTIMIZERS, Training


@dataclass(frozen=True)
class Backbone(Training):
    optimizer: str = choice("adamw", OPTIMIZERS)
    smoothing: float = real(0.0, 0.0, 0.0, help="eq. (1) has plain cross-entropies")
    lr: float = real(1e-3, 1e-4, 1e-1, log=True, search=True, help="first learning rate")
    weight_decay: float = real(1e-2, 0.0, 0.1)
    warmup: float = real(0.5, 0.0, 100.0, help="epochs of linear warm-up")
    augment: str = choice("none", ("none",))
    depth: int = choice(18, tuple(BLOCKS), search=True, help="Res-IC18 or Res-IC34; 10 has one block per width")
    width: int = integer(64, 4, 512, log=True, help="channels of the first blocks")
    dropout: float = real(0.1, 0.0, 0.9, search=True, help="before each exit's last layer")
    exit_weight: float = real(
        1.0, 1e-2, 10.0, log=True, search=True, help="multiplies the sum in eq. (1)", idle={"weighting": ("none",)}
    )
    weighting: str = choice("paper", WEIGHTINGS, help="i/N, the ramp of SDN, 1, or no internal classifiers at all")
    balance: str = choice("none", BALANCES, help="class weights: one over the count, its root, or none")
    tasks: str = choice("separate", ("first", "separate", "joint"), help="a network for each task, or one for all")


@dataclass(frozen=True)
class Stopping:
    rule: str = choice("confidence", tuple(RULES))
    goal: str = choice("controlled", GOALS, help="of the threshold: see choosing.choose", idle={"rule": ("last",)})
    threshold: float = real(
        0.9,
        0.0,
        1.0,
        help="of the score, for goal `given`",
        idle={"goal": ("controlled", "accurate", "cheap"), "rule": ("last", "length")},
    )
    delta: float = real(
        0.01,
        0.001,
        0.5,
        help="accuracy below the last classifier's that goal `controlled` may lose",
        idle={"goal": ("accurate", "cheap", "given"), "rule": ("last",)},
    )
    alpha: float = real(
        0.1,
        0.001,
        0.5,
        help="chance that it loses more",
        idle={"goal": ("accurate", "cheap", "given"), "rule": ("last",)},
    )
