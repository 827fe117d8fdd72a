"""`arrays:DIGEST`: rows that a program handed over are read as they were, each once, in one part."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bo_distill.methods.data import DataSpec, load, load_test
from bo_distill.methods.data.arrays import Rows
from helpers.data_files import refusal

LABELS = ("cat", "dog") * 20


def images(rows: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, 3, 6, 5), dtype=np.uint8)


def put(folder: Path, rows: Rows) -> DataSpec:
    (folder / f"{rows.digest}.json").write_bytes(rows.words)
    if rows.pixels is not None:
        (folder / f"{rows.digest}.npy").write_bytes(rows.pixels)
    return DataSpec(f"arrays:{rows.digest}", str(folder))


def test_images_are_read_as_they_were_and_divided(tmp_path: Path) -> None:
    x = images()
    spec = put(tmp_path, Rows(x, None, {"label": LABELS}, ("train",) * 40))
    data, test = load(spec), load_test(spec)
    assert data.info.shape == (3, 6, 5) and data.info.classes == ("cat", "dog")
    assert (len(data.train), len(data.val), len(test)) == (28, 6, 6)
    seen = torch.cat([data.train.x, data.val.x, test.x])
    assert sorted(row.numpy().tobytes() for row in seen) == sorted(row.tobytes() for row in x)
    answer = {row.tobytes(): label for row, label in zip(x, LABELS, strict=True)}
    for part in (data.train, data.val, test):
        assert [data.info.classes[k] for k in part.y.tolist()] == [answer[row.numpy().tobytes()] for row in part.x]


def test_given_parts_stay_and_equal_rows_leave_training(tmp_path: Path) -> None:
    x = images()
    x[0] = x[38]  # a training row that is also in test, under the same label
    parts = ("train",) * 30 + ("test",) * 10
    data = load(spec := put(tmp_path, Rows(x, None, {"label": LABELS}, parts)))
    assert (len(data.train) + len(data.val), len(load_test(spec))) == (29, 10)
    assert any("equal to a row of test" in line for line in data.info.account.lines())
    x[20:30] = x[30:]  # all of validation: some is drawn from training instead
    parts = ("train",) * 20 + ("val",) * 10 + ("test",) * 10
    data = load(spec := put(tmp_path, Rows(x, None, {"label": LABELS}, parts)))
    assert (len(data.train), len(data.val), len(load_test(spec))) == (16, 3, 10)
    assert data.info.account.notes == ("val drawn from the training images, 15% each",)


def test_images_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    x, labels = images(), tuple("" if row % 10 == 3 else label for row, label in enumerate(LABELS))
    data = load(spec := put(tmp_path, Rows(x, None, {"label": labels}, ("train",) * 40)))
    assert data.info.classes == ("cat", "dog")
    assert "4 rows left out: without text or label" in data.info.account.lines()
    seen = torch.cat([data.train.x, data.val.x, load_test(spec).x])
    usable = [image for image, label in zip(x, labels, strict=True) if label]
    assert sorted(row.numpy().tobytes() for row in seen) == sorted(row.tobytes() for row in usable)


def test_content_is_the_name(tmp_path: Path) -> None:
    x, parts = images(), ("train",) * 40
    first = Rows(x, None, {"label": LABELS}, parts)
    assert Rows(x.copy(), None, {"label": LABELS}, parts).digest == first.digest
    other = x.copy()
    other[7, 1, 2, 3] ^= 1
    assert Rows(other, None, {"label": LABELS}, parts).digest != first.digest
    assert Rows(x, None, {"label": LABELS[::-1]}, parts).digest != first.digest


def test_sentences_with_two_tasks(tmp_path: Path) -> None:
    texts = tuple(f"sentence number {n} about {label}s" for n, label in enumerate(LABELS))
    tone = tuple("good" if n % 4 < 2 else "bad" for n in range(40))
    data = load(put(tmp_path, Rows(None, texts, {"pet": LABELS, "tone": tone}, ("train",) * 40)))
    assert data.info.tasks == (("pet", ("cat", "dog")), ("tone", ("bad", "good")))
    assert set(data.train.texts) <= set(texts) and data.train.y.shape == (len(data.train), 2)


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    assert "this names no rows" in refusal(DataSpec("arrays:../../etc/passwd", str(tmp_path)))
    assert "give --data-dir" in refusal(DataSpec("arrays:" + "0" * 16))
    assert "hand them over again" in refusal(DataSpec("arrays:" + "0" * 16, str(tmp_path)))
    spec = put(tmp_path, Rows(images(), None, {"label": LABELS}, ("train",) * 40))
    (tmp_path / (spec.name[7:] + ".json")).write_text(json.dumps({"texts": None}))
    assert "cannot be read" in refusal(spec)
    strange = put(
        tmp_path, Rows(images(), None, {"label": ("cat", "dog") * 19 + ("cat", "owl")}, ("train",) * 38 + ("test",) * 2)
    )
    assert "owl of test has no row to train on" in refusal(strange)


@pytest.mark.parametrize("parts", [("train",) * 40, ("train",) * 20 + ("val",) * 10 + ("test",) * 10])
def test_a_subset_is_stratified(tmp_path: Path, parts: tuple[str, ...]) -> None:
    spec = put(tmp_path, Rows(images(), None, {"label": LABELS}, parts))
    data = load(DataSpec(spec.name, spec.directory, train_size=10))
    assert torch.bincount(data.train.y).tolist() == [5, 5]
