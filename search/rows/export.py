"""Rows of the leaderboard in other formats. What others wrote into them is data: it starts no formula and no markup."""

from __future__ import annotations

import decimal
import html
import json
import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bo_distill.search.rows.row import schema

if TYPE_CHECKING:
    import pyarrow as pa

# A spreadsheet takes text that begins so for a formula; an apostrophe in front makes it text.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: str) -> str:
    """`text` without what a terminal would obey: controls and directions are written as escapes, lines stay lines."""
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") else _escaped(c) for c in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def mappings() -> set[str]:
    """Columns that hold JSON objects."""
    return {field.name for field in schema() if b"json" in field.metadata}


def plain(table: pa.Table) -> list[dict[str, Any]]:
    """Records as JSON can hold them: mappings as objects, times as text, what is not finite as None."""
    objects = mappings()
    return [
        {name: _unpacked(value) if name in objects else jsonable(value) for name, value in record.items()}
        for record in table.to_pylist()
    ]


def _unpacked(value: Any) -> Any:
    try:
        return jsonable(json.loads(value))
    except (TypeError, ValueError, RecursionError):  # written by others; shown as it stands
        return jsonable(value)


def jsonable(value: Any) -> Any:
    """A value as JSON can hold it: numbers as numbers, what is not finite as None, all else that is unknown as text."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case decimal.Decimal():  # DuckDB's sums of whole numbers
            return int(value) if value == value.to_integral_value() else float(value)
        case None | bool() | int() | str():
            return value
        case bytes():
            return value.decode("utf-8", "backslashreplace")
        case dict():
            return {str(name): jsonable(part) for name, part in value.items()}
        case list() | tuple():
            return [jsonable(part) for part in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def json_text(value: Any) -> str:
    """What a command prints with --json."""
    return json.dumps(jsonable(value), indent=1, allow_nan=False)


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose objects are columns of their own: config as config.transfer.lr and so on."""
    result: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            result |= {f"{name}.{key}": part for key, part in value.items()}
        else:
            result[name] = value
    return result


def exported(table: pa.Table, form: str) -> bytes:
    """A file in the format "json", "csv", with a column for each setting, or "parquet"."""
    if form == "json":
        return json.dumps(plain(table), indent=2, allow_nan=False).encode() + b"\n"
    if form == "csv":
        return _csv([flat(record) for record in plain(table)], table.column_names)
    import pyarrow as pa
    from pyarrow import parquet

    buffer = pa.BufferOutputStream()
    parquet.write_table(table, buffer, compression="zstd")
    return bytes(buffer.getvalue())


def _csv(records: list[dict[str, Any]], columns: list[str]) -> bytes:
    import csv
    import io

    names = list(dict.fromkeys(name for record in records for name in record))
    # Where there is no row there is a header all the same.
    names = names or [name for name in columns if name not in mappings()]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_harmless(name) for name in names])
    for record in records:
        writer.writerow([_harmless(record.get(name)) for name in names])
    return out.getvalue().encode()


def _harmless(value: Any) -> Any:
    text = printable(_word(value))
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULA) else text


def _word(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def literal(text: str) -> str:
    """Text of others as a cell of a Markdown table: one line without markup, be it HTML or a link."""
    text = html.escape(printable(" ".join(text.split())), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|" else c for c in text)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown; what others wrote becomes it by `literal`."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (columns, ["---"] * len(columns), *rows))
