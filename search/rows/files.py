"""The leaderboard's table: one row for every trial that ever ran, in Parquet files below `<storage>/leaderboard`.

    rows/         one immutable file per row, named by study, phase, trial and content
    compacted/    the same rows, many to a file
    quarantine/   files that could not be read, set aside

Files are only ever added or deleted, never changed, so that any number of processes may write, read and compact at
once without a lock. Where a trial has several rows (it was interrupted and run again, or is both loose and compacted),
the one that finished last counts.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from distributed.storage import Storage
from methods.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa
from search.rows.row import (
    COMPACTED,
    IDENTITY,
    KEY,
    QUARANTINE,
    ROWS,
    SCHEMA_VERSION,
    Row,
    _digest,
    _encoded,
    _kinds,
    _name,
    _record,
    config_hash,
    schema,
)

ROWS_PER_FILE = 100_000


def write_row(storage: Storage, row: Row) -> None:
    """Add a row. Writing the same row twice leaves one; a later row of the same trial takes the earlier one's place.

    Raises:
        UsageError: the storage cannot be written.
    """
    import pyarrow as pa

    data = _encoded(pa.Table.from_pylist([_record(row)], schema=schema()))
    storage.write_bytes(_name(ROWS, f"{_quoted(row.study)}-{row.phase}-{row.trial:05d}", data), data)


def _quoted(study: str) -> str:
    """A study in a file's name, for people; the hash there tells files apart. A dot in front would hide the file."""
    return quote(study, safe="").replace(".", "%2E")[:100]


def _parsed(name: str, data: bytes) -> pa.Table:
    """The table of one file under today's schema: columns that it lacks are null, those of a later version left out.

    Raises:
        ValueError: this is not a leaderboard file, or no longer a whole one.
    """
    import pyarrow as pa
    from pyarrow import parquet

    if _digest(data) not in name:
        raise ValueError("its content is not what was written")
    try:
        table = parquet.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        if table.schema.equals(schema()):
            return table
        have = set(table.column_names)
        columns = [table[f.name].cast(f.type) if f.name in have else pa.nulls(len(table), f.type) for f in schema()]
        return pa.table(columns, schema=schema())
    except (pa.ArrowException, OSError) as error:  # Arrow calls broken pages an OSError
        raise ValueError(" ".join(str(error).split())) from None


