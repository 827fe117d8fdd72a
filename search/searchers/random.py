"""Random search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bo_distill.search.searchers.base import NAMED, IndexedSearch, Settings, Space


def make(word: str, space: Space, seed: int, trials: int | None, first: Sequence[Settings]) -> IndexedSearch:
    """Random search, which never ends."""
    return IndexedSearch(space, lambda number: random_point(space, seed, number))


def random_point(space: Space, seed: int, number: int) -> Settings:
    """The number-th independent draw from the ranges, each on its own scale."""
    draws = np.random.default_rng([seed, number]).random(len(space))
    return {name: domain.from_unit(float(u), NAMED) for (name, domain), u in zip(space.items(), draws, strict=True)}
