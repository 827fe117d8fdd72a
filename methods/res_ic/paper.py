"""The equations of Seong and Cha in the paper's order, and the two coefficient schedules of Shallow-Deep Networks.

Symbols: N internal classifiers IC_1 ... IC_N, the last classifier LC; E = N + 1 exits in all; K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

WEIGHTINGS = ("paper", "ramp", "uniform", "none")
BALANCES = ("none", "root", "inverse")
BUCKET = 10  # characters; section 5.2 measures the length of a sentence in steps of ten


def exit_weights(weighting: str, costs: Sequence[float], progress: float) -> list[float]:
    """The factor of each internal classifier's loss, N numbers.

    Args:
        weighting: "paper" is i/N (eq. 1). "ramp" is the rule of Kaya et al. 2019, min(C_i, 0.01 + t C_i), where C_i is
            the share of the whole network's cost that exit i takes. "uniform" is 1 for each.
        costs: cost of leaving at each exit, E increasing numbers in any unit.
        progress: t, the share of the training that is done, 0 to 1.
    """
    n = len(costs) - 1
    match weighting:
        case "paper":
            return [i / n for i in range(1, n + 1)]
        case "ramp":
            shares = [cost / costs[-1] for cost in costs[:-1]]
            return [min(share, 0.01 + progress * share) for share in shares]
        case "uniform":
            return [1.0] * n
        case other:
            raise ValueError(other)


def total_loss(losses: Tensor, weights: Sequence[float]) -> Tensor:
    """Eq. 1: L_LC + sum_i w_i L_IC_i. `losses` (E,), the last classifier's last; `weights` N factors."""
    return losses[-1] + (losses[:-1] * losses.new_tensor(weights)).sum()


def exit_losses(logits: Tensor, y: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Eq. 2 for every exit: the mean cross-entropy of logits (b, E, K) against y (b,), E values in nats.

    The 1/N of eq. 2 is read as one over the number of sentences, and its "predicted category" as a probability.
    `class_weights` (K,) multiplies each row by its class's weight; the sum is still divided by b, not by the weights,
    so that the parts of a batch that several workers hold add up to the whole.
    """
    each = -logits.log_softmax(2).gather(2, y[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(2)
    if class_weights is not None:
        each = each * class_weights[y][:, None]
    return each.mean(0)


def class_weights(y: Tensor, classes: int, balance: str) -> Tensor | None:
    """Weights (K,) against imbalance, one on average over the rows of y (n,); None for "none".

    "inverse" weighs a class by one over its count, so that all classes count alike; "root" by the root of that, between
    the two. A class without a row gets 0.
    """
    if balance == "none":
        return None
    counts = torch.bincount(y, minlength=classes).float()
    weights = counts.clamp_min(1) ** {"inverse": -1.0, "root": -0.5}[balance] * (counts > 0)
    return weights * (len(y) / (weights * counts).sum())


def dropout_mask(noise: Tensor, rate: float) -> Tensor:
    """Factors 0 or 1 / (1 - rate) from standard normal noise of any shape: dropout whose draw is the caller's.

    0 < rate < 1.
    """
    return (noise > NormalDist().inv_cdf(rate)).float() / (1 - rate)


def sentence_lengths(x: Tensor) -> Tensor:
    """Characters of each sentence of x (b, length), where 0 is padding: (b,)."""
    return (x != 0).sum(1)


def length_bucket(lengths: Tensor) -> Tensor:
    """Section 5.2: bucket 0 holds fewer than 10 characters, bucket 1 from 10 to 19, and so on."""
    return lengths // BUCKET


def length_table(right: Tensor, lengths: Tensor, longest: int, *, cheapest: bool = False) -> tuple[int, ...]:
    """The variable-depth model of section 5.2: which exit (from 0) answers for each bucket of lengths.

    Args:
        right: (n, E) bool, which exits are right about which sentence.
        lengths: (n,) characters.
        longest: characters that a sentence can have at most; there are longest // 10 + 1 buckets.
        cheapest: the first exit that is not worse than the last one in the bucket, rather than the best one.

    Returns:
        One exit per bucket. Between equal exits the earlier; the last where no sentence has such a length.
    """
    bucket = length_bucket(lengths)
    table = []
    for b in range(longest // BUCKET + 1):
        hits = right[bucket == b].sum(0)
        best = (hits >= (hits[-1] if cheapest else hits.max())).int().argmax()
        table.append(int(best) if (bucket == b).any() else right.shape[1] - 1)
    return tuple(table)
