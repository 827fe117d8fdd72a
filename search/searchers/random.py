"""Random search."""

from __future__ import annotations

import numpy as np

from search.searchers.base import NAMED, Settings, Space


def random_point(space: Space, seed: int, number: int) -> Settings:
    """The number-th independent draw from the ranges, each on its own scale."""
    draws = np.random.default_rng([seed, number]).random(len(space))
    return {name: domain.from_unit(float(u), NAMED) for (name, domain), u in zip(space.items(), draws, strict=True)}
