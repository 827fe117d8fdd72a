"""The searchers by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from methods.errors import UsageError

if TYPE_CHECKING:
    from search.searchers.bayesian import Proposer
from search.searchers.base import IndexedSearch, Settings, Space
from search.searchers.grid import GRIDS, arranged
from search.searchers.random import random_point

SEARCHERS = (*GRIDS, "random", "bo")


def make_searcher(
    name: str, space: Space, seed: int, trials: int | None, first: Sequence[Settings] = ()
) -> IndexedSearch | Proposer:
    """A fresh searcher, one of `SEARCHERS`; a Bayesian one suggests the points `first` before its own."""
    if name in GRIDS:
        points = arranged(name, space, trials, seed)
        return IndexedSearch(lambda number: points[number] if number < len(points) else None)
    if name == "random":
        return IndexedSearch(lambda number: random_point(space, seed, number))
    from search.searchers.bayesian import Proposer
    from search.searchers.cube import Cube, axes_of

    return Proposer(Cube(axes_of(space)), "val_accuracy", "max", seed=seed, points_to_evaluate=first)


def names_of(text: str) -> list[str]:
    """Searchers as a command names them, by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in SEARCHERS:
            raise UsageError(f"--searchers {name}: there are {', '.join(SEARCHERS)}")
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--searchers {text}: name each searcher once, by commas")
    return names
