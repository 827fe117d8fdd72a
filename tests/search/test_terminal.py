"""What is printed: nothing is lost with a reader that goes, and what was left out of the data is said."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
from pathlib import Path

import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.methods.data import load
from bo_distill.methods.data.account import Account, LeftOut
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError
from bo_distill.search.command.reading import tell_reading
from bo_distill.search.command.terminal import Output, print_table, write_named
from bo_distill.search.evidence.summary import summarise
from helpers.made_up import made_up


def test_a_command_outlives_the_reader_of_what_it_prints(tmp_path: Path) -> None:
    """As of `search.predict --json | head`."""
    reader, writer = os.pipe()
    out = Output(writer)
    assert out.write(b"first\n") == 6 and os.read(reader, 6) == b"first\n"
    os.close(reader)
    assert out.write(b"second\n") == 7 and out.write(b"third\n") == 6
    os.close(writer)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [200, 60, 40, 12])
def test_a_table_is_read_whole_at_any_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    heads = ("study", "trial", "control", "val %", "transfer.weight", "reason")
    rows = [("fsp-bo-20261126", str(n), "", f"9{n}.5", "0.1", f"diverged: loss of batch {n} is nan") for n in range(3)]
    print_table(heads, rows, told := Terminal())
    text = re.sub(r"\x1b\[\d*m", "", told.getvalue())
    lines, words = text.splitlines(), " ".join(text.split())
    assert "…" not in words and all(cell in words for row in rows for cell in row)
    longest = max(len(word) for row in rows for word in " ".join(row).split())
    assert max(map(len, lines)) <= max(columns, longest + 5)
    if columns == 60:
        assert lines[0] == "in every row: study fsp-bo-20261126, transfer.weight 0.1"
    if columns == 40:
        assert "trial 1: val % 91.5, reason diverged: loss of batch 1 is nan" in words


def test_a_table_may_have_no_rows_and_equal_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    print_table(("study", "its folder"), [], told := io.StringIO())
    print_table(("study", "study"), [("one", "two")], told)
    assert re.findall(r"\w+", told.getvalue()) == ["study", "its", "folder", "study", "study", "one", "two"]
    monkeypatch.setenv("COLUMNS", "10")
    print_table(("study", "its folder"), [], Terminal())
    print_table(("study", "study"), [("one", "two")], told := Terminal())
    assert told.getvalue().split() == ["study", "one:", "study", "two"]


def test_a_table_for_a_text_is_in_it_in_a_notebook_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    print_table(("trial", "status"), [("1", "done")], text := io.StringIO())
    assert "trial" in text.getvalue() and "done" in text.getvalue()


def test_a_full_device_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    out = Output(full)
    assert out.write(b"some") == 4 and out.write(b"more") == 4
    os.close(full)
    assert capsys.readouterr().err == "standard output: No space left on device; the rest of it is lost\n"


def test_a_file_that_a_person_names_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    write_named("--out", str(out), b"older")
    monkeypatch.setattr("bo_distill.distributed.storage.os.fsync", full)
    for file, said in ((out, "No space left on device"), (tmp_path, "a folder"), (tmp_path / "no" / "x", "no such")):
        with pytest.raises(UsageError, match=f"--out {file}.*{said}"):
            write_named("--out", str(file), b"newer")
    assert out.read_bytes() == b"older" and list(tmp_path.iterdir()) == [out]


def test_what_was_left_out_of_the_data_is_said(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    info = load(DataSpec("digits")).info
    assert summarise(made_up(storage, trials=2), 1.0)["data"]["account"] == dataclasses.asdict(info.account)
    account = Account(info.account.rows, (LeftOut("empty", 3),), ("826 texts cut\x1b[31m",))
    tell_reading(dataclasses.replace(info, account=account))
    assert capsys.readouterr().err.splitlines() == [
        "data: 3 rows left out: without text or label",
        "data: 826 texts cut\\x1b[31m",
    ]
    assert json.loads(json.dumps(dataclasses.asdict(account)))["left_out"][0]["count"] == 3
