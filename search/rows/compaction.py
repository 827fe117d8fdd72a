"""Merges the leaderboard's files, and says what is wrong with them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from bo_distill.distributed.storage import Storage
from bo_distill.search.rows.files import joined, newest, parsed, readable, stored
from bo_distill.search.rows.row import (
    COMPACTED,
    IDENTITY,
    KEY,
    QUARANTINE,
    SCHEMA_VERSION,
    Row,
    column_kinds,
    config_hash,
    encoded,
    named,
    schema,
)

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_FILE = 100_000


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
    loose, compacted = stored(storage)
    # A compacted file's name starts with its number of rows. What is named otherwise is not ours and will be set aside.
    full = f"{COMPACTED}/{ROWS_PER_FILE:06d}-"
    partial = [name for name in compacted if not name.startswith(full)]
    names = partial + loose if loose or len(partial) > 1 else []
    try:
        for start in range(0, len(names), ROWS_PER_FILE):
            _merge(storage, names[start : start + ROWS_PER_FILE])
    except FileNotFoundError:
        return compact(storage)  # another compaction took a file; go on with what is left
    return len(loose) + len(compacted), sum(map(len, stored(storage)))


def _merge(storage: Storage, names: Sequence[str]) -> None:
    import duckdb

    merged = []

    def current() -> Iterator[pa.Table]:
        """The files that this code can read whole; their names are noted."""
        for name, table in readable(storage, names):
            if max(table["schema_version"].to_pylist(), default=0) <= SCHEMA_VERSION:
                merged.append(name)
                yield table

    table = joined(current())
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("merged", table)
        key = ", ".join(KEY)
        table = connection.sql(f"FROM merged {newest(IDENTITY)} ORDER BY {key}").to_arrow_table().cast(schema())
    written = []
    for start in range(0, len(table), ROWS_PER_FILE):
        some = table.slice(start, ROWS_PER_FILE)
        data = encoded(some)
        written.append(named(COMPACTED, f"{len(some):06d}", data))
        storage.write_bytes(written[-1], data)
    for name in set(merged).difference(written):
        storage.delete(name)


def verify(storage: Storage) -> list[str]:
    """What is wrong with the stored files, one line each; changes nothing."""
    import pyarrow as pa

    problems = [f"{name}: was set aside because it cannot be read" for name in storage.list(QUARANTINE)]
    identities = [schema().empty_table().select(IDENTITY)]
    for name in itertools.chain(*stored(storage)):
        try:
            table = parsed(name, storage.read_bytes(name))
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
    for record in table.to_pylist():
        trial = "/".join(str(record[part]) for part in KEY)
        if (record["schema_version"] or 0) > SCHEMA_VERSION:
            continue  # its rules are not known here
        for name in required:
            if record[name] is None:
                yield f"{trial}: {name} is missing"
        for name, kind in column_kinds().items():
            allowed = typing.get_args(hints[name]) if typing.get_origin(hints[name]) is Literal else ()
            if allowed and record[name] not in allowed:
                yield f"{trial}: {name} is {record[name]}, not one of {', '.join(allowed)}"
            if kind is Mapping and record[name] is not None:
                try:
                    value = json.loads(record[name])
                except (ValueError, RecursionError):
                    yield f"{trial}: {name} is not JSON"
                    continue
                if name == "config" and config_hash(value) != record["config_hash"]:
                    yield f"{trial}: config_hash is {record['config_hash']}, of config {config_hash(value)}"
        for name in ("val_accuracy", "test_accuracy"):
            if record[name] is not None and not 0 <= record[name] <= 1:
                yield f"{trial}: {name} is {record[name]}, not between 0 and 1"
        if record["started"] and record["finished"] and record["finished"] < record["started"]:
            yield f"{trial}: finished before it started"
