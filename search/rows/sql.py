"""The leaderboard, queried."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distributed.storage import Storage
from methods.errors import UsageError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
from search.rows.files import _files, _joined, _newest, _tables
from search.rows.row import KEY, schema


def _connect(storage: Storage, loose: Sequence[str], compacted: Sequence[str]) -> duckdb.DuckDBPyConnection:
    """A database that can do nothing but read: the view `leaderboard` has one row per trial."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("loose", _joined(table for _, table in _tables(storage, loose)))
    packed = ""
    if compacted and storage.is_local:
        # DuckDB's own reader fetches the columns that are shown only for the rows that are; four times as fast.
        paths = ", ".join("'" + storage.path(name).replace("'", "''") + "'" for name in compacted)
        patterns = glob.escape(paths)  # DuckDB takes each for a pattern, and asks leave for it as it stands
        connection.execute(f"SET allowed_paths = [{paths}, {patterns}]")
        packed = f"UNION ALL BY NAME FROM read_parquet([{patterns}], union_by_name = true)"
    elif compacted:
        from pyarrow import dataset

        # Without the schema, the first file's would decide and later columns would be dropped in silence.
        files = [storage.path(name) for name in compacted]
        connection.register("packed", dataset.dataset(files, schema(), filesystem=storage.fs, format="parquet"))
        packed = "UNION ALL BY NAME FROM packed"
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")

    key, columns = ", ".join(KEY), ", ".join(f'"{name}"' for name in schema().names)
    connection.execute(f"CREATE VIEW every AS SELECT {columns} FROM (FROM loose {packed})")
    connection.execute(f"CREATE TABLE twice AS SELECT {key} FROM every GROUP BY ALL HAVING count(*) > 1")
    # Ranking all rows is slow, and only few trials have more than one.
    connection.execute(f"CREATE TABLE newest AS FROM every SEMI JOIN twice USING ({key}) {_newest(KEY)}")
    connection.execute(f"CREATE VIEW leaderboard AS FROM every ANTI JOIN twice USING ({key}) UNION ALL FROM newest")
    return connection


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
    check = False
    while True:
        loose, compacted = files = _files(storage)
        try:
            if check:
                compacted = [name for name, _ in _tables(storage, compacted)]
            with _connect(storage, loose, compacted) as connection:
                return connection.sql(sql, params=list(parameters)).to_arrow_table()
        except FileNotFoundError:
            if _files(storage) == files:
                raise
        except (duckdb.BinderException, duckdb.CatalogException, duckdb.ConversionException) as error:
            raise UsageError(_line(error)) from None
        except duckdb.Error as error:
            # A compacted file is broken or was replaced while we read. If neither, the statement is wrong.
            if check and _files(storage) == files:
                raise UsageError(_line(error)) from None
            check = True


def _line(error: Exception) -> str:
    """DuckDB's message without the picture of the statement."""
    return " ".join(str(error).split("\n\n")[0].split())


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
