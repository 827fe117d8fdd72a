"""A tiny made-up data set of each kind."""

from __future__ import annotations

from typing import Any

import torch

from bo_distill.methods.data.dataset import Data, Info, Split


def tiny_images(train: int = 96, val: int = 40) -> Data:
    """Four classes of 3x16x16 images that differ in brightness and in where a bright square stands."""
    generator = torch.Generator().manual_seed(0)

    def split(rows: int) -> Split:
        y = torch.arange(rows) % 4
        x = torch.randint(0, 80, (rows, 3, 16, 16), generator=generator)
        for label in range(4):
            top, left = 8 * (label // 2), 8 * (label % 2)
            x[y == label, :, top : top + 8, left : left + 8] += 120
        return Split(x.to(torch.uint8), y)

    classes = ("a", "b", "c", "d")
    info = Info("tiny", "image", classes, (3, 16, 16), "tiny-images", train, val, 40, mean=(0.27,) * 3, std=(0.24,) * 3)
    return Data(info, split(train), split(val))


def tiny_sentences(train: int = 96, val: int = 40) -> Data:
    """Sentences of 24 characters in which one character tells the first label and another the second."""
    generator = torch.Generator().manual_seed(0)

    def split(rows: int) -> Split:
        y = torch.stack([torch.arange(rows) % 4, torch.arange(rows) // 4 % 2], 1)
        x = torch.randint(10, 30, (rows, 24), generator=generator)
        lengths = torch.randint(8, 25, (rows,), generator=generator)
        x[torch.arange(24) >= lengths[:, None]] = 0
        x[:, 2], x[:, 5] = 2 + y[:, 0], 6 + y[:, 1]
        texts = tuple("".join(chr(95 + int(c)) for c in row if c) for row in x)
        return Split(x.to(torch.int32), y, texts)

    classes = ("a", "b", "c", "d")
    info = Info(
        "tiny", "text", classes, (24,), "tiny-text", train, val, 40,
        vocabulary=tuple(chr(95 + c) for c in range(2, 30)), tasks=(("kind", classes), ("tone", ("x", "y"))),
    )  # fmt: skip
    return Data(info, split(train), split(val))


TINY = {"image": tiny_images, "text": tiny_sentences}

TINY_SETTINGS: dict[str, dict[str, Any]] = {
    "fsp": {
        f"{stage}.{name}": value
        for stage in ("teacher", "transfer", "finetune")
        for name, value in {"epochs": 2, "batch_size": 32, "lr": 0.01}.items()
    }
    | {"transfer.depth": 8},
    "label_embedding": {
        "base.dropout": 0.3,
        "base.epochs": 2,
        "base.batch_size": 32,
        "base.lr": 0.01,
        "base.depth": 10,
        "base.width": 1,
        "experts.epochs": 2,
        "experts.batch_size": 32,
        "cluster.count": 2,
    },
    # The centres start in the second epoch, by K-means on features that were trained for one.
    "center_loss": {"joint.epochs": 2, "joint.batch_size": 32, "joint.lr": 0.01, "joint.begin": 1},
    # Both orders of play in one: the augmenter's stage has two players, the last stage three.
    "max_entropy": {
        f"{stage}.{name}": value
        for stage in ("classifier", "augmenter", "finetune")
        for name, value in {"epochs": 2, "batch_size": 32, "lr": 0.01}.items()
    }
    | {
        "classifier.width": 4,
        "classifier.blocks": 1,
        "augmenter.guard": "discriminator",
        "finetune.order": "alternate",
    },
    "res_ic": {
        "backbone.epochs": 2,
        "backbone.batch_size": 32,
        "backbone.lr": 0.01,
        "backbone.width": 4,
        "backbone.tasks": "joint",
    },
}
