"""`text:PATH`: columns, parts, labels and rows of text files, and each error's one line."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bo_distill.methods.data import DataSpec, load, load_test
from bo_distill.methods.data.characters import FIRST, PAD, UNKNOWN, encode, vocabulary
from bo_distill.methods.data.texts import tables
from bo_distill.methods.errors import UsageError
from helpers.data_files import ROWS, refusal, table

pytestmark = pytest.mark.usefixtures("own_cache")


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
    assert any("80 rows" in line for line in data.info.account.lines())


def test_several_labels_and_a_rare_class_of_the_second(tmp_path: Path) -> None:
    rows = [(text, label, "odd" if index == 3 else f"k{index % 2}") for index, (text, label) in enumerate(ROWS)]
    spec = table(tmp_path / "a.tsv", rows, ("text", "first", "second"))
    data = load(DataSpec(spec.name, label_columns=("first", "second")))
    assert data.train.y.shape == (32, 2)
    assert data.info.tasks == (("first", ("no", "yes")), ("second", ("k0", "k1", "odd")))


def test_given_parts_of_a_text_are_kept_and_duplicates_leave_training_first(tmp_path: Path) -> None:
    rows = [(text, label, "train") for text, label in ROWS]
    rows += [("held out one", "no", "Valid"), ("held out two", "yes", "valid"), ("seen twice", "yes", "test")]
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
    assert data.info.account.lines() == [
        "1 row left out: of a part that is neither training, validation nor test (column part: oos 1)",
        "2 rows left out: without text or label",
        "1 row left out: equal to a row of test, or of validation (train, e.g. 'seen twice' (no))",
    ]


def test_a_missing_part_of_a_text_is_drawn_and_noted(tmp_path: Path) -> None:
    rows = [(text, label, "test" if index % 10 == 0 else "train") for index, (text, label) in enumerate(ROWS)]
    spec = DataSpec(table(tmp_path / "a.tsv", rows, ("text", "label", "split")).name, split_column="split")
    data = load(spec)
    assert (data.info.train_size, data.info.val_size, data.info.test_size) == (32, 4, 4)
    assert data.info.account.notes == ("no val row is given: drawn from training, 10% each",)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6), min_size=1, max_size=60))
def test_no_sentence_is_in_two_parts(texts: list[str]) -> None:
    from bo_distill.methods.data.texts.sentences import sentences

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
    assert any("texts cut at 30 characters" in note for note in data.info.account.notes)


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
    semicolons = raw(b"id;text;stars\n1;good, fine;5\n", "csv")
    assert "no column label; the file has id, text, stars (" in refusal(semicolons)
    wide = refusal(raw("\t".join(f"{n:050d}" for n in range(500)).encode() + b"\n", "tsv"))
    assert ", ... (--text-column" in wide and len(wide) < 2000
    for cut, said in (("bad=1-3,good=3-5", "3 is in bad and in good"), ("bad=3-1", "give the lower end first")):
        assert said in refusal(DataSpec(semicolons.name, label_columns=(f"stars:{cut}",)))
    assert "holds no only" in refusal(rows(*ROWS[:20]))
    assert "no training row is left (1 row left out: without text or label)" in refusal(rows((" ", "no")))
    assert "class rare has 2 rows" in refusal(rows(*ROWS, ("once", "rare"), ("twice", "rare")))
    assert "not readable as .csv" in refusal(raw(b"", "csv"))
    assert "not readable as .csv" in refusal(raw(b"text,label\na,b,c\n", "csv"))
    assert "not readable as .jsonl" in refusal(raw(b'{"text": "a"\n', "jsonl"))
    assert "not readable as .parquet" in refusal(raw(b"PAR1 it is not", "parquet"))
    parted = rows(*((*row, "held") for row in ROWS), header=("text", "label", "split"))
    assert "names no train row; it holds held" in refusal(DataSpec(parted.name, split_column="split"))
    unseen = rows(*((*row, "train") for row in ROWS), ("new", "new", "test"), header=("text", "label", "split"))
    assert "class new has 0 rows" in refusal(DataSpec(unseen.name, split_column="split"))


def parted(path: Path, parts: dict[str, str]) -> DataSpec:
    """ROWS with a split column of these words in turn."""
    words = list(parts)
    rows = [(text, label, words[index % len(words)]) for index, (text, label) in enumerate(ROWS)]
    return dataclasses.replace(table(path, rows, ("text", "label", "split")), split_column="split")


def test_words_of_a_split_column(tmp_path: Path) -> None:
    spec = parted(tmp_path / "a.csv", {"Training": "", "eval": "", "holdout": ""})
    info = load(spec).info
    assert (info.train_size, info.val_size, info.test_size) == (14, 13, 13)
    message = refusal(parted(tmp_path / "b.csv", {"train": "", "oos_test": ""}))
    assert "holds oos_test, which looks like a part; say what it is, e.g. --split-column split:train=train" in message
    said = dataclasses.replace(parted(tmp_path / "b.csv", {"train": "", "oos_test": ""}))
    info = load(dataclasses.replace(said, split_column="split:train=train")).info
    assert info.train_size + info.val_size + info.test_size == 20
    assert "20 rows left out: of a part that is neither" in info.account.lines()[0]


def test_a_published_test_split_stays_whole(tmp_path: Path) -> None:
    rows = [(text, label, "train") for text, label in ROWS]
    rows += [("twice", "no", "test"), ("twice", "no", "test"), ("Sentence  number 3 of NO", "no", "test")]
    spec = dataclasses.replace(table(tmp_path / "a.csv", rows, ("text", "label", "split")), split_column="split")
    data, test = load(spec), load_test(spec)
    assert sorted(test.texts) == ["Sentence number 3 of NO", "twice", "twice"]
    assert len(data.train) + len(data.val) == 39  # what differs in case and space only is not trained on


def test_of_rows_under_two_labels_none_is_used(tmp_path: Path) -> None:
    rows = [*ROWS, ("odd", "no"), *[("odd", "yes")] * 5]
    spec = table(tmp_path / "a.csv", rows)
    data, test = load(spec), load_test(spec)
    assert not [text for split in (data.train, data.val, test) for text in split.texts if text == "odd"]
    assert "6 rows left out: whose content also stands under another label" in data.info.account.lines()[0]
    assert "'odd' (no) and 'odd' (yes)" in refusal(dataclasses.replace(spec, conflicts="refuse"))


def test_rows_that_differ_in_punctuation_only_are_counted(tmp_path: Path) -> None:
    rows = [(text, label, "train") for text, label in ROWS] + [("sentence number 3, of no!", "no", "test")]
    spec = dataclasses.replace(table(tmp_path / "a.csv", rows, ("text", "label", "split")), split_column="split")
    (note,) = [note for note in load(spec).info.account.notes if "punctuation" in note]
    assert note.startswith("1 of 1 test rows differ") and len(load_test(spec)) == 1


def test_labels_are_composed_and_stripped_and_look_alikes_are_said(tmp_path: Path) -> None:
    rows = [(f"a{i}", "\u1112\u1161\u11ab") for i in range(9)] + [(f"b{i}", " \ud55c ") for i in range(9)]
    rows += [(f"c{i}", "yes") for i in range(9)] + [(f"d{i}", "Yes") for i in range(9)]
    info = load(table(tmp_path / "a.csv", rows)).info
    assert info.classes == ("Yes", "yes", "\ud55c")
    assert any("Yes (9 rows), yes (9 rows)" in note for note in info.account.notes)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_missing_label_is_missing_in_every_format(suffix: str, tmp_path: Path) -> None:
    import json

    import pyarrow
    from pyarrow import parquet

    labels = ["no", "yes", None, " "] * 15
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pyarrow.table({"text": [f"t{i}" for i in range(60)], "label": labels}), path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps({"text": f"t{i}", "label": label}) + "\n" for i, label in enumerate(labels)))
    else:
        comma = "," if suffix == "csv" else "\t"
        rows = [("text", "label"), *((f"t{i}", label or "") for i, label in enumerate(labels))]
        path.write_text("".join(comma.join(row) + "\n" for row in rows))
    if suffix in ("csv", "tsv"):
        path.write_bytes(b"\r\n\n" + path.read_bytes())  # the names are in the first line that is not empty
    info = load(DataSpec(f"text:{path}")).info
    assert info.classes == ("no", "yes") and info.account.lines() == ["30 rows left out: without text or label"]


def test_numbers_with_a_missing_one_are_the_same_classes_in_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {"text": [f"t{i}" for i in range(80)], "label": [1.0, 2.0, None, float("nan")] * 20}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    info = load(DataSpec(f"text:{tmp_path / 'a.parquet'}")).info
    assert info.classes == ("1", "2") and info.account.left_out[0].count == 40


def test_strings_stay_strings_and_other_columns_do_no_harm(tmp_path: Path) -> None:
    import json

    path = tmp_path / "a.jsonl"
    odd = [1, "x", None, {"deep": [1]}, 2.5, ["list"]]
    lines = [
        {"text": f"t{i}", "label": ["2024-05-01", "2024-05-02T00:00:00"][i % 2], "id": odd[i % 6]} for i in range(60)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert load(DataSpec(f"text:{path}")).info.classes == ("2024-05-01", "2024-05-02T00:00:00")


def test_parquet_with_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = pyarrow.array([f"한글 문장 {i}".encode("cp949") for i in range(40)]).view(pyarrow.utf8())
    other = pyarrow.array([b"\xff"] * 40).view(pyarrow.utf8())
    table = pyarrow.table({"text": texts, "label": ["no", "yes"] * 20, "unused": other})
    parquet.write_table(table, tmp_path / "a.parquet")
    spec = DataSpec(f"text:{tmp_path / 'a.parquet'}")
    assert "column text, row 1: not UTF-8 at byte 0" in refusal(spec)
    assert load(dataclasses.replace(spec, encoding="cp949")).train.texts[0].startswith("한글 문장")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp949", "아버지가 방에 들어가신다 그리고 어머니는 부엌에서 저녁을 준비하신다"),
        ("latin-1", "Où êtes-vous allés après la fête, où le garçon a mangé une crème brûlée à côté?"),
        ("gb18030", "今天天气很好，我们一起去公园散步，然后去饭馆吃饭，晚上再回家看电影。"),
        ("utf-16", "plain words"),
    ],
)
def test_another_encoding_is_named_for_what_it_looks_like_and_taken(encoding: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    lines = ["text\tlabel", *(f"{text} {index}\t{'no' if index % 2 else 'yes'}" for index in range(40))]
    path.write_bytes("\n".join(lines).encode(encoding))
    message = refusal(DataSpec(f"text:{path}"))
    assert "not UTF-8 at byte" in message and "iconv" not in message
    named = message.rpartition("--encoding ")[2].split(" or ")
    found = [load(DataSpec(f"text:{path}", encoding=word)).train.texts[0] for word in (encoding, *named)]
    assert found[0].startswith(text) and found[0] in found[1:]  # what the message says works
    with pytest.raises(UsageError, match="no such encoding"):
        load(DataSpec(f"text:{path}", encoding="klingon"))


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_found_in_the_header(delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [("text", "label"), *((f"{text}, or so", label) for text, label in ROWS)]
    path.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    assert all(text.endswith(", or so") for text in load(DataSpec(f"text:{path}")).train.texts)


def test_a_file_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{label}:{text}\n" for text, label in ROWS))
    spec = DataSpec(f"text:{path}", columns="label,text", delimiter=":")
    info = load(spec).info
    assert info.train_size + info.val_size + info.test_size == 40 and info.classes == ("no", "yes")
    with pytest.raises(UsageError, match="give one character"):
        load(dataclasses.replace(spec, delimiter="::"))


def test_a_packed_file_is_unpacked(tmp_path: Path) -> None:
    import gzip

    spec = table(tmp_path / "a.csv", ROWS)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    assert load(DataSpec(f"text:{tmp_path / 'b.csv.gz'}")).info.fingerprint == load(spec).info.fingerprint
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes())[:-20])
    assert "not readable as .csv" in refusal(DataSpec(f"text:{tmp_path / 'b.csv.gz'}", max_length=99))


def test_a_folder_of_files_is_one_table_or_parts(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    table(tmp_path / "one" / "a.parquet", ROWS[:25])
    table(tmp_path / "one" / "b.csv", ROWS[25:])
    (tmp_path / "one" / "README.md").touch()
    info = load(DataSpec(f"text:{tmp_path / 'one'}")).info
    assert info.train_size + info.val_size + info.test_size == 40
    assert str(info.account.left_out[0]) == "1 file left out: not looked into (1 .md)"
    (tmp_path / "two").mkdir()
    for name, rows in (("train-0-of-2", ROWS[:15]), ("train-1-of-2", ROWS[15:33]), ("test", ROWS[33:])):
        table(tmp_path / "two" / f"{name}.csv", rows)
    info = load(DataSpec(f"text:{tmp_path / 'two'}")).info
    assert (info.train_size + info.val_size, info.test_size) == (33, 7)
    table(tmp_path / "two" / "extra.csv", ROWS[:3])
    assert "extra.csv is no part beside test, train" in refusal(DataSpec(f"text:{tmp_path / 'two'}", max_length=99))
    (tmp_path / "three" / "train").mkdir(parents=True)
    (tmp_path / "three" / "Test").mkdir()
    table(tmp_path / "three" / "train" / "x.csv", ROWS[:33])
    table(tmp_path / "three" / "Test" / "x.csv", ROWS[33:])
    assert load(DataSpec(f"text:{tmp_path / 'three'}")).info.test_size == 7


def test_when_no_training_row_is_left_it_is_said_why(tmp_path: Path) -> None:
    rows = [(text, label, part) for text, label in ROWS for part in ("train", "test")]
    spec = dataclasses.replace(table(tmp_path / "a.csv", rows, ("text", "label", "split")), split_column="split")
    assert "no training row is left (40 rows left out: equal to a row of test, or of validation" in refusal(spec)


def test_val_size_counts_the_classes_that_validation_has(tmp_path: Path) -> None:
    rows = [(f"{label} {index}", label, "train") for label in "abc" for index in range(9)]
    rows += [(f"held {label} {index}", label, "val") for label in "ab" for index in range(3)]
    spec = dataclasses.replace(table(tmp_path / "a.csv", rows, ("text", "label", "split")), split_column="split")
    assert load(dataclasses.replace(spec, val_size=2)).info.val_size == 2
    assert "6 validation rows in 2 classes; give a number from 2 to 6" in refusal(dataclasses.replace(spec, val_size=1))


def test_a_file_larger_than_a_block_is_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of over 2 GiB, of which the parser takes a part at a time."""
    rows = [f'{n % 2},"sentence {n}, in quotes"\n' for n in range(50)]
    (tmp_path / "a.csv").write_text("label,text\n" + "".join(rows))
    monkeypatch.setattr(tables, "BLOCK", 128)
    labels, texts = tables.columns("a.csv", tmp_path / "a.csv", ("label", "text"), tables.Layout())
    assert labels == ["0", "1"] * 25 and texts == [f"sentence {n}, in quotes" for n in range(50)]
