"""`imagefolder:PATH`: which files, in which part, of which class; what is kept for the next run."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from bo_distill.methods.data import DataSpec, forget, load, load_test
from bo_distill.methods.data.images import rows
from helpers.data_files import folder, image, refusal

pytestmark = pytest.mark.usefixtures("own_cache")


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Grows by each file that is decoded."""
    seen: list[Path] = []
    true = rows.read

    def read(path: Path, how: Any) -> Any:
        seen.append(path)
        return true(path, how)

    monkeypatch.setattr(rows, "read", read)
    return seen


def afresh() -> None:
    """As another process would: without what this one has in memory."""
    forget()


def test_an_image_folder_is_divided_and_fitted(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"cat": 20, "dog": 40, ".hidden": 2})
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "cat" / "0.heic").write_bytes(b"not read")
    data, test = load(spec), load_test(spec)
    assert data.info.shape == (3, 8, 8)
    assert data.info.classes == ("cat", "dog")
    assert [torch.bincount(split.y).tolist() for split in (data.train, data.val, test)] == [[14, 28], [3, 6], [3, 6]]
    splits = (data.train, data.val, test)
    seen = sorted((int(x[0, 0, 0]), int(y)) for split in splits for x, y in zip(split.x, split.y, strict=True))
    assert seen == [(index, 0) for index in range(20)] + [(40 + index, 1) for index in range(40)]
    assert data.info.account.rows["train"] == {"cat": 14, "dog": 28}
    assert data.info.account.lines() == [
        "3 files left out: not looked into (1 .heic, 1 .txt, 1 hidden folders)",
        "val and test drawn from the training images, 15% each",
    ]


def test_the_centre_of_an_image_is_kept_upright(tmp_path: Path) -> None:
    from PIL import Image

    spec = folder(tmp_path, {"a": 9, "b": 9})
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    for index in range(9):
        wide = Image.new("RGB", (24, 8))
        wide.paste((255, 255, 255 - index), (8, 0, 16, 4))  # the upper half of the central square
        wide.rotate(180).save(tmp_path / "a" / f"{index}.png", exif=turned)
    x = load(spec).train.x[0]
    assert (x[:2, :4] == 255).all()
    assert (x[:, 4:] == 0).all()


def test_given_parts_of_an_image_folder_are_kept(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"a": 5, "b": 6})
    folder(tmp_path / "valid", {"a": 2, "b": 1}, first=100)
    folder(tmp_path / "test", {"b": 3}, first=200)
    spec = DataSpec(f"imagefolder:{tmp_path}", image_size=8)
    data = load(spec)
    counts = [torch.bincount(split.y, minlength=2).tolist() for split in (data.train, data.val, load_test(spec))]
    assert counts == [[5, 6], [2, 1], [0, 3]]


def test_a_missing_part_of_an_image_folder_is_drawn_and_noted(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"a": 20, "b": 20})
    folder(tmp_path / "val", {"a": 2, "b": 2}, first=100)
    data = load(DataSpec(f"imagefolder:{tmp_path}", image_size=8))
    assert (data.info.train_size, data.info.val_size, data.info.test_size) == (34, 4, 6)
    assert data.info.account.notes == ("test drawn from the training images, 15% each",)


