"""Which words mean training, validation and test, in names of folders and files and in the values of a column.

One table for images and texts. A name is read in any case, without digits and separators: `Train`, `hold-out` and
`val2017` are understood. Folders and files are also understood by their first or last word (`train_images`,
`seg_test`); a column's value is not, since `oos_val` may be a part of its own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from bo_distill.methods.errors import UsageError

PARTS = ("train", "val", "test")
WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "development": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
    "holdout": "test",
    "heldout": "test",
}
"""A word -> the part that it means."""


def _words(name: str) -> list[str]:
    """`TrainImages_2017` -> train, images."""
    return re.findall(r"[^\W\d_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())


def part_of(word: str) -> str | None:
    """The part that a whole word means, or None."""
    return WORDS.get("".join(_words(word)))


def parts_in(name: str) -> set[str]:
    """The parts that a name's first and last word mean; two of them where the name can be read both ways."""
    whole, words = part_of(name), _words(name)
    if whole:
        return {whole}
    return {WORDS[word] for word in (words[:1] + words[-1:]) if word in WORDS}


def named_parts(data: str, names: Iterable[str], kind: str) -> dict[str, str]:
    """Names of folders or files -> their parts; names that mean none are left out.

    Args:
        data: the data set's name, for messages.
        kind: "folder" or "file"; files that differ in digits only are pieces of one part.

    Raises:
        UsageError: a name that can be read two ways, or two names for one part.
    """
    found: dict[str, str] = {}
    spelt: dict[str, tuple[str, str]] = {}
    for name in sorted(names):
        parts = parts_in(name)
        if len(parts) > 1:
            raise UsageError(f"{data}: {kind} {name} may be {' or '.join(sorted(parts))}; rename it to one of them")
        for part in parts:
            spelling = re.sub(r"\d+", "#", name) if kind == "file" else name
            first, one = spelt.setdefault(part, (spelling, name))
            if first != spelling:
                raise UsageError(f"{data}: {kind}s {one} and {name} both mean {part}; merge them or move one away")
            found[name] = part
    return found


def column_words(data: str, column: str) -> tuple[str, dict[str, str]]:
    """`split:train=train,val=dev+oos_val` as (column, value -> part); a plain column has an empty mapping."""
    name, colon, rest = column.partition(":")
    if not colon or "=" not in rest:
        return column, {}
    words: dict[str, str] = {}
    for group in rest.split(","):
        part, _, values = group.partition("=")
        if part.strip() not in PARTS:
            raise UsageError(f"{data}: --split-column {column}: {part} is not a part; give {', '.join(PARTS)}")
        words |= {value.strip(): part.strip() for value in values.split("+")}
    return name, words


def column_parts(data: str, column: str, values: Iterable[str], words: Mapping[str, str]) -> dict[str, str]:
    """Values of a split column -> parts, "" where a value means none.

    Args:
        words: value -> part as the person gave them; where there are any, they alone count.

    Raises:
        UsageError: a value that looks like a part and is not understood, or two words for one part.
    """
    distinct = sorted({value.strip() for value in values})
    if words:
        return {value: words.get(value, "") for value in distinct}
    remedy = (
        f"say what it is, e.g. --split-column {column}:train=train,val=dev,test=test; values not named are left out"
    )
    found: dict[str, str] = {}
    spelt: dict[str, str] = {}
    for value in distinct:
        part = part_of(value)
        if part is None and (parts_in(value) or difflib.get_close_matches(value.lower(), WORDS, 1, 0.75)):
            raise UsageError(f"{data}: column {column} holds {value}, which looks like a part; {remedy}")
        if part:
            word = "".join(_words(value))
            if spelt.setdefault(part, word) != word:
                raise UsageError(f"{data}: column {column} holds {spelt[part]} and {word}, both {part}; {remedy}")
        found[value] = part or ""
    return found
