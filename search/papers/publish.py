"""docs/results: the rows of all machines as Parquet, and the pages that are made from them.

Rows of other scales, of other lines and of other machines' trainings stay when more are added. A search alone is of one
machine: the trials of one that ran here take the place of those that are published under its name, until a training of
its winner is published.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def add_rows(one: Reproduction, storage: Storage, out: Path) -> list[Row]:
    """Add the rows that stand in the storage for a reproduction; returns all that are published of its method."""
    folder = out / one.method.name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(Storage(folder), ".lock", wait=True, what=f"the rows in {folder}"):  # another sitting may add its own
        rows = {_identity(row): row for row in published(out, one.method.name)}
        cells = [(table, cell) for table in one.tables for cell in table.cells if cell.searcher]
        searched = {one.run_of(table, cell).study: one.space_of(table, cell) for table, cell in cells}
        for name in sorted(_studies(one)):
            # Where the data lies, and what the machine is called, is nobody's business.
            found = [dataclasses.replace(row, data_spec={}, nodes=()) for row in from_table(of_study(storage, name))]
            there = {row.phase for row in rows.values() if row.study == name}
            if "final" in there:  # it was chosen by the search that is published, not by one that was begun here
                won = {
                    _chosen(row, searched[name]) for row in rows.values() if (row.study, row.phase) == (name, "final")
                }
                found = [row for row in found if row.phase == "final" and _chosen(row, searched[name]) in won]
            elif any(row.phase == "search" for row in found):  # one search on one machine, not parts of two
                rows = {key: row for key, row in rows.items() if (row.study, row.phase) != (name, "search")}
            rows |= {_identity(row): row for row in found}
        ordered = sorted(rows.values(), key=lambda row: (row.study, row.phase, row.trial, row.started))
        keep(folder / "rows.parquet", ordered)
        return ordered


def publish(one: Reproduction, storage: Storage, out: Path) -> str:
    """Add what stands in the storage for a reproduction; returns the path of its page.

    What the storage does not hold stays as it is: other scales, rows of another machine, figures that cannot be drawn
    here.
    """
    folder, rows = out / one.method.name, add_rows(one, storage, out)
    own = _own(one, rows, folder)
    if _labels(one)[0] not in own:  # the training that they are of stands in no line any more
        for file in folder.glob(f"{one.word}_*.png"):
            file.unlink()
    for name, figure in _figures(one, storage, rows).items():
        figure.savefig(picture := io.BytesIO(), dpi=110, format="png")
        write_whole(folder / f"{one.word}_{name}.png", picture.getvalue())
    for label in _labels(one):
        if kept := _kept(one, storage, rows, label):
            study, trial = kept
            outcome = study.outcome(trial.job.number)
            own[label] = {"started": _moment(outcome.started), "tables": outcome.tables}
    if own:
        write_whole(folder / f"{one.word}_tables.json", f"{json.dumps(own, indent=1, ensure_ascii=False)}\n".encode())
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


def _own(one: Reproduction, rows: Sequence[Row], folder: Path) -> dict[str, dict[str, Any]]:
    """What is kept of the method's own tables, by line, where the training that they are of is the line's.

    Raises:
        UsageError: their file cannot be read.
    """
    file = folder / f"{one.word}_tables.json"
    try:
        own = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        started = {label: entry["started"] for label, entry in own.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(str(file), error) from None
    found = {label: _standing(one, rows, label) for label in own}
    return {
        label: own[label]
        for label, standing in found.items()
        if standing and standing[2].started.isoformat() == started[label]
    }


def write_page(one: Reproduction, rows: Sequence[Row], out: Path) -> str:
    """Write one scale's page from the rows, tables and figures in its folder; returns its path."""
    folder = out / one.method.name
    others = {word: file for word, file in SCALES.items() if word != one.word and (folder / file).exists()}
    own = {label: entry["tables"] for label, entry in _own(one, rows, folder).items()}
    pictures = sorted(path.name for path in folder.glob(f"{one.word}_*.png")) if _labels(one)[0] in own else []
    mine = [row for row in rows if row.study in _studies(one)]
    content = page(one, claims_of(one), mine, own, pictures, others)
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
    like = [trial for trial in study.trials if trial.status == "done" and trial.job.seed == 1]
    moment = row.started.isoformat()
    return next(((study, trial) for trial in like if _moment(study.outcome(trial.job.number).started) == moment), None)


def _figures(one: Reproduction, storage: Storage, rows: Sequence[Row]) -> Mapping[str, Figure]:
    """The figures of the line that is shown, and those that hold several lines against one another."""
    try:
        import matplotlib
    except ModuleNotFoundError:  # a machine that only trains; the same command draws them where it is installed
        print("no figures: matplotlib is not installed here", file=sys.stderr)
        return {}
    shown = _labels(one)[0]
    if not (kept := _kept(one, storage, rows, shown)):
        return {}
    figures, _ = drawn(*kept)
    compared = {name: found for name in one.scale.compared if (found := _kept(one, storage, rows, name))}
    if one.scale.compared and len(compared) == len(one.scale.compared):
        with matplotlib.rc_context(matplotlib.rcParamsDefault):
            runs = {name: rebuilt(*found) for name, found in compared.items()}
            figures |= importlib.import_module(one.method.figures).compared(runs)
    return figures