def test_validation_that_is_test_again_is_drawn_from_training(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"a": 20, "b": 20})
    for part in ("val", "test"):
        folder(tmp_path / part, {"a": 3, "b": 3}, first=100)
    data = load(spec := DataSpec(f"imagefolder:{tmp_path}", image_size=8))
    assert (data.info.train_size, data.info.val_size, data.info.test_size) == (34, 6, 6)
    assert "val drawn from the training images, 15% each" in data.info.account.notes
    for file in (tmp_path / "val").rglob("*.png"):  # other bytes, the same pixels: seen once they are decoded
        file.write_bytes(file.read_bytes() + b" ")
    afresh()
    assert "no image of val is left (6 rows left out: equal to a row of test" in refusal(spec)


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


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Val", "Test"),
        ("training", "validation", "testing"),
        ("TRAIN", "VALID", "TEST"),
        ("train_images", "dev-images", "holdout"),
        ("seg_train", "seg_eval", "seg_test"),
    ],
)
def test_part_folders_of_any_spelling(names: tuple[str, ...], tmp_path: Path) -> None:
    for first, name in enumerate(names):
        folder(tmp_path / name, {"a": 4, "b": 4}, first=50 * first)
    info = load(DataSpec(f"imagefolder:{tmp_path}", image_size=8)).info
    assert info.classes == ("a", "b") and (info.train_size, info.val_size, info.test_size) == (8, 8, 8)
    assert info.account.lines() == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train", "val", "valid"), "folders val and valid both mean val"),
        (("val", "test"), "no folder train"),
        (("train", "test", "extra"), "extra is no part beside test, train"),
        (("train", "tset"), "tset is no part beside train"),
        (("train", "cat"), "cat is no part beside train"),
    ],
)
def test_part_folders_that_are_not_understood_are_refused(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    for name in names:
        folder(tmp_path / name, {"a": 1, "b": 1})
    assert said in refusal(DataSpec(f"imagefolder:{tmp_path}"))


def test_part_folders_without_class_folders_are_refused(tmp_path: Path) -> None:
    assert "test, train hold no class folders" in refusal(folder(tmp_path / "flat", {"train": 5, "test": 5}))
    folder(tmp_path / "half" / "train", {"a": 4, "b": 4})
    folder(tmp_path / "half", {"test": 4})
    assert "test is no part beside train" in refusal(DataSpec(f"imagefolder:{tmp_path / 'half'}"))


def test_nothing_that_lies_there_is_passed_over_without_a_word(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"a": 9, "b": 9})
    (tmp_path / "a" / "0.png").rename(tmp_path / "a" / "0")
    image(tmp_path / "a" / "1.jfif.png", 90)
    (tmp_path / "a" / "1.jfif.png").rename(tmp_path / "a" / "1.jfif")
    image(tmp_path / "a" / ".ipynb_checkpoints" / "x.png", 91)
    image(tmp_path / "a" / "._1.png", 92)
    (tmp_path / "Thumbs.db").touch()
    image(tmp_path / "elsewhere" / "deep" / "7.png", 93)
    (tmp_path / "elsewhere").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    (tmp_path / "b" / "linked").symlink_to(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    (tmp_path / "b" / "circle").symlink_to(tmp_path / "b")
    info = load(spec).info
    assert {part: sum(rows.values()) for part, rows in info.account.rows.items()} == {"train": 13, "val": 3, "test": 3}
    (left,) = info.account.left_out
    assert (left.why, left.count) == ("not looked into", 4)
    assert left.what == "2 hidden files, 1 hidden folders, 1 without suffix"


def test_a_folder_that_must_not_be_looked_into_is_named() -> None:
    """Seen with the rights of a person, who is not root."""
    with tempfile.TemporaryDirectory() as name:
        root, own = Path(name, "x"), os.geteuid()
        spec = folder(root, {"a": 4, "b": 4})
        image(root / "b" / "deep" / "9.png", 90)
        Path(name).chmod(0o755)
        (root / "b" / "deep").chmod(0)
        try:
            if own == 0:
                os.seteuid(65534)
            assert "deep: Permission denied; permit it or move it away" in refusal(spec)
        finally:
            os.seteuid(own)


def test_the_same_file_twice_is_used_once(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"a": 10, "b": 10})
    for name in ("a", "b"):
        for index in range(10):
            for copy in range(3):
                shutil.copy(tmp_path / name / f"{index}.png", tmp_path / name / f"copy{copy}-{index}.png")
    data, test = load(spec), load_test(spec)
    rows = [bytes(x) for split in (data.train, data.val, test) for x in split.x.numpy()]
    assert len(rows) == len(set(rows)) == 20
    assert "60 rows left out: equal to another row of their part" in data.info.account.lines()[0]


def test_equal_images_leave_training_and_never_a_published_test(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"a": 6, "b": 6})
    folder(tmp_path / "test", {"a": 3, "b": 3})  # three of each are train's
    (tmp_path / "test" / "a" / "0.png").rename(tmp_path / "test" / "a" / "0.bmp")
    from PIL import Image

    Image.open(tmp_path / "train" / "a" / "0.png").save(tmp_path / "test" / "a" / "0.bmp")  # other bytes, same pixels
    spec = DataSpec(f"imagefolder:{tmp_path}", image_size=8)
    data, test = load(spec), load_test(spec)
    assert len(test) == 6 and len(data.train) + len(data.val) == 6
    assert not {bytes(x) for x in test.x.numpy()} & {bytes(x) for x in data.train.x.numpy()}
    assert sum(each.count for each in data.info.account.left_out if each.why == "shared") == 6


def test_one_image_under_two_labels_is_dropped_or_refused(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"a": 9, "b": 9})
    (tmp_path / "b" / "same.png").write_bytes((tmp_path / "a" / "3.png").read_bytes())
    info = load(spec).info
    assert sum(sum(rows.values()) for rows in info.account.rows.values()) == 17
    assert info.account.left_out[0].why == "conflicting" and info.account.left_out[0].count == 2
    message = refusal(dataclasses.replace(spec, conflicts="refuse"))
    assert "a/3.png and b/same.png" in message


