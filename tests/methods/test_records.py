"""JSON as dataclasses: what is read is what was written, or is refused with its place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from bo_distill.methods.records import Malformed, decoded


@dataclass(frozen=True)
class Inner:
    name: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner
    number: float
    count: int | None = None
    word: Literal["a", "b"] = "a"
    pairs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    many: list[Inner] = field(default_factory=list)
    any: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


WHOLE = Outer(Inner("x", (1, 2)), 1.5, 3, "b", (("k", ("v", "w")),), [Inner("y")], {"z": [1]}, {"s": 0.5})


def test_what_was_written_is_read() -> None:
    assert decoded(Outer, json.loads(json.dumps(dataclasses.asdict(WHOLE)))) == WHOLE
    assert decoded(Outer, {"inner": {"name": "x"}, "number": 1}) == Outer(Inner("x"), 1.0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"inner": "x"}, "inner is 'x', not an object"),
        ({"inner": {"sizes": []}}, "inner has no name"),
        ({"inner": {"name": 1}}, "inner.name is 1, not text"),
        ({"inner": {"name": "x", "sizes": [1, "2"]}}, r"inner.sizes\[1\] is '2', not a whole number"),
        ({"inner": {"name": "x", "sizes": [True]}}, r"inner.sizes\[0\] is True, not a whole number"),
        ({"number": "1.5"}, "number is '1.5', not a number"),
        ({"count": 1.0}, "count is 1.0, not a whole number"),
        ({"word": "c"}, "word is 'c', not one of a, b"),
        ({"pairs": [["k"]]}, r"pairs\[0\] is \['k'\], not a list of 2"),
        ({"many": {}}, "many is {}, not a list"),
        ({"scores": {"s": None}}, "scores.s is None, not a number"),
        ({"later": 1}, "it has an unknown field later"),
        ({"inner": {"name": "x" * 99, "sizes": "y" * 99}}, "not a list"),
    ],
)
def test_what_is_malformed_is_refused_with_its_place(change: dict[str, Any], problem: str) -> None:
    content = dataclasses.asdict(WHOLE) | change
    with pytest.raises(Malformed, match=problem):
        decoded(Outer, content)
    for whole in (None, [], "x", 1):
        with pytest.raises(Malformed, match="not an object"):
            decoded(Outer, whole)
