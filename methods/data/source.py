"""What every loader returns, and how rows are dealt to training, validation and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bo_distill.methods.data.account import LeftOut, some
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.data.labels import alike_notes, in_order
from bo_distill.methods.data.parts import PARTS
from bo_distill.methods.errors import UsageError, counted

Indices = NDArray[np.int64]

SEED = 1729
"""Divisions never depend on a study's seed: every trial of every study sees the same rows."""


@dataclass(frozen=True)
class Source:
    """All rows of a data set, not yet divided.

    Attributes:
        rows: images (n, c, h, w) uint8, or sentences; None where `decode` is still to read them.
        y: labels (n, tasks).
        tasks: (task name, class names); the first task is the one that divisions are stratified by.
        parts: "train", "val", "test" -> indices of rows, ascending. A row may be in no part.
        left_out, notes: as in `methods.data.account.Account`.
        decode: reads the rows of all parts, once it is known which are asked for.
        reading: what a row from elsewhere must be read by to be like these (JSON).
        memo: holds what is known of the decoded rows, so that it need not be found again.
    """

    rows: Tensor | tuple[str, ...] | None
    y: Indices
    tasks: tuple[tuple[str, tuple[str, ...]], ...]
    parts: Mapping[str, Indices]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    decode: Callable[[Source], Source] | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    memo: Path | None = None


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
            f"{name}: class {classes[few]} has {counted(counts[few], 'row')} to train on and needs {len(missing) + 1}, "
            f"one for each of {', '.join(['train', *missing])}; add rows or leave the class out"
        )
    total = len(parts["train"])
    for part, share in missing.items():
        rest = parts["train"]
        parts[part] = rest[sample(y[rest], max(round(share * total), len(classes)))]
        parts["train"] = np.setdiff1d(rest, parts[part], assume_unique=True)
    return parts


def subset(source: Source, spec: DataSpec) -> Source:
    """Stratified subsets of the training and validation rows where the spec asks for them.

    Raises:
        UsageError: more rows than there are, or fewer than classes.
    """
    parts = dict(source.parts)
    for part, word, size in (("train", "training", spec.train_size), ("val", "validation", spec.val_size)):
        if size is None:
            continue
        rows = parts[part]
        classes = len(np.unique(source.y[rows, 0]))
        if not classes <= size <= len(rows):
            raise UsageError(
                f"{part}_size {size}: {spec.name} has {counted(len(rows), f'{word} row')} in {classes} classes; "
                f"give a number from {classes} to {len(rows)}"
            )
        parts[part] = rows[sample(source.y[rows, 0], size)]
    return replace(source, parts=parts)


def classed(
    spec: DataSpec,
    keys: Sequence[Hashable],
    labels: Sequence[str],
    parts: Sequence[str],
    show: Callable[[int], str],
    what: str = "labels",
) -> tuple[Indices, tuple[str, ...], Source]:
    """Images, of which these are known, each used once (see `once`): their classes are those of training, and a part
    that has no row, or none that is left, is drawn from training, 15% of it, stratified.

    Args:
        spec, keys, labels, parts, show: as for `once`; labels as text.
        what: has the labels, in a note.

    Returns:
        Which rows are used, the parts that are not drawn, and the source of these rows, which lacks the rows.

    Raises:
        UsageError: a label without a row in training, one label only, a class that is too small to divide.
    """
    trained = {label for label, part in zip(labels, parts, strict=True) if part == "train"}
    for label, part in zip(labels, parts, strict=True):
        if label not in trained:
            raise UsageError(f"{spec.name}: class {label} of {part} has no row to train on; add some or leave it out")
    if len(trained) < 2:
        raise UsageError(f"{spec.name}: {some(trained)} is the only class; a classifier needs two or more")
    keep, left_out = once(spec, keys, labels, parts, tuple(set(parts)), show)
    kept, classes = np.flatnonzero(keep), in_order(trained)
    number = {label: index for index, label in enumerate(classes)}
    y = np.array([number[labels[row]] for row in kept.tolist()], dtype=np.int64)
    of_row = np.array(parts)[kept]
    given = {part: np.flatnonzero(of_row == part) for part in PARTS if part in of_row}
    divided = divide(spec.name, y, classes, given, val=0.15, test=0.15)
    notes = alike_notes((labels[row] for row in kept.tolist()), what)
    if drawn := " and ".join(part for part in PARTS if part not in given):
        notes.append(f"{drawn} drawn from the training images, 15% each")
    return kept, tuple(given), Source(None, y[:, None], (("class", classes),), divided, left_out, tuple(notes))


def once(
    spec: DataSpec,
    keys: Sequence[Hashable],
    labels: Sequence[Hashable],
    parts: Sequence[str],
    published: Sequence[str],
    show: Callable[[int], str],
) -> tuple[NDArray[np.bool_], tuple[LeftOut, ...]]:
    """Which rows to use, so that equal rows never stand in two parts nor under two labels.

    Test is looked at first, then validation, then training. A row is left out if an earlier part has one that is equal;
    if equal rows have different labels; and if its own part has one already. The last two never take a row from
    published validation or test.

    Args:
        spec: names the data; `spec.conflicts` "refuse" makes rows under two labels an error.
        keys: (n) equal for rows that are equal.
        labels: (n).
        parts: (n) "train", "val" or "test".
        published: parts that are not drawn here.
        show: a row's number -> a word for it, for messages.

    Returns:
        (n) which rows are used, and what is left out.

    Raises:
        UsageError: rows under two labels, where the spec refuses them.
    """
    disputed = _disputed(spec, keys, labels, show)
    place: dict[Hashable, str] = {}
    keep = np.zeros(len(keys), dtype=bool)
    lost: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], str] = {}
    for part in ("test", "val", "train"):
        whole = part in published and part != "train"
        for row in (row for row, own in enumerate(parts) if own == part):
            key = keys[row]
            why = ""
            if place.get(key, part) != part:
                why = "shared"
            elif key in disputed and not whole:
                why = "conflicting"
            elif key in place and not whole:
                why = "duplicate"
            if why:
                lost[why, part] += 1
                example.setdefault((why, part), show(row))
            else:
                keep[row] = True
                place[key] = part
    told = tuple(
        LeftOut(why, count, f"{part}, e.g. {example[why, part]}") for (why, part), count in sorted(lost.items())
    )
    return keep, told


def _disputed(
    spec: DataSpec, keys: Sequence[Hashable], labels: Sequence[Hashable], show: Callable[[int], str]
) -> set[Hashable]:
    """Keys that stand under more than one label; UsageError for them where the spec refuses them."""
    given: dict[Hashable, Hashable] = {}
    disputed = {key for key, label in zip(keys, labels, strict=True) if given.setdefault(key, label) != label}
    if disputed and spec.conflicts == "refuse":
        contested = [row for row, key in enumerate(keys) if key in disputed]
        pair = [show(row) for row in contested if keys[row] == keys[contested[0]]]
        raise UsageError(
            f"{spec.name}: {len(contested)} rows stand under two labels, e.g. {' and '.join(pair[:2])}; "
            "mend them, or leave them out with --conflicts drop"
        )
    return disputed