def _tables(storage: Storage, names: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """(name, table) of the files that can be read. Broken ones are named on stderr and set aside.

    Raises:
        FileNotFoundError: another process has compacted or set aside a file since it was listed.
    """

    def load(name: str) -> pa.Table | ValueError:
        data = storage.read_bytes(name)  # an OSError here is the storage's fault, not the file's
        try:
            return _parsed(name, data)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(8) as pool:  # a network's latency, not this machine, is what takes time
        for start in range(0, len(names), 256):  # so that only so many wait in memory
            some = names[start : start + 256]
            for name, table in zip(some, pool.map(load, some), strict=True):
                if isinstance(table, ValueError):
                    _set_aside(storage, name, table)
                else:
                    yield name, table


def of_study(storage: Storage, study: str) -> pa.Table:
    """The rows of one study under today's schema, one for each trial, by phase and trial; DuckDB is not needed.

    Files that cannot be read are named, set aside, left out.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    while True:
        loose, compacted = files = _files(storage)
        # Only what bears the study's name, and what may hold any study's rows, is opened.
        start = f"{ROWS}/{_quoted(study)}-"
        names = [*compacted, *(name for name in loose if name.startswith(start))]
        try:
            table = _joined(table.filter(pc.equal(table["study"], study)) for _, table in _tables(storage, names))
        except FileNotFoundError:
            if _files(storage) == files:
                raise
            continue
        last_first = [("finished", "descending"), ("started", "descending")]
        table = table.sort_by([("phase", "ascending"), ("trial", "ascending"), *last_first])
        trials = list(zip(table["phase"].to_pylist(), table["trial"].to_pylist(), strict=True))
        return table.filter(pa.array([n == 0 or trial != trials[n - 1] for n, trial in enumerate(trials)], pa.bool_()))


def _joined(tables: Iterator[pa.Table]) -> pa.Table:
    """One table of many small ones; a few at a time, as a table of one row takes a thousand times its own size."""
    import pyarrow as pa

    joined = schema().empty_table()
    while some := list(islice(tables, 1000)):
        joined = pa.concat_tables([joined, pa.concat_tables(some).combine_chunks()])
    return joined


def _set_aside(storage: Storage, name: str, reason: ValueError) -> None:
    try:
        storage.move(name, f"{QUARANTINE}/{PurePosixPath(name).name}")
        done = f"moved to {QUARANTINE}"
    except UsageError:  # the storage is read-only
        done = "left out"
    print(f"{storage.path(name)} cannot be read ({reason}); {done}, the rest is kept", file=sys.stderr)


def _files(storage: Storage) -> tuple[list[str], list[str]]:
    """The loose and the compacted files, such that every row is in at least one of them.

    The order matters: a row that is compacted in between is then seen twice, never not at all. Listing a folder takes
    time too, so it is done until nothing changes while a compacted file takes the place of another.
    """
    loose, compacted = _listed(storage, ROWS), _listed(storage, COMPACTED)
    while (again := _listed(storage, COMPACTED)) != compacted:
        compacted = again
    return loose, compacted


def _listed(storage: Storage, folder: str) -> list[str]:
    return [name for name in storage.list(folder) if name.endswith(".parquet")]


def _newest(identity: Sequence[str]) -> str:
    return f"QUALIFY row_number() OVER (PARTITION BY {', '.join(identity)} ORDER BY finished DESC, started DESC) = 1"


def compact(storage: Storage) -> tuple[int, int]:
    """Merge loose rows into files of up to ROWS_PER_FILE rows, sorted by study, phase and trial.

    Safe beside writers, readers and other compactions: a file is deleted only once its rows are in place elsewhere, and
    as no file ever changes, no later row can be lost with it. Rows of a later schema version stay loose: this version
    would drop their new columns. Of several rows of one trial the last is kept, unless they contradict each other.

    Returns:
        (files before, files after)

    Raises:
        UsageError: the storage cannot be written.
    """
    loose, compacted = _files(storage)
    # A compacted file's name starts with its number of rows. What is named otherwise is not ours and will be set aside.
    full = f"{COMPACTED}/{ROWS_PER_FILE:06d}-"
    partial = [name for name in compacted if not name.startswith(full)]
    names = partial + loose if loose or len(partial) > 1 else []
    try:
        for start in range(0, len(names), ROWS_PER_FILE):
            _merge(storage, names[start : start + ROWS_PER_FILE])
    except FileNotFoundError:
        return compact(storage)  # another compaction took a file; go on with what is left
    return len(loose) + len(compacted), sum(map(len, _files(storage)))


def _merge(storage: Storage, names: Sequence[str]) -> None:
    import duckdb

    merged = []

    def current() -> Iterator[pa.Table]:
        for name, table in _tables(storage, names):
            if max(table["schema_version"].to_pylist(), default=0) <= SCHEMA_VERSION:
                merged.append(name)
                yield table

    table = _joined(current())
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("merged", table)
        key = ", ".join(KEY)
        table = connection.sql(f"FROM merged {_newest(IDENTITY)} ORDER BY {key}").to_arrow_table().cast(schema())
    written = []
    for start in range(0, len(table), ROWS_PER_FILE):
        some = table.slice(start, ROWS_PER_FILE)
        data = _encoded(some)
        written.append(_name(COMPACTED, f"{len(some):06d}", data))
        storage.write_bytes(written[-1], data)
    for name in set(merged).difference(written):
        storage.delete(name)


def verify(storage: Storage) -> list[str]:
    """What is wrong with the stored files, one line each; changes nothing."""
    import pyarrow as pa

    problems = [f"{name}: was set aside because it cannot be read" for name in storage.list(QUARANTINE)]
    identities = [schema().empty_table().select(IDENTITY)]
    for name in itertools.chain(*_files(storage)):
        try:
            table = _parsed(name, storage.read_bytes(name))
        except FileNotFoundError:
            continue  # compacted in the meantime
        except ValueError as error:
            problems.append(f"{name}: cannot be read: {error}")
            continue
        problems += [f"{name}: {problem}" for problem in _wrong(table)]
        identities.append(table.select(IDENTITY))
    distinct = pa.concat_tables(identities).group_by(IDENTITY).aggregate([])
    for trial in distinct.group_by(KEY).aggregate([([], "count_all")]).to_pylist():
        if trial["count_all"] > 1:
            name = "/".join(str(trial[part]) for part in KEY)
            problems.append(f"{name}: names {trial['count_all']} different trials; only the last of them is shown")
    return problems


def _wrong(table: pa.Table) -> Iterator[str]:
    required = [f.name for f in dataclasses.fields(Row) if f.default is f.default_factory is dataclasses.MISSING]
    hints = typing.get_type_hints(Row)
    kinds = _kinds()
    for record in table.to_pylist():
        trial = "/".join(str(record[part]) for part in KEY)
        if (record["schema_version"] or 0) > SCHEMA_VERSION:
            continue  # its rules are not known here
        for name in required:
            if record[name] is None:
                yield f"{trial}: {name} is missing"
        for name, kind in kinds.items():
            allowed = typing.get_args(hints[name]) if typing.get_origin(hints[name]) is Literal else ()
            if allowed and record[name] not in allowed:
                yield f"{trial}: {name} is {record[name]}, not one of {', '.join(allowed)}"
            if kind is Mapping and record[name] is not None:
                try:
                    value = json.loads(record[name])
                except ValueError:
                    yield f"{trial}: {name} is not JSON"
                    continue
                if name == "config" and config_hash(value) != record["config_hash"]:
                    yield f"{trial}: config_hash is {record['config_hash']}, of config {config_hash(value)}"
        for name in ("val_accuracy", "test_accuracy"):
            if record[name] is not None and not 0 <= record[name] <= 1:
                yield f"{trial}: {name} is {record[name]}, not between 0 and 1"
        if record["started"] and record["finished"] and record["finished"] < record["started"]:
            yield f"{trial}: finished before it started"
