"""JSON files that are kept: each carries the number of its format, and is checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from methods.errors import UsageError

FORMAT = 2
"""Of what this version writes. Format 1 is version 0.1's, whose files bear no number; only a model's do."""


class Damaged(UsageError):
    """A file does not hold what was written."""


def packed(content: Mapping[str, Any]) -> bytes:
    """A file's content with the number of its format."""
    return json.dumps({"format": FORMAT, **content}, indent=1).encode()


def unpacked(name: str, content: bytes) -> tuple[int, dict[str, Any]]:
    """A file's format, and its content without the number.

    Args:
        name: of the file, for messages.

    Raises:
        Damaged: it is no JSON object.
        UsageError: a later version wrote it.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(name, error) from None
    if not isinstance(value, dict):
        raise damaged(name, "it is no JSON object")
    number = value.pop("format", 1)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise damaged(name, f"its format is {number}")
    if number > FORMAT:
        raise UsageError(
            f"{name} is of format {number}, newer than this version reads ({FORMAT}); use the version that wrote it"
        )
    return number, value


def damaged(name: str, problem: object) -> Damaged:
    """The error of a file that cannot be read."""
    return Damaged(f"{name} cannot be read ({' '.join(str(problem).split())}); restore it from a copy")
