"""docs/results: the rows of all machines as Parquet, and the pages that are made from them.

Rows of other scales, of other lines and of other machines' trainings stay when more are added. A search alone is of one
machine: the trials of one that ran here take the place of those that are published under its name, until a training of
its winner is published.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bo_distill.distributed.locks import locked
from bo_distill.distributed.storage import Storage, write_whole
from bo_distill.methods.published import Cell, Claim, PaperTable
from bo_distill.search.pages.sections.paper import drawn, rebuilt
from bo_distill.search.papers.lines import Reproduction, text
from bo_distill.search.papers.page import page
from bo_distill.search.rows.files import of_study
from bo_distill.search.rows.row import Row, from_table, record_of, schema
from bo_distill.search.study.kept import damaged
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SCALES = {"full": "README.md", "paper": "paper.md", "small": "small.md"}
"""Scale -> the file of its page, in a method's folder."""


def published(out: Path, name: str) -> list[Row]:
    """The rows that are kept with a method's pages.

    Raises:
        UsageError: their file cannot be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    file = out / name / "rows.parquet"
    if not file.exists():
        return []
    try:
        return from_table(parquet.read_table(file, schema=schema()))
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise damaged(str(file), error) from None


def claims_of(one: Reproduction) -> Sequence[Claim]:
    """What the method's paper claims."""
    return importlib.import_module(one.method.published).CLAIMS


@contextlib.contextmanager
def _alone(one: Reproduction, out: Path) -> Iterator[Path]:
    """The folder of a method, for one sitting at a time: each reads what is there, adds its own and writes it."""
    folder = out / one.method.name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(Storage(folder), ".lock", wait=True, what=str(folder)):
        yield folder


def add_rows(one: Reproduction, storage: Storage, out: Path) -> None:
    """Add the rows that stand in the storage for a reproduction."""
    with _alone(one, out):
        _added(one, storage, out)


def _added(one: Reproduction, storage: Storage, out: Path) -> list[Row]:
    """Add them in a folder that is held; returns all that are published of its method."""
    rows = {_identity(row): row for row in published(out, one.method.name)}
    cells = [(table, cell) for table in one.tables for cell in table.cells if cell.searcher]
    searched = {one.run_of(table, cell).study: one.space_of(table, cell) for table, cell in cells}
    for name in sorted(_studies(one)):
        # Where the data lies, and what the machine is called, is nobody's business.
        found = [dataclasses.replace(row, data_spec={}, nodes=()) for row in from_table(of_study(storage, name))]
        there = {row.phase for row in rows.values() if row.study == name}
        if "final" in there:  # it was chosen by the search that is published, not by one that was begun here
            won = {_chosen(row, searched[name]) for row in rows.values() if (row.study, row.phase) == (name, "final")}
            found = [row for row in found if row.phase == "final" and _chosen(row, searched[name]) in won]
        elif any(row.phase == "search" for row in found):  # one search on one machine, not parts of two
            rows = {key: row for key, row in rows.items() if (row.study, row.phase) != (name, "search")}
        rows |= {_identity(row): row for row in found}
    ordered = sorted(rows.values(), key=lambda row: (row.study, row.phase, row.trial, row.started))
    keep(out / one.method.name / "rows.parquet", ordered)
    return ordered


def publish(one: Reproduction, storage: Storage, out: Path) -> str:
    """Add what stands in the storage for a reproduction; returns the path of its page.

    What the storage does not hold stays as it is: other scales, rows of another machine, figures that cannot be drawn
    here.
    """
    with _alone(one, out) as folder:
        rows = _added(one, storage, out)
        own = Own.of(one, rows, folder)
        for label in _labels(one):
            if kept := _kept(one, storage, rows, label):
                study, trial = kept
                outcome = study.outcome(trial.job.number)
                own.tables[label] = {"started": _moment(outcome.started), "tables": outcome.tables}
        for name, (figure, trainings) in _figures(one, storage, rows).items():
            figure.savefig(picture := io.BytesIO(), dpi=110, format="png")
            write_whole(folder / f"{one.word}_{name}.png", picture.getvalue())
            own.figures[f"{one.word}_{name}.png"] = trainings
        for file in folder.glob(f"{one.word}_*.png"):
            if file.name not in own.figures:  # of a training that stands in no line any more
                file.unlink()
        content = json.dumps(dataclasses.asdict(own), indent=1, ensure_ascii=False)
        if own.tables or own.figures:
            write_whole(folder / f"{one.word}_tables.json", f"{content}\n".encode())
        return write_page(one, rows, out)


def keep(file: Path, rows: Sequence[Row]) -> None:
    """Write rows as one Parquet file, whole or not at all."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pylist([*map(record_of, rows)], schema=schema())
    parquet.write_table(table, buffer := pa.BufferOutputStream(), compression="zstd")
    write_whole(file, bytes(buffer.getvalue()))


def _identity(row: Row) -> tuple[Any, ...]:
    return row.study, row.phase, row.trial, row.seed, row.config_hash, row.started


def _chosen(row: Row, searched: Iterable[str]) -> str:
    return text({name: row.config.get(name) for name in searched})


def _studies(one: Reproduction) -> set[str]:
    return {one.run_of(table, cell).study for table in one.tables for cell in table.cells}


def _labels(one: Reproduction) -> list[str]:
    """What the lines are called whose tables a page shows; the first one's figures, too."""
    several = len(one.scale.data) > 1
    return [f"{name}, {data}" if several else name for name in one.scale.shown for data in one.scale.data]


