"""`cifar10` and `cifar100` (Krizhevsky 2009), read by torchvision."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from bo_distill.methods.data.cache import directory as cache_directory
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.data.source import Source, divide
from bo_distill.methods.errors import UsageError


def read(spec: DataSpec) -> Source:
    """Images (60000, 3, 32, 32): 45,000 train, 5,000 validation drawn from the official training set, 10,000 test.

    Raises:
        UsageError: the files are not there and could not be fetched.
    """
    from torchvision import datasets

    folder = Path(spec.directory).expanduser() if spec.directory else cache_directory()
    kind, there = datasets.CIFAR10 if spec.name == "cifar10" else datasets.CIFAR100, folder.exists()
    try:
        try:
            train = kind(folder, train=True)
        except RuntimeError:  # "Dataset not found or corrupted"
            train = kind(folder, train=True, download=True)
        test = kind(folder, train=False)
    except (OSError, RuntimeError) as error:
        if not there:  # torchvision makes the folder before it knows whether there is anything for it
            with suppress(OSError):
                folder.rmdir()
        raise UsageError(
            f"{spec.name}: not in {folder} and not to be had over the network "
            f"({' '.join(str(error).split())}); unpack {kind.filename} there or name its place with --data-dir"
        ) from None
    y = np.array(train.targets + test.targets, dtype=np.int64)
    given = {"train": np.arange(len(train)), "test": np.arange(len(train), len(y))}
    classes = tuple(train.classes)
    parts = divide(spec.name, y, classes, given, val=0.1, test=0.0)
    rows = np.concatenate([split.data.transpose(0, 3, 1, 2) for split in (train, test)])
    return Source(torch.from_numpy(rows), y[:, None], (("class", classes),), parts)
