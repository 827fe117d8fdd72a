"""Grid search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bo_distill.methods.errors import UsageError, counted
from bo_distill.methods.space import Choice, Integer, Real, Searched
from bo_distill.search.searchers.base import NAMED, IndexedSearch, Settings, Space

GRIDS = ("grid", "grid-shuffled", "grid-offset", "grid-centred")


def make(word: str, space: Space, seed: int, trials: int | None, first: Sequence[Settings]) -> IndexedSearch:
    """Grid search; UsageError if the budget asks for more or fewer configurations than a grid can have."""
    points = arranged(word, space, trials, seed)
    return IndexedSearch(space, lambda number: points[number] if number < len(points) else None)


def natural_points(domain: Searched) -> int:
    """Points that a grid gives a parameter of its own accord: one a decade where it is log, five where it is linear; at
    least the two ends."""
    match domain:
        case Choice(options):
            return len(options)
        case Real(low, high, True):
            return max(2, round(math.log10(high / low)) + 1)
        case Integer(low, high, log):
            return min(high - low + 1, max(2, round(math.log2(high / low)) + 1) if log else 5)
    return 5


def axis(domain: Searched, points: int) -> list[Any]:
    """`points` values from one end of the range to the other, evenly on its own scale; the middle where it is one."""
    if isinstance(domain, Choice):
        return list(domain.options)
    ends: tuple[Any, Any] = domain.low, domain.high
    first, last = map(domain.to_unit, ends)
    shares = [0.5] if points == 1 else [i / (points - 1) for i in range(points)]
    return at(domain, [first + share * (last - first) for share in shares])


def at(domain: Searched, units: Iterable[float]) -> list[Any]:
    """The different values at coordinates, in order."""
    return list(dict.fromkeys(domain.from_unit(unit, NAMED) for unit in units))


def grid(space: Space, trials: int | None) -> list[Settings]:
    """Every combination, the last field moving fastest.

    Args:
        space: searched fields.
        trials: None for each parameter's natural number of points; otherwise the most combinations that there may be,
            and points are added where the range is worst covered for its size.

    Raises:
        UsageError: `trials` does not hold two points of every parameter.
    """
    points = {name: natural_points(domain) for name, domain in space.items()}
    if trials is not None:
        most = points
        points = {name: len(d.options) if isinstance(d, Choice) else min(2, most[name]) for name, d in space.items()}
        if math.prod(points.values()) > trials:
            least = math.prod(points.values())
            many = counted(trials, "trial")
            raise UsageError(f"{many}: a grid over {', '.join(space)} takes at least {least}; give as many or more")
        while True:
            grown = [
                name
                for name, domain in space.items()
                if not isinstance(domain, Choice)
                and not (isinstance(domain, Integer) and points[name] > domain.high - domain.low)
                and math.prod(points.values()) // points[name] * (points[name] + 1) <= trials
            ]
            if not grown:
                break
            points[max(grown, key=lambda name: (most[name] - 1) / (points[name] - 1) if points[name] > 1 else 9.9)] += 1
    axes = [axis(domain, points[name]) for name, domain in space.items()]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]


def arranged(form: str, space: Space, trials: int | None, seed: int) -> list[Settings]:
    """The grid under one of `GRIDS`, for a comparison that neither its corners nor its order should flatter.

    "grid-shuffled" takes the same points in random order. "grid-centred" and "grid-offset" cut each range into as many
    cells as it had points, and take the middle of every cell, or the same random place in all of them.
    """
    points = grid(space, trials)
    rng = np.random.default_rng(seed)
    if form == "grid":
        return points
    if form == "grid-shuffled":
        return [points[number] for number in rng.permutation(len(points))]
    axes: list[list[Any]] = []
    for name, domain in space.items():
        count, place = len({point[name] for point in points}), 0.5 if form == "grid-centred" else float(rng.random())
        cells = at(domain, [(cell + place) / count for cell in range(count)])
        axes.append(list(domain.options) if isinstance(domain, Choice) else cells)
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]
