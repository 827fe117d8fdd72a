"""The leaderboard and what others wrote into it: damaged files, hostile text, full devices, exports."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bo_distill.distributed.storage import Storage
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.search import leaderboard
from bo_distill.search.rows.compaction import compact, verify
from bo_distill.search.rows.export import json_text, printable
from bo_distill.search.rows.files import of_study, parsed, write_row
from bo_distill.search.rows.row import COMPACTED, ROWS, named, record_of, schema
from bo_distill.search.rows.sql import read
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Plan, Task
from helpers.made_up import START
from helpers.made_up import row as make


def command(storage: Storage, *words: str) -> int:
    return leaderboard.main([words[0], "--storage", storage.uri, *words[1:]])


@pytest.fixture
def filled(storage: Storage) -> Storage:
    for trial in range(30):
        write_row(storage, make(trial))
    write_row(storage, make(0, study="beta", finished=START + timedelta(hours=1)))
    return storage


def put_table(storage: Storage, folder: str, table: pa.Table) -> str:
    """A file whose name has the right digest, whatever is in it."""
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    name = named(folder, f"{len(table):06d}" if folder == COMPACTED else "alpha-search-00007", buffer.getvalue())
    storage.write_bytes(name, buffer.getvalue())
    return name


def foreign(how: str) -> pa.Table:
    table = pa.Table.from_pylist([record_of(make(7))], schema=schema())
    at = table.column_names.index
    match how:
        case "duplicate column":
            return table.append_column("trial", pa.array([8]))
        case "no schema version":
            return table.set_column(at("schema_version"), "schema_version", pa.array([None], pa.int64()))
        case "no column trial":
            return table.drop_columns(["trial"])
        case "text in trial":
            return table.set_column(at("trial"), "trial", pa.array(["seven"]))
        case "1e300 in trial":
            return table.set_column(at("trial"), "trial", pa.array([1e300]))
        case "text in accuracy":
            return table.set_column(at("val_accuracy"), "val_accuracy", pa.array(["good"]))
        case "study is not UTF-8":
            return table.set_column(at("study"), "study", pa.array([b"\xff\xfe"], pa.binary()).view(pa.string()))
        case "config is no JSON":
            return table.set_column(at("config"), "config", pa.array(["{"]))
        case _:
            return table.set_column(at("config"), "config", pa.array(["[" * 100_000]))


BAD = ["duplicate column", "no schema version", "no column trial", "text in trial", "1e300 in trial",
       "text in accuracy", "study is not UTF-8", "config is no JSON", "config nested deep"]  # fmt: skip


@pytest.mark.parametrize("folder", [ROWS, COMPACTED])
@pytest.mark.parametrize("how", BAD)
def test_one_bad_file_never_stops_the_leaderboard(
    storage: Storage, folder: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for trial in range(3):
        write_row(storage, make(trial))
    compact(storage)
    write_row(storage, make(3))
    bad = put_table(storage, folder, foreign(how))
    assert verify(storage)
    for words in (["show", "--sort", "trial"], ["show", "--json"], ["studies"], ["export", "json"], ["export", "csv"],
                  ["query", "SELECT count(*) FROM leaderboard"], ["diff", "alpha", "alpha/search/1"]):  # fmt: skip
        assert command(storage, *words) == 0, words
    kept = 5 if how.startswith("config") else 4
    assert len(read(storage)) == kept and len(of_study(storage, "alpha")) == kept
    assert ("moved to leaderboard/quarantine" in capsys.readouterr().err) == (kept == 4) == (not storage.exists(bad))
    if kept == 5:
        assert command(storage, "reproduce", "alpha/search/7") == 2
        assert "its config is not JSON" in capsys.readouterr().err
    compact(storage)
    assert len(read(storage)) == kept


def test_flipped_bits_of_rows_are_seen(storage: Storage) -> None:
    for trial in range(4):
        write_row(storage, make(trial))
    loose = storage.list(ROWS)[0]
    compact_of = {loose: storage.read_bytes(loose)}
    compact(storage)
    packed = storage.list(COMPACTED)[0]
    compact_of[packed] = storage.read_bytes(packed)
    random = np.random.default_rng(0)
    for name, content in compact_of.items():
        for bit in random.integers(len(content) * 8, size=1000).tolist():
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ValueError, match="not what was written"):
                parsed(name, bytes(damaged))


HOSTILE = "\x1b[2J\x9b31m=cmd|'/c calc'!A0 <script>alert(1)</script> \u202e [bold]x[/bold] | `y`"


def test_text_of_others_is_shown_and_not_obeyed(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    write_row(storage, make(0, study=HOSTILE, reason="=1+1", status="failed", config={"a": HOSTILE, "=b": 1}))
    write_row(storage, make(1, study=HOSTILE, config={"a": "x", "=b": 2}))
    pair = [f"{HOSTILE}/search/{trial}" for trial in (0, 1)]
    for words in (["show"], ["studies"], ["diff", *pair, "--all"], ["verify"], ["show", "--top", "1"], ["export", "md"],
                  ["query", "SELECT study, reason FROM leaderboard"]):  # fmt: skip
        assert command(storage, *words) == 0, words
        said = "".join(capsys.readouterr())
        assert not {c for c in said if ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e"} - {"\n"}, words
        assert words[0] == "export" or "[bold]" in said or words == ["verify"]
        assert "<script>" not in said or words[0] != "export"
    assert command(storage, "export", "csv", "--sort", "trial") == 0
    first = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert first["reason"] == "'=1+1" and first["config.a"] == printable(HOSTILE) and float(first["seconds"]) == 12.5


def test_json_is_json(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    write_row(storage, make(0))
    values = "sum(trial) AS n, 'nan'::DOUBLE AS a, 'inf'::DOUBLE AS b, 'x'::BLOB AS c, 1.5::DECIMAL(9, 2) AS d"
    assert command(storage, "query", f"SELECT {values} FROM leaderboard", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 0, "a": None, "b": None, "c": "x", "d": 1.5}]
    assert json.loads(json_text({"truth": float("nan"), "all": (float("inf"), 1)})) == {"truth": None, "all": [None, 1]}


def test_an_export_that_fails_keeps_the_older_file(
    filled: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.csv"
    out.write_text("older")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bo_distill.distributed.storage.os.fsync", full)
    assert command(filled, "export", "csv", "--out", str(out)) == 2
    assert (
        "No space left" in capsys.readouterr().err and out.read_text() == "older" and len(list(tmp_path.iterdir())) == 2
    )
    assert command(filled, "export", "csv", "--out", str(tmp_path)) == 2
    assert command(filled, "export", "csv", "--out", str(tmp_path / "no" / "x.csv")) == 2


def test_a_full_device_and_the_options_before_the_verb(filled: Storage) -> None:
    words = [sys.executable, "-m", "search.leaderboard", "--storage", filled.uri, "show"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and done.stderr.startswith("standard output: No space left on device")


def test_settings_that_differ_are_columns(filled: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(filled, "show", "--study", "alpha", "--top", "3") == 0
    header, _, first, *_ = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert header[-1] == "transfer.lr" and first[-1] == "29.1"  # milestones are equal in all rows
    assert command(filled, "studies") == 0
    header, _, *lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert header[0] == "study" and sorted(line[0] for line in lines) == ["alpha", "beta"]


def test_export_to_optuna(filled: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optuna = pytest.importorskip("optuna")
    url = f"sqlite:///{tmp_path / 'rows.db'}"
    write_row(filled, make(30, val_accuracy=0.0, config={"transfer.milestones": (1.0, 2.0)}))  # knows no transfer.lr
    write_row(filled, make(31, val_accuracy=0.5, status="pruned"))
    assert command(filled, "export", "optuna", url) == 0
    study = optuna.load_study(study_name="alpha", storage=url)
    assert study.trials[31].state.name == "PRUNED"
    assert (
        len(study.trials) == 32 and study.trials[30].params == {} and study.best_trial.params == {"transfer.lr": 29.1}
    )
    write_row(filled, make(study="aa"))
    assert command(filled, "export", "optuna", url) == 2 and "already" in capsys.readouterr().err
    assert "aa" not in optuna.get_all_study_names(url), "nothing is half written"
    assert command(filled, "export", "optuna") == 2


def test_export_to_optuna_by_the_metrics_of_the_study(storage: Storage, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    task = Task("alpha", "fsp", "quick", DataSpec("digits"), {}, storage.uri, 0)
    Study(storage, Plan(task, "random", ("transfer.lr",), 4, metrics=("val_loss", "macs"))).save_plan()
    for trial in range(4):
        write_row(storage, make(trial, val_loss=1.0 - trial / 10, macs_forward=1000 + trial))
    url = f"sqlite:///{tmp_path / 'rows.db'}"
    assert command(storage, "export", "optuna", url) == 0
    study = optuna.load_study(study_name="alpha", storage=url)
    assert study.user_attrs["metrics"] == ["val_loss", "macs"]
    assert [d.name for d in study.directions] == ["MINIMIZE"] * 2
    assert [trial.values for trial in study.trials] == [[1.0 - n / 10, 1000.0 + n] for n in range(4)]
