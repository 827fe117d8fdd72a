"""Scalars of a classification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Share of rows whose largest logit is the label's. logits (n, classes), y (n,)."""
    return float((logits.argmax(1) == y).double().mean())


def calibration_error(logits: Tensor, y: Tensor, bins: int = 15) -> float:
    """Expected calibration error over equal-width confidence bins (Guo et al. 2017, eq. 3)."""
    confidence, guess = logits.double().softmax(1).max(1)
    right = (guess == y).double()
    which = (confidence * bins).long().clamp_max(bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, which, right - confidence)
    return float(gap.abs().sum() / len(y))


def macro_f1(guess: Tensor, y: Tensor, classes: int) -> float:
    """Mean over the classes that occur in `y` of the harmonic mean of precision and recall."""
    table = torch.bincount(y * classes + guess, minlength=classes * classes).view(classes, classes).double()
    hit, actual, guessed = table.diagonal(), table.sum(1), table.sum(0)
    f1 = 2 * hit / (actual + guessed).clamp_min(1)
    return float(f1[actual > 0].mean())


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
