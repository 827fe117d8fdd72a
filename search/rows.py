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
import difflib
import glob
import hashlib
import itertools
import json
import math
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from distributed.storage import Storage
from methods.errors import UsageError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SCHEMA_VERSION = 2
LEADERBOARD, ROWS, COMPACTED, QUARANTINE = (
    "leaderboard",
    "leaderboard/rows",
    "leaderboard/compacted",
    "leaderboard/quarantine",
)
KEY = ("study", "phase", "trial")
IDENTITY = (*KEY, "control", "seed", "config_hash")  # what all rows of one trial have in common
ROWS_PER_FILE = 100_000


def _column(help: str, **options: Any) -> Any:
    return field(metadata={"help": help}, **options)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial. The Parquet schema is derived from these fields, in this order.

    A value is held as the file holds it: a figure that is not finite becomes None (status and reason say what
    happened), mappings become plain JSON (tuples are lists, keys are text), times become UTC.

    To change the table: add a field with a default of None and raise SCHEMA_VERSION. Never rename a field or change its
    type; older files are read beside newer ones, with null where they have no such column.
    """

    schema_version: int = _column("version of this list of columns", init=False, default=SCHEMA_VERSION)
    study: str = _column("name of the study")
    trial: int = _column("number of the trial, unique within study and phase")
    phase: Literal["search", "confirm", "final", "control"] = _column(
        "searching; the best again over fresh seeds; the winner over seeds; a control over seeds"
    )
    control: str | None = _column("name of the control", default=None)
    method: str = _column("name of the method")
    searcher: str = _column("what proposed the configuration")
    data: str = _column("name of the data set")
    data_fingerprint: str = _column("hash of the data as trained on")
    data_spec: Mapping[str, Any] = _column("what to read it by: subset, folder, columns", default_factory=dict)
    recipe: str = _column("name of the recipe")
    seed: int = _column("seed of the trial")
    shared_seed: int | None = _column("seed of the stages that all trials of the study share", default=None)
    config: Mapping[str, Any] = _column('"stage.field" -> value, all of them')
    config_hash: str = _column("hash of config", init=False)
    stage_seconds: Mapping[str, float] = _column("stage -> seconds", default_factory=dict)
    val_accuracy: float | None = _column("share of validation rows that are right, 0 to 1", default=None)
    val_loss: float | None = _column("mean cross-entropy on validation", default=None)
    val_metrics: Mapping[str, float] = _column("further scalars on validation", default_factory=dict)
    test_accuracy: float | None = _column("as val_accuracy, of winners and controls only", default=None)
    test_loss: float | None = _column("as val_loss, of winners and controls only", default=None)
    test_metrics: Mapping[str, float] = _column("as val_metrics, of winners and controls only", default_factory=dict)
    status: Literal["done", "failed", "pruned", "interrupted"] = _column("how the trial ended")
    reason: str | None = _column("why it ended, if not done", default=None)
    epochs: int = _column("epochs trained, over all stages", default=0)
    macs_forward: int | None = _column("multiply-adds of the deployed network for one input", default=None)
    macs_train: int | None = _column("multiply-adds of the whole training", default=None)
    params: int | None = _column("parameters of the deployed network", default=None)
    seconds: float = _column("wall-clock time from start to finish")
    queue_seconds: float = _column("time waited for resources", default=0.0)
    cached_stages: int = _column("stages taken from the cache", default=0)
    workers: int = _column("data-parallel workers", default=1)
    threads: int | None = _column("CPU threads of each worker", default=None)
    memory: int | None = _column("bytes that the trial's process had held at most when it ended", default=None)
    device: str = _column("cpu, or the name of the GPU")
    precision: str = _column("float32 or bf16")
    nodes: tuple[str, ...] = _column(
        "Ray's ids of the nodes that the workers ran on, by rank; the host's name without Ray", default=()
    )
    commit: str | None = _column("git commit of the code", default=None)
    dirty: bool | None = _column("whether the code differed from the commit", default=None)
    python: str = _column("version of Python")
    torch: str = _column("version of PyTorch")
    ray: str | None = _column("version of Ray", default=None)
    started: datetime = field(metadata={"help": "start, UTC"})
    finished: datetime = field(metadata={"help": "end, UTC"})
    version: str = _column("version of this package")

    def __post_init__(self) -> None:
        hold = object.__setattr__
        hold(self, "config_hash", config_hash(self.config))
        for name, kind in _kinds().items():
            value = getattr(self, name)
            if value is None:
                continue
            if kind is float:
                hold(self, name, float(value) if math.isfinite(value) else None)
            elif kind is Mapping:
                hold(self, name, json.loads(_json(value)))
            elif kind is tuple:
                hold(self, name, tuple(value))
            elif kind is datetime:
                if value.tzinfo is None:
                    raise ValueError(f"{name}={value}: give a time with a time zone")
                hold(self, name, value.astimezone(UTC))

    @property
    def id(self) -> str:
        """study/phase/trial, what `diff` and `reproduce` take."""
        return f"{self.study}/{self.phase}/{self.trial}"


@cache
def _kinds() -> dict[str, Any]:
    """Column -> what decides how it is stored: str, int, float, bool, Mapping, tuple or datetime."""

    def kind(hint: Any) -> Any:
        origin = typing.get_origin(hint)
        if origin is Literal:
            return str
        if origin is types.UnionType:
            return kind(typing.get_args(hint)[0])
        return origin or hint

    return {name: kind(hint) for name, hint in typing.get_type_hints(Row).items()}


@cache
def schema() -> pa.Schema:
    """The Arrow schema of the table. Mappings are JSON text, marked so in the field's metadata."""
    import pyarrow as pa

    storage_types = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        Mapping: pa.string(),
        tuple: pa.list_(pa.string()),
        datetime: pa.timestamp("us", tz="UTC"),
    }
    return pa.schema(
        [
            pa.field(f.name, storage_types[kind], metadata={**f.metadata, **({"json": "1"} if kind is Mapping else {})})
            for f, kind in zip(dataclasses.fields(Row), _kinds().values(), strict=True)
        ]
    )


