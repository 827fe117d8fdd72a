"""`text:PATH`: labelled sentences in a CSV, TSV, JSON Lines or Parquet file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from methods.data.dataset import DataSpec
from methods.data.source import Indices, Source, divide
from methods.errors import UsageError

if TYPE_CHECKING:
    import pyarrow

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
"""Words of a split column, in any case -> the part."""

BAND = re.compile(r"([^=,]+)=(-?\d+)-(-?\d+)")
"""A class of a column of numbers, both ends included."""

Bands = tuple[tuple[str, int, int], ...]
"""(class, low, high)"""

Row = tuple[int, str, tuple[str, ...], str]
"""(place in the file, part, labels, text)"""


def read(spec: DataSpec) -> Source:
    """Sentences of a file, divided by `split_column` or, without one, 80/10/10, stratified by the first label.

    A label column of numbers may be cut into classes, `rating:bad=1-4,good=9-10`; rows outside of all are left out.
    A part that `split_column` leaves without rows (no test rows, say) is drawn from the training rows, 10% of them.

    Raises:
        UsageError: a file that is missing, not UTF-8, not of its format, or lacks a column; labels that cannot be
            learned (one class, a class with too few rows). The message is one line.
    """
    path = Path(spec.name.partition(":")[2]).expanduser()
    split = (spec.split_column,) if spec.split_column else ()
    names, bands = zip(*map(_bands, spec.label_columns), strict=True)
    columns = _columns(spec, path, (spec.text_column, *names, *split))
    given = columns.pop() if split else None
    texts, *labels = columns
    banded = [
        [_band(value, own) for value in values] if own else values for values, own in zip(labels, bands, strict=True)
    ]
    return sentences(spec, names, texts, banded, given)


def _bands(label: str) -> tuple[str, Bands]:
    """`rating:bad=1-4,good=9-10` as the column and its classes; a plain column has none."""
    column, colon, words = label.partition(":")
    parts = [BAND.fullmatch(word) for word in words.split(",")]
    if not colon or not all(parts):
        return label, ()
    return column, tuple((part[1], int(part[2]), int(part[3])) for part in parts if part)


def _band(value: str, bands: Bands) -> str:
    """The class whose band a number is in; "", which leaves the row out, where there is none."""
    try:
        number = float(value)
    except ValueError:
        return ""
    return next((name for name, low, high in bands if low <= number <= high), "")


def sentences(
    spec: DataSpec,
    tasks: Sequence[str],
    texts: Sequence[str],
    labels: Sequence[Sequence[str]],
    given: Sequence[str] | None = None,
) -> Source:
    """Rows of text with one label per task, cleaned and divided.

    Args:
        spec: names the data in messages and says where texts are cut.
        tasks: names of the tasks.
        texts: (n).
        labels: per task (n).
        given: (n) the part of each row.

    Raises:
        UsageError: as `read`.
    """
    words = given if given is not None else ["train"] * len(texts)
    rows, notes = _distinct(spec, words, texts, list(zip(*labels, strict=True)))
    of_row = np.array([part for _, part, _, _ in rows])
    parts: dict[str, Indices] = {str(part): np.flatnonzero(of_row == part) for part in np.unique(of_row)}
    if given is not None and "train" not in parts:
        raise UsageError(f"{spec.name}: column {spec.split_column} names no train row; it holds {_some(set(given))}")
    y = np.empty((len(rows), len(tasks)), dtype=np.int64)
    named = []
    for task, name in enumerate(tasks):
        values = [labels[task] for _, _, labels, _ in rows]
        classes = _in_order(set(values))
        if len(classes) < 2:
            raise UsageError(f"{spec.name}: column {name} holds {_some(classes)} only; a classifier needs two classes")
        number = {value: index for index, value in enumerate(classes)}
        y[:, task] = [number[value] for value in values]
        named.append((name, classes))

    drawn = sorted({"val", "test"} - parts.keys())
    parts = divide(spec.name, y[:, 0], named[0][1], parts, val=0.1, test=0.1)
    if drawn and given is not None:
        notes.append(f"column {spec.split_column} names no {' and no '.join(drawn)} row: drawn from train, 10% each")
    for task, (name, classes) in enumerate(named[1:], start=1):
        absent = len(classes) - len(np.unique(y[parts["train"], task]))
        if absent:
            notes.append(f"no training row for {absent} of the {len(classes)} classes of {name}")
    return Source(tuple(text for *_, text in rows), y, tuple(named), parts, tuple(notes))


def _distinct(
    spec: DataSpec, words: Sequence[str], texts: Sequence[str], labels: Sequence[tuple[str, ...]]
) -> tuple[list[Row], list[str]]:
    """The rows that are used, in the file's order, and notes on those that are not.

    Texts are brought to Unicode NFC, their white space is folded and they are cut at `spec.max_length`. A row without
    text or label, or of an unknown part, is left out. Of rows whose (cut) texts are equal one is kept, so that no
    sentence is in two parts: a test row before a validation row before a training row, so that a published test split
    stays whole.
    """
    empty = cut = equal = conflicting = 0
    strange: set[str] = set()
    seen: dict[str, Row] = {}
    parts = [PARTS.get(word.strip().lower(), "") for word in words]
    order = {"test": 0, "val": 1, "train": 2, "": 3}
    for place in sorted(range(len(texts)), key=lambda place: order[parts[place]]):
        text = " ".join(unicodedata.normalize("NFC", texts[place]).split())
        label = tuple(value.strip() for value in labels[place])
        if not parts[place]:
            strange.add(words[place])
        elif not text or not all(label):
            empty += 1
        else:
            cut += len(text) > spec.max_length
            text = text[: spec.max_length]
            kept = seen.setdefault(text, (place, parts[place], label, text))
            equal += kept[0] != place
            conflicting += kept[2] != label
    notes = []
    if strange:
        left = parts.count("")
        notes.append(f"{left} rows left out that column {spec.split_column} puts into {_some(strange)}")
    if empty:
        notes.append(f"{empty} rows without text or label left out")
    if equal:
        notes.append(f"{equal} rows left out whose text another row has, {conflicting} of them labelled otherwise")
    if cut:
        notes.append(f"{cut} texts cut at {spec.max_length} characters")
    return sorted(seen.values()), notes


def _in_order(classes: set[str]) -> tuple[str, ...]:
    """By number where all are whole numbers, so that "10" follows "9"; else by code point."""
    try:
        return tuple(sorted(classes, key=int))
    except ValueError:
        return tuple(sorted(classes))


def _some(values: Collection[str]) -> str:
    """A few of the values, for a message."""
    return (", ".join(sorted(values)[:3]) or "nothing") + (", ..." if len(values) > 3 else "")


def _columns(spec: DataSpec, path: Path, wanted: tuple[str, ...]) -> list[list[str]]:
    """The wanted columns as text, "" where a value is missing."""
    import pyarrow

    if not path.is_file():
        raise UsageError(f"{spec.name}: {path} is not a file; name a .csv, .tsv, .jsonl or .parquet file")
    try:
        table = _table(spec, path, wanted)
        missing = [name for name in wanted if name not in table.column_names]
        if missing:
            raise UsageError(
                f"{spec.name}: no column {missing[0]}; the file has {', '.join(table.column_names)} "
                f"(text_column, label_columns and split_column choose)"
            )
        return [table[name].cast(pyarrow.string()).fill_null("").to_pylist() for name in wanted]
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise UsageError(f"{spec.name}: not readable as {path.suffix}: {' '.join(str(error).split())}") from None


def _table(spec: DataSpec, path: Path, wanted: tuple[str, ...]) -> pyarrow.Table:
    import pyarrow
    from pyarrow import csv, json, parquet

    kind = path.suffix.lower()
    if kind == ".parquet":
        return parquet.read_table(path)
    if kind not in (".csv", ".tsv", ".jsonl", ".ndjson"):
        raise UsageError(f"{spec.name}: {path.suffix or path.name} is not known; give .csv, .tsv, .jsonl or .parquet")
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{spec.name}: not UTF-8 at byte {error.start} (line {line}); convert it, e.g. iconv -f CP949 -t UTF-8"
        ) from None
    source = pyarrow.BufferReader(data)
    whole = len(data) + 1  # one block: a row may be of any length, and every column gets one type
    if kind in (".jsonl", ".ndjson"):
        return json.read_json(source, json.ReadOptions(block_size=whole))
    # Tab-separated values know no quoting (IANA text/tab-separated-values): a quotation mark is a character.
    parse = (
        csv.ParseOptions(newlines_in_values=True)
        if kind == ".csv"
        else csv.ParseOptions(delimiter="\t", quote_char=False, double_quote=False)
    )
    types = {name: pyarrow.string() for name in wanted}
    return csv.read_csv(
        source,
        read_options=csv.ReadOptions(block_size=whole),
        parse_options=parse,
        convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=False),
    )