def _standing(one: Reproduction, rows: Sequence[Row], label: str) -> tuple[PaperTable, Cell, Row] | None:
    """The row of seed 1 that a line has; None where it has none, or no table such a line."""
    for table in one.tables:
        for cell in table.cells:
            if label in (cell.name, f"{cell.name}, {table.data}"):
                first = next((row for row in one.rows_of(table, cell, rows) if row.seed == 1), None)
                return (table, cell, first) if first else None
    return None


def _moment(started: float) -> str:
    return datetime.fromtimestamp(started, UTC).isoformat()


@dataclasses.dataclass
class Own:
    """The method's own tables and figures that a page shows, with the trainings that they are of; a training goes by
    the moment at which it was started, in ISO 8601.

    Attributes:
        tables: line -> its training and the tables by name.
        figures: file -> its trainings.
    """

    tables: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    figures: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, one: Reproduction, rows: Sequence[Row], folder: Path) -> Self:
        """What is kept in a folder of trainings that stand in their lines.

        Raises:
            UsageError: the file cannot be read.
        """
        file = folder / f"{one.word}_tables.json"
        if not file.exists():
            return cls()
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            tables, figures = kept.get("tables", {}), kept.get("figures", {})
            lines = (*_labels(one), *one.scale.compared)
            stand = {label: found[2].started.isoformat() for label in lines if (found := _standing(one, rows, label))}
            return cls(
                {label: entry for label, entry in tables.items() if entry["started"] == stand.get(label)},
                {name: trainings for name, trainings in figures.items() if {*stand.values()}.issuperset(trainings)},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(str(file), error) from None


def write_page(one: Reproduction, rows: Sequence[Row], out: Path) -> str:
    """Write one scale's page from the rows, tables and figures in its folder; returns its path."""
    folder = out / one.method.name
    others = {word: file for word, file in SCALES.items() if word != one.word and (folder / file).exists()}
    own = Own.of(one, rows, folder)
    tables = {label: entry["tables"] for label, entry in own.tables.items()}
    mine = [row for row in rows if row.study in _studies(one)]
    content = page(one, claims_of(one), mine, tables, sorted(own.figures), others)
    file = folder / SCALES.get(one.word, f"{one.word}.md")
    write_whole(file, content.encode())
    return str(file)


def write_pages(out: Path, name: str) -> None:
    """Write all of a method's pages anew: that of scale `full`, and those of scales that have rows."""
    rows = published(out, name)
    for word in reversed(SCALES):  # each names those that are there
        one = Reproduction.of(name, word, None, "")
        if word == "full" or any(row.study in _studies(one) for row in rows):
            (out / name).mkdir(parents=True, exist_ok=True)
            write_page(one, rows, out)


def _kept(one: Reproduction, storage: Storage, rows: Sequence[Row], label: str) -> tuple[Study, Trial] | None:
    """The training that stands in a line with seed 1, where it is in this storage."""
    if not (standing := _standing(one, rows, label)):
        return None
    table, cell, row = standing
    run = one.run_of(table, cell)
    if not storage.exists(f"studies/{run.study}/study.json"):
        return None
    study = Study.open(storage, run.study)
    trial = next((trial for trial in study.trials if trial.job.number == row.trial and trial.status == "done"), None)
    # Another storage's study of this name has another training of the number.
    same = trial and _moment(study.outcome(trial.job.number).started) == row.started.isoformat()
    return (study, trial) if trial and same else None


def _figures(one: Reproduction, storage: Storage, rows: Sequence[Row]) -> Mapping[str, tuple[Figure, list[str]]]:
    """The figures of the line that is shown, and those that hold several lines against one another, each with its
    trainings."""
    try:
        import matplotlib
    except ModuleNotFoundError:  # a machine that only trains; the same command draws them where it is installed
        print("no figures: matplotlib is not installed here", file=sys.stderr)
        return {}
    found = {
        name: kept for name in (*_labels(one)[:1], *one.scale.compared) if (kept := _kept(one, storage, rows, name))
    }

    def moments(*names: str) -> list[str]:
        """Which trainings these lines have here."""
        return [_moment(study.outcome(trial.job.number).started) for study, trial in (found[name] for name in names)]

    figures: dict[str, tuple[Figure, list[str]]] = {}
    for shown in _labels(one)[:1]:
        if shown in found:
            figures |= {name: (figure, moments(shown)) for name, figure in drawn(*found[shown])[0].items()}
    if one.scale.compared and found.keys() >= {*one.scale.compared}:
        with matplotlib.rc_context(matplotlib.rcParamsDefault):
            runs = {name: rebuilt(*found[name]) for name in one.scale.compared}
            compared = importlib.import_module(one.method.figures).compared(runs)
        figures |= {name: (figure, moments(*one.scale.compared)) for name, figure in compared.items()}
    return figures
