"""Columns of CSV, TSV, JSON Lines and Parquet files, as text: what stands in the file, never another type's words."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bo_distill.methods.data.texts.encodings import not_utf8, utf8
from bo_distill.methods.errors import UsageError

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}
"""Of these the first under which the header has the wanted columns."""
NAMES, NAME = 30, 40  # names of columns that a message has, and characters of each
BLOCK = 1 << 30  # bytes of a CSV file that are parsed at once; a row must fit in


@dataclass(frozen=True)
class Layout:
    """How a table lies in its file.

    Attributes:
        delimiter: one character, or None to find it in the header.
        columns: names, for files without a header. A file whose first line has the wanted names has one all the same.
        encoding: None is UTF-8.
    """

    delimiter: str | None = None
    columns: tuple[str, ...] = ()
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise UsageError(f"--delimiter {self.delimiter!r}: give one character")


def kind_of(path: Path) -> str:
    """The suffix that tells a table's format, in lower case, without `.gz`; "" where it tells none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else ""


def columns(name: str, path: Path, wanted: Sequence[str], layout: Layout) -> list[list[str]]:
    """The wanted columns as text, "" where a value is missing (no value, null, a float NaN).

    Whole floats are written as whole numbers, since a column with a missing value often holds 1.0 for 1.

    Args:
        name: of the file, for messages.

    Raises:
        UsageError: a file that cannot be read, is not of its format or lacks a column; one line.
    """
    import pyarrow

    kind = kind_of(path)
    try:
        if kind == ".parquet":
            return _parquet(name, path, wanted, layout)
        data = utf8(name, path, layout.encoding)
        if not data.strip():
            raise UsageError(f"{name}: not readable as {kind}: the file is empty")
        if kind in (".jsonl", ".ndjson"):
            return _json_lines(name, data, wanted)
        return _csv(name, data, wanted, layout, kind)
    except (pyarrow.ArrowException, OSError, EOFError, KeyError) as error:
        raise UsageError(f"{name}: not readable as {kind}: {' '.join(str(error).split())}") from None


def _check(name: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    for column in wanted:
        if column not in found:
            names = ", ".join([*(str(one)[:NAME] for one in found[:NAMES]), *(["..."] if len(found) > NAMES else [])])
            raise UsageError(
                f"{name}: no column {column}; the file has {names} "
                "(--text-column, --label-column and --split-column choose, --columns names a headerless file's)"
            )
        if list(found).count(column) > 1:
            raise UsageError(f"{name}: several columns are called {column}; rename all but one")


def _csv(name: str, data: bytes, wanted: Sequence[str], layout: Layout, kind: str) -> list[list[str]]:
    import pyarrow
    from pyarrow import csv as arrow_csv

    data = data.lstrip(b"\r\n")  # the names are in the first line that has anything
    # Tab-separated values know no quoting (IANA text/tab-separated-values): a quotation mark is a character.
    quoted = kind == ".csv"
    header, delimiter, named = _header(data, wanted, layout, kind)
    _check(name, wanted, header)
    table = arrow_csv.read_csv(
        pyarrow.BufferReader(data),
        read_options=arrow_csv.ReadOptions(
            block_size=min(len(data) + 1, BLOCK), column_names=[str(n) for n in range(len(header))],
            skip_rows_after_names=1 if named else 0,
        ),
        parse_options=arrow_csv.ParseOptions(
            delimiter=delimiter, quote_char='"' if quoted else False, double_quote=quoted, newlines_in_values=quoted
        ),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=[str(header.index(column)) for column in wanted],
            column_types={str(header.index(column)): pyarrow.string() for column in wanted},
            strings_can_be_null=False,
        ),
    )  # fmt: skip
    return [table.column(number).to_pylist() for number in range(len(wanted))]


def _header(data: bytes, wanted: Sequence[str], layout: Layout, kind: str) -> tuple[list[str], str, bool]:
    """The names of the columns, the delimiter, and whether the first line is one of names. Where some wanted column is
    missing, the delimiter is that under which the fewest are."""
    start = io.StringIO(data[: 1 << 20].decode("utf-8", "replace"), newline="")
    usual = (layout.delimiter or DELIMITERS[kind])[0]
    likely: tuple[list[str], str] = [], usual
    for delimiter in layout.delimiter or DELIMITERS[kind]:
        start.seek(0)
        try:
            header = next(
                (
                    row
                    for row in csv.reader(
                        start, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if kind == ".csv" else csv.QUOTE_NONE
                    )
                    if row
                ),
                [],
            )
        except csv.Error:
            continue
        if set(wanted) <= set(header):
            return header, delimiter, True
        likely = max(likely, (header, delimiter), key=lambda one: (len({*wanted} & {*one[0]}), len(one[0])))
    return (list(layout.columns), usual, False) if layout.columns else (*likely, True)


def _json_lines(name: str, data: bytes, wanted: Sequence[str]) -> list[list[str]]:
    found: dict[str, None] = {}
    rows: list[list[str]] = [[] for _ in wanted]
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UsageError(
                f"{name}: not readable as .jsonl: line {number}: {error}; give one object a line"
            ) from None
        if not isinstance(record, dict):
            raise UsageError(f"{name}: not readable as .jsonl: line {number} is no object; give one object a line")
        found |= dict.fromkeys(record)
        for column, values in zip(wanted, rows, strict=True):
            values.append(_text(name, column, record.get(column)))
    _check(name, wanted, list(found))
    return rows


def _text(name: str, column: str, value: Any) -> str:
    """A JSON value, or one of Parquet's simple ones, as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    raise UsageError(f"{name}: column {column} holds {type(value).__name__} values; give texts or numbers")


def _parquet(name: str, path: Path, wanted: Sequence[str], layout: Layout) -> list[list[str]]:
    from pyarrow import parquet

    _check(name, wanted, parquet.read_schema(path).names)
    table = parquet.ParquetFile(path).read(columns=list(wanted))
    return [_column(name, column, table[column], layout) for column in wanted]


def _column(name: str, column: str, values: pyarrow.ChunkedArray, layout: Layout) -> list[str]:
    import pyarrow
    from pyarrow import types

    kind = values.type.value_type if types.is_dictionary(values.type) else values.type
    if types.is_nested(kind):
        raise UsageError(f"{name}: column {column} holds {kind} values; give texts or numbers")
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_null(kind):
        return [_text(name, column, value) for value in values.to_pylist()]
    if not (
        types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    ):
        values = values.cast(pyarrow.string())  # dates, decimals
    try:
        return [value if isinstance(value, str) else (value or b"").decode() for value in values.to_pylist()]
    except UnicodeDecodeError:
        pass
    texts = []
    for number, value in enumerate(values.cast(pyarrow.large_binary()).to_pylist(), 1):
        try:
            texts.append((value or b"").decode(layout.encoding or "utf-8"))
        except LookupError:
            raise UsageError(f"--encoding {layout.encoding}: no such encoding; give one that Python knows") from None
        except UnicodeDecodeError:
            raise UsageError(f"{name}: column {column}, row {number}: {not_utf8(value)}") from None
    return texts