def test_class_folders_have_the_order_and_the_form_of_labels(tmp_path: Path) -> None:
    import unicodedata

    names = {unicodedata.normalize("NFD", "가"): 4, "10": 4, "9": 4}
    assert load(folder(tmp_path / "x", names)).info.classes == ("10", "9", "가")
    assert load(folder(tmp_path / "y", {"10": 4, "2": 4, "0": 4})).info.classes == ("0", "2", "10")
    info = load(folder(tmp_path / "z", {"Cat": 4, "cat": 5})).info
    assert info.account.notes[0].startswith("class folders that look alike stay different classes: cat (5 rows), Cat")


def test_a_folder_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"a": 4, "b": 4})
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    assert r"folder caf\xe9 is not UTF-8; rename it" in refusal(spec)


def test_images_that_do_not_decode_may_be_left_out(tmp_path: Path) -> None:
    spec = dataclasses.replace(folder(tmp_path, {"a": 9, "b": 9}), unreadable="drop")
    (tmp_path / "a" / "broken.png").write_bytes(b"no picture")
    info = load(spec).info
    assert info.train_size + info.val_size + info.test_size == 18
    assert info.account.lines()[0].startswith("1 file left out: that cannot be read (a/broken.png (cannot identify")


def test_train_size_decodes_what_it_needs_and_the_test_split_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = folder(tmp_path, {"a": 30, "b": 30})
    seen = read_files(monkeypatch)
    few = dataclasses.replace(spec, train_size=4, val_size=2)
    assert len(load(few).train) == 4 and len(seen) == 4 + 2 + 9
    before = load_test(few).x.clone()
    assert torch.equal(load_test(spec).x, before)
    assert len(seen) == 60  # what was decoded for the few is not decoded again


def test_a_second_run_decodes_nothing_and_a_changed_file_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = folder(tmp_path, {"a": 12, "b": 12})
    seen = read_files(monkeypatch)
    first = load(spec)
    assert len(seen) == 24
    afresh()
    again = load(spec)
    assert len(seen) == 24 and again.info == first.info and torch.equal(again.train.x, first.train.x)
    image(tmp_path / "a" / "0.png", 200)
    afresh()
    assert load(spec).info.fingerprint != first.info.fingerprint and len(seen) == 25


def test_rows_are_known_by_content_wherever_the_folder_lies(tmp_path: Path) -> None:
    spec = folder(tmp_path / "here", {"a": 9, "b": 9})
    before = load(spec).info.fingerprint
    (tmp_path / "here").rename(tmp_path / "there")
    assert load(DataSpec(f"imagefolder:{tmp_path / 'there'}", image_size=8)).info.fingerprint == before


def test_a_refused_folder_keeps_what_it_has_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = folder(tmp_path, {"a": 9, "b": 9})
    broken = tmp_path / "a" / "broken.png"
    broken.write_bytes(b"no picture")
    seen = read_files(monkeypatch)
    refusal(spec)
    broken.unlink()
    load(spec)
    assert len(seen) == 19


def test_without_a_cache_directory_the_rows_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    spec = folder(tmp_path / "x", {"a": 9, "b": 9})
    assert load(spec).info.train_size + load(spec).info.val_size + len(load_test(spec)) == 18


def test_processes_share_the_rows(tmp_path: Path) -> None:
    spec = folder(tmp_path, {"a": 9, "b": 9})
    data = load(spec)
    storages = {split.x.untyped_storage().data_ptr() for split in (data.train, data.val, load_test(spec))}
    assert len(storages) == 1  # one mapped file, no copies


def test_twelve_bits_in_sixteen_are_pointed_out(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(9):
            grey = np.full((8, 8), (300 if name == "a" else 2000) + 100 * index, dtype=np.uint16)
            Image.fromarray(grey).save(tmp_path / name / f"{index}.png")
    spec = DataSpec(f"imagefolder:{tmp_path}", image_size=8)
    (bad := tmp_path / "a" / "bad.png").write_bytes(b"no image")
    refusal(spec)  # what it has decoded is kept, and with it how much of the range the images use
    bad.unlink()
    (note,) = [note for note in load(spec).info.account.notes if "--white" in note]
    assert "4.1% of their range" in note
    assert not any("--white" in note for note in load(dataclasses.replace(spec, white=4095.0)).info.account.notes)
