"""What a command prints. Text of others is shown, never obeyed; a pipe that closes or a full device loses nothing."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from bo_distill.distributed.storage import write_whole
from bo_distill.methods.errors import UsageError
from bo_distill.search.rows.export import printable


def print_table(headers: Sequence[str], lines: Sequence[Sequence[str]], file: TextIO | None = None) -> None:
    """A table on standard output, or in a file; figures to the right. In a pipe nothing is cut off or wrapped."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for header, column in zip(headers, zip(*lines, strict=True), strict=True):
        figures = all(cell[:1] in "+-0123456789" for cell in column)
        table.add_column(printable(header), justify="right" if figures else "left")
    for line in lines:
        table.add_row(*(printable(cell) for cell in line))
    # Names are text, also where they look like markup.
    width = None if (file or sys.stdout).isatty() else 10_000
    Console(file=file, width=width, markup=False, highlight=False, emoji=False).print(table)


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
