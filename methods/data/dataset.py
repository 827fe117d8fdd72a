"""What the rest of the project knows of a data set: tensors, names and a fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bo_distill.methods.data.account import Account
from bo_distill.methods.data_spec import DataSpec as DataSpec


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
        x: images (n, c, h, w) uint8, or sentences (n, length) int32 where 0 is padding and 1 an unknown character.
        y: (n,) int64, or (n, tasks) int64 where each row carries several labels.
        texts: the sentences, for text.
    """

    x: Tensor
    y: Tensor
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Info:
    """What a network and a report must know of a data set.

    Attributes:
        name: as on the command line.
        kind: "image" or "text".
        classes: names of the (first task's) classes.
        shape: of one row of x: (c, h, w) or (length,).
        fingerprint: hex digest of the rows of all splits, the labels and the order.
        train_size, val_size, test_size: rows.
        mean, std: per channel over the training split, of values in [0, 1]; empty for text.
        vocabulary: characters from index 2 on, for text.
        tasks: (task name, class names), for text; the first is `classes`.
        account: what was read and what was left out.
        reading: how rows from elsewhere are read to be like these (`methods.data.images.pixels`, `methods.data.texts`).
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    fingerprint: str
    train_size: int
    val_size: int
    test_size: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    vocabulary: tuple[str, ...] = ()
    tasks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    account: Account = field(default_factory=Account, hash=False)
    reading: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Data:
    """What a stage is handed. There is no test split in it."""

    info: Info
    train: Split
    val: Split
