"""Sentences as rows of characters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PAD, UNKNOWN, FIRST = 0, 1, 2
"""Indices of padding and of a character outside the vocabulary; the vocabulary begins at FIRST."""


def _code_points(texts: Sequence[str], length: int) -> NDArray[np.uint32]:
    # NumPy holds text as UTF-32, padded with zeros: a view of it is the matrix of code points.
    return np.array(texts, dtype=f"<U{length}").view("<u4").reshape(len(texts), length)


def vocabulary(texts: Sequence[str], length: int, size: int = 4096) -> tuple[str, ...]:
    """The characters of the sentences, the most frequent first (ties by code point), at most `size` of them."""
    points, counts = np.unique(_code_points(texts, length), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple(chr(point) for point in points[order] if point != 0)[:size]


def encode(texts: Sequence[str], vocabulary: Sequence[str], length: int) -> Tensor:
    """Sentences (n) -> (n, length) int32: PAD after the end, UNKNOWN for characters outside the vocabulary."""
    index = np.full(0x110000, UNKNOWN, dtype=np.int32)
    index[0] = PAD
    index[[ord(character) for character in vocabulary]] = np.arange(FIRST, FIRST + len(vocabulary))
    return torch.from_numpy(index[_code_points(texts, length)])
