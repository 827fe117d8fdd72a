"""Random search."""

from __future__ import annotations

import numpy as np

from search.searchers.base import Settings, Space
from search.searchers.grid import at


def random_point(space: Space, seed: int, number: int) -> Settings:
    """The number-th independent draw from the ranges, each on its own scale."""
    draws = np.random.default_rng([seed, number]).random(len(space))
    return {name: at(domain, float(share)) for (name, domain), share in zip(space.items(), draws, strict=True)}
