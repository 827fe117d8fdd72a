"""The equations of Kim & Bae 2020 (flow-based transfer with a heterogeneous teacher), in the paper's order.

Shapes: b images, a section's first map F1 (b, m, h, w) and last map F2 (b, n, h', w').

    eq. (1)   Loss^FSP = sum over three sections of lambda * MSE(T_i, S_i)
    T_i, S_i  the FSP matrices of teacher and student: G = F1^T F2 / (h w)   (Yim et al. 2017, eq. 1)

The paper prints both "MSE" and "L2 norm". Here MSE is the mean over the m x n entries and over the images, so that
lambda means the same for sections of any width; the L2 norm squared is m n times as large.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def fsp_matrix(first: Tensor, last: Tensor) -> Tensor:
    """G (b, m, n): inner products of the channels of two maps over space, divided by the number of places.

    Where the maps differ in size, the larger one is max-pooled to the smaller one's size (Yim et al. 2017, sec. 3.3).
    """
    size = min(first.shape[2], last.shape[2]), min(first.shape[3], last.shape[3])
    first, last = (
        x if tuple(x.shape[2:]) == size else F.adaptive_max_pool2d(x, size) for x in (first.float(), last.float())
    )
    # Sums over hundreds of places lose their last digits in bf16: this one product stays in float32.
    with torch.autocast(first.device.type, enabled=False):
        return torch.bmm(first.flatten(2), last.flatten(2).transpose(1, 2)) / (size[0] * size[1])


def fsp_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Eq. (1) with lambda = 1: the sum over sections of MSE(T_i, S_i). Each T_i, S_i is (b, m_i, n_i)."""
    total = torch.zeros((), device=student[0].device)
    for t, s in zip(teacher, student, strict=True):
        total = total + F.mse_loss(s, t)
    return total


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of logits (b, classes) at a temperature (Hinton et al. 2015, sec. 2)."""
    s = F.log_softmax(student.float() / temperature, 1)
    t = F.log_softmax(teacher.float() / temperature, 1)
    return F.kl_div(s, t, reduction="batchmean", log_target=True) * temperature**2
