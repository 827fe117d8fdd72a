"""The equations of Park, "An Efficient Deep Learning Ensemble Using a Distribution of Label Embedding" (2021).

Symbols: C classes, S clusters C_1..C_S, f(x) the base's logits, p = softmax(f(x)), W the weights of the last layer,
E the entropy of p, e its threshold, c_j the sub-classifier ("expert") of cluster C_j. A clustering is an
`assignment`, (C,) int64: class -> cluster. Since every class has one expert, the logits of all experts for one image
fit one row of C numbers: column k holds the logit of class k by the expert of k's cluster.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from sklearn.cluster import AgglomerativeClustering, KMeans, SpectralClustering
from torch import Tensor

from bo_distill.methods.errors import UsageError

LEAK = 1e-4
"""Share of their mass that hard routing leaves to the other clusters, so that a wrong route costs a finite loss."""

CLUSTERINGS = (
    *(("spectral", kind) for kind in ("shifted", "clipped", "angular")),
    *((method, "") for method in ("agglomerative", "kmeans", "confusion")),
)
"""Every (method, kind) that `cluster` takes."""


# III-1. Label embeddings and clusters of classes


def cosine_similarity(embeddings: Tensor) -> Tensor:
    """Cosines between label embeddings, the rows of the head's weights (the columns of W): (C, p) -> (C, C)."""
    unit = F.normalize(embeddings, dim=1)
    return (unit @ unit.T).clamp(-1.0, 1.0)


def affinity(cosine: Tensor, kind: str) -> Tensor:
    """Cosines in [-1, 1] as edge weights in [0, 1], elementwise; the paper does not say how it treats the sign.

    "shifted" is (1 + cos) / 2, "clipped" max(cos, 0), "angular" 1 - arccos(cos) / pi.
    """
    if kind == "shifted":
        return (1.0 + cosine) / 2.0
    if kind == "clipped":
        return cosine.clamp_min(0.0)
    return 1.0 - torch.arccos(cosine) / math.pi


def confusion(logits: Tensor, y: Tensor) -> Tensor:
    """Mean predicted probabilities of each true class, (n, C) and (n,) -> (C, C), rows sum to 1.

    Probabilities, not counts: a few rows of a class already give a full row. A class without rows gets 1 / C each.
    """
    classes = logits.shape[1]
    sums = torch.zeros(classes, classes, dtype=logits.dtype).index_add_(0, y, logits.softmax(1))
    count = torch.bincount(y, minlength=classes).unsqueeze(1)
    return torch.where(count > 0, sums / count.clamp_min(1), 1.0 / classes)


def cluster(embeddings: Tensor, confused: Tensor, count: int, method: str, kind: str, seed: int) -> Tensor:
    """{1..C} = C_1 + ... + C_S by scikit-learn; the assignment numbers clusters by their first class.

    Args:
        embeddings: (C, p).
        confused: (C, C), what `confusion` gives; read by method "confusion" only.
        count: S.
        method: "spectral" on the affinity of the cosines (the paper's), "agglomerative" (average linkage of 1 - cos),
            "kmeans" on embeddings of unit length, or "confusion": spectral on the symmetrised confusion.
        kind: of `affinity`, for "spectral".
        seed: of the K-means that ends a spectral clustering, or of K-means itself.

    Raises:
        UsageError: more clusters than classes, or than distinct embeddings.
    """

    classes = len(embeddings)
    if count > classes:
        raise UsageError(f"cluster.count={count}: the data have {classes} classes; give at most {classes}")
    unit = F.normalize(embeddings, dim=1)
    distinct = len(torch.unique(unit.mul(1e5).round(), dim=0))
    if method != "confusion" and count > distinct:
        raise UsageError(
            f"cluster.count={count}: only {distinct} of {classes} label embeddings differ; "
            f"give at most {distinct}, or train the base longer"
        )
    if count in (1, classes):
        return torch.arange(classes) if count > 1 else torch.zeros(classes, dtype=torch.int64)
    cosine = cosine_similarity(embeddings)
    if method == "kmeans":
        labels = KMeans(count, n_init=10, random_state=seed).fit_predict(unit.numpy())
    elif method == "agglomerative":
        labels = AgglomerativeClustering(count, metric="precomputed", linkage="average").fit_predict(
            (1 - cosine).numpy()
        )
    else:
        weights = (confused + confused.T) / 2 if method == "confusion" else affinity(cosine, kind)
        labels = SpectralClustering(count, affinity="precomputed", n_init=10, random_state=seed).fit_predict(
            weights.double().clamp_min(1e-6).numpy()  # a graph in one piece
        )
    return relabel(torch.as_tensor(labels, dtype=torch.int64))


def relabel(assignment: Tensor) -> Tensor:
    """The same partition with clusters numbered from 0 in the order of their first class; empty ones vanish."""
    _, number = torch.unique(assignment, return_inverse=True)
    first = torch.full((int(number.max()) + 1,), len(number)).scatter_reduce(
        0, number, torch.arange(len(number)), "amin"
    )
    return first.argsort().argsort()[number]


