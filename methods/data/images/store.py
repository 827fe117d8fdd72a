"""Decoded rows in the cache directory, as files that are mapped.

    images/KEY.npy    (n, c, h, w) uint8, training then validation then test; every process of a machine maps it
    images/KEY.json   which files the rows are of, what was left out
    images/KEY.memo   what else was found out about the rows

The folder may be removed at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bo_distill.methods.data.account import LeftOut
from bo_distill.methods.data.cache import directory


@dataclass(frozen=True)
class Kept:
    """Rows that are used: pixels (n, c, h, w), and which of the files asked for they are of."""

    pixels: NDArray[np.uint8]
    rows_of: NDArray[np.int64]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    memo: Path | None


def place_of(key: str) -> Path:
    """Where the rows of a key lie, without a suffix."""
    return directory() / "images" / key


@contextlib.contextmanager
def alone(key: str) -> Iterator[None]:
    """One process of a machine decodes, others wait for it; without a cache directory everybody does."""
    from filelock import FileLock

    place = place_of(key)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{place}.lock")
        lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _map(path: Path) -> NDArray[np.uint8]:
    """A file of rows, read by the page: whoever maps it shares its memory. What is written to it is private."""
    pixels: NDArray[np.uint8] = np.load(path, mmap_mode="c")
    return pixels


def load_kept(key: str) -> Kept | None:
    """What an earlier run left, or None."""
    place = place_of(key)
    try:
        words = json.loads(place.with_suffix(".json").read_bytes())
        pixels = _map(place.with_suffix(".npy"))
        left_out = tuple(LeftOut(**each) for each in words["left_out"])
        rows_of = np.array(words["rows_of"], dtype=np.int64)
        if len(pixels) != len(rows_of):
            return None
        return Kept(pixels, rows_of, left_out, tuple(words["notes"]), place.with_suffix(".memo"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Rows:
    """Rows on their way into the cache: a file, or memory where no file can be made.

    Args:
        shape: (n, c, h, w).
        place: whose folder the file is made in.

    Attributes:
        pixels: to be filled.
        file: where they lie, or None.
    """

    def __init__(self, shape: tuple[int, ...], place: Path) -> None:
        self.file: Path | None = None
        try:
            with tempfile.NamedTemporaryFile(dir=place.parent, suffix=".new", delete=False) as aside:
                self.file = Path(aside.name)
                np.lib.format.write_array_header_1_0(
                    aside, {"descr": "|u1", "fortran_order": False, "shape": tuple(map(int, shape))}
                )
                start = aside.tell()
                aside.flush()
                if hasattr(os, "posix_fallocate"):  # a full disk must be noticed now, not as a bus error
                    os.posix_fallocate(aside.fileno(), 0, start + int(np.prod(shape)))
                else:
                    aside.truncate(start + int(np.prod(shape)))
            self.pixels: NDArray[np.uint8] = np.load(self.file, mmap_mode="r+")
        except (OSError, ValueError):
            self.drop()
            self.pixels = np.zeros(shape, dtype=np.uint8)

    def drop(self) -> None:
        """Remove the file."""
        if self.file:
            with contextlib.suppress(OSError):
                self.file.unlink()
            self.file = None

    def keep(self, place: Path, words: dict[str, Any]) -> NDArray[np.uint8]:
        """Put the file in its place with what is known of it; returns the rows from there."""
        if not self.file:
            return self.pixels
        self.pixels.flush()  # type: ignore[attr-defined]
        os.replace(self.file, place.with_suffix(".npy"))
        aside = place.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(words))
        os.replace(aside, place.with_suffix(".json"))
        return _map(place.with_suffix(".npy"))


def decoded(names: Sequence[str]) -> Iterator[tuple[int, NDArray[np.uint8], float]]:
    """Rows that earlier selections have: (number among names, pixels, largest value as a share of white)."""
    missing = {name: row for row, name in enumerate(names)}
    for about in sorted((directory() / "images").glob("*.json")):
        try:
            found = {name: at for name, at in json.loads(about.read_bytes())["names"].items() if name in missing}
            pixels = _map(about.with_suffix(".npy")) if found else None
        except (OSError, ValueError, KeyError):
            continue
        if pixels is not None:
            yield from ((missing.pop(name), pixels[number], peak) for name, (number, peak) in found.items())
