"""What a command prints. Text of others is shown, never obeyed; a pipe that closes or a full device loses nothing."""

from __future__ import annotations

import io
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any, TextIO

from bo_distill.distributed.storage import write_whole
from bo_distill.methods.errors import UsageError
from bo_distill.search.rows.export import printable


def print_table(headers: Sequence[str], lines: Sequence[Sequence[str]], file: TextIO | None = None) -> None:
    """A table on standard output, or in a file; figures to the right. Nothing is cut off, at any width.

    On a terminal that is too narrow for it, columns that say the same in every row are said once, above it; if that is
    not enough, each row is a paragraph.
    """
    out = file or sys.stdout
    room = shutil.get_terminal_size().columns if out.isatty() else None
    heads, rows = [*map(printable, headers)], [[*map(printable, line)] for line in lines]
    if room is not None and _width(heads, rows) > room:
        varies = [len(rows) == 1 or len(set(column)) > 1 for column in _columns(heads, rows)]
        if any(varies):
            named = [f"{head} {cell}" if cell else "" for head, cell in zip(heads, rows[0], strict=True)]
            alike = [words for words, own in zip(named, varies, strict=True) if words and not own]
            if alike:
                _wrapped(f"in every row: {', '.join(alike)}", room, file)
            heads, *rows = [[*compress(line, varies)] for line in (heads, *rows)]
        if _width(heads, rows) > room:
            for row in rows:
                first, *others = [f"{head} {cell}".strip() for head, cell in zip(heads, row, strict=True) if cell]
                _wrapped(f"{first}: {', '.join(others)}" if others else first, room, file)
            return
    _boxed(heads, rows, room, file)


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The cells below each head; none where there are no rows."""
    return [[row[place] for row in rows] for place in range(len(heads))]


def _width(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Columns of a terminal that the whole table takes."""
    from rich.cells import cell_len

    return 1 + sum(3 + max(map(cell_len, column)) for column in zip(heads, *rows, strict=True))


def _wrapped(text: str, room: int, file: TextIO | None) -> None:
    """A paragraph whose later lines are set in; words stay whole."""
    lines = textwrap.wrap(text, room, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    print("\n".join(lines), file=file)


def _boxed(heads: Sequence[str], rows: Sequence[Sequence[str]], room: int | None, file: TextIO | None) -> None:
    """The table in columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for head, column in zip(heads, _columns(heads, rows), strict=True):
        figures = all(cell[:1] in "+-0123456789" for cell in column)
        table.add_column(head, justify="right" if figures else "left")
    for row in rows:
        table.add_row(*row)
    # Names are text, also where they look like markup; in a notebook rich would show the table and not write it.
    width = room or 10_000
    Console(file=file, width=width, markup=False, highlight=False, emoji=False, force_jupyter=False).print(table)


def named_file(option: str, file: str) -> Path:
    """The place of a file that a person named, seen before there is anything to write.

    Raises:
        UsageError: no file can be there.
    """
    target = Path(file).expanduser().absolute()
    if not target.parent.is_dir():
        raise UsageError(f"{option} {file}: there is no such folder; make it or give another")
    if target.is_dir():
        raise UsageError(f"{option} {file}: this is a folder; give a file")
    return target


def write_named(option: str, file: str, content: bytes) -> None:
    """Write a file that a person named, whole or not at all: an older one is kept.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        write_whole(named_file(option, file), content)
    except OSError as error:
        raise UsageError(f"{option} {file} cannot be written: {error.strerror}; give another file") from None


class Output(io.RawIOBase):
    """Standard output that outlives its reader: what can no longer be written goes nowhere, and the command goes on."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def writable(self) -> bool:
        """True."""
        return True

    def fileno(self) -> int:
        """The descriptor that is written to."""
        return self.descriptor

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        return os.isatty(self.descriptor)

    def write(self, data: Any) -> int:
        """Write, or from the first failure on to nowhere; returns how many bytes are done with."""
        try:
            return os.write(self.descriptor, data)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                print(f"standard output: {error.strerror}; the rest of it is lost", file=sys.stderr)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.descriptor)
            os.close(nowhere)
            return len(data)


def outlive_reader() -> None:
    """Put an `Output` in the place of this process's own standard output, if nothing else stands there.

    Characters that the terminal's encoding lacks are written as escapes.
    """
    stdout = sys.stdout
    if stdout is not sys.__stdout__ or stdout is None:
        return
    stdout.flush()
    raw = Output(stdout.fileno())
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stdout.encoding, errors="backslashreplace", line_buffering=raw.isatty()
    )