def _json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, null for what is not finite. Takes NumPy and torch scalars."""
    plain = json.loads(json.dumps(value, default=lambda scalar: scalar.item()), parse_constant=lambda name: None)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def config_hash(config: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits; equal for equal configurations, whatever their order."""
    return _digest(_json(config).encode())


def from_table(table: pa.Table) -> list[Row]:
    """The rows of a table that has all columns."""
    kinds = _kinds()
    given = [f.name for f in dataclasses.fields(Row) if f.init]
    rows = []
    for record in table.select(given).to_pylist():
        # None for a mapping only where a file is older than the column.
        rows.append(Row(**{n: json.loads(v or "{}") if kinds[n] is Mapping else v for n, v in record.items()}))
    return rows


def _name(folder: str, label: str, data: bytes) -> str:
    """A file's name carries the hash of its content: the same content is never stored twice, no file ever changes."""
    return f"{folder}/{label}-{_digest(data)}.parquet"


def _encoded(table: pa.Table) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    many = len(table) > 1  # what makes many rows small makes a single one large, and three times slower to read
    buffer = pa.BufferOutputStream()
    parquet.write_table(
        table,
        buffer,
        compression="zstd" if many else "none",
        use_dictionary=many,
        write_statistics=many,
        row_group_size=ROWS_PER_FILE // 2,
    )
    return bytes(buffer.getvalue())


def _record(row: Row) -> dict[str, Any]:
    values = dataclasses.asdict(row)
    return values | {name: _json(values[name]) for name, kind in _kinds().items() if kind is Mapping}


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


def _set_aside(storage: Storage, name: str, reason: ValueError) -> None:
    try:
        storage.move(name, f"{QUARANTINE}/{PurePosixPath(name).name}")
        done = f"moved to {QUARANTINE}"
    except UsageError:  # the storage is read-only
        done = "left out"
    print(f"{storage.path(name)} cannot be read ({reason}); {done}, the rest is kept", file=sys.stderr)


def _joined(tables: Iterator[pa.Table]) -> pa.Table:
    """One table of many small ones; a few at a time, as a table of one row takes a thousand times its own size."""
    import pyarrow as pa

    joined = schema().empty_table()
    while some := list(islice(tables, 1000)):
        joined = pa.concat_tables([joined, pa.concat_tables(some).combine_chunks()])
    return joined


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
