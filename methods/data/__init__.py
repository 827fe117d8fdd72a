"""Data sets: `load` for training and validation, `load_test` for the test split, once a study has ended.

Rows stay as small as they came (images uint8, characters int32) and are kept per process, since one worker process
runs many trials. Which row is in which split is fixed and does not depend on a study's seed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bo_distill.methods.data.account import Account
from bo_distill.methods.data.characters import encode, vocabulary
from bo_distill.methods.data.dataset import Data, DataSpec, Info, Split
from bo_distill.methods.data.source import Source, subset
from bo_distill.methods.errors import TestSplitLocked, UsageError

__all__ = ["SETS", "Data", "DataSpec", "Info", "Split", "forget", "load", "load_test", "named", "stage_running"]


class Named(NamedTuple):
    """A data set that has a name.

    Attributes:
        module: whose `read(spec)` returns its `Source`.
        kind: as in `Info`; "" where that is not known before it is read.
    """

    module: str
    kind: str


SETS = {
    "digits": Named("bo_distill.methods.data.digits", "image"),
    "glyphs": Named("bo_distill.methods.data.glyphs", "image"),
    "docstrings": Named("bo_distill.methods.data.docstrings", "text"),
    "cifar10": Named("bo_distill.methods.data.cifar", "image"),
    "cifar100": Named("bo_distill.methods.data.cifar", "image"),
    "imagefolder:PATH": Named("bo_distill.methods.data.images.folder", "image"),
    "text:PATH": Named("bo_distill.methods.data.texts.file", "text"),
    "arrays:DIGEST": Named("bo_distill.methods.data.arrays", ""),
}
"""By the name on the command line."""

_locked: ContextVar[bool] = ContextVar("_locked", default=False)


def named(spec: DataSpec) -> Named:
    """What is known of a set before it is read.

    Raises:
        UsageError: there is none of this name.
    """
    name, _, place = spec.name.partition(":")
    own = {word.partition(":")[0]: found for word, found in SETS.items() if ":" in word}
    found = own.get(name) if place else SETS.get(spec.name)
    if found is None:
        raise UsageError(f"--data {spec.name}: no such data set; give one of {', '.join(SETS)}")
    return found


def load(spec: DataSpec) -> Data:
    """Training and validation split of a data set.

    Raises:
        UsageError: no such set, or files that cannot be used; the message names the file and the remedy.
    """
    info, splits = _splits(spec)
    return Data(info, splits["train"], splits["val"])


def forget() -> None:
    """Read every set anew when it is next asked for: what a path names may have changed since."""
    _splits.cache_clear()


def load_test(spec: DataSpec) -> Split:
    """The test split.

    Raises:
        TestSplitLocked: inside `stage_running`.
        UsageError: as `load`.
    """
    if _locked.get():
        raise TestSplitLocked(f"{spec.name}: a stage may see training and validation only")
    return _splits(spec)[1]["test"]


@contextmanager
def stage_running() -> Iterator[None]:
    """While it is entered, `load_test` raises, in this thread; it may be nested."""
    token = _locked.set(True)
    try:
        yield
    finally:
        _locked.reset(token)


@lru_cache(maxsize=2)
def _splits(spec: DataSpec) -> tuple[Info, dict[str, Split]]:
    source = subset(_read(spec), spec)
    if source.decode:
        source = source.decode(source)
    (_, classes), *_ = source.tasks
    labels = torch.from_numpy(source.y).squeeze(1) if len(source.tasks) == 1 else torch.from_numpy(source.y)
    parts = {part: torch.from_numpy(source.parts[part]) for part in ("train", "val", "test")}
    if isinstance(source.rows, Tensor):
        splits = {part: Split(_taken(source.rows, index), labels[index]) for part, index in parts.items()}
        info = Info(spec.name, "image", classes, tuple(source.rows.shape[1:]), "", 0, 0, 0)
    else:
        assert source.rows is not None
        texts = {part: tuple(source.rows[row] for row in index) for part, index in parts.items()}
        characters = vocabulary(texts["train"], spec.max_length)
        splits = {
            part: Split(encode(texts[part], characters, spec.max_length), labels[index], texts[part])
            for part, index in parts.items()
        }
        info = Info(
            spec.name, "text", classes, (spec.max_length,), "", 0, 0, 0, vocabulary=characters, tasks=source.tasks
        )
    sizes = {f"{part}_size": len(split) for part, split in splits.items()}
    info = replace(info, account=_account(source), reading=source.reading, **sizes)  # type: ignore[arg-type]
    return replace(info, **_known(source, info, splits)), splits


def _taken(rows: Tensor, index: Tensor) -> Tensor:
    """rows[index]; a view where the rows follow one another, so that mapped ones stay shared."""
    first, count = (int(index[0]), len(index)) if len(index) else (0, 0)
    if count and int(index[-1]) - first + 1 == count:  # ascending
        return rows[first : first + count]
    return rows[index]


def _account(source: Source) -> Account:
    """What a source says of itself, with the rows that each part has of each class."""
    (_, classes), *_ = source.tasks
    rows = {}
    for part in ("train", "val", "test"):
        counts = np.bincount(source.y[source.parts[part], 0], minlength=len(classes))
        rows[part] = dict(zip(classes, counts.tolist(), strict=True))
    return Account(rows, source.left_out, source.notes)


def _known(source: Source, info: Info, splits: dict[str, Split]) -> dict[str, Any]:
    """Fingerprint, mean and std: from where they were noted the last time, or found out and noted."""
    if source.memo:
        with suppress(OSError, ValueError, KeyError):
            known = json.loads(source.memo.read_bytes())
            return {"fingerprint": known["fingerprint"], "mean": tuple(known["mean"]), "std": tuple(known["std"])}
    mean, std = _moments(splits["train"].x) if info.kind == "image" else ((), ())
    known = {"fingerprint": _fingerprint(info, splits), "mean": mean, "std": std}
    if source.memo:
        with suppress(OSError):
            aside = source.memo.with_suffix(f".{os.getpid()}")
            aside.write_text(json.dumps(known))
            os.replace(aside, source.memo)
    return known


def _read(spec: DataSpec) -> Source:
    """The rows of a set, from the module that knows it."""
    module = named(spec).module
    for word, value, known in (
        ("conflicts", spec.conflicts, ("drop", "refuse")),
        ("unreadable", spec.unreadable, ("refuse", "drop")),
    ):
        if value not in known:
            raise UsageError(f"--{word} {value}: give {' or '.join(known)}")
    source: Source = importlib.import_module(module).read(spec)
    return source


def _moments(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of (n, c, h, w) uint8, of values in [0, 1].

    Taken from histograms: exact on every machine, and without a float copy of the images.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.zeros(x.shape[1], 256, dtype=torch.int64)
    for some in x.split(1024):  # a part at a time: counting takes eight bytes for each of an image's
        counts += torch.stack([torch.bincount(some[:, c].flatten(), minlength=256) for c in range(x.shape[1])])
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = (share * values).sum(1)
    std = (share * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def _fingerprint(info: Info, splits: dict[str, Split]) -> str:
    """16 hex digits over rows, labels and order of all splits and the names of classes and characters.

    Settings such as `train_size` count through the rows that they leave; where a folder lies does not count. The
    bytes are hashed as they lie in memory, little-endian.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([info.kind, info.shape, info.classes, info.tasks, info.vocabulary]).encode())
    for part, split in splits.items():
        digest.update(json.dumps([part, split.x.shape, split.y.shape, split.texts]).encode())
        digest.update(split.x.numpy().data)
        digest.update(split.y.numpy().data)
    return digest.hexdigest()[:16]
