"""What was read of a data set, for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from bo_distill.search.command.terminal import print_table
from bo_distill.search.rows.export import printable

if TYPE_CHECKING:
    from bo_distill.methods.data.dataset import Info

CLASSES = 12  # shown one by one; of more, the smallest and the largest


def reading_rows(info: Info, most: int = CLASSES) -> list[tuple[str, ...]]:
    """Lines of (class, training, validation, test rows): each class where they are few, and all of them together."""
    counts = info.account.rows
    parts = list(counts.values())
    if not parts:
        return [("all", f"{info.train_size:,}", f"{info.val_size:,}", f"{info.test_size:,}")]
    classes: Sequence[str] = list(info.classes)
    by_size = sorted(classes, key=lambda name: (parts[0].get(name, 0), name))
    if len(classes) > most:
        classes = [by_size[0], by_size[-1]]
    lines = [(name, *(f"{part.get(name, 0):,}" for part in parts)) for name in classes]
    if len(info.classes) > most:
        lines = [(f"{word}: {line[0]}", *line[1:]) for word, line in zip(("smallest", "largest"), lines, strict=True)]
    return [*lines, (f"all {len(info.classes)} classes", *(f"{sum(part.values()):,}" for part in parts))]


def tell_reading(info: Info, file: TextIO | None = None) -> None:
    """Say what was left out, and to a person at a terminal also how many rows there are.

    Args:
        file: where to; standard error by default, which is Ray's while a search runs on it.
    """
    file = file or sys.stderr
    if file.isatty():
        print(f"{printable(info.name)}: rows", file=file)
        print_table(("class", "train", "val", "test"), reading_rows(info), file)
    for note in info.account.lines():
        print(f"data: {printable(note)}", file=file, flush=True)
