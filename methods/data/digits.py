"""`digits`: the 1,797 handwritten digits that scikit-learn ships (UCI ML hand-written digits, 8x8 grey)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.data.source import Source, divide


def read(spec: DataSpec) -> Source:
    """Images (1797, 3, 16, 16): enlarged twice, grey in all three channels so that every network takes them.

    60% train, 20% validation, 20% test, stratified.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images).unsqueeze(1) * (255 / 16)
    large = functional.interpolate(grey, scale_factor=2, mode="bilinear", align_corners=False)
    classes = tuple(map(str, digits.target_names))
    y = digits.target.astype(np.int64)
    parts = divide(spec.name, y, classes, {"train": np.arange(len(y))}, val=0.2, test=0.2)
    return Source(large.round().byte().repeat(1, 3, 1, 1), y[:, None], (("class", classes),), parts)
