"""Divisions, the lock on the test split, and the sets that are built in."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bo_distill.methods.data import DataSpec, cache, docstrings, glyphs, load, load_test, stage_running
from bo_distill.methods.data.source import quota, sample
from bo_distill.methods.errors import TestSplitLocked
from helpers.data_files import refusal

pytestmark = pytest.mark.usefixtures("own_cache")


# Divisions


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.data())
def test_quota_is_proportional_and_leaves_no_class_out(counts: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(len(counts), sum(counts)))
    take = quota(np.array(counts), size)
    assert take.sum() == size
    assert (take >= 1).all()
    assert (take <= counts).all()
    exact = np.array(counts) * size / sum(counts)
    if exact.min() >= 1:  # nothing had to be raised to one row: largest remainders differ by less than a row
        assert (abs(take - exact) < 1).all()


@given(st.lists(st.integers(0, 5), min_size=12, max_size=200), st.integers(6, 12))
def test_a_sample_is_distinct_ascending_and_repeatable(labels: list[int], size: int) -> None:
    y = np.array(labels)
    drawn = sample(y, size)
    assert (np.diff(drawn) > 0).all()
    assert len(drawn) == size
    assert (drawn == sample(y, size)).all()
    assert set(y[drawn]) == set(y)


# The test split


def test_the_test_split_is_locked_while_a_stage_runs() -> None:
    spec = DataSpec("digits")
    with stage_running():
        with stage_running():
            pass
        with pytest.raises(TestSplitLocked, match="digits"):
            load_test(spec)
        load(spec)
    assert len(load_test(spec)) == 359


def test_the_lock_ends_with_an_error_and_binds_its_own_thread_only() -> None:
    with pytest.raises(ZeroDivisionError), stage_running():
        raise ZeroDivisionError
    sizes: list[int] = []
    with stage_running():
        other = threading.Thread(target=lambda: sizes.append(len(load_test(DataSpec("digits")))))
        other.start()
        other.join()
    assert sizes == [359]


# Digits


def test_digits() -> None:
    data = load(DataSpec("digits"))
    test = load_test(DataSpec("digits"))
    assert data.info.kind == "image"
    assert data.info.shape == (3, 16, 16)
    assert data.info.classes == tuple("0123456789")
    assert (data.info.train_size, data.info.val_size, data.info.test_size) == (1079, 359, 359)
    assert data.train.x.dtype == torch.uint8
    assert data.train.x.max() == 255
    for split in (data.train, data.val, test):
        share = torch.bincount(split.y) / len(split)
        assert (share - 0.1).abs().max() < 0.01
        assert torch.equal(split.x[:, 0], split.x[:, 2])


def test_digits_are_the_library_s_in_disjoint_parts() -> None:
    from sklearn.datasets import load_digits

    data, test = load(DataSpec("digits")), load_test(DataSpec("digits"))
    ours = torch.cat([split.x[:, 0].float() for split in (data.train, data.val, test)])
    theirs = torch.from_numpy(load_digits().images).float() * 255 / 16
    assert len(ours) == len(theirs)
    want = torch.nn.functional.interpolate(theirs[:, None], scale_factor=2, mode="bilinear")[:, 0].round()
    assert Counter(map(bytes, ours.byte().numpy())) == Counter(map(bytes, want.byte().numpy()))


def test_mean_and_std_are_those_of_the_training_split() -> None:
    data = load(DataSpec("digits"))
    x = data.train.x.double() / 255
    assert data.info.mean == pytest.approx(x.mean((0, 2, 3)).tolist())
    assert data.info.std == pytest.approx(x.std((0, 2, 3), correction=0).tolist())


def test_train_size_takes_a_stratified_subset_and_leaves_the_rest_whole() -> None:
    whole, part = load(DataSpec("digits")), load(DataSpec("digits", train_size=100))
    assert torch.bincount(part.train.y).tolist() == [10] * 10
    assert torch.equal(whole.val.x, part.val.x)
    rows = {bytes(image) for image in whole.train.x.numpy()}
    assert all(bytes(image) in rows for image in part.train.x.numpy())
    assert whole.info.fingerprint != part.info.fingerprint


def test_val_size_takes_a_subset_of_validation_alone() -> None:
    whole, part = load(DataSpec("digits")), load(DataSpec("digits", val_size=50))
    assert len(part.val) == 50 and len(part.train) == len(whole.train)
    assert set(Counter(part.val.y.tolist()).values()) == {5}
    assert part.info.fingerprint != whole.info.fingerprint
    assert "from 10 to 359" in refusal(DataSpec("digits", val_size=1000))


@pytest.mark.parametrize("size", [9, 1080])
def test_train_size_out_of_range(size: int) -> None:
    assert "from 10 to 1079" in refusal(DataSpec("digits", train_size=size))


def test_another_process_imports_little_and_finds_the_same_fingerprint() -> None:
    heavy = ("torchvision", "sklearn", "pandas", "matplotlib", "pyarrow", "PIL", "ray")
    code = f"""
import sys, bo_distill.methods.data as data
print(*(name for name in {heavy} if name in sys.modules))
print(data.load(data.DataSpec("digits", train_size=50)).info.fingerprint)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["", load(DataSpec("digits", train_size=50)).info.fingerprint]


def test_a_set_is_read_once() -> None:
    assert load(DataSpec("digits")).train is load(DataSpec("digits")).train


@pytest.mark.parametrize("name", ["mnist", "digits:here", "text", "text:", "imagefolder"])
def test_unknown_sets(name: str) -> None:
    assert "digits, glyphs, docstrings" in refusal(DataSpec(name))


# Glyphs


