"""`arrays:DIGEST`: rows that a program handed over, kept by their content so that every worker reads the same.

    DIRECTORY/DIGEST.npy     images (n, c, h, w) uint8
    DIRECTORY/DIGEST.json    labels and parts of the rows, and sentences

DIRECTORY (`DataSpec.directory`) is a folder or a URI such as s3://bucket/prefix/arrays.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bo_distill.methods.data.account import LeftOut
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.data.labels import normal
from bo_distill.methods.data.source import Source, classed
from bo_distill.methods.data.texts.sentences import sentences
from bo_distill.methods.errors import UsageError


@dataclass(frozen=True)
class Rows:
    """What a program handed over.

    Attributes:
        images: (n, c, h, w) uint8, or None.
        texts: (n) sentences, or None.
        labels: task -> (n) labels as text.
        parts: (n) "train", "val" or "test".
    """

    images: NDArray[np.uint8] | None
    texts: tuple[str, ...] | None
    labels: Mapping[str, tuple[str, ...]]
    parts: tuple[str, ...]

    @property
    def words(self) -> bytes:
        """All but the images, as a file."""
        return json.dumps({"texts": self.texts, "labels": self.labels, "parts": self.parts}).encode()

    @property
    def pixels(self) -> bytes | None:
        """The images as a file."""
        if self.images is None:
            return None
        file = io.BytesIO()
        np.save(file, self.images)
        return file.getvalue()

    @property
    def digest(self) -> str:
        """16 hex digits over all of it."""
        seen = hashlib.sha256(self.words)
        if self.images is not None:
            seen.update(str(self.images.shape).encode())
            seen.update(np.ascontiguousarray(self.images).data)
        return seen.hexdigest()[:16]


def read(spec: DataSpec) -> Source:
    """The rows, divided as they were handed over. A part without a row is drawn from training, stratified: 15% each of
    images, 10% each of sentences. Equal rows stand in one part only and under one label (`methods.data.source.once`).

    Raises:
        UsageError: there are no such rows, a label is in validation or test only, a class is too small to divide.
    """
    rows = _kept(spec)
    if rows.texts is not None:
        given = rows.parts if set(rows.parts) != {"train"} else None
        return sentences(spec, tuple(rows.labels), rows.texts, tuple(rows.labels.values()), given)
    assert rows.images is not None
    (labels,) = rows.labels.values()
    answers = [normal(label) for label in labels]
    usable = [row for row, answer in enumerate(answers) if answer]
    keys = [hashlib.sha256(rows.images[row].tobytes()).digest() for row in usable]
    known, parts = [answers[row] for row in usable], [rows.parts[row] for row in usable]
    kept, _, source = classed(spec, keys, known, parts, lambda row: f"row {usable[row]}")
    unlabelled = (LeftOut("empty", missing),) if (missing := len(answers) - len(usable)) else ()
    images = rows.images if len(kept) == len(answers) else rows.images[np.array(usable)[kept]]
    return replace(source, rows=torch.from_numpy(images), left_out=unlabelled + source.left_out)


def _kept(spec: DataSpec) -> Rows:
    """The rows of a spec, from where they are kept."""
    digest, place = spec.name.partition(":")[2], spec.directory
    if not re.fullmatch("[0-9a-f]{16}", digest):
        raise UsageError(f"{spec.name}: this names no rows; give arrays: and the 16 digits that a study says")
    if place is None:
        raise UsageError(f"{spec.name}: say where these rows are kept; give --data-dir STORAGE/arrays")
    try:
        words: dict[str, Any] = json.loads(_content(place, f"{digest}.json"))
        images = None if words["texts"] is not None else _images(place, f"{digest}.npy")
        texts = None if words["texts"] is None else tuple(words["texts"])
        labels = {task: tuple(values) for task, values in words["labels"].items()}
        return Rows(images, texts, labels, tuple(words["parts"]))
    except FileNotFoundError:
        raise UsageError(
            f"{spec.name}: no such rows in {place}; restore them, or hand them over again by bo_distill.run"
        ) from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"{spec.name}: its files in {place} cannot be read ({error}); restore them") from None


def _content(place: str, name: str) -> bytes:
    from pyarrow import fs

    system, root = fs.FileSystem.from_uri(place) if "://" in place else (fs.LocalFileSystem(), place)
    with system.open_input_file(f"{root}/{name}") as file:
        return bytes(file.read())


def _images(place: str, name: str) -> NDArray[np.uint8]:
    """Mapped where they lie in a folder: the processes of a machine share its memory. What is written is private."""
    source: Any = io.BytesIO(_content(place, name)) if "://" in place else f"{place}/{name}"
    images: NDArray[np.uint8] = np.load(source, mmap_mode=None if "://" in place else "c")
    return images
