"""A method of one stage that nobody trains: what trials it takes is all that is asked of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from bo_distill.methods.method import Method, Recipe, Stage, State
from bo_distill.methods.space import real
from bo_distill.methods.training import Training


@dataclass(frozen=True)
class Head(Training):
    weight: float = real(1.0, 0.0, 10.0, search=True)


NET = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
STAGES = (Stage("head", Head, lambda worker, config, needs: State({})),)
ONE = Method(
    "one", "none", "image", STAGES, {"quick": Recipe("digits")},
    model=lambda configs, states, info: NET, costs=lambda configs, info: {"model": NET},
)  # fmt: skip
