"""What was read of a data set, and what was not: a record that travels with it, and its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bo_distill.methods.errors import counted

WHY = {
    "empty": "without text or label",
    "duplicate": "equal to another row of their part",
    "shared": "equal to a row of test, or of validation",
    "conflicting": "whose content also stands under another label",
    "unreadable": "that cannot be read",
    "unknown part": "of a part that is neither training, validation nor test",
    "not looked into": "not looked into",
}
"""Why a row or a file is left out -> the words for it."""


@dataclass(frozen=True)
class LeftOut:
    """Rows or files that are not used.

    Attributes:
        why: a key of WHY.
        count: how many.
        what: of which part, or examples; may be empty.
    """

    why: str
    count: int
    what: str = ""

    def __str__(self) -> str:
        noun = "file" if self.why in ("not looked into", "unreadable") else "row"
        words = f"{counted(self.count, noun)} left out: {WHY[self.why]}"
        return f"{words} ({self.what})" if self.what else words


@dataclass(frozen=True)
class Account:
    """What was read.

    Attributes:
        rows: part -> class (of the first task) -> rows that are used.
        left_out: what is not used.
        notes: what else a person should know, one line each (texts cut, parts drawn, labels that look alike).
    """

    rows: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """All that a person should know beside the counts, one sentence a line."""
        return [*map(str, self.left_out), *self.notes]


def some(values: Any, most: int = 3) -> str:
    """A few of the values, for a message."""
    ordered = sorted(map(str, values))
    return (", ".join(ordered[:most]) or "nothing") + (", ..." if len(ordered) > most else "")
