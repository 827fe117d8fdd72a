"""What benchmarks of pairs say of one searcher less another."""

from __future__ import annotations

from collections.abc import Sequence

from bo_distill.search.evidence.statistics import student, t_test


def told(less: Sequence[float], digits: int = 3) -> str:
    """The mean of differences and its 95% interval."""
    mean = sum(less) / len(less)
    interval = student(less)
    return f"{mean:+.{digits}f} ({interval[0]:+.{digits}f} to {interval[1]:+.{digits}f})" if interval else f"{mean:+}"


def no_worse(less: Sequence[float]) -> float:
    """The p of a mean of at least 0 (t test, one-sided); 1 where all differences are equal."""
    p = t_test(less, "less")
    return 1.0 if p is None else p
