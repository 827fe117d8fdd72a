"""Images of a folder as rows: decoded once, side by side on all cores, each used once.

A file is known by its name, size and times of change, so a second run reads no image, and a new selection takes what
an older one of the same files has decoded (`methods.data.images.store`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bo_distill.methods.data.account import LeftOut
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.data.images.pixels import Pixels, Unreadable, own_limit, read
from bo_distill.methods.data.images.store import Kept, Rows, alone, decoded, load_kept, place_of
from bo_distill.methods.data.source import Source, once
from bo_distill.methods.errors import UsageError, counted

VERSION = 1  # of the files and of the pixels in them
ENDS = 4096  # bytes at both ends of a file that are compared before all of it is
FEW = 200  # images that are decoded without a word


def shown(path: Path, root: Path) -> str:
    """A path under a folder as text that any terminal takes."""
    return os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")


def identical(files: Sequence[Path]) -> list[str]:
    """Keys that are equal where files have the same bytes. Reads files only that agree in size and at both ends."""
    keys = [f"file {number}" for number in range(len(files))]
    of_size: dict[int, list[int]] = defaultdict(list)
    for number, path in enumerate(files):
        with contextlib.suppress(OSError):
            about = path.stat()
            if stat.S_ISREG(about.st_mode) and about.st_size:
                of_size[about.st_size].append(number)

    def divided(numbers: Iterable[int], whole: bool) -> Iterator[tuple[str, list[int]]]:
        by_digest: dict[str, list[int]] = defaultdict(list)
        for number in numbers:
            with contextlib.suppress(OSError), files[number].open("rb") as file:
                if whole:
                    by_digest[hashlib.file_digest(file, "sha256").hexdigest()].append(number)
                else:
                    ends = file.read(ENDS)
                    file.seek(max(0, os.fstat(file.fileno()).st_size - ENDS))
                    by_digest[hashlib.sha256(ends + file.read(ENDS)).hexdigest()].append(number)
        return ((digest, group) for digest, group in by_digest.items() if len(group) > 1)

    for same_size in (group for group in of_size.values() if len(group) > 1):
        for _, near in divided(same_size, whole=False):
            for digest, equal in divided(near, whole=True):
                for number in equal:
                    keys[number] = digest
    return keys


def decode(
    spec: DataSpec, how: Pixels, files: Sequence[Path], root: Path, published: Sequence[str], source: Source
) -> Source:
    """The rows of all parts of an image folder, training first.

    Images with equal pixels (at the size asked for) stand in one part only and under one label, as
    `methods.data.source.once` says.

    Args:
        spec: names the data; says what is done with images that cannot be read.
        how: the rows' size and reading.
        files: of the source's rows.
        root: that the files lie under.
        published: parts that the folder itself has.
        source: whose parts are asked for.

    Raises:
        UsageError: images that cannot be read; a part that has no image left, a class that has none to train on.
    """
    parts = [part for part in ("train", "val", "test") for _ in source.parts[part]]
    asked = np.concatenate([source.parts[part] for part in ("train", "val", "test")])
    y = source.y[asked]
    chosen = [files[row] for row in asked]
    names = [_identity(path, root, how) for path in chosen]
    selection = Selection(chosen, root, names, parts, y[:, 0].tolist(), published)
    rule = [VERSION, asdict(how), spec.conflicts, spec.unreadable, list(published), source.tasks]
    key = hashlib.sha256(json.dumps([rule, names, parts, y.tolist()]).encode()).hexdigest()[:24]
    kept = load_kept(key)
    if kept is None:
        with alone(key):
            kept = load_kept(key) or _build(spec, how, selection, key)
    y, part_of = y[kept.rows_of], np.array(parts)[kept.rows_of]
    for part in ("val", "test"):
        if part in parts and part not in part_of:
            raise UsageError(
                f"{spec.name}: no image of {part} is left ({'; '.join(map(str, kept.left_out))}); put others there, or "
                "remove the folder, and it is drawn from training"
            )
    absent = np.setdiff1d(np.arange(len(source.tasks[0][1])), y[part_of == "train", 0])
    if len(absent):
        raise UsageError(
            f"{spec.name}: every training image of class {source.tasks[0][1][absent[0]]} is equal to one elsewhere; "
            "add others or leave the class out"
        )
    return replace(
        source,
        rows=torch.from_numpy(kept.pixels),
        y=y,
        parts={part: np.flatnonzero(part_of == part) for part in ("train", "val", "test")},
        left_out=source.left_out + kept.left_out,
        notes=source.notes + kept.notes,
        decode=None,
        memo=kept.memo,
    )


def _identity(path: Path, root: Path, how: Pixels) -> str:
    """Names a file's content as far as that can be told without reading it, and how it becomes pixels."""
    import PIL

    try:
        about = path.stat()
        seen = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
    except OSError:
        seen = []
    words = [VERSION, PIL.__version__, asdict(how), os.fsencode(path.relative_to(root)).hex(), seen]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Selection:
    """Files that are asked for, training first; their identities, parts and labels; the parts that the folder has."""

    files: Sequence[Path]
    root: Path
    names: Sequence[str]
    parts: Sequence[str]
    labels: Sequence[int]
    published: Sequence[str]

    def shown(self, row: int) -> str:
        """A file's path under the folder."""
        return shown(self.files[row], self.root)


