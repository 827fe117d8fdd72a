"""The leaderboard keeps every row, shows the newest of each trial, and one broken file costs no more than itself."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.search import leaderboard
from bo_distill.search.rows import export
from bo_distill.search.rows.compaction import compact, verify
from bo_distill.search.rows.files import of_study, parquet_files, write_row
from bo_distill.search.rows.row import COMPACTED, QUARANTINE, ROWS, Row, config_hash, from_table, named, schema
from bo_distill.search.rows.sql import read
from helpers.made_up import START
from helpers.made_up import row as make


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "results")


def command(storage: Storage, *words: str) -> int:
    return leaderboard.main([words[0], "--storage", storage.uri, *words[1:]])


def put(storage: Storage, table: pa.Table, folder: str = ROWS, label: str = "alpha-search-00099") -> str:
    """A file as another version of this package would have written it."""
    buffer = pa.BufferOutputStream()
    parquet.write_table(table, buffer)
    name = named(folder, label, bytes(buffer.getvalue()))
    storage.write_bytes(name, bytes(buffer.getvalue()))
    return name


# --- storage ---------------------------------------------------------------------------------------------------------


def test_storage_replaces_whole_files(storage: Storage) -> None:
    assert storage.list() == [] and not storage.exists()
    storage.write_bytes("a/b.gz", b"one")  # nothing is compressed because of a name
    storage.write_bytes("a/b.gz", b"two")
    assert storage.read_bytes("a/b.gz") == b"two" and storage.local_path("a/b.gz").read_bytes() == b"two"
    assert storage.list() == storage.list("a") == ["a/b.gz"] and storage.exists("a")
    storage.move("a/b.gz", "c/d")
    assert storage.list() == ["c/d"]
    storage.delete("c/d")
    storage.delete("c/d")
    assert storage.list() == []
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("c/d")


def test_storage_failed_write_keeps_the_old_file(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes("a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device; give a folder that can"):
        storage.write_bytes("a", b"new")
    assert storage.read_bytes("a") == b"old" and os.listdir(storage.uri) == ["a"]


def test_storage_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    Storage(tmp_path / "new" / "results").check_writable()
    Storage(tmp_path).check_writable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["/dev/null/results", "/proc/results"])
def test_storage_that_cannot_be_written_is_named(uri: str) -> None:
    storage = Storage(uri)
    for attempt in (storage.check_writable, lambda: storage.write_bytes("a/b", b"")):
        with pytest.raises(UsageError, match=f"--storage {uri} cannot be written: .+; give a folder that can"):
            attempt()


@pytest.mark.parametrize("uri", ["", "nonsense://x", "mock:///x"])
def test_storage_of_an_unknown_kind_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="give a folder"):
        Storage(uri)


def test_storage_names_stay_inside(storage: Storage) -> None:
    for name in ("/etc/passwd", "../x", "a/../../x"):
        with pytest.raises(ValueError, match="not a name inside"):
            storage.path(name)


def test_storage_means_the_same_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = pickle.loads(pickle.dumps(Storage("here")))
    monkeypatch.chdir("/")
    storage.write_bytes("x", b"1")
    assert (tmp_path / "here" / "x").exists() and storage.uri == str(tmp_path / "here")
    assert Storage(f"file://{tmp_path}/here").read_bytes("x") == b"1"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server of this process, where moto is installed."""
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed: object stores are not tested")
    from pyarrow import fs

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    place = {"scheme": "http", "endpoint_override": f"{host}:{port}", "region": "us-east-1"}
    fs.S3FileSystem(**place, allow_bucket_creation=True).create_dir("bucket")
    yield "s3://bucket/results?" + "&".join(f"{name}={value}" for name, value in place.items())
    running.stop()


