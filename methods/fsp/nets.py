"""Teachers, and the student while it learns their flow. The student itself is `methods.nets.cifar.CifarNet`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bo_distill.methods.data.dataset import Info
from bo_distill.methods.fsp.paper import fsp_matrix, uncertainty_weighted
from bo_distill.methods.nets.cifar import CifarNet, Sectioned, Vgg16


def teacher_net(arch: str, info: Info) -> Sectioned:
    """A teacher that is to be trained, or to be filled with its weights."""
    return Vgg16(info) if arch == "vgg16_bn" else CifarNet(info, 26, shortcut=arch == "resnet26")


class Projected(nn.Module):
    """A student whose maps are brought to the teacher's channels by learned 1x1 convolutions where they differ.

    The projections, and what balances the sections, exist only while the flow is transferred.

    Args:
        balance: "none" adds the sections' losses up as printed; "start" divides each by what it was at first; "learned"
            weighs them by learned variances, which start there.
    """

    level: Tensor

    def __init__(self, student: CifarNet, teacher: Sectioned, balance: str = "none") -> None:
        super().__init__()
        self.student = student
        # Two of each section, for its first and its last map.
        self.project = nn.ModuleList(
            nn.Identity() if own == theirs else nn.Conv2d(own, theirs, 1, bias=False)
            for mine, other in zip(student.pairs, teacher.pairs, strict=True)
            for own, theirs in zip(mine, other, strict=True)
        )
        self.balance = balance
        # The log of what a section's loss is held against. A checkpoint keeps it with the weights.
        if balance == "learned":
            self.level = nn.Parameter(torch.zeros(len(student.pairs)))
        else:
            self.register_buffer("level", torch.zeros(len(student.pairs)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x (b, c, h, w) -> logits and the three FSP matrices in the teacher's shapes."""
        logits, maps = self.student.sections(x)
        first = [project(pair[0]) for project, pair in zip(self.project[::2], maps, strict=True)]
        last = [project(pair[1]) for project, pair in zip(self.project[1::2], maps, strict=True)]
        return logits, [fsp_matrix(one, other) for one, other in zip(first, last, strict=True)]

    @torch.no_grad()
    def begin(self, losses: Tensor) -> None:
        """Take the sections' losses (3,) for what they are at the start."""
        self.level.copy_(losses.clamp_min(1e-12).log())

    def balanced(self, losses: Tensor) -> Tensor:
        """The sections' losses (3,) as one."""
        if self.balance == "learned":
            return uncertainty_weighted(losses, self.level)
        return (losses / self.level.exp()).sum() if self.balance == "start" else losses.sum()
