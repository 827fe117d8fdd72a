"""Words for parts, forms of labels, and rows that are equal."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bo_distill.methods.data import DataSpec
from bo_distill.methods.data.labels import alike, alike_notes, in_order, normal
from bo_distill.methods.data.parts import WORDS, column_parts, column_words, named_parts, part_of, parts_in
from bo_distill.methods.data.source import once
from bo_distill.methods.errors import UsageError


@pytest.mark.parametrize("word", list(WORDS))
def test_a_word_for_a_part_is_read_in_any_case_and_with_separators(word: str) -> None:
    for spelt in (word, word.upper(), word.title(), f" {word}_", f"{word}2017"):
        assert part_of(spelt) == WORDS[word]
    assert parts_in(f"{word}_images") == parts_in(f"seg-{word}") == {WORDS[word]}


def test_words_that_mean_no_part() -> None:
    assert [part_of(word) for word in ("bus", "trains", "oos_val", "", "2")] == [None] * 5
    assert parts_in("hold-out") == {"test"} and parts_in("TrainImages") == {"train"}
    assert parts_in("contest") == parts_in("my train of thought") == set()


def test_two_names_for_one_part_and_a_name_for_two_are_refused() -> None:
    with pytest.raises(UsageError, match="folders val and valid both mean val"):
        named_parts("x", ["train", "val", "valid"], "folder")
    with pytest.raises(UsageError, match="train_test may be test or train"):
        named_parts("x", ["train_test"], "folder")
    pieces = ["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"]
    assert named_parts("x", pieces, "file") == {name: name.split("-")[0] for name in pieces}


def test_values_of_a_split_column() -> None:
    assert column_parts("x", "s", ["Train", "train ", "EVAL", "holdout", "oos"], {}) == {
        "Train": "train", "train": "train", "EVAL": "val", "holdout": "test", "oos": "",
    }  # fmt: skip
    for values, said in (
        (["train", "oos_val"], "holds oos_val, which looks like a part"),
        (["train", "trian"], "holds trian, which looks like a part"),
        (["train", "dev", "valid"], "holds dev and valid, both val"),
    ):
        with pytest.raises(UsageError, match=said):
            column_parts("x", "s", values, {})


def test_a_split_column_may_say_what_its_values_mean() -> None:
    column, words = column_words("x", "split:train=train,val=val+oos_val")
    assert (column, words) == ("split", {"train": "train", "val": "val", "oos_val": "val"})
    assert column_parts("x", column, ["train", "oos_val", "oos_test"], words)["oos_test"] == ""
    with pytest.raises(UsageError, match="dev is not a part; give train, val, test"):
        column_words("x", "split:dev=a")


def test_labels_have_one_form_and_one_order() -> None:
    decomposed = unicodedata.normalize("NFD", "가")
    assert normal(f" {decomposed}\n") == "가"
    assert in_order(["10", "9", "2"]) == ("2", "9", "10") and in_order(["b", "10", "9"]) == ("10", "9", "b")


def test_labels_that_look_alike_are_pointed_out() -> None:
    counts = {"yes": 9, "Yes": 1, "1": 2, "1.0": 3, "007": 1, "7": 5, "a\u200b": 1, "a": 4, '"q"': 1, "q": 2, "no": 3}
    assert set(alike(counts)) == {("yes", "Yes"), ("1.0", "1"), ("7", "007"), ("a", "a\u200b"), ("q", '"q"')}
    (note,) = alike_notes(["a"] * 3 + ["a\u200b"])
    assert note == r"labels that look alike stay different classes: a (3 rows), a\u200b (1 row)"


PARTS = st.sampled_from(["train", "val", "test"])


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), PARTS), max_size=40),
    st.sampled_from([(), ("train", "test"), ("train", "val", "test")]),
)
def test_equal_rows_stand_in_one_part_and_published_ones_stay(
    rows: list[tuple[int, int, str]], published: tuple[str, ...]
) -> None:
    keys, labels, parts = ([row[at] for row in rows] for at in range(3))
    keep, left = once(DataSpec("x"), keys, labels, parts, published, str)
    kept = [row for row, used in zip(rows, keep, strict=True) if used]
    assert len({(key, part) for key, _, part in kept}) == len({key for key, _, part in kept})
    assert sum(each.count for each in left) == len(rows) - len(kept)
    if "test" in published:
        assert all(used for (_, _, part), used in zip(rows, keep, strict=True) if part == "test")
    for part in {"train", "val", "test"} - (set(published) - {"train"}):
        own = [(key, label) for key, label, its in kept if its == part]
        assert len({key for key, _ in own}) == len(own)  # each once, and under one label
        assert all(len({label for key, label, _ in rows if key == one}) == 1 for one, _ in own)


def test_rows_under_two_labels_are_dropped_or_refused() -> None:
    rows = (["a", "a", "b"], ["no", "yes", "no"], ["train"] * 3, ("train",), "abc".__getitem__)
    keep, (left,) = once(DataSpec("x"), *rows)
    assert np.flatnonzero(keep).tolist() == [2] and (left.why, left.count) == ("conflicting", 2)
    with pytest.raises(UsageError, match=r"2 rows stand under two labels, e\.g\. a and b"):
        once(DataSpec("x", conflicts="refuse"), *rows)
