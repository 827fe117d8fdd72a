"""Numbers on a feature space: how tight the classes lie, how far apart, and whether neighbours agree."""

from __future__ import annotations

import torch
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn


class Activations(nn.Module):
    """What one layer of a network puts out, (b, ...) as it leaves the layer. For `Worker.predict`.

    Args:
        net: the network, called with one x.
        layer: its name in `net.named_modules()`; the empty string is the network itself.
    """

    def __init__(self, net: nn.Module, layer: str) -> None:
        super().__init__()
        self.net, self.layer = net, layer

    def forward(self, x: Tensor) -> Tensor:
        """What the layer puts out for `x`, whole."""
        seen: list[Tensor] = []
        hook = self.net.get_submodule(self.layer).register_forward_hook(lambda module, inputs, out: seen.append(out))
        try:
            self.net(x)
        finally:
            hook.remove()
        return seen[-1]


def distance_ratio(f: Tensor, y: Tensor) -> float:
    """Mean distance of a row to its class mean, over the mean distance between class means. Lower is tighter.

    f (n, d), y (n,). Rows are averaged within each class first, so that each class counts once. NaN when fewer than
    two classes occur or when all class means coincide.
    """
    f = f.double()
    classes = sorted(set(y.tolist()))
    means = torch.stack([f[y == k].mean(0) for k in classes])
    within = torch.stack([(f[y == k] - mean).norm(dim=1).mean() for k, mean in zip(classes, means, strict=True)])
    between = torch.pdist(means)
    if not len(between) or float(between.mean()) == 0.0:
        return float("nan")
    return float(within.mean() / between.mean())


def knn_accuracy(known: Tensor, known_y: Tensor, f: Tensor, y: Tensor, neighbours: int = 5) -> float:
    """Share of the rows `f` (n, d) whose nearest rows among `known` (m, d) vote for the label, Euclidean distance."""

    vote = KNeighborsClassifier(min(neighbours, len(known))).fit(known.numpy(), known_y.numpy())
    return float((vote.predict(f.numpy()) == y.numpy()).mean())


def statistics(known: Tensor, known_y: Tensor, f: Tensor, y: Tensor, rows: int = 5000) -> dict[str, float]:
    """distance_ratio, silhouette (-1 to 1, higher is better) and knn_accuracy of features `f` (n, d) labelled `y`.

    Args:
        known, known_y: features that vote in knn_accuracy: of training rows, which `f` should not be.
        rows: at most so many rows of each enter the two statistics that compare all pairs; evenly spaced ones.
    """

    few, few_y = thinned(f, rows), thinned(y, rows)
    enough = 2 <= len(set(few_y.tolist())) < len(few_y)
    return {
        "distance_ratio": distance_ratio(f, y),
        "silhouette": float(silhouette_score(few.numpy(), few_y.numpy())) if enough else float("nan"),
        "knn_accuracy": knn_accuracy(thinned(known, rows), thinned(known_y, rows), f, y),
    }


def thinned(rows: Tensor, most: int) -> Tensor:
    """At most `most` rows, evenly spaced."""
    return rows[torch.linspace(0, len(rows) - 1, most).long()] if len(rows) > most else rows