def test_object_store(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    storage = Storage(bucket)
    storage.check_writable()
    assert storage.list() == [] and not storage.is_local
    with pytest.raises(ValueError, match="not a folder"):
        storage.local_path("x")
    for trial in range(3):
        write_row(storage, make(trial))
    storage.write_bytes("leaderboard/rows/broken-0.parquet", b"PAR1")
    expected = [make(trial) for trial in range(3)]
    assert from_table(read(storage)) == expected
    assert "broken" in capsys.readouterr().err and len(storage.list(QUARANTINE)) == 1
    compact(storage)
    assert storage.list(ROWS) == [] and from_table(read(storage)) == expected
    write_row(storage, make(1, reason="again", finished=START + timedelta(seconds=20)))
    assert read(storage, trial=1)["reason"].to_pylist() == ["again"]


# --- rows ------------------------------------------------------------------------------------------------------------

text = st.text(max_size=20)
numbers = st.floats() | st.integers(-(2**53), 2**53)
plain = st.dictionaries(text, st.none() | st.booleans() | numbers | text | st.lists(numbers, max_size=3), max_size=4)
counts = st.integers(0, 2**63 - 1)
times = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.timezones())
built = st.builds(
    make,
    trial=st.integers(0, 2**62),
    study=text,
    phase=st.sampled_from(["search", "final", "control"]),
    control=st.none() | text,
    reason=st.none() | text,
    config=plain,
    val_metrics=plain,
    val_accuracy=st.none() | st.floats(),
    test_loss=st.none() | st.floats(),
    macs_train=st.none() | counts,
    dirty=st.none() | st.booleans(),
    nodes=st.lists(text, max_size=3).map(tuple),
    started=times,
    finished=times,
)


@given(written=st.lists(built, min_size=1, max_size=30, unique_by=lambda row: row.id))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(written: list[Row], tmp_path: Path) -> None:
    storage = Storage(tmp_path / os.urandom(8).hex())
    for row in written:
        write_row(storage, row)
    table = read(storage)
    assert {row.id: row for row in from_table(table)} == {row.id: row for row in written}
    json.dumps(export.plain(table), allow_nan=False)
    compact(storage)
    assert read(storage).equals(table)


@given(config=plain)
def test_config_hash_does_not_depend_on_order(config: dict[str, Any]) -> None:
    assert config_hash(config) == config_hash(dict(reversed(config.items())))
    assert config_hash(config) != config_hash({**config, "more": 1})


def test_row_holds_what_the_file_will_hold() -> None:
    row = make(val_loss=float("nan"), val_metrics={"ece": float("inf")}, started=START.astimezone())
    assert row.val_loss is None and row.val_metrics == {"ece": None} and row.started.tzinfo is UTC
    assert row.config["transfer.milestones"] == [1.0, 2.0]
    assert row.id == "alpha/search/0"
    with pytest.raises(ValueError, match="time zone"):
        make(started=datetime(2026, 1, 1))


def test_schema_is_the_rows_and_says_what_columns_mean() -> None:
    assert schema().names == list(Row.__dataclass_fields__)
    assert all(field.metadata[b"help"] for field in schema())
    assert schema().field("macs_train").type == pa.int64() and schema().field("nodes").type == pa.list_(pa.string())
    assert schema().field("started").type == pa.timestamp("us", tz="UTC")


def test_same_row_twice_is_one_file(storage: Storage) -> None:
    for _ in range(2):
        write_row(storage, make())
    assert len(storage.list(ROWS)) == 1


@pytest.mark.parametrize("study", [".hidden", "_x", "a/b", "../up", "50%", "ä ö", "x-search-00001", "a*[b]?"])
def test_any_study_name_can_be_kept(storage: Storage, study: str) -> None:
    write_row(storage, make(study=study))
    compact(storage)
    write_row(storage, make(1, study=study))
    assert read(storage, study=study)["study"].to_pylist() == [study, study]
    assert of_study(storage, study).equals(read(storage, study=study))


def test_any_folder_name_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "weird").mkdir()
    storage = Storage(tmp_path / "we[i]r*d? it's")
    write_row(storage, make())
    compact(storage)
    assert from_table(read(storage)) == [make()]


def test_the_last_run_of_a_trial_counts(storage: Storage) -> None:
    interrupted = make(status="interrupted", val_accuracy=None)
    done = make(finished=START + timedelta(seconds=60))
    write_row(storage, interrupted)
    write_row(storage, make(7))
    compact(storage)
    write_row(storage, done)
    assert from_table(read(storage)) == [done, make(7)]
    write_row(storage, interrupted)  # late, from a slow disk: older rows never win
    write_row(storage, make(study="alpha-2"))
    assert from_table(read(storage, study="alpha")) == from_table(of_study(storage, "alpha")) == [done, make(7)]
    compact(storage)
    assert from_table(of_study(storage, "alpha")) == [done, make(7)] and parquet_rows(storage) == 3
    assert len(of_study(storage, "beta")) == 0
    assert verify(storage) == []


