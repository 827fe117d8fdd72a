"""The leaderboard, queried."""

from __future__ import annotations

import difflib
import glob
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.search.rows.files import joined, newest, readable, stored
from bo_distill.search.rows.row import KEY, REQUIRED, digest, schema

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


def _connect(storage: Storage, direct: Sequence[str], parsed: Sequence[str]) -> duckdb.DuckDBPyConnection:
    """A database that can do nothing but read: the view `leaderboard` has one row per trial.

    Args:
        direct: files that DuckDB reads itself: it fetches the columns that are shown only for the rows that are, four
            times as fast.
        parsed: all others.
    """
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("parsed", joined(table for _, table in readable(storage, parsed)))
    packed = ""
    if direct:
        paths = ", ".join("'" + storage.path(name).replace("'", "''") + "'" for name in direct)
        patterns = glob.escape(paths)  # DuckDB takes each for a pattern, and asks leave for it as it stands
        connection.execute(f"SET allowed_paths = [{paths}, {patterns}]")
        packed = f"UNION ALL BY NAME FROM read_parquet([{patterns}], union_by_name = true)"
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")

    key, columns = ", ".join(KEY), ", ".join(f'"{name}"' for name in schema().names)
    connection.execute(f"CREATE VIEW every AS SELECT {columns} FROM (FROM parsed {packed})")
    connection.execute(f"CREATE TABLE twice AS SELECT {key} FROM every GROUP BY ALL HAVING count(*) > 1")
    # Ranking all rows is slow, and only few trials have more than one.
    connection.execute(f"CREATE TABLE newest AS FROM every SEMI JOIN twice USING ({key}) {newest(KEY)}")
    connection.execute(f"CREATE VIEW leaderboard AS FROM every ANTI JOIN twice USING ({key}) UNION ALL FROM newest")
    return connection


def _sound(storage: Storage, name: str) -> bool:
    """Whether a compacted file is as it was written, and of types that can be read without a second look.

    Raises:
        FileNotFoundError: another process has compacted or set aside the file since it was listed.
    """
    import pyarrow as pa
    from pyarrow import parquet

    data = storage.read_bytes(name)
    if digest(data) not in name:
        return False
    try:
        footer = parquet.ParquetFile(pa.BufferReader(data))
        found, groups = footer.schema_arrow, footer.metadata
        typed = all(found.field(n).type == schema().field(n).type for n in found.names if n in schema().names)
        place = {groups.schema.column(i).path: i for i in range(groups.num_columns)}
        known = [
            groups.row_group(group).column(place[column]).statistics
            for group in range(groups.num_row_groups)
            for column in REQUIRED
        ]
    except (pa.ArrowException, OSError, KeyError):
        return False
    # One of a pair of columns of one name would win, and a null in the key would take a row out of the view.
    once = len(set(found.names)) == len(found.names)
    return typed and once and all(known) and not any(statistics.null_count for statistics in known)


def query(storage: Storage, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
    """The result of one SELECT over the table `leaderboard`. Files that cannot be read are named, set aside, left out.

    Raises:
        UsageError: the statement is wrong or does more than read.
    """
    import duckdb

    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise UsageError(_line(error)) from None
    if len(statements) != 1 or statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise UsageError(f"{sql}: give one SELECT; the leaderboard is only read")
    careful = not storage.is_local
    while True:
        loose, compacted = listed = stored(storage)
        try:
            direct = [] if careful else [name for name in compacted if _sound(storage, name)]
            rest = [*loose, *(name for name in compacted if name not in direct)]
            with _connect(storage, direct, rest) as connection:
                return _told_apart(connection.sql(sql, params=list(parameters)).to_arrow_table())
        except FileNotFoundError:
            if stored(storage) == listed:
                raise
        except duckdb.Error as error:
            # A compacted file is broken or was replaced while we read. If neither, the statement is wrong.
            if careful and stored(storage) == listed:
                raise UsageError(_line(error)) from None
            careful = True


def _told_apart(table: pa.Table) -> pa.Table:
    """The table with a name for each column: the second `study` of a join is `study_2`."""
    names: list[str] = []
    for name in table.column_names:
        others = (f"{name}_{number}" for number in itertools.count(2))
        free = itertools.chain([name], others)
        names.append(next(word for word in free if word not in names))
    return table.rename_columns(names)


def _line(error: Exception) -> str:
    """DuckDB's message without the picture of the statement; its guess at a table would be one of ours inside."""
    text = " ".join(str(error).split("\n\n")[0].split())
    return re.sub(r"(Table with name .* does not exist!).*", r"\1 The table is leaderboard", text)


def read(storage: Storage, *, columns: Sequence[str] = (), sort: str = "", top: int = 0, **where: Any) -> pa.Table:
    """The rows under today's schema, one for each trial; an empty table where there is no leaderboard.

    Args:
        columns: only these (default: all).
        sort: column to order by, "-" before it for descending; nulls come last, ties go by study, phase and trial.
        top: so many rows at most; 0 for all.
        where: column=value, all of which must hold.

    Raises:
        UsageError: there is no such column.
    """
    order = [f"{_known(sort.removeprefix('-'))} {'DESC' if sort.startswith('-') else 'ASC'} NULLS LAST"] if sort else []
    wanted = list(columns) or schema().names
    sql = " ".join(
        [
            f"SELECT {', '.join(map(_known, wanted))} FROM leaderboard",
            "WHERE " + " AND ".join(f"{_known(name)} = ?" for name in where) if where else "",
            f"ORDER BY {', '.join([*order, *KEY])}",
            f"LIMIT {top}" if top else "",
        ]
    )
    table = query(storage, sql, list(where.values()))
    return table.cast(schema().empty_table().select(wanted).schema)


def _known(column: str) -> str:
    names = schema().names
    if column not in names:
        near = difflib.get_close_matches(column, names, n=3, cutoff=0.5) or names
        raise UsageError(f"{column}: the leaderboard has no such column; did you mean {', '.join(near)}?")
    return f'"{column}"'
