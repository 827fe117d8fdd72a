"""The leaderboard's table: one row for every trial that ever ran, in Parquet files below `<storage>/leaderboard`.

    rows/         one immutable file per row, named by study, phase, trial and content
    compacted/    the same rows, many to a file
    quarantine/   files that could not be read, set aside

Files are only ever added or deleted, never changed, so that any number of processes may write, read and compact at
once without a lock. Where a trial has several rows (it was interrupted and run again, or is both loose and compacted),
the one that finished last counts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.search.rows.export import printable
from bo_distill.search.rows.row import (
    COMPACTED,
    QUARANTINE,
    REQUIRED,
    ROWS,
    Row,
    digest,
    encoded,
    named,
    record_of,
    schema,
)

if TYPE_CHECKING:
    import pyarrow as pa


def write_row(storage: Storage, row: Row) -> None:
    """Add a row. Writing the same row twice leaves one; a later row of the same trial takes the earlier one's place.

    Raises:
        UsageError: the storage cannot be written.
    """
    import pyarrow as pa

    data = encoded(pa.Table.from_pylist([record_of(row)], schema=schema()))
    storage.write_bytes(named(ROWS, f"{_quoted(row.study)}-{row.phase}-{row.trial:05d}", data), data)


def _quoted(study: str) -> str:
    """A study in a file's name, for people; the hash there tells files apart. A dot in front would hide the file."""
    return quote(study, safe="").replace(".", "%2E")[:100]


def parsed(name: str, data: bytes) -> pa.Table:
    """The table of one file under today's schema: columns that it lacks are null, those of a later version left out.

    Raises:
        ValueError: this is not a leaderboard file, or no longer a whole one.
    """
    import pyarrow as pa
    from pyarrow import parquet

    if digest(data) not in name:
        raise ValueError("its content is not what was written")
    try:
        table = parquet.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        table.validate(full=True)  # text that is not UTF-8 among others
        have = set(table.column_names)
        if len(have) < table.num_columns:
            raise ValueError("a column stands twice")
        columns = [table[f.name].cast(f.type) if f.name in have else pa.nulls(len(table), f.type) for f in schema()]
    except (pa.ArrowException, OSError) as error:  # Arrow calls broken pages an OSError
        raise ValueError(" ".join(str(error).split())[:200]) from None
    table = pa.table(columns, schema=schema())
    for name in REQUIRED:
        if table[name].null_count:
            raise ValueError(f"{name} is missing")
    return table


def readable(storage: Storage, names: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """(name, table) of the files that can be read. Broken ones are named on stderr and set aside.

    Raises:
        FileNotFoundError: another process has compacted or set aside a file since it was listed.
    """

    def load(name: str) -> pa.Table | ValueError:
        """The file's table, or why it is none."""
        data = storage.read_bytes(name)  # an OSError here is the storage's fault, not the file's
        try:
            return parsed(name, data)
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
        loose, compacted = listed = stored(storage)
        # Only what bears the study's name, and what may hold any study's rows, is opened.
        start = f"{ROWS}/{_quoted(study)}-"
        names = [*compacted, *(name for name in loose if name.startswith(start))]
        try:
            table = joined(table.filter(pc.equal(table["study"], study)) for _, table in readable(storage, names))
        except FileNotFoundError:
            if stored(storage) == listed:
                raise
            continue
        last_first = [("finished", "descending"), ("started", "descending")]
        table = table.sort_by([("phase", "ascending"), ("trial", "ascending"), *last_first])
        trials = list(zip(table["phase"].to_pylist(), table["trial"].to_pylist(), strict=True))
        return table.filter(pa.array([n == 0 or trial != trials[n - 1] for n, trial in enumerate(trials)], pa.bool_()))


def joined(tables: Iterator[pa.Table]) -> pa.Table:
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
    print(printable(f"{storage.path(name)} cannot be read ({reason}); {done}, the rest is kept"), file=sys.stderr)


def stored(storage: Storage) -> tuple[list[str], list[str]]:
    """The loose and the compacted files, such that every row is in at least one of them.

    The order matters: a row that is compacted in between is then seen twice, never not at all. Listing a folder takes
    time too, so it is done until nothing changes while a compacted file takes the place of another.
    """
    loose, compacted = parquet_files(storage, ROWS), parquet_files(storage, COMPACTED)
    while (again := parquet_files(storage, COMPACTED)) != compacted:
        compacted = again
    return loose, compacted


def parquet_files(storage: Storage, folder: str) -> list[str]:
    """Names of the Parquet files in a folder."""
    return [name for name in storage.list(folder) if name.endswith(".parquet")]


def newest(identity: Sequence[str]) -> str:
    """SQL that keeps the last row to end of those with the same identity."""
    return f"QUALIFY row_number() OVER (PARTITION BY {', '.join(identity)} ORDER BY finished DESC, started DESC) = 1"
