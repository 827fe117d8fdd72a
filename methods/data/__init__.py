"""Data sets: `load` for training and validation, `load_test` for the test split, once a study has ended.

Rows stay as small as they came (images uint8, characters int32) and are kept per process, since one worker process
runs many trials. Which row is in which split is fixed and does not depend on a study's seed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from methods.data.characters import encode, vocabulary
from methods.data.dataset import Data, DataSpec, Info, Split
from methods.data.source import Source, sample
from methods.errors import TestSplitLocked, UsageError

__all__ = ["SETS", "Data", "DataSpec", "Info", "Split", "load", "load_test", "stage_running"]

SETS = {
    "digits": "methods.data.digits",
    "glyphs": "methods.data.glyphs",
    "docstrings": "methods.data.docstrings",
    "cifar10": "methods.data.cifar",
    "cifar100": "methods.data.cifar",
    "imagefolder:PATH": "methods.data.imagefolder",
    "text:PATH": "methods.data.text",
}
"""Name on the command line -> the module whose `read(spec)` returns its `Source`."""

_locked: ContextVar[bool] = ContextVar("_locked", default=False)


def load(spec: DataSpec) -> Data:
    """Training and validation split of a data set.

    Raises:
        UsageError: no such set, or files that cannot be used; the message names the file and the remedy.
    """
    info, splits = _splits(spec)
    return Data(info, splits["train"], splits["val"])


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
    source = _subset(_read(spec), spec)
    (_, classes), *_ = source.tasks
    labels = torch.from_numpy(source.y).squeeze(1) if len(source.tasks) == 1 else torch.from_numpy(source.y)
    parts = {part: torch.from_numpy(source.parts[part]) for part in ("train", "val", "test")}
    if isinstance(source.rows, Tensor):
        splits = {part: Split(source.rows[index], labels[index]) for part, index in parts.items()}
        mean, std = _moments(splits["train"].x)
        info = Info(spec.name, "image", classes, tuple(source.rows.shape[1:]), "", 0, 0, 0, mean, std)
    else:
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
    info = replace(info, notes=source.notes, **sizes)  # type: ignore[arg-type]
    return replace(info, fingerprint=_fingerprint(info, splits)), splits


def _read(spec: DataSpec) -> Source:
    """The rows of a set, from the module that knows it."""
    name, colon, path = spec.name.partition(":")
    module = SETS.get(f"{name}:PATH" if colon and path else name)
    if module is None:
        raise UsageError(f"--data {spec.name}: no such data set; give one of {', '.join(SETS)}")
    source: Source = importlib.import_module(module).read(spec)
    return source


def _subset(source: Source, spec: DataSpec) -> Source:
    """Stratified subsets of the training and validation rows where the spec asks for them."""
    parts = dict(source.parts)
    classes = len(source.tasks[0][1])
    for part, word, size in (("train", "training", spec.train_size), ("val", "validation", spec.val_size)):
        if size is None:
            continue
        rows = parts[part]
        if not classes <= size <= len(rows):
            raise UsageError(
                f"{part}_size {size}: {spec.name} has {len(rows)} {word} rows in {classes} classes; "
                f"give a number from {classes} to {len(rows)}"
            )
        parts[part] = rows[sample(source.y[rows, 0], size)]
    return replace(source, parts=parts)


def _moments(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of (n, c, h, w) uint8, of values in [0, 1].

    Taken from histograms: exact on every machine, and without a float copy of the images.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    share = torch.stack([torch.bincount(x[:, c].flatten(), minlength=256) for c in range(x.shape[1])]).double()
    share /= share.sum(1, keepdim=True)
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
