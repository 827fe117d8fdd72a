"""Scalars of a classification against scikit-learn's and against a fine grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from bo_distill.methods.metrics import macro_f1, temperature


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 8))
def test_macro_f1_is_scikit_learns(seed: int, rows: int, classes: int) -> None:
    """Few rows: classes that do not occur, classes that are only answered."""
    generator = torch.Generator().manual_seed(seed)
    y, guess = (torch.randint(classes, (rows,), generator=generator) for _ in range(2))
    expected = f1_score(y.numpy(), guess.numpy(), average="macro", zero_division=0)
    assert macro_f1(guess, y, classes) == pytest.approx(expected)


def test_a_class_that_is_answered_and_does_not_occur_counts() -> None:
    y, guess = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 1])
    assert macro_f1(guess, y, 4) == pytest.approx((2 / 3 + 1 + 0) / 3)


@pytest.mark.parametrize("scale", [0.2, 1.0, 6.0])
def test_the_temperature_is_the_best_of_a_grid(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 5, generator=generator)
    y = torch.distributions.Categorical(logits=logits).sample()
    grid = torch.logspace(-1.3, 1.3, 2001)
    losses = torch.stack([F.cross_entropy(scale * logits / t, y) for t in grid])
    assert temperature(scale * logits, y) == pytest.approx(float(grid[losses.argmin()]), rel=0.01)
