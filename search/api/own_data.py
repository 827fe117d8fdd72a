"""Arrays, tensors and lists that a program hands over as data: understood, and kept in the storage by content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bo_distill.methods.errors import UsageError, counted
from bo_distill.search.command.options import check_kind
from bo_distill.search.study.kept import ARRAYS

if TYPE_CHECKING:
    from bo_distill.distributed.storage import Storage
    from bo_distill.methods.data.arrays import Rows
    from bo_distill.methods.method import Method

PARTS = ("train", "val", "test")

CHANNELS = (1, 3)


def kept(data: Any, storage: Storage, method: Method | None = None) -> tuple[str, str]:
    """Keep rows in the storage, where they lie once however often they are handed over.

    Args:
        data: (x, y), or "train", and maybe "val" and "test" -> (x, y), as `bo_distill.run` takes it.
        method: what is to be trained on them, if it is known.

    Returns:
        their --data and --data-dir.

    Raises:
        UsageError: they cannot be understood, the method takes no such, or the storage cannot be written.
    """
    rows = rows_of(data)
    kind = "image" if rows.texts is None else "text"
    if method:
        check_kind(f"of {kind} rows", kind, method)
    digest = rows.digest
    if not storage.exists(f"{ARRAYS}/{digest}.json"):
        if rows.pixels is not None:
            storage.write_bytes(f"{ARRAYS}/{digest}.npy", rows.pixels)
        storage.write_bytes(f"{ARRAYS}/{digest}.json", rows.words)
    return f"{ARRAYS}:{digest}", f"{storage.uri}/{ARRAYS}"


def rows_of(data: Any) -> Rows:
    """Arrays, tensors or lists as `methods.data.arrays.Rows`.

    Raises:
        UsageError: they cannot be understood.
    """
    from bo_distill.methods.data.arrays import Rows

    given = data if isinstance(data, Mapping) else {"train": data}
    if unknown := [str(part) for part in given if part not in PARTS]:
        raise UsageError(f"data: {unknown[0]}: no such part; give train, and maybe val and test")
    if "train" not in given:
        raise UsageError('data: there is no "train"; give {"train": (x, y)}, and maybe "val" and "test"')
    images: list[NDArray[np.uint8]] = []
    texts: list[str] = []
    labels: dict[str, list[str]] = {}
    parts: list[str] = []
    for part in (part for part in PARTS if part in given):
        if not isinstance(given[part], tuple | list) or len(given[part]) != 2:
            raise UsageError(f"data: {part} is no pair; give (x, y), images or sentences and a label for each")
        x, y = given[part]
        if not all(hasattr(one, "__len__") and getattr(one, "ndim", 1) for one in (x, y)):
            raise UsageError(
                f"data: {part} is a pair of {type(x).__name__} and {type(y).__name__}; give (x, y), n rows each"
            )
        if are_all(x, str, f"data: {part}", "text"):
            texts += map(str, x)
        else:
            images.append(as_images(x, f"data: {part}"))
        answers = _labels(y, len(x), part)
        if labels and labels.keys() != answers.keys():
            raise UsageError(f"data: {part} has labels of {', '.join(answers)}, train of {', '.join(labels)}")
        for task, values in answers.items():
            labels.setdefault(task, []).extend(values)
        parts += [part] * len(x)
    if texts and images:
        raise UsageError("data: some parts are images and others are sentences; give one kind")
    if images and len(labels) > 1:
        raise UsageError(f"data: images with labels of {', '.join(labels)}; give one label for each image")
    if len({some.shape[1:] for some in images}) > 1:
        shapes = " and ".join(sorted({str(some.shape[1:]) for some in images}))
        raise UsageError(f"data: images of {shapes} (channels, height, width); bring all parts to one size")
    return Rows(
        np.concatenate(images) if images else None,
        tuple(texts) if texts else None,
        {task: tuple(values) for task, values in labels.items()},
        tuple(parts),
    )


def are_all(x: Any, kind: Any, what: str, word: str) -> bool:
    """Whether these are a list, array or column of one kind alone.

    Args:
        kind: as `isinstance` takes it.
        what, word: name them, and what is of the kind, in messages.

    Raises:
        UsageError: some rows are of the kind and others are not.
    """
    if getattr(x, "ndim", 1) != 1 or not hasattr(x, "__len__"):
        return False
    others = [(number, row) for number, row in enumerate(x) if not isinstance(row, kind)]
    if others and len(others) < len(x):
        number, row = others[0]
        raise UsageError(f"{what}: row {number} is {row!r} among {word}; give {word} in every row, or leave it out")
    return len(x) > 0 and not others


def as_images(x: Any, what: str) -> NDArray[np.uint8]:
    """Images as (n, c, h, w) uint8 with three channels; grey ones have the same in all three.

    Args:
        x: array or tensor (n, c, h, w), (n, h, w, c) or (n, h, w), c of 1 or 3; uint8, or floats from 0 to 1.
        what: names them in messages.

    Raises:
        UsageError: another shape or type, or values outside of that range.
    """
    try:
        values = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)
    except ValueError:
        raise UsageError(f"{what}: images of different shapes; bring all to one size") from None
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or not len(values) or not (values.shape[1] in CHANNELS or values.shape[3] in CHANNELS):
        raise UsageError(
            f"{what}: images of shape {values.shape}; give (n, channels, height, width), (n, height, width, channels) "
            "or (n, height, width), with 1 or 3 channels"
        )
    if values.shape[1] not in CHANNELS:
        values = np.moveaxis(values, 3, 1)
    if np.issubdtype(values.dtype, np.floating):
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 1):
            raise UsageError(
                f"{what}: floats from {low:g} to {high:g}; give floats from 0 to 1, or uint8 from 0 to 255"
            )
        values = np.round(values * 255)
    elif values.dtype != np.uint8:
        raise UsageError(f"{what}: images of {values.dtype}; give uint8 from 0 to 255, or floats from 0 to 1")
    values = values.astype(np.uint8, copy=False)
    return np.ascontiguousarray(values if values.shape[1] == 3 else values.repeat(3, axis=1))


def _labels(y: Any, rows: int, part: str) -> dict[str, list[str]]:
    """Task -> the labels of a part as text."""
    tasks = y if isinstance(y, Mapping) else {"label": y}
    found = {}
    for task, values in tasks.items():
        values = values.tolist() if hasattr(values, "tolist") else list(values)
        values = [one.item() if getattr(one, "ndim", None) == 0 else one for one in values]  # NumPy's, tensors
        if len(values) != rows:
            many = f"{counted(rows, 'row')} and {counted(len(values), 'label')}"
            raise UsageError(f"data: {part} has {many}; give one label for each row")
        for value in values:
            if not isinstance(value, str | int):
                raise UsageError(f"data: {part}: label {value!r}; give text or whole numbers, one for each row")
        found[str(task)] = [str(value) for value in values]
    return found