def members(assignment: Tensor) -> list[Tensor]:
    """The classes of each cluster, ascending."""
    return [(assignment == j).nonzero().squeeze(1) for j in range(int(assignment.max()) + 1)]


# III-2. Uncertainty


def entropy(logits: Tensor) -> Tensor:
    """E = -sum_k p_k log p_k of the softmax, in nats: (n, C) -> (n,)."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


# III-3. The ensemble


def cluster_logsumexp(logits: Tensor, assignment: Tensor, clusters: int | None = None) -> Tensor:
    """log sum_{k in C_j} exp f_k: (n, C) -> (n, S).

    Args:
        clusters: S, here and below, where the assignment's values cannot be looked at: in a graph under export.
    """
    index = assignment.expand_as(logits)
    shape = (logits.shape[0], clusters or int(assignment.max()) + 1)
    top = logits.new_full(shape, -torch.inf).scatter_reduce(1, index, logits, "amax")
    sums = logits.new_zeros(shape).scatter_add(1, index, (logits - top[:, assignment]).exp())
    return top + sums.log()


def log_cluster_probability(logits: Tensor, assignment: Tensor, clusters: int | None = None) -> Tensor:
    """log p_{C_t}, p_{C_t} = sum_{k in C_t} p_k: (n, C) -> (n, S)."""
    return cluster_logsumexp(logits, assignment, clusters).log_softmax(1)


def log_conditional(logits: Tensor, assignment: Tensor, clusters: int | None = None) -> Tensor:
    """log p_j(k | C_j), a softmax inside each cluster: (n, C) -> (n, C). A cluster of one class gives log 1."""
    return logits - cluster_logsumexp(logits, assignment, clusters)[:, assignment]


def dispatch(
    base: Tensor, assignment: Tensor, threshold: float, rule: str, top: int = 1, clusters: int | None = None
) -> Tensor:
    """Which experts an image needs: (n, C) base logits -> (n, S) bool.

    None where E < e. Elsewhere "hard" asks the expert of argmax_t p_{C_t} (the paper's), "top" those of the `top`
    most probable clusters, "soft" and "average" all. The threshold is a share of log C: e = threshold * log C. 0 asks
    an expert about every image; 1 about none but a softmax that is uniform to rounding.
    """
    log_mass = log_cluster_probability(base, assignment, clusters)
    most = log_mass.shape[1]
    chosen = log_mass.topk({"hard": 1, "top": min(top, most), "soft": most, "average": most}[rule], dim=1).indices
    uncertain = entropy(base) >= threshold * math.log(base.shape[1])
    return torch.zeros_like(log_mass).scatter(1, chosen, 1.0).bool() & uncertain.unsqueeze(1)


def combine(
    base: Tensor, experts: Tensor, assignment: Tensor, asked: Tensor, rule: str, clusters: int | None = None
) -> Tensor:
    """The ensemble's log-probabilities, log p(k) = log w_j + log p_j(k | C_j) for k in C_j: (n, C).

    p_j is the expert's where it was asked and the base's own elsewhere. "soft" and "top": w_j = p_{C_j}, so that
    experts equal to the base give back the base exactly. "hard": w_j = 1 for the chosen cluster, whose expert
    answers alone; the others keep `LEAK` of their mass, too little to win. "average" is the mean of the base's
    distribution and "soft"'s; with one cluster, whose expert starts anew, it is a plain ensemble of two networks.

    Args:
        base, experts: (n, C) logits; a column of `experts` is read only where its cluster was asked.
        asked: (n, S) bool, what `dispatch` gives.
    """
    log_weight = log_cluster_probability(base, assignment, clusters)
    if rule == "hard":
        routed = asked.any(1, keepdim=True)
        log_weight = torch.where(asked, 0.0, torch.where(routed, log_weight + math.log(LEAK), log_weight))
    own, expert = (log_conditional(logits, assignment, clusters) for logits in (base, experts))
    inner = torch.where(asked[:, assignment], expert, own)
    mixture = (log_weight[:, assignment] + inner).log_softmax(1)
    return torch.logaddexp(base.log_softmax(1), mixture) - math.log(2) if rule == "average" else mixture


def own_cluster(logits: Tensor, y: Tensor, assignment: Tensor) -> Tensor:
    """Logits with the classes outside the true class's cluster at -inf: perfect routing. (n, C), (n,) -> (n, C)."""
    return logits.masked_fill(assignment != assignment[y].unsqueeze(1), -torch.inf)


def average_macs(asked: Tensor, assignment: Tensor, base: float, expert: float) -> float:
    """Multiply-adds per image: the base, and each expert asked; a cluster of one class has none. `asked` (n, S)."""
    needs_expert = torch.bincount(assignment, minlength=asked.shape[1]) > 1
    return base + expert * float((asked & needs_expert).sum(1).double().mean())
