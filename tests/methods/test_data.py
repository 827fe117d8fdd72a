"""Every loader: what it returns, that divisions are stratified, fixed and disjoint, and each error's one line."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.data import DataSpec, cache, docstrings, glyphs, load, load_test, stage_running
from methods.data.characters import FIRST, PAD, UNKNOWN, encode, vocabulary
from methods.data.source import quota, sample
from methods.errors import TestSplitLocked, UsageError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def refusal(spec: DataSpec) -> str:
    """The message with which a set is refused; it is always one line that names the set."""
    with pytest.raises(UsageError) as caught:
        load(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert spec.name in message
    return message


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
import sys, methods.data as data
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
        raise OSError("no network\nhere")

    monkeypatch.setattr(CIFAR10, "download", no_network)
    message = refusal(DataSpec(name, directory=str(tmp_path)))
    assert str(tmp_path) in message
    assert "--data-dir" in message


# Folders of images


def image(path: Path, value: int, size: tuple[int, int] = (20, 12)) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 255 - value, 7)).save(path)


def folder(root: Path, classes: dict[str, int], side: tuple[int, int] = (20, 12)) -> DataSpec:
    for number, (name, count) in enumerate(classes.items()):
        for index in range(count):
            image(root / name / f"{index}.png", 40 * number + index, side)
    return DataSpec(f"imagefolder:{root}", image_size=8)


def test_an_image_folder_is_divided_and_fitted(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"cat": 20, "dog": 40, ".hidden": 2})
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    data, test = load(spec), load_test(spec)
    assert data.info.shape == (3, 8, 8)
    assert data.info.classes == ("cat", "dog")
    assert [torch.bincount(split.y).tolist() for split in (data.train, data.val, test)] == [[14, 28], [3, 6], [3, 6]]
    splits = (data.train, data.val, test)
    seen = sorted((int(x[0, 0, 0]), int(y)) for split in splits for x, y in zip(split.x, split.y, strict=True))
    assert seen == [(index, 0) for index in range(20)] + [(40 + index, 1) for index in range(40)]
    assert data.info.notes == ()


def test_the_centre_of_an_image_is_kept_upright(tmp_path: Path) -> None:
    from PIL import Image

    spec = folder(tmp_path, {"a": 9, "b": 9})
    wide = Image.new("RGB", (24, 8))
    wide.paste((255, 255, 255), (8, 0, 16, 4))  # the upper half of the central square
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    for index in range(9):
        wide.rotate(180).save(tmp_path / "a" / f"{index}.png", exif=turned)
    x = load(spec).train.x[0]
    assert (x[:, :4] == 255).all()
    assert (x[:, 4:] == 0).all()


def test_given_parts_of_an_image_folder_are_kept(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"a": 5, "b": 6})
    folder(tmp_path / "valid", {"a": 2, "b": 1})
    folder(tmp_path / "test", {"b": 3})
    spec = DataSpec(f"imagefolder:{tmp_path}", image_size=8)
    data = load(spec)
    counts = [torch.bincount(split.y, minlength=2).tolist() for split in (data.train, data.val, load_test(spec))]
    assert counts == [[5, 6], [2, 1], [0, 3]]


def test_a_missing_part_of_an_image_folder_is_drawn_and_noted(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"a": 20, "b": 20})
    folder(tmp_path / "val", {"a": 2, "b": 2})
    data = load(DataSpec(f"imagefolder:{tmp_path}", image_size=8))
    assert (data.info.train_size, data.info.val_size, data.info.test_size) == (34, 4, 6)
    assert "test" in data.info.notes[0]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load(folder(tmp_path, {"bus": 9, "train": 9})).info.classes == ("bus", "train")


def test_refused_image_folders(tmp_path: Path) -> None:
    assert "not a folder" in refusal(DataSpec(f"imagefolder:{tmp_path / 'nowhere'}"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "a class folder is" in refusal(DataSpec(f"imagefolder:{empty}"))
    assert "cat is the only class" in refusal(folder(tmp_path / "one", {"cat": 5}))
    hollow = folder(tmp_path / "hollow", {"cat": 5, "dog": 5})
    (tmp_path / "hollow" / "emu").mkdir()
    assert "emu holds no image" in refusal(hollow)
    assert "class dog has 2 rows" in refusal(folder(tmp_path / "few", {"cat": 5, "dog": 2}))
    folder(tmp_path / "odd" / "train", {"cat": 5, "dog": 5})
    odd = folder(tmp_path / "odd" / "test", {"cat": 5, "emu": 5})
    assert "class emu of test" in refusal(DataSpec(odd.name.removesuffix("/test")))


def test_images_that_do_not_decode_are_counted_and_named(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"cat": 9, "dog": 9})
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"no picture")
    whole = (tmp_path / "dog" / "1.png").read_bytes()
    (tmp_path / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    message = refusal(spec)
    assert "2 of 20" in message
    assert "broken.jpg" in message
    assert "cut.png" in message


# Text files


ROWS = [(f"sentence number {index} of {label}", label) for label in ("no", "yes") for index in range(20)]


def table(path: Path, rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ("text", "label")) -> DataSpec:
    """A file of these rows in the format of its suffix."""
    import csv
    import json

    import pyarrow
    from pyarrow import parquet

    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([header, *rows])
        elif path.suffix == ".tsv":
            file.writelines("\t".join(row) + "\n" for row in [header, *rows])
        elif path.suffix == ".jsonl":
            file.writelines(json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
        else:
            parquet.write_table(pyarrow.table(dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))), path)
    return DataSpec(f"text:{path}")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_text_formats_give_the_same_rows(suffix: str, tmp_path: Path) -> None:
    spec = table(tmp_path / f"rows.{suffix}", ROWS)
    data, test = load(spec), load_test(spec)
    assert data.info.kind == "text"
    assert data.info.classes == ("no", "yes")
    assert data.info.tasks == (("label", ("no", "yes")),)
    assert [torch.bincount(split.y).tolist() for split in (data.train, data.val, test)] == [[16, 16], [2, 2], [2, 2]]
    splits = (data.train, data.val, test)
    assert {
        (text, data.info.classes[y]) for split in splits for text, y in zip(split.texts, split.y, strict=True)
    } == set(ROWS)
    assert data.info.fingerprint == load(table(tmp_path / "same.csv", ROWS)).info.fingerprint


def test_numbers_are_labels_in_their_order(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {"text": [f"t{index}" for index in range(60)], "label": [10, 9, 2] * 20}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert load(DataSpec(f"text:{tmp_path / 'a.parquet'}")).info.classes == ("2", "9", "10")


def test_numbers_are_cut_into_classes(tmp_path: Path) -> None:
    rows = [(f"sentence {number}", str(number % 10 + 1)) for number in range(200)]
    spec = table(tmp_path / "a.csv", rows)
    spec = dataclasses.replace(spec, label_columns=(f"{spec.label_columns[0]}:bad=1-4,good=9-10",))
    data, test = load(spec), load_test(spec)
    assert data.info.classes == ("bad", "good") and data.info.tasks[0][0] == "label"
    ratings = dict(rows)
    for split in (data.train, data.val, test):
        assert all((int(ratings[text]) >= 9) == bool(y) for text, y in zip(split.texts, split.y, strict=True))
    assert len(data.train) + len(data.val) + len(test) == 120
    assert any("80 rows" in note for note in data.info.notes)


def test_several_labels_and_a_rare_class_of_the_second(tmp_path: Path) -> None:
    rows = [(text, label, "odd" if index == 3 else f"k{index % 2}") for index, (text, label) in enumerate(ROWS)]
    spec = table(tmp_path / "a.tsv", rows, ("text", "first", "second"))
    data = load(DataSpec(spec.name, label_columns=("first", "second")))
    assert data.train.y.shape == (32, 2)
    assert data.info.tasks == (("first", ("no", "yes")), ("second", ("k0", "k1", "odd")))


def test_given_parts_of_a_text_are_kept_and_duplicates_leave_training_first(tmp_path: Path) -> None:
    rows = [(text, label, "train") for text, label in ROWS]
    rows += [("held out one", "no", "Validation"), ("held out two", "yes", "valid"), ("seen twice", "yes", "test")]
    rows += [
        ("seen  twice ", "no", "train"),
        ("set aside", "no", "oos"),
        (" ", "no", "train"),
        ("no label", "", "train"),
    ]
    random.Random(0).shuffle(rows)
    spec = table(tmp_path / "a.tsv", rows, ("text", "label", "part"))
    spec = DataSpec(spec.name, split_column="part")
    data, test = load(spec), load_test(spec)
    assert sorted(data.val.texts) == ["held out one", "held out two"]
    assert test.texts == ("seen twice",)
    assert test.y.tolist() == [1]
    assert sorted(data.train.texts) == sorted(text for text, _ in ROWS)
    assert data.info.notes == (
        "1 rows left out that column part puts into oos",
        "2 rows without text or label left out",
        "1 rows left out whose text another row has, 1 of them labelled otherwise",
    )


def test_a_missing_part_of_a_text_is_drawn_and_noted(tmp_path: Path) -> None:
    rows = [(text, label, "test" if index % 10 == 0 else "train") for index, (text, label) in enumerate(ROWS)]
    spec = DataSpec(table(tmp_path / "a.tsv", rows, ("text", "label", "split")).name, split_column="split")
    data = load(spec)
    assert (data.info.train_size, data.info.val_size, data.info.test_size) == (32, 4, 4)
    assert data.info.notes == ("column split names no val row: drawn from train, 10% each",)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6), min_size=1, max_size=60))
def test_no_sentence_is_in_two_parts(texts: list[str]) -> None:
    from methods.data.text import sentences

    texts = texts + [f"fill {index}" for index in range(20)]
    labels = ["ab"[index % 2] for index in range(len(texts))]
    source = sentences(DataSpec("text:x", max_length=7), ["label"], texts, [labels])
    rows = [row for part in source.parts.values() for row in part]
    assert sorted(rows) == list(range(len(source.rows)))
    assert len(set(source.rows)) == len(source.rows)
    assert all(0 < len(row) <= 7 for row in source.rows)


def test_sentences_become_characters() -> None:
    texts = ["abba", "가나", "abc"]
    characters = vocabulary(texts[:2], length=3)
    assert characters == ("b", "a", "가", "나")  # cut at three characters, b is seen twice
    want = [[FIRST + 1, FIRST, FIRST], [FIRST + 2, FIRST + 3, PAD], [FIRST + 1, FIRST, UNKNOWN]]
    assert encode(texts, characters, length=3).tolist() == want
    assert vocabulary(texts, length=3, size=2) == ("b", "a")


def test_the_vocabulary_is_that_of_training_and_composed(tmp_path: Path) -> None:
    rows = [(f"{text} \u1112\u1161\u11ab", label, "train") for text, label in ROWS]  # NFD; one syllable in NFC
    rows += [("日", "no", "val"), ("本", "no", "test")]
    spec = DataSpec(table(tmp_path / "a.tsv", rows, ("text", "label", "split")).name, split_column="split")
    data = load(spec)
    assert "한" in data.info.vocabulary
    assert "日" not in data.info.vocabulary
    assert data.val.x[0, :2].tolist() == [UNKNOWN, PAD]


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    spec = table(tmp_path / "a.csv", [(text + ", " + "x" * index, label) for index, (text, label) in enumerate(ROWS)])
    data = load(DataSpec(spec.name, max_length=30))
    assert data.info.shape == (30,)
    assert max(map(len, data.train.texts)) == 30
    assert "texts cut at 30 characters" in data.info.notes[-1]


def test_a_csv_quotes_and_a_tsv_does_not(tmp_path: Path) -> None:
    odd = [('"open', "no"), ('two\nlines, "quoted"', "yes")]
    data = load(table(tmp_path / "a.csv", [*ROWS, *odd]))
    every = {*data.train.texts, *data.val.texts, *load_test(DataSpec(f"text:{tmp_path / 'a.csv'}")).texts}
    assert {'"open', 'two lines, "quoted"'} <= every
    spec = table(tmp_path / "a.tsv", [*ROWS, odd[0]])
    assert '"open' in {*load(spec).train.texts, *load(spec).val.texts, *load_test(spec).texts}


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    spec = table(tmp_path / "a.csv", ROWS)
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(spec).info.train_size == 32


def test_refused_texts(tmp_path: Path) -> None:
    def rows(*given: tuple[str, ...], suffix: str = "tsv", header: tuple[str, ...] = ("text", "label")) -> DataSpec:
        return table(tmp_path / f"{len(list(tmp_path.iterdir()))}.{suffix}", list(given), header)

    def raw(content: bytes, suffix: str) -> DataSpec:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.{suffix}"
        path.write_bytes(content)
        return DataSpec(f"text:{path}")

    assert "is not a file" in refusal(DataSpec(f"text:{tmp_path / 'nothing.csv'}"))
    assert ".docx is not known" in refusal(raw(b"", "docx"))
    assert "byte 15 (line 2)" in refusal(raw(b"text\tlabel\nfine\xb0\xa1\tno\n", "tsv"))
    assert "no column label; the file has text, topic" in refusal(rows(*ROWS, header=("text", "topic")))
    assert "holds no only" in refusal(rows(*ROWS[:20]))
    assert "holds nothing only" in refusal(rows((" ", "no")))
    assert "class rare has 2 rows" in refusal(rows(*ROWS, ("once", "rare"), ("twice", "rare")))
    assert "not readable as .csv" in refusal(raw(b"", "csv"))
    assert "not readable as .csv" in refusal(raw(b"text,label\na,b,c\n", "csv"))
    assert "not readable as .jsonl" in refusal(raw(b'{"text": "a"\n', "jsonl"))
    assert "not readable as .parquet" in refusal(raw(b"PAR1 it is not", "parquet"))
    parted = rows(*((*row, "held") for row in ROWS), header=("text", "label", "split"))
    assert "names no train row; it holds held" in refusal(DataSpec(parted.name, split_column="split"))
    unseen = rows(*((*row, "train") for row in ROWS), ("new", "new", "test"), header=("text", "label", "split"))
    assert "class new has 0 rows" in refusal(DataSpec(unseen.name, split_column="split"))
