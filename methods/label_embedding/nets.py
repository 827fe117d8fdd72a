"""The base, the sub-classifiers that start from it, and the ensemble of both."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bo_distill.methods.label_embedding.paper import combine, dispatch, members
from bo_distill.methods.label_embedding.settings import Route
from bo_distill.methods.method import State
from bo_distill.methods.nets.wrn import WideResNet


def base_net(state: State, classes: int) -> WideResNet:
    """A network of the base's shape with so many classes, its weights still random."""
    return WideResNet(classes=classes, **state.spec)


def weights(state: State, prefix: str) -> dict[str, Tensor]:
    """The tensors of a state whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in state.tensors.items() if name.startswith(prefix)}


def sub_classifier(base: State, classes: Tensor, start: str = "base") -> WideResNet:
    """A network for `classes`; unless from "scratch", it starts as the base asked about these classes alone."""
    net = base_net(base, len(classes))
    if start == "scratch":
        return net
    known = weights(base, "net.")
    for name in ("head.weight", "head.bias"):
        known[name] = known[name][classes]
    net.load_state_dict(known)
    return net


class Ensemble(nn.Module):
    """The deployed ensemble: images (b, c, h, w) in [0, 1] -> log-probabilities (b, C).

    An expert runs on the rows that ask for it and on no other. An exported graph has no such choice: there every expert
    runs on every row, and what was not asked for is not used; the answers are the same.
    """

    assignment: Tensor
    temperatures: Tensor

    def __init__(
        self, base: nn.Module, experts: Mapping[str, nn.Module], assignment: Tensor, temperatures: Tensor, route: Route
    ) -> None:
        super().__init__()
        self.base, self.experts, self.route = base, nn.ModuleDict(experts), route
        self.register_buffer("assignment", assignment)
        self.register_buffer("temperatures", temperatures)
        self.groups = [classes.tolist() for classes in members(assignment)]
        self.columns = torch.cat(members(assignment)).argsort().tolist()  # of each class, with the groups side by side

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] -> log-probabilities (b, C)."""
        clusters, route = len(self.groups), self.route
        base = self.base(x).float() / self.temperatures[0]
        asked = dispatch(base, self.assignment, route.threshold, route.rule, route.top, clusters)
        experts = self.everywhere if torch.compiler.is_exporting() else self.where
        return combine(base, experts(x, asked), self.assignment, asked, route.rule, clusters)

    def where(self, x: Tensor, asked: Tensor) -> Tensor:
        """Experts' logits (b, C) in the rows and columns for which they are asked."""
        logits = x.new_zeros(len(x), len(self.assignment))
        for j, expert in self.experts.items():
            rows = asked[:, int(j)].nonzero()
            logits[rows, self.groups[int(j)]] = expert(x[rows.squeeze(1)]).float() / self.temperatures[1]
        return logits

    def everywhere(self, x: Tensor, asked: Tensor) -> Tensor:
        """Experts' logits (b, C) in all rows."""
        alone = x.new_zeros(x.shape[0], 1)
        parts = [self.experts[str(j)](x).float() if len(g) > 1 else alone for j, g in enumerate(self.groups)]
        return torch.cat(parts, 1)[:, self.columns] / self.temperatures[1]
