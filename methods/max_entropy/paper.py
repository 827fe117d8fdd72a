"""The equations of Cho, Kim and Yoon, in the paper's order and symbols.

I is an image (b, c, h, w); I' = G(I) its augmented image; P = softmax(logits) over m classes; H its Shannon entropy in
bits; D(I) the probability that an image is not augmented, given here by its logit; theta (b, 2, 3) an affine map.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-4
"""Added to log2 m - H. The logarithm's argument reaches 0 at the largest entropy; so its slope stays finite."""

ALIGN_CORNERS = False
"""Of the sampling grid: -1 and 1 are the outer edges of the image, so that a map means the same at every size."""

OBJECTIVES = ("printed", "corrected", "entropy")
PADDINGS = ("reflection", "zeros")


def transform(image: Tensor, theta: Tensor, padding: str = "reflection") -> Tensor:
    """I' = T_theta(I), bilinear (section 3.1; Jaderberg et al. 2015, eqs. 1 and 3).

    Args:
        image: (b, c, h, w).
        theta: (b, 2, 3); maps a point of the output to the point of the input that it is read from, both in [-1, 1].
            So a scale of 0.8 in theta magnifies, and a shift of 0.5 moves the picture left by a quarter of its width.
        padding: what lies outside the image: "reflection" of it or "zeros".
    """
    with torch.autocast(image.device.type, enabled=False):  # bf16 would move points by a sixteenth of a pixel
        grid = F.affine_grid(theta.to(image.dtype), list(image.shape), align_corners=ALIGN_CORNERS)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode=padding, align_corners=ALIGN_CORNERS)


def recolour(image: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """t(scale I + shift) for each channel, beside the paper's map (TeachAugment, Suzuki 2022, eq. 6).

    t is the triangle wave arccos(cos(pi v)) / pi, the identity on [0, 1]: it folds back what leaves the range, with a
    gradient everywhere, which clamping has not.

    Args:
        image: (b, c, h, w) in [0, 1].
        scale, shift: (b, c); ones and zeros change nothing.
    """
    v = scale[:, :, None, None] * image + shift[:, :, None, None]
    return 1 - (torch.remainder(v, 2) - 1).abs()


def entropy(logits: Tensor) -> Tensor:
    """H(I) = -sum_i p_i(I) log2 p_i(I), in bits, at most log2 m. logits (..., m) -> (...)."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1) / math.log(2)


def max_entropy_loss(logits: Tensor, objective: str = "corrected") -> Tensor:
    """L_ME(I), to be minimised. logits (..., m) -> (...).

    "printed" is the paper's L_ME = -log(log2 m - H): it falls as H falls, and so rewards a sure classifier.
    "corrected" turns its sign: +log(log2 m - H) falls as H grows.
    "entropy" is -H, which needs no EPS and does not steepen towards the largest entropy.
    """
    bits = entropy(logits)
    if objective == "entropy":
        return -bits
    gap = torch.log((math.log2(logits.shape[-1]) - bits).clamp_min(0) + EPS)
    return -gap if objective == "printed" else gap


def discriminator_loss(real: Tensor, augmented: Tensor) -> Tensor:
    """-[log D(I) + log(1 - D(I'))], what max_D V(D, G) minimises. Logits of D, (b,) each -> scalar.

    The gradient printed for theta_d has I' in both terms; V has I in the first, and so has this.
    """
    return (F.softplus(-real) + F.softplus(augmented)).mean()


def generator_loss(augmented: Tensor) -> Tensor:
    """log(1 - D(I')), the part of min_G V(D, G) that passes through D. Logits of D (b,) -> (b,).

    V adds lambda L_ME(I') to it; the gradient printed for theta_g omits lambda, the method does not.
    """
    return -F.softplus(augmented)


def identity(theta: Tensor) -> Tensor:
    """The map that changes nothing, (2, 3), on the device and of the type of `theta`."""
    return torch.eye(2, 3, dtype=theta.dtype, device=theta.device)


def distance(theta: Tensor) -> Tensor:
    """Frobenius norm of theta - identity: how far an augmentation is from doing nothing. (..., 2, 3) -> (...)."""
    norm: Tensor = torch.linalg.vector_norm(theta - identity(theta), dim=(-2, -1))
    return norm


def angle_scale_shift(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What an affine map does, by its polar decomposition. (n, 2, 3) -> angles (n,), scales (n, 2), shifts (n, 2).

    The angle, in degrees, is that of the nearest rotation; the scales are the singular values, larger first, the last
    one negative where the map mirrors; the shifts are in half sides of the image. All as theta has them: from output to
    input.
    """
    a, b, c, d = theta[:, 0, 0], theta[:, 0, 1], theta[:, 1, 0], theta[:, 1, 1]
    angle = torch.rad2deg(torch.atan2(c - b, a + d))
    # A 2x2 matrix is a conformal part (a rotation, scaled) and an anti-conformal one; their sizes give both values.
    turn, mirror = torch.hypot(a + d, c - b) / 2, torch.hypot(a - d, c + b) / 2
    return angle, torch.stack([turn + mirror, turn - mirror], dim=1), theta[:, :, 2]
