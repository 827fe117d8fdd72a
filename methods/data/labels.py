"""Labels as classes: one normal form, one order, and which of them look alike."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from bo_distill.methods.errors import counted


def normal(label: str) -> str:
    """Unicode NFC without white space at the ends; "" is a missing label."""
    return unicodedata.normalize("NFC", label).strip()


def in_order(classes: Iterable[str]) -> tuple[str, ...]:
    """By number where all are whole numbers, so that "10" follows "9"; else by code point."""
    distinct = set(classes)
    try:
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(distinct))


def _looks(label: str) -> str:
    """What a reader sees: compatibility forms, case, quotes, invisible characters and ways to write a number folded."""
    seen = unicodedata.normalize("NFKC", label).casefold()
    seen = " ".join("".join(c for c in seen if unicodedata.category(c) not in ("Cf", "Cc")).split()).strip("\"'`")
    try:
        return repr(float(seen)) if seen[:1] in "+-.0123456789" else seen
    except ValueError:
        return seen


def alike(counts: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """Groups of labels that look alike ("yes" and "Yes", "1" and "1.0"), the most frequent of each first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        groups[_looks(label)].append(label)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def alike_notes(labels: Iterable[str], what: str = "labels") -> list[str]:
    """A line for each group that looks alike, with how many rows each has; invisible characters are spelt out."""
    counts = Counter(labels)
    return [
        f"{what} that look alike stay different classes: "
        + ", ".join(f"{_spelt(label)} ({counted(counts[label], 'row')})" for label in group)
        for group in alike(counts)
    ]


def _spelt(label: str) -> str:
    return "".join(
        c if c.isprintable() and not unicodedata.combining(c) else c.encode("unicode_escape").decode() for c in label
    )