def parquet_rows(storage: Storage) -> int:
    return sum(parquet.read_metadata(storage.local_path(name)).num_rows for name in storage.list("leaderboard"))


def test_read_filters_sorts_and_selects(storage: Storage) -> None:
    for trial, accuracy in enumerate((0.3, None, 0.9, 0.5)):
        write_row(storage, make(trial, val_accuracy=accuracy, method="fsp" if trial else "res_ic"))
    assert read(storage, sort="-val_accuracy")["trial"].to_pylist() == [2, 3, 0, 1]
    assert read(storage, sort="val_accuracy", top=2)["trial"].to_pylist() == [0, 3]
    best = read(storage, columns=("trial", "finished"), sort="-val_accuracy", top=1, method="fsp")
    assert best.to_pylist() == [{"trial": 2, "finished": START + timedelta(seconds=10)}]
    assert len(read(storage, study="none")) == 0 and read(storage, study="none").schema == schema()
    with pytest.raises(UsageError, match=r"val_acuracy: .* did you mean val_accuracy"):
        read(storage, sort="-val_acuracy")
    with pytest.raises(UsageError, match="studdy: "):
        read(storage, studdy="alpha")


def test_no_leaderboard_reads_as_empty(storage: Storage) -> None:
    assert len(read(storage)) == 0 and compact(storage) == (0, 0) and verify(storage) == []


# --- versions of the schema ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [ROWS, COMPACTED])
def test_other_versions_are_read_beside_ours(storage: Storage, folder: str) -> None:
    write_row(storage, make(1))
    ours = read(storage)
    older = ours.drop_columns(["queue_seconds", "val_metrics", "ray"]).set_column(2, "trial", pa.array([2], pa.int32()))
    later = ours.set_column(2, "trial", pa.array([3])).set_column(0, "schema_version", pa.array([99]))
    for table in (older, later.append_column("joules", pa.array([5.0]))):
        put(storage, table, folder, label="000001")
    table = read(storage)
    assert table.schema == schema() and table["trial"].to_pylist() == [1, 2, 3]
    assert table["queue_seconds"].to_pylist() == [0.0, None, 0.0]
    assert table["study"].to_pylist() == ["alpha"] * 3 and "joules" not in table.column_names
    assert [row.val_metrics for row in from_table(table)] == [{}, {}, {}]


def test_compacting_never_drops_columns_of_a_later_version(storage: Storage) -> None:
    write_row(storage, make(1))
    later = read(storage).set_column(2, "trial", pa.array([2])).set_column(0, "schema_version", pa.array([99]))
    name = put(storage, later.append_column("joules", pa.array([5.0])))
    compact(storage)
    assert storage.list(ROWS) == [name] and len(storage.list(COMPACTED)) == 1
    assert read(storage)["trial"].to_pylist() == [1, 2] and verify(storage) == []