def _build(spec: DataSpec, how: Pixels, selection: Selection, key: str) -> Kept:
    """Decode files, choose the rows that are used and keep them."""
    place, unfinished = place_of(key), place_of(f"{key}-unfinished")
    rows = Rows((len(selection.files), how.channels, how.height, how.width), place)
    done, peaks = np.zeros(len(selection.files), dtype=bool), np.ones(len(selection.files))
    try:
        broken = _fill(rows.pixels, done, peaks, how, selection)
        keep, left = _used(spec, rows.pixels, broken, selection)
    except BaseException:  # an interrupted or refused run leaves what it has decoded to the next
        good = np.flatnonzero(done).tolist()
        if good:
            rows.keep(unfinished, {"names": {selection.names[row]: [row, peaks[row]] for row in good}})
        rows.drop()
        raise
    rows_of = np.flatnonzero(keep)
    if len(rows_of) < len(keep):
        fewer = Rows((len(rows_of), *rows.pixels.shape[1:]), place)
        for to, row in enumerate(rows_of):
            fewer.pixels[to] = rows.pixels[row]
        rows.drop()
        rows = fewer
    notes = _dark(peaks[rows_of])
    record = {
        "rows_of": rows_of.tolist(),
        "left_out": [asdict(each) for each in left],
        "notes": notes,
        "names": {selection.names[row]: [to, peaks[row]] for to, row in enumerate(rows_of.tolist())},
    }
    pixels = rows.keep(place, record)
    for suffix in (".npy", ".json"):
        with contextlib.suppress(OSError):
            unfinished.with_suffix(suffix).unlink()
    return Kept(pixels, rows_of, left, tuple(notes), place.with_suffix(".memo") if rows.file else None)


def _used(
    spec: DataSpec, pixels: NDArray[np.uint8], broken: Mapping[int, str], selection: Selection
) -> tuple[NDArray[np.bool_], tuple[LeftOut, ...]]:
    """Which rows are used: those that could be read, each once; and what is left out."""
    what = ", ".join(f"{selection.shown(row)} ({why})" for row, why in list(broken.items())[:3])
    what += ", ..." if len(broken) > 3 else ""
    if broken and spec.unreadable == "refuse":
        raise UsageError(
            f"{spec.name}: {len(broken)} of {counted(len(pixels), 'image')} cannot be read; mend or remove {what}, "
            "or leave them out with --unreadable drop"
        )
    sound = [row for row in range(len(pixels)) if row not in broken]
    keep, left = once(
        spec,
        [hashlib.blake2b(pixels[row].tobytes(), digest_size=16).digest() for row in sound],
        [selection.labels[row] for row in sound],
        [selection.parts[row] for row in sound],
        selection.published,
        lambda number: selection.shown(sound[number]),
    )
    used = np.zeros(len(pixels), dtype=bool)
    used[np.array(sound, dtype=np.int64)[keep]] = True
    return used, left + ((LeftOut("unreadable", len(broken), what),) if broken else ())


def _dark(peaks: NDArray[np.float64]) -> list[str]:
    """A hint where deep images use little of their range: twelve bits in sixteen look almost black."""
    deep = peaks[peaks < 1]
    if len(deep) == 0 or len(deep) < len(peaks) / 2 or peaks.max() > 1 / 4:
        return []
    return [
        f"images of more than 8 bits use at most {peaks.max():.1%} of their range and look almost black; say with "
        "--white which value is white (4095 for twelve bits)"
    ]


def _fill(
    pixels: NDArray[np.uint8],
    done: NDArray[np.bool_],
    peaks: NDArray[np.float64],
    how: Pixels,
    selection: Selection,
) -> dict[int, str]:
    """Decode files into `pixels`, on all cores; `done` tells which are there, `peaks` (n) the largest value of each as
    a share of white.

    Returns:
        Why images cannot be read, by their number.
    """
    broken: dict[int, str] = {}
    for row, there, peak in decoded(selection.names):
        pixels[row], peaks[row] = there, peak
        done[row] = True

    def one(row: int) -> None:
        try:
            pixels[row], peaks[row] = read(selection.files[row], how)
            done[row] = True
        except Unreadable as error:
            broken[row] = str(error)

    left = np.flatnonzero(~done).tolist()
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    try:
        with own_limit():  # decoders and resampling let other threads run
            for _ in _told(pool.map(one, left), len(left)):
                pass
    finally:
        pool.shutdown(cancel_futures=True)
    return dict(sorted(broken.items()))


def _told(results: Iterator[None], total: int) -> Iterator[None]:
    """The same results, with a progress bar where a person waits for many."""
    if total < FEW or not sys.stderr.isatty():
        return results
    from rich.console import Console
    from rich.progress import track

    return iter(track(results, "decoding images", total, console=Console(stderr=True), transient=True))
