"""JSON files that are kept: each carries the number of its format and a digest, and is checked when it is read."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.search.rows.export import printable

FORMAT = 2
"""Of what this version writes. Format 1 is version 0.1's, whose files bear no number; only a model's do."""


ARRAYS = "arrays"
"""The folder of a storage where rows that a program handed over are kept."""


class Damaged(UsageError):
    """A file does not hold what was written."""


_SEAL = re.compile(rb'\{"format": (\d+), "sha256": "([0-9a-f]{64})",\n')


def check_name(words: str, name: str) -> None:
    """See that a study's or a comparison's name can be that of its folder.

    Args:
        words: before the name in the message.

    Raises:
        UsageError: it cannot.
    """
    if name in ("", ".", "..") or "/" in name or not name.isprintable() or len(name.encode()) > 200:
        shown = repr(name if len(name) <= 40 else f"{name[:37]}...")[1:-1]
        raise UsageError(f"{words} {shown}: this names no folder; give up to 200 printable characters, without a slash")


def packed(content: Mapping[str, Any]) -> bytes:
    """A file's content with the number of its format and its digest."""
    return sealed(json.dumps(content, indent=1)[1:])


def sealed(body: str) -> bytes:
    """A file of which `body` is all that follows the opening brace; at least one field."""
    return f'{{"format": {FORMAT}, "sha256": "{_digest(FORMAT, body.encode())}",\n{body}'.encode()


def _digest(number: int, body: bytes) -> str:
    return hashlib.sha256(b"%d\n%b" % (number, body)).hexdigest()


def unpacked(name: str, content: bytes) -> tuple[int, dict[str, Any]]:
    """A file's format, and its content without number and digest.

    Args:
        name: of the file, for messages.

    Raises:
        Damaged: it is not what was written.
        UsageError: a later version wrote it.
    """
    seal = _SEAL.match(content)
    if seal and _digest(int(seal[1]), content[seal.end() :]) != seal[2].decode():
        raise damaged(name, "its content is not what was written")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(name, error) from None
    if not isinstance(value, dict):
        raise damaged(name, "it is no JSON object")
    if "sha256" in value and not seal:
        raise damaged(name, "its first line is not what was written")
    number = value.pop("format", 1)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise damaged(name, f"its format is {number}")
    if number > FORMAT:
        raise UsageError(
            f"{name} is of format {number}, newer than this version reads ({FORMAT}); use the version that wrote it"
        )
    if number > 1 and not seal:
        raise damaged(name, "its digest is missing")
    value.pop("sha256", None)
    return number, value


def read(storage: Storage, name: str) -> tuple[int, dict[str, Any]]:
    """A kept file's format and content, as `unpacked`.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it is not what was written.
        UsageError: a later version wrote it, or it must not be read.
    """
    return unpacked(storage.path(name), read_bytes(storage, name))


def read_bytes(storage: Storage, name: str) -> bytes:
    """A whole file.

    Raises:
        FileNotFoundError: there is none.
        UsageError: it must not be read, or is a folder.
    """
    try:
        return storage.read_bytes(name)
    except FileNotFoundError:
        raise
    except OSError as error:
        words = error.strerror or " ".join(str(error).split())[:200]
        place = storage.path(name)
        raise UsageError(f"{place} cannot be read: {words}; have its owner let you, or restore it") from None


def damaged(name: str, problem: object) -> Damaged:
    """The error of a file that cannot be read."""
    return Damaged(printable(f"{name} cannot be read ({' '.join(str(problem).split())}); restore it from a copy"))


def new_name(method: str, searcher: str) -> str:
    """A study's name that sorts by time and does not meet another."""
    return f"{method}-{searcher}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
