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


def section_losses(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """MSE(T_i, S_i) of each section, (sections,); their sum is eq. (1) with lambda = 1. T_i, S_i are (b, m_i, n_i)."""
    return torch.stack([F.mse_loss(s, t) for t, s in zip(teacher, student, strict=True)])


def uncertainty_weighted(losses: Tensor, s: Tensor) -> Tensor:
    """sum_i exp(-s_i) L_i / 2 + s_i / 2 with learned s_i = log sigma_i^2 (Kendall et al. 2018, sec. 3.2). (n,), (n,).

    Its minimum over s_i is at s_i = log L_i, where every term weighs the same.
    """
    return ((-s).exp() * losses + s).sum() / 2


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of logits (b, classes) at a temperature (Hinton et al. 2015, sec. 2)."""
    s = F.log_softmax(student.float() / temperature, 1)
    t = F.log_softmax(teacher.float() / temperature, 1)
    return F.kl_div(s, t, reduction="batchmean", log_target=True) * temperature**2


def decoupled_loss(
    student: Tensor, teacher: Tensor, y: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD) of logits (b, classes) and labels (b,) (DKD, Zhao et al. 2022, eq. 7).

    TCKD is the divergence of the two-way probabilities (label, not label), NCKD that among the other classes. With
    alpha = 1 and beta = 1 - p_label of the teacher, image by image, the sum is Hinton's.
    """
    target = F.one_hot(y, student.shape[1]).bool()

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of (label, not label), (b, 2), and among the other classes, (b, classes - 1)."""
        z = logits.float() / temperature
        own, others = z[target], z[~target].view(len(z), -1)
        return torch.stack([own, others.logsumexp(1)], 1).log_softmax(1), others.log_softmax(1)

    (s_two, s_others), (t_two, t_others) = parts(student), parts(teacher)
    tckd = F.kl_div(s_two, t_two, reduction="batchmean", log_target=True)
    nckd = F.kl_div(s_others, t_others, reduction="batchmean", log_target=True)
    return (alpha * tckd + beta * nckd) * temperature**2


def standardised(logits: Tensor) -> Tensor:
    """Logits (b, classes) with mean 0 and standard deviation 1 for each image (Sun et al. 2024, eq. 8)."""
    z = logits.float()
    return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7)
