"""The leaderboard's row and its Parquet schema."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from bo_distill.methods.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 4
LEADERBOARD, ROWS, COMPACTED, QUARANTINE = (
    "leaderboard",
    "leaderboard/rows",
    "leaderboard/compacted",
    "leaderboard/quarantine",
)
KEY = ("study", "phase", "trial")
IDENTITY = (*KEY, "control", "seed", "config_hash")  # what all rows of one trial have in common
REQUIRED = (*KEY, "schema_version")  # a file that lacks any of these is no file of the leaderboard


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
    phase: Literal["search", "confirm", "tune", "final", "control"] = _column(
        "searching; the best again over fresh seeds; a control's own search; the winner over seeds; controls over seeds"
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
    macs_train: int | None = _column(
        "multiply-adds of the training, cached stages too; of a pruned or failed trial up to its end", default=None
    )
    params: int | None = _column("parameters of the deployed network", default=None)
    seconds: float = _column("wall-clock time from start to finish")
    queue_seconds: float = _column("time waited for resources", default=0.0)
    shared_stages: Mapping[str, str] = _column(
        "stage that all trials of the study share -> digest of its result", default_factory=dict
    )
    cached_stages: int = _column("stages taken from the cache", default=0)
    workers: int = _column("data-parallel workers", default=1)
    threads: int | None = _column("CPU threads of each worker", default=None)
    memory: int | None = _column("bytes that the trial's process had held at most when it ended", default=None)
    cpu_seconds: float | None = _column(
        "processor time of all workers' threads in the epochs of its stages, those of cached stages left out",
        default=None,
    )
    device: str = _column("cpu, or the name of the GPU")
    processor: str | None = _column("name of the processor", default=None)
    precision: str = _column("float32 or bfloat16")
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
        for name, kind in column_kinds().items():
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
def column_kinds() -> dict[str, Any]:
    """Column -> what decides how it is stored: str, int, float, bool, Mapping, tuple or datetime."""

    def kind(hint: Any) -> Any:
        """The plain type behind a field's annotation."""
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
            for f, kind in zip(dataclasses.fields(Row), column_kinds().values(), strict=True)
        ]
    )


def _json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, null for what is not finite. Takes NumPy and torch scalars."""
    plain = json.loads(json.dumps(value, default=lambda scalar: scalar.item()), parse_constant=lambda name: None)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def digest(data: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def config_hash(config: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits; equal for equal configurations, whatever their order."""
    return digest(_json(config).encode())


def from_table(table: pa.Table) -> list[Row]:
    """The rows of a table that has all columns.

    Raises:
        UsageError: a row's mapping is not JSON.
    """
    kinds = column_kinds()
    given = [f.name for f in dataclasses.fields(Row) if f.init]

    def value(record: Mapping[str, Any], name: str) -> Any:
        """A field's value in a record; UsageError if it should be JSON and is not."""
        if kinds[name] is not Mapping:
            return record[name]
        try:
            return json.loads(record[name] or "{}")  # None only where a file is older than the column
        except (ValueError, RecursionError):
            trial = "/".join(str(record[part]) for part in KEY)
            raise UsageError(f"{trial}: its {name} is not JSON; `leaderboard verify` names what is wrong") from None

    return [Row(**{name: value(record, name) for name in given}) for record in table.select(given).to_pylist()]


def named(folder: str, label: str, data: bytes) -> str:
    """A file's name carries the hash of its content: the same content is never stored twice, no file ever changes."""
    return f"{folder}/{label}-{digest(data)}.parquet"


def encoded(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
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
        row_group_size=50_000,
    )
    return bytes(buffer.getvalue())


def record_of(row: Row) -> dict[str, Any]:
    """A row as a table holds it: mappings as JSON text."""
    values = dataclasses.asdict(row)
    return values | {name: _json(values[name]) for name, kind in column_kinds().items() if kind is Mapping}
