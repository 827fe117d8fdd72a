"""What every method's value offers."""

from __future__ import annotations

import pytest

from bo_distill.methods import METHODS, get
from bo_distill.methods.data import DataSpec, load
from bo_distill.methods.errors import counted
from bo_distill.methods.method import flatten


@pytest.mark.parametrize("name", METHODS)
def test_what_a_recipe_holds_can_be_set_also_where_it_cannot_be_searched(name: str) -> None:
    method = get(name)
    for recipe in method.recipes:
        configs = method.configure(recipe)
        assert method.configure(recipe, flatten(configs)) == configs


def test_what_is_counted_for_some_data_is_found_again() -> None:
    info = load(DataSpec("digits", train_size=60)).info
    assert info.account.rows and hash(info) == hash(load(DataSpec("digits", train_size=60)).info)


def test_what_is_counted_has_its_number() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 12_000)] == ["0 rows", "1 row", "2 rows", "12,000 rows"]
    assert [counted(n, "fact is equal", "facts are equal") for n in (1, 2)] == ["1 fact is equal", "2 facts are equal"]
