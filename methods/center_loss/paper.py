"""Centre-aligned loss, section 2-2 of the report.

The report gives words, no formulas: the mean place of a class in feature space is its centre, K-means starts the
centres, samples are pulled to the centre of their class and kept from the others, and a weight w adds the term to
cross-entropy. The formulas here are the published ones that fit the words: centre loss (Wen et al. 2016), a hinge
on the distance to other centres, and the contrastive-centre ratio (Qi & Su 2017). A rival that pulls and pushes
without centres stands beside them: normalised features with a cosine margin (CosFace, Wang et al. 2018).

Symbols: f (b, d) features, y (b,) int64 labels, c (k, d) centres, m margin, w weight. A distance is the root of the
mean squared difference over the d features, not of the sum. So w and m mean the same at 512 and at 2,048 features,
and the gradient that a sample sends to one feature shrinks as 1/d.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TERMS = ("hinge", "pull", "push", "ratio")


def class_sums(f: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Features added up by class, (classes, d), and rows of each class, (classes,) of the same type."""
    sums = f.new_zeros(classes, f.shape[1]).index_add_(0, y, f)
    return sums, f.new_zeros(classes).index_add_(0, y, f.new_ones(len(y)))


def class_means(f: Tensor, y: Tensor, classes: int) -> Tensor:
    """The mean place of each class, (classes, d); zero for a class without rows."""
    sums, counts = class_sums(f, y, classes)
    return sums / counts.clamp(min=1.0)[:, None]


def matched(cluster: Tensor, y: Tensor, classes: int) -> Tensor:
    """Which cluster stands for which class: (classes,) int64, each cluster once.

    The assignment with the most rows in the cluster of their class (Hungarian method).
    """
    from scipy.optimize import linear_sum_assignment

    shared = F.one_hot(y, classes).T @ F.one_hot(cluster, classes)
    return torch.from_numpy(linear_sum_assignment(shared.numpy(), maximize=True)[1])


def kmeans_centres(f: Tensor, y: Tensor, classes: int, seed: int) -> Tensor:
    """K-means centres of CPU features with as many clusters as classes, in the order of the classes, (classes, d)."""
    from sklearn.cluster import KMeans

    found = KMeans(classes, n_init=4, random_state=seed).fit(f.numpy())
    centres: Tensor = torch.from_numpy(found.cluster_centers_).to(f.dtype)
    return centres.index_select(0, matched(torch.from_numpy(found.labels_).long(), y, classes))


def distances(f: Tensor, c: Tensor) -> Tensor:
    """From each sample to each centre, (b, k). The gradient where the two coincide is zero, not NaN."""
    return torch.cdist(f, c, compute_mode="donot_use_mm_for_euclid_dist") / f.shape[1] ** 0.5


def pull(f: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Mean squared distance to the centre of the own class (Wen et al., eq. 2, without its half)."""
    return distances(f, c).gather(1, y[:, None]).square().mean()


def push(f: Tensor, y: Tensor, c: Tensor, m: float) -> Tensor:
    """Mean over samples and other classes of max(0, m - distance)^2.

    Zero as soon as every other centre is m away. The distance itself, maximised, has no bound.
    """
    short = (m - distances(f, c)).clamp(min=0.0).square()
    return short.scatter(1, y[:, None], 0.0).sum(1).mean() / (len(c) - 1)


def ratio(f: Tensor, y: Tensor, c: Tensor, delta: float = 1e-3) -> Tensor:
    """Squared distance to the own centre over the mean squared distance to the others (after Qi & Su, eq. 5).

    It pulls and pushes at once and does not change when the features are scaled, as long as delta is small. Their
    formula has a half in front, the sum over the others below, and 1 beside it, all of summed squares: this is
    2 (k - 1) times it with (k - 1) d delta in place of the 1, so that w means the same for any k and d.
    """
    squared = distances(f, c).square()
    others = squared.scatter(1, y[:, None], 0.0).sum(1) / (len(c) - 1)
    return (squared.gather(1, y[:, None])[:, 0] / (others + delta)).mean()


def centre_aligned(f: Tensor, y: Tensor, c: Tensor, m: float, term: str) -> Tensor:
    """The term that w weighs: "pull", "push", "hinge" (their sum) or "ratio"; a mean over the rows."""
    if term == "ratio":
        return ratio(f, y, c)
    near = pull(f, y, c) if term in ("pull", "hinge") else f.new_zeros(())
    return near + push(f, y, c, m) if term in ("push", "hinge") else near


def moved(c: Tensor, sums: Tensor, counts: Tensor, rate: float) -> Tensor:
    """Averaged centres after a batch (Wen et al., eq. 4): c - rate * (n c - sum) / (1 + n), (k, d).

    With a rate in [0, 1] the new centre lies between the old one and the batch's class mean, so it cannot run away.

    Args:
        sums: (k, d) features of the global batch, added up by class.
        counts: (k,) rows of each class in the global batch.
        rate: alpha of Wen et al.
    """
    n = counts[:, None]
    return c - rate * (n * c - sums) / (1.0 + n)


def cosine_logits(f: Tensor, w: Tensor, s: float) -> Tensor:
    """s cos(theta_j), of features (b, d) and class weights (k, d) at unit length: (b, k) (Wang et al. 2018, eq. 3)."""
    return s * F.normalize(f, dim=1) @ F.normalize(w, dim=1).T


def with_margin(logits: Tensor, y: Tensor, s: float, m: float) -> Tensor:
    """s (cos(theta_y) - m) for the label, s cos(theta_j) for the others, (b, k): CosFace's logits (ibid., eq. 4)."""
    return logits - s * m * F.one_hot(y, logits.shape[1])
