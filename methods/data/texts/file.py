"""`text:PATH`: labelled sentences in a CSV, TSV, JSON Lines or Parquet file, or in a folder of them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

from bo_distill.methods.data.account import LeftOut, some
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.data.parts import column_parts, column_words, named_parts
from bo_distill.methods.data.source import Source
from bo_distill.methods.data.texts.sentences import sentences
from bo_distill.methods.data.texts.tables import SUFFIXES, Layout, columns, kind_of
from bo_distill.methods.errors import UsageError

BAND = re.compile(r"([^=,]+)=(-?\d+)-(-?\d+)")
"""A class of a column of numbers, both ends included."""

Bands = tuple[tuple[str, int, int], ...]
"""(class, low, high)"""


def read(spec: DataSpec) -> Source:
    """Sentences of a file, divided as `split_column` says, else as the names of a folder's files, else here.

    A label column of numbers may be cut into classes, `rating:bad=1-4,good=9-10`; rows outside of all are left out.
    A split column may say what its values mean, `split:train=train,val=dev,test=test+holdout`.

    Raises:
        UsageError: a file that is missing, not UTF-8, not of its format, or lacks a column; parts that are not
            understood; as `sentences`. The message is one line.
    """
    path = Path(spec.name.partition(":")[2]).expanduser()
    layout = Layout(spec.delimiter, tuple(spec.columns.split(",")) if spec.columns else (), spec.encoding)
    tasks, bands = zip(*(_bands(spec.name, label) for label in spec.label_columns), strict=True)
    split, words = column_words(spec.name, spec.split_column) if spec.split_column else ("", {})
    wanted = (spec.text_column, *tasks, *((split,) if split else ()))
    files, left_out = _files(spec, path)
    table: list[list[str]] = [[] for _ in wanted]
    of_file: list[str] = []
    for file, part in files:
        name = spec.name if file == path else f"{spec.name}: {file.relative_to(path)}"
        found = columns(name, file, wanted, layout)
        of_file += [part] * len(found[0])
        for values, more in zip(table, found, strict=True):
            values += more
    given: list[str] | None = of_file if any(of_file) else None
    if split:
        if given:
            raise UsageError(f"{spec.name}: its files are parts already; leave --split-column {split} out")
        given, strange = _given(spec, split, words, table.pop())
        left_out += strange
    texts, *labels = table
    banded = [
        [_band(value, own) for value in values] if own else values for values, own in zip(labels, bands, strict=True)
    ]
    source = sentences(spec, tasks, texts, banded, given, left_out)
    return replace(source, reading={"text_column": spec.text_column, **asdict(layout)})


def _files(spec: DataSpec, path: Path) -> tuple[list[tuple[Path, str]], tuple[LeftOut, ...]]:
    """The files of a table with the part that each one's name or folder means, "" for none; what else there is."""
    if path.is_file():
        if not kind_of(path):
            raise UsageError(f"{spec.name}: {path.suffix or path.name} is not known; give {', '.join(SUFFIXES)}")
        return [(path, "")], ()
    if not path.is_dir():
        raise UsageError(f"{spec.name}: {path} is not a file; name a {', '.join(SUFFIXES)} file or a folder of them")
    every = sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in every if kind_of(file) and not file.name.startswith(".")]
    if not files:
        raise UsageError(f"{spec.name}: no table in this folder; it needs {', '.join(SUFFIXES)} files")
    top = {file: file.relative_to(path).parts[0] for file in files}
    kinds = "file" if all(file.parent == path for file in files) else "folder"
    parts = named_parts(spec.name, {_stem(name) for name in top.values()}, kinds)
    if parts and (unnamed := sorted({name for name in top.values() if _stem(name) not in parts})):
        raise UsageError(
            f"{spec.name}: {unnamed[0]} is no part beside {some(parts)}; name it train, val or test, or move it away"
        )
    if parts and "train" not in parts.values():
        raise UsageError(f"{spec.name}: {some(parts)} but no training file; add train.csv or the like")
    others = Counter(file.suffix.lower() or file.name for file in every if file not in top)
    what = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
    beside = (LeftOut("not looked into", sum(others.values()), what),) if others else ()
    return [(file, parts.get(_stem(name), "")) for file, name in top.items()], beside


def _stem(name: str) -> str:
    """`train.csv.gz` -> train; a folder's name stays."""
    return name.partition(".")[0]


def _given(
    spec: DataSpec, column: str, words: dict[str, str], values: list[str]
) -> tuple[list[str], tuple[LeftOut, ...]]:
    """The part of each row, "" for rows of none, and what is said of those."""
    meaning = column_parts(spec.name, column, values, words)
    given = [meaning[value.strip()] for value in values]
    strange = Counter(value.strip() or "no value" for value, part in zip(values, given, strict=True) if not part)
    if "train" not in given:
        raise UsageError(f"{spec.name}: column {column} names no train row; it holds {some(set(values))}")
    what = f"column {column}: " + ", ".join(f"{value} {count:,}" for value, count in strange.most_common(5))
    return given, (LeftOut("unknown part", strange.total(), what),) if strange else ()


def _bands(data: str, label: str) -> tuple[str, Bands]:
    """`rating:bad=1-4,good=9-10` as the column and its classes; a plain column has none.

    Raises:
        UsageError: a number would be of two classes, or of none because the ends of a class are the wrong way round.
    """
    column, colon, words = label.partition(":")
    parts = [BAND.fullmatch(word) for word in words.split(",")]
    if not colon or not all(parts):
        return label, ()
    bands = tuple((part[1], int(part[2]), int(part[3])) for part in parts if part)
    for name, low, high in bands:
        if low > high:
            raise UsageError(f"{data}: --label-column {label}: {name}={low}-{high}: give the lower end first")
    for (name, _, high), (other, low, _) in pairwise(sorted(bands, key=lambda band: band[1])):
        if low <= high:
            raise UsageError(
                f"{data}: --label-column {label}: {low} is in {name} and in {other}; give it to one of them"
            )
    return column, bands


def _band(value: str, bands: Bands) -> str:
    """The class whose band a number is in; "", which leaves the row out, where there is none."""
    try:
        number = float(value)
    except ValueError:
        return ""
    return next((name for name, low, high in bands if low <= number <= high), "")