# --- broken files ----------------------------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:  # in the middle of a page: the footer is whole
        path.write_bytes(data[:40] + bytes(255 - byte for byte in data[40:1200]) + data[1200:])


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_broken_file_is_set_aside(
    storage: Storage, how: str, compacted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    for trial in range(20):
        write_row(storage, make(trial))
    if compacted:
        compact(storage)
    broken = storage.list("leaderboard")[0]
    write_row(storage, make(20))
    damage(storage.local_path(broken), how)
    left = [20] if compacted else list(range(1, 21))
    assert verify(storage)[0].startswith(f"{broken}: cannot be read")
    assert storage.exists(broken)  # verify changes nothing
    assert read(storage)["trial"].to_pylist() == left
    err = capsys.readouterr().err
    assert broken in err and "moved to leaderboard/quarantine" in err and len(err.splitlines()) == 1
    assert storage.list(QUARANTINE) == [broken.replace(broken.rsplit("/", 1)[0], QUARANTINE)]
    assert read(storage)["trial"].to_pylist() == left and capsys.readouterr().err == ""
    assert "set aside" in verify(storage)[0]


@pytest.mark.parametrize("compacted", [False, True])
def test_a_broken_file_on_a_read_only_storage_is_only_named(
    storage: Storage, compacted: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_row(storage, make(0))
    if compacted:
        compact(storage)
    broken = storage.list("leaderboard")[0]
    write_row(storage, make(1))
    damage(storage.local_path(broken), "truncated")

    def read_only(*_: object) -> None:
        raise UsageError("read-only file system")

    monkeypatch.setattr(Storage, "move", read_only)
    assert read(storage)["trial"].to_pylist() == [1]
    assert "left out" in capsys.readouterr().err and storage.exists(broken)


def test_a_network_that_is_down_condemns_no_file(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    write_row(storage, make())

    def down(self: Storage, name: str) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Storage, "read_bytes", down)
    with pytest.raises(OSError, match="Input/output"):
        read(storage)
    assert storage.list(QUARANTINE) == [] and len(storage.list(ROWS)) == 1


def test_verify_finds_what_is_wrong(storage: Storage) -> None:
    write_row(storage, make(0))
    good = read(storage)
    assert verify(storage) == []

    def with_(**values: Any) -> pa.Table:
        return pa.Table.from_pylist([good.to_pylist()[0] | values], schema=schema())

    put(storage, with_(trial=1, config_hash="0" * 16))
    put(storage, with_(trial=2, status="lost", val_accuracy=93.0, device=None))
    put(storage, with_(trial=3, val_metrics="{", finished=START - timedelta(days=1)))
    put(storage, with_(trial=0, seed=5))
    problems = "\n".join(verify(storage))
    for expected in (
        f"alpha/search/1: config_hash is {'0' * 16}, of config {make().config_hash}",
        "alpha/search/2: status is lost, not one of done, failed, pruned, interrupted",
        "alpha/search/2: val_accuracy is 93.0, not between 0 and 1",
        "alpha/search/2: device is missing",
        "alpha/search/3: val_metrics is not JSON",
        "alpha/search/3: finished before it started",
        "alpha/search/0: names 2 different trials",
    ):
        assert expected in problems
    compact(storage)  # two trials under one name are both kept, so that somebody can tell them apart
    assert "alpha/search/0: names 2 different trials" in "\n".join(verify(storage))


# --- many at once ----------------------------------------------------------------------------------------------------


def test_writers_compactions_and_readers_lose_nothing(storage: Storage) -> None:
    written = [make(trial) for trial in range(200)]
    context = multiprocessing.get_context("forkserver")  # a fork of this process would inherit Arrow's threads
    context.set_forkserver_preload(["bo_distill.search.rows.sql", "pyarrow.parquet", "duckdb"])
    with context.Pool(8) as writers, context.Pool(2) as compactors:
        writing = writers.starmap_async(write_row, [(storage, row) for row in written], chunksize=1)
        seen = 0
        while not writing.ready():
            compacting = compactors.map_async(compact, [storage, storage])
            count = len(read(storage, columns=("trial",)))
            assert count >= seen  # what was once shown is never missing later
            seen = count
            compacting.get()
        writing.get()
    assert from_table(read(storage)) == written
    compact(storage)
    assert from_table(read(storage)) == written
    assert storage.list(ROWS) == storage.list(QUARANTINE) == [] and verify(storage) == []


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_compaction_between_listing_and_reading_hides_nothing(
    storage: Storage, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for trial in range(3):
        write_row(storage, make(trial))
    compact(storage)
    for trial in range(3, 6):
        write_row(storage, make(trial))
    calls = 0

    def then_compact(storage: Storage, folder: str) -> list[str]:
        nonlocal calls
        names = parquet_files(storage, folder)
        calls += 1
        if calls == moment:
            with monkeypatch.context() as patch:
                patch.setattr("bo_distill.search.rows.files.parquet_files", parquet_files)
                compact(storage)
        return names

    monkeypatch.setattr("bo_distill.search.rows.files.parquet_files", then_compact)
    assert read(storage)["trial"].to_pylist() == list(range(6))
    assert len(storage.list("leaderboard")) == 1  # it did run


def test_compacted_files_are_sorted_and_bounded(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bo_distill.search.rows.compaction.ROWS_PER_FILE", 10)
    for trial in range(24):
        write_row(storage, make(trial))
    compact(storage)
    tables = [parquet.read_table(storage.local_path(name)) for name in storage.list(COMPACTED)]
    assert sorted(map(len, tables)) == [4, 10, 10] and storage.list(ROWS) == []
    assert all(table["trial"].to_pylist() == sorted(table["trial"].to_pylist()) for table in tables)
    before = storage.list("leaderboard")
    compact(storage)
    assert storage.list("leaderboard") == before  # nothing to do
    write_row(storage, make(24))
    compact(storage)
    assert len(storage.list(COMPACTED)) == 3 and read(storage)["trial"].to_pylist() == list(range(25))


def test_compaction_that_is_cut_off_loses_nothing(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for trial in range(5):
        write_row(storage, make(trial))
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete", lambda self, name: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            compact(storage)
    assert parquet_rows(storage) == 10 and len(read(storage)) == 5 and verify(storage) == []
    compact(storage)
    assert parquet_rows(storage) == 5


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(storage: Storage) -> Storage:
    for trial in range(30):
        write_row(storage, make(trial, method="fsp" if trial % 2 else "res_ic"))
    for trial in range(2):
        write_row(storage, make(trial, phase="final", test_accuracy=0.5 + trial / 10, study="beta"))
    return storage


def test_show(filled: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(filled, "show", "--method", "fsp", "--sort", "-val_accuracy", "--top", "2") == 0
    captured = capsys.readouterr()
    lines = captured.out.split("\n")
    assert "val %" in lines[1] and " 0.29 " in lines[3] and "41.0M" in lines[3] and " 0.27 " in lines[4]
    assert "the first 2 rows" in captured.err
    assert command(filled, "show", "--sort", "trial", "--top", "0", "--json", "--study", "alpha") == 0
    records = json.loads(capsys.readouterr().out)
    assert len(records) == 30 and list(records[0]) == schema().names
    assert records[3]["config"] == {"transfer.lr": 3.1, "transfer.milestones": [1.0, 2.0]}
    assert records[3]["started"] == "2026-01-01T00:00:00+00:00" and records[3]["nodes"] == ["a", "b"]


def test_show_keeps_names_as_they_are(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    name = "[bold]a :smile: " + "long " * 60
    write_row(storage, make(study=name))
    assert command(storage, "show") == 0
    assert name.strip() in capsys.readouterr().out


def test_empty_result_says_so(filled: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(filled, "show", "--study", "none") == 0
    assert capsys.readouterr().out == "no rows match\n"
    assert command(filled, "show", "--study", "none", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["show", "--sort", "-val_acuracy"],
            "val_acuracy: the leaderboard has no such column; did you mean val_accuracy",
        ),
        (["query", "SELECT nothing FROM leaderboard"], '"nothing" not found'),
        (["query", "SELECT * FROM rows"], "Table with name rows does not exist! The table is leaderboard\n"),
        (["query", "SELEC 1"], "syntax error"),
        (["query", "DROP TABLE leaderboard"], "give one SELECT"),
        (["query", "SELECT 1; SELECT 2"], "give one SELECT"),
        (["query", "COPY leaderboard TO 'x.csv'"], "give one SELECT"),
        (["query", "SELECT * FROM read_text('/etc/hostname')"], "disabled"),
        (["diff", "alpha", "gamma"], "gamma: no such study"),
        (["diff", "alpha", "alpha/search/99"], "alpha/search/99: no such study, and no such trial"),
        (["export", "csv", "--out", "/dev/null/x"], "--out /dev/null/x: there is no such folder"),
    ],
)
def test_bad_usage_is_one_line(
    filled: Storage, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(filled, *words) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1 and captured.out == ""


def test_storage_without_a_leaderboard(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["show"], ["verify"], ["compact"], ["query", "SELECT 1"]):
        assert command(storage, *words) == 2
        assert (
            capsys.readouterr().err
            == f"error: --storage {storage.uri} has no leaderboard; run a study there or name another\n"
        )


def test_export(filled: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def exported(form: str) -> bytes:
        out = tmp_path / form
        assert command(filled, "export", form, "--study", "beta", "--sort", "trial", "--out", str(out)) == 0
        return out.read_bytes()

    expected = read(filled, sort="trial", study="beta")
    assert parquet.read_table(io.BytesIO(exported("parquet"))).equals(expected)
    assert json.loads(exported("json"))[1]["config"]["transfer.lr"] == 1.1
    records = list(csv.DictReader(io.StringIO(exported("csv").decode())))
    assert records[1]["nodes"] == "a b" and records[1]["config.transfer.lr"] == "1.1"
    assert set(schema().names) - {name.split(".")[0] for name in records[0]} == {
        "data_spec",
        "stage_seconds",
        "shared_stages",
        "val_metrics",
        "test_metrics",
    }  # empty here
    markdown = exported("md").decode().splitlines()
    assert len(markdown) == 4 and markdown[1].startswith("| --- |") and "| 60.00 |" in markdown[3]
    assert "2 rows written" in capsys.readouterr().out


def test_diff(filled: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    write_row(filled, make(30, val_accuracy=0.9, status="pruned"))  # ends no search as its best
    assert command(filled, "diff", "alpha", "beta", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["alpha"]["trials of the study"] == 31 and facts["alpha"]["trial"] == 29
    assert facts["beta"]["test_accuracy, mean over seeds"] == pytest.approx(0.55)
    write_row(filled, make(40, phase="final", config=make(7).config, test_accuracy=0.5))  # run again, 7 was the best
    assert command(filled, "diff", "alpha", "beta", "--json") == 0
    assert json.loads(capsys.readouterr().out)["alpha"]["trial"] == 7, "what was scored on test"
    assert command(filled, "diff", "alpha/search/1", "alpha/search/3") == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.split()}
    assert lines["config.transfer.lr"] == ["1.1", "3.1", "+2"] and lines["val_accuracy"] == [
        "0.0001",
        "0.0003",
        "+0.0002",
    ]
    assert "method" not in lines and lines["config_hash"][-1] == "differs"
    assert command(filled, "diff", "alpha/search/1", "alpha/search/3", "--all") == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.split()}
    assert lines["method"] == ["fsp", "fsp"]


def test_query(filled: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    sql = """SELECT study, count(*) AS n, max(CAST(config->>'$."transfer.lr"' AS DOUBLE)) AS lr FROM leaderboard
             GROUP BY study ORDER BY study"""
    assert command(filled, "query", sql, "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"study": "alpha", "n": 30, "lr": 29.1},
        {"study": "beta", "n": 2, "lr": 1.1},
    ]
    twice = "SELECT a.study, b.study, 1 AS study_2 FROM leaderboard a JOIN leaderboard b USING (study, trial) LIMIT 1"
    assert command(filled, "query", twice, "--json") == 0
    assert [*json.loads(capsys.readouterr().out)[0]] == ["study", "study_2", "study_2_2"]
    assert command(filled, "query", twice) == 0 and "study_2_2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command(filled, "query", "--help")
    typed = capsys.readouterr().out.partition("for example:")[2].replace("joint.lr", "transfer.lr")
    sql = subprocess.run(["sh", "-c", f"printf %s {typed}"], capture_output=True, text=True, check=True).stdout
    assert command(filled, "query", sql, "--json") == 0
    assert all(row["lr"] is not None for row in json.loads(capsys.readouterr().out))
    assert command(filled, "query", "SELECT 1 AS one WHERE false") == 0
    assert capsys.readouterr().out == "no rows match\n"


def test_compact_and_verify(filled: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(filled, "compact") == 0
    assert capsys.readouterr().out == "32 files before, 1 after\n"
    assert command(filled, "verify") == 0
    assert capsys.readouterr().out == "nothing is wrong\n"
    put(
        filled,
        read(filled, trial=5).set_column(schema().get_field_index("config_hash"), "config_hash", pa.array(["0"])),
    )
    assert command(filled, "verify") == 1
    assert "config_hash" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    code = """import sys
from bo_distill.search.leaderboard import main
try:
    main(["--help"])
finally:
    print(sorted({"pyarrow", "duckdb", "rich", "torch", "ray", "numpy"}.intersection(sys.modules)))"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).endswith("[]\n")


def test_a_reader_that_leaves_early_is_no_error(filled: Storage) -> None:
    words = [sys.executable, "-m", "search.leaderboard", "export", "json", "--storage", filled.uri]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0
