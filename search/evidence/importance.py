"""How much each searched setting mattered: functional analysis of variance of a random forest.

Hutter, Hoos, Leyton-Brown 2014, "An efficient approach for assessing hyperparameter importance": a forest is fitted to
(settings -> accuracy), and as each of its trees is constant on boxes, the variance of its prediction over the whole
space, and the shares that each setting and each pair of settings explain alone, are sums over boxes, not samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


TREES, LEAVES = 64, 64


FEWEST = 6  # trials; a forest of fewer says nothing


@dataclass(frozen=True)
class Boxes:
    """One tree: on the box [low, high) of the unit cube it says `value`. low, high (leaves, d), value (leaves,)."""

    low: Array
    high: Array
    value: Array

    @staticmethod
    def of(tree: Any, d: int) -> Boxes:
        """The leaves of a fitted scikit-learn tree over `d` coordinates."""
        lows, highs, values = [], [], []
        waiting = [(0, np.zeros(d), np.ones(d))]
        while waiting:
            node, low, high = waiting.pop()
            if tree.children_left[node] < 0:
                lows.append(low)
                highs.append(high)
                values.append(tree.value[node, 0, 0])
                continue
            axis, at = tree.feature[node], tree.threshold[node]
            left, right = high.copy(), low.copy()
            left[axis], right[axis] = min(at, high[axis]), max(at, low[axis])
            waiting += [(tree.children_left[node], low, left), (tree.children_right[node], right, high)]
        return Boxes(np.array(lows), np.array(highs), np.array(values))

    @cached_property
    def volume(self) -> Array:
        """Volume of each leaf, (leaves,); they sum to 1."""
        return np.asarray((self.high - self.low).prod(1))

    @cached_property
    def mean(self) -> float:
        """The tree's mean over the cube."""
        return float(self.volume @ self.value)

    @cached_property
    def variance(self) -> float:
        """The tree's variance over the cube."""
        return float(self.volume @ (self.value - self.mean) ** 2)

    def cells(self, axis: int) -> tuple[Array, Array]:
        """Where the tree changes along an axis: middles and widths of the pieces."""
        cuts = np.unique(np.concatenate([self.low[:, axis], self.high[:, axis]]))
        return (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)

    def marginal(self, axes: Sequence[int], at: Sequence[Array]) -> Array:
        """Mean prediction on a grid where one or two settings, `axes`, have the values `at`; all others are free."""
        result = self.volume * self.value  # leaves last; each axis adds a dimension before them
        inside = []
        for axis, where in zip(axes, at, strict=True):
            result = result / (self.high[:, axis] - self.low[:, axis])
            inside.append((self.low[:, axis] <= where[:, None]) & (where[:, None] < self.high[:, axis]))
        first, *rest = inside
        return np.asarray((first * result) @ rest[0].T if rest else first @ result)

    def explained(self, axes: Sequence[int]) -> float:
        """Variance of the marginal of one setting or of two together."""
        middles, widths = zip(*(self.cells(axis) for axis in axes), strict=True)
        off = (self.marginal(axes, middles) - self.mean) ** 2
        for width in reversed(widths):
            off = off @ width
        return float(off)


@dataclass(frozen=True)
class Anova:
    """What a forest says about n trials of d settings.

    Attributes:
        main: share of the variance that each setting explains alone, (trees, d).
        pairs: (i, j) -> what the two explain together and neither alone, (trees,).
        r2: coefficient of determination on trials that a tree was not shown. Near or below 0 the shares are noise.
        trees: the forest.
    """

    main: Array
    pairs: dict[tuple[int, int], Array]
    r2: float
    trees: tuple[Boxes, ...]

    def marginal(self, axis: int, at: Array) -> Array:
        """Mean prediction of each tree along a setting, (trees, len(at)); `at` in [0, 1)."""
        return np.stack([tree.marginal([axis], [at]) for tree in self.trees])


def anova(x: Array, y: Array, seed: int = 0) -> Anova | None:
    """Fit the forest to trials x (n, d) in [0, 1] and accuracies y (n,); None where the trials are too few or alike."""
    from sklearn.ensemble import RandomForestRegressor

    if len(y) < FEWEST or np.ptp(y) == 0 or x.shape[1] == 0:
        return None
    forest = RandomForestRegressor(TREES, max_leaf_nodes=LEAVES, oob_score=True, random_state=seed).fit(x, y)
    trees = [Boxes.of(each.tree_, x.shape[1]) for each in forest.estimators_]
    told = tuple(tree for tree in trees if tree.variance > 0)
    if not told:
        return None
    total = np.array([tree.variance for tree in told])
    main = np.array([[tree.explained([axis]) for axis in range(x.shape[1])] for tree in told]) / total[:, None]
    pairs = {
        (i, j): np.array([tree.explained([i, j]) for tree in told]) / total - main[:, i] - main[:, j]
        for i, j in combinations(range(x.shape[1]), 2)
    }
    return Anova(main, pairs, float(forest.oob_score_), told)
