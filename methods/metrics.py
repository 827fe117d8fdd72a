"""Scalars of a classification."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Share of rows whose largest logit is the label's. logits (n, classes), y (n,)."""
    return float((logits.argmax(1) == y).double().mean())


@dataclass(frozen=True)
class Reliability:
    """Answers by confidence, in equal-width bins from 0 to 1; (bins,) each.

    Attributes:
        count: answers in the bin.
        right: how many of them are right.
        confidence: the sum of their confidences.
    """

    count: Tensor
    right: Tensor
    confidence: Tensor


def reliability(logits: Tensor, y: Tensor, bins: int = 15) -> Reliability:
    """What a reliability diagram shows (Guo et al. 2017, sec. 2). logits (n, classes), y (n,)."""
    confidence, guess = logits.double().softmax(1).max(1)
    which = (confidence * bins).long().clamp_max(bins - 1)
    none = torch.zeros(bins, dtype=torch.float64)
    return Reliability(
        torch.bincount(which, minlength=bins),
        none.index_add(0, which, (guess == y).double()),
        none.index_add(0, which, confidence),
    )


def calibration_error(logits: Tensor, y: Tensor, bins: int = 15) -> float:
    """Expected calibration error over equal-width confidence bins (Guo et al. 2017, eq. 3)."""
    found = reliability(logits, y, bins)
    return float((found.right - found.confidence).abs().sum() / len(y))


def macro_f1(guess: Tensor, y: Tensor, classes: int) -> float:
    """Mean over classes of the harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN).

    A class that is answered and does not occur in `y` counts, with 0; one that neither answers nor labels name has no
    such mean and does not count. scikit-learn's `f1_score(y, guess, average="macro")`. guess (n,), y (n,).
    """
    table = torch.bincount(y * classes + guess, minlength=classes * classes).view(classes, classes).double()
    hit, actual, guessed = table.diagonal(), table.sum(1), table.sum(0)
    f1 = 2 * hit / (actual + guessed).clamp_min(1)
    return float(f1[actual + guessed > 0].mean())


def temperature(logits: Tensor, y: Tensor, limit: float = 20.0) -> float:
    """T that minimises the cross-entropy of softmax(logits / T), within [1 / limit, limit]; 1 without rows.

    The cross-entropy is convex in b = 1 / T and its slope, mean_i (E_p[f] - f_y), grows with b: bisection on log b
    finds the zero. Logits (n, C), -inf for classes that do not compete; y (n,). Guo et al. 2017, section 4.2.
    """
    if not len(y):
        return 1.0
    f = logits.double()
    f = (f - f.amax(1, keepdim=True)).clamp_min(-1e9)  # 0 * -inf would be NaN
    target = f.gather(1, y.unsqueeze(1)).squeeze(1)
    low, high = -math.log(limit), math.log(limit)
    for _ in range(40):
        middle = (low + high) / 2
        slope = ((math.exp(middle) * f).softmax(1) * f).sum(1).sub(target).mean()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def classification(logits: Tensor, y: Tensor) -> dict[str, float]:
    """accuracy, loss (nats), top3, macro_f1 and ece of logits (n, classes) against y (n,)."""
    logits = logits.float()
    classes = logits.shape[1]
    top3 = logits.topk(min(3, classes), dim=1).indices
    return {
        "accuracy": accuracy(logits, y),
        "loss": float(F.cross_entropy(logits, y)),
        "top3": float((top3 == y[:, None]).any(1).double().mean()),
        "macro_f1": macro_f1(logits.argmax(1), y, classes),
        "ece": calibration_error(logits, y),
    }


def validation(logits: Tensor, y: Tensor) -> dict[str, float]:
    """What a stage reports after an epoch: `val_accuracy` and `val_loss`."""
    return {"val_accuracy": accuracy(logits, y), "val_loss": float(F.cross_entropy(logits.float(), y))}
