"""What every loader returns, and how rows are dealt to training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from methods.errors import UsageError

Indices = NDArray[np.int64]

SEED = 1729
"""Divisions never depend on a study's seed: every trial of every study sees the same rows."""


@dataclass(frozen=True)
class Source:
    """All rows of a data set, not yet divided.

    Attributes:
        rows: images (n, c, h, w) uint8, or sentences.
        y: labels (n, tasks).
        tasks: (task name, class names); the first task is the one that divisions are stratified by.
        parts: "train", "val", "test" -> indices of rows, ascending. A row may be in no part.
        notes: what a person should know, one line each.
    """

    rows: Tensor | tuple[str, ...]
    y: Indices
    tasks: tuple[tuple[str, tuple[str, ...]], ...]
    parts: Mapping[str, Indices]
    notes: tuple[str, ...] = ()


def quota(counts: Indices, size: int) -> Indices:
    """How many rows of each class make a stratified sample: in proportion, by largest remainder, at least one of each.

    Args:
        counts: rows of each class, all positive.
        size: from the number of classes to the number of rows.
    """
    exact = counts * (size / counts.sum())
    take: Indices = np.maximum(np.floor(exact), 1).astype(np.int64)
    while take.sum() > size:  # the classes that were raised to one row are paid for by those that can spare one
        take[np.argmax(np.where(take > 1, take - exact, -np.inf))] -= 1
    while take.sum() < size:
        take[np.argmax(np.where(take < counts, exact - take, -np.inf))] += 1
    return take


def sample(y: Indices, size: int) -> Indices:
    """Indices of a stratified sample of `size` of the labels `y` (n,), ascending; always the same ones."""
    # RandomState's stream is frozen across releases of NumPy, which default_rng's is not.
    random = np.random.RandomState(SEED)
    _, y, counts = np.unique(y, return_inverse=True, return_counts=True)
    drawn = [random.permutation(np.flatnonzero(y == label))[:take] for label, take in enumerate(quota(counts, size))]
    return np.sort(np.concatenate(drawn))


def divide(
    name: str, y: Indices, classes: Sequence[str], given: Mapping[str, Indices], val: float, test: float
) -> dict[str, Indices]:
    """The parts that are given, and stratified samples of the training part for those that are not.

    Args:
        name: of the data set, for messages.
        y: labels (n,) of all rows.
        classes: their names.
        given: "train" and maybe "val" and "test" -> indices.
        val, test: share of the given training part that a missing part takes.

    Raises:
        UsageError: a class has no row in training, or too few to be in each part that is drawn from it.
    """
    parts = dict(given)
    missing = {part: share for part, share in (("test", test), ("val", val)) if part not in parts}
    counts = np.bincount(y[parts["train"]], minlength=len(classes))
    if counts.min() <= len(missing):
        few = int(counts.argmin())
        raise UsageError(
            f"{name}: class {classes[few]} has {counts[few]} rows to train on and needs {len(missing) + 1}, "
            f"one for each of {', '.join(['train', *missing])}; add rows or leave the class out"
        )
    total = len(parts["train"])
    for part, share in missing.items():
        rest = parts["train"]
        parts[part] = rest[sample(y[rest], max(round(share * total), len(classes)))]
        parts["train"] = np.setdiff1d(rest, parts[part], assume_unique=True)
    return parts