def test_glyphs() -> None:
    data, test = load(DataSpec("glyphs")), load_test(DataSpec("glyphs"))
    assert data.info.shape == (3, 32, 32)
    assert len(data.info.classes) == len(set(data.info.classes)) == 100
    for split, count in ((data.train, 80), (data.val, 20), (test, 20)):
        assert torch.bincount(split.y).tolist() == [count] * 100
        spread = split.x.float().amax((1, 2, 3)) - split.x.float().amin((1, 2, 3))
        assert spread.min() >= 60  # no character is lost in its paper


def test_no_font_is_in_two_parts_and_no_typeface_of_the_test_is_trained_on() -> None:
    fonts = [font for part in glyphs.FONTS.values() for font in part]
    assert len(fonts) == len(set(fonts))
    family = {part: {font.split("-")[0].removesuffix("Bol") for font in names} for part, names in glyphs.FONTS.items()}
    family["test"] = {"STIXGeneral" if name.startswith("STIX") else name for name in family["test"]}
    assert family["train"] == {"DejaVuSans", "DejaVuSerif"}
    assert family["test"] == {"DejaVuSansMono", "STIXGeneral"}


def test_every_font_has_every_character() -> None:
    import matplotlib
    from fontTools.ttLib import TTFont

    for font in (font for part in glyphs.FONTS.values() for font in part):
        with TTFont(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf", lazy=True) as file:
            assert set(map(ord, glyphs.CHARACTERS)) <= set(file.getBestCmap())


def test_glyphs_are_drawn_alike_every_time() -> None:
    masks = {part: fonts[:3] for part, fonts in glyphs._masks().items()}
    first, second = (
        [glyphs._draw(fonts, 4, state) for state in [np.random.RandomState(5)] for fonts in masks.values()]
        for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# Docstrings


@pytest.fixture
def few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "PACKAGES", ("jinja2", "threadpoolctl", "no-such-package"))


@pytest.mark.usefixtures("few_packages")
def test_docstrings_carry_two_labels() -> None:
    data, test = load(DataSpec("docstrings", max_length=131)), load_test(DataSpec("docstrings", max_length=131))
    assert [name for name, _ in data.info.tasks] == ["package", "kind"]
    assert data.info.classes == ("jinja2", "threadpoolctl")
    assert data.info.tasks[1][1] == ("class", "function", "method", "module", "property")
    assert data.train.y.shape == (len(data.train), 2)
    texts = [*data.train.texts, *data.val.texts, *test.texts]
    assert len(texts) == len(set(texts))
    assert all(12 <= len(text) <= 131 for text in texts)


@pytest.mark.usefixtures("few_packages")
def test_docstrings_come_from_the_cache_and_survive_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first = docstrings._table()
    (file,) = cache.directory().iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(docstrings, "_scan", lambda name, package: pytest.fail("the cache was not read"))
        assert docstrings._table() == first
    file.write_bytes(file.read_bytes()[:100])
    assert docstrings._table() == first
    assert docstrings._table() == first
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("no folder can be made here")
    assert docstrings._table() == first


@pytest.mark.usefixtures("few_packages")
def test_docstrings_of_one_task_or_none() -> None:
    assert load(DataSpec("docstrings", label_columns=("kind",))).train.y.ndim == 1
    assert "package or kind" in refusal(DataSpec("docstrings", label_columns=("author",)))


def test_kinds_of_docstrings() -> None:
    import ast

    source = '''
"""Module here."""
class A:
    """Class here."""
    def m(self): "Method here."
    @property
    def p(self): "Property here."
    @functools.cached_property
    def q(self): "Cached here."
    @staticmethod
    def s(): "Static here."
    class B: "Inner class."
def f():
    """Function here."""
    def inner(): "Not counted."
'''
    found = {text: kind for kind, text in docstrings._docstrings(ast.parse(source), "module")}
    assert found == {
        "Module here.": "module",
        "Class here.": "class",
        "Method here.": "method",
        "Property here.": "property",
        "Cached here.": "property",
        "Static here.": "method",
        "Inner class.": "class",
        "Function here.": "function",
    }


def test_sentences_of_a_docstring() -> None:
    text = "Return the mean of x.  Works for\n  e.g. tensors of any size. Short one.\n\nNot the first paragraph at all."
    assert list(docstrings._sentences(text)) == ["Return the mean of x.", "Works for e.g. tensors of any size."]


# CIFAR


@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="DATA_DIR does not name a folder with the CIFAR sets")
@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar(name: str, classes: int) -> None:
    spec = DataSpec(name, directory=os.environ["DATA_DIR"])
    data, test = load(spec), load_test(spec)
    assert len(data.info.classes) == classes
    assert (len(data.train), len(data.val), len(test)) == (45_000, 5_000, 10_000)
    assert data.train.x.shape == (45_000, 3, 32, 32)
    for split in (data.train, data.val, test):
        assert torch.bincount(split.y).tolist() == [len(split) // classes] * classes


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_without_files_or_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    def no_network(self: CIFAR10) -> None:
        Path(self.root).mkdir(exist_ok=True)  # as a real one does first
        raise OSError("no network\nhere")

    monkeypatch.setattr(CIFAR10, "download", no_network)
    for place in (tmp_path, tmp_path / "absent"):
        message = refusal(DataSpec(name, directory=str(place)))
        assert str(place) in message
        assert "--data-dir" in message
    assert tmp_path.exists() and not (tmp_path / "absent").exists()


def test_what_is_known_of_a_set_is_a_key() -> None:
    assert {load(DataSpec("digits")).info: 1}[load(DataSpec("digits")).info] == 1
