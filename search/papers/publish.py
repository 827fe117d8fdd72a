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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bo_distill.distributed.storage import write_whole
from bo_distill.methods.published import Claim
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

    from bo_distill.distributed.storage import Storage

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
    keep(folder / "rows.parquet", ordered)
    return ordered


def publish(one: Reproduction, storage: Storage, out: Path) -> str:
    """Add what stands in the storage for a reproduction; returns the path of its page.

    What the storage does not hold stays as it is: other scales, rows of another machine, figures that cannot be drawn
    here.
    """
    folder, rows = out / one.method.name, add_rows(one, storage, out)
    for name, figure in _figures(one, storage).items():
        figure.savefig(picture := io.BytesIO(), dpi=110, format="png")
        write_whole(folder / f"{one.word}_{name}.png", picture.getvalue())
    own = _own(folder, one.word)
    for name in one.scale.shown:
        for data in one.scale.data:
            if first := _first(one, storage, name, data):
                study, trial = first
                label = f"{name}, {data}" if len(one.scale.data) > 1 else name
                own[label] = study.outcome(trial.job.number).tables
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


def _own(folder: Path, word: str) -> dict[str, Mapping[str, Any]]:
    file = folder / f"{word}_tables.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise damaged(str(file), error) from None


def write_page(one: Reproduction, rows: Sequence[Row], out: Path) -> str:
    """Write one scale's page from the rows, tables and figures in its folder; returns its path."""
    folder = out / one.method.name
    others = {word: file for word, file in SCALES.items() if word != one.word and (folder / file).exists()}
    pictures = sorted(path.name for path in folder.glob(f"{one.word}_*.png"))
    mine = [row for row in rows if row.study in _studies(one)]
    content = page(one, claims_of(one), mine, _own(folder, one.word), pictures, others)
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


def _first(one: Reproduction, storage: Storage, name: str, data: str) -> tuple[Study, Trial] | None:
    """A line's training with seed 1, where a table of this data set has such a line and the storage the training."""
    cells = [(table, cell) for table in one.tables for cell in table.cells if (cell.name, table.data) == (name, data)]
    if not cells:
        return None
    table, cell = cells[0]
    place = one.run_of(table, cell).study
    if not storage.exists(f"studies/{place}/study.json"):
        return None
    study, settings = Study.open(storage, place), text(one.run_of(table, cell).settings)
    own = (t for t in study.trials if t.status == "done" and t.job.seed == 1 and text(t.job.settings) == settings)
    return next(((study, trial) for trial in own), None)


def _figures(one: Reproduction, storage: Storage) -> Mapping[str, Figure]:
    """The figures of the line that is shown, and those that hold several lines against one another."""
    try:
        import matplotlib
    except ModuleNotFoundError:  # a machine that only trains; the same command draws them where it is installed
        print("no figures: matplotlib is not installed here", file=sys.stderr)
        return {}
    shown = one.scale.shown[0]
    wanted = dict.fromkeys((shown, *one.scale.compared))
    data = next(iter(one.scale.data))
    found = {name: first for name in wanted if (first := _first(one, storage, name, data))}
    if shown not in found:
        return {}
    figures, _ = drawn(*found[shown])
    if len(found) == len(wanted) and one.scale.compared:
        with matplotlib.rc_context(matplotlib.rcParamsDefault):
            runs = {name: rebuilt(*found[name]) for name in one.scale.compared}
            figures |= importlib.import_module(one.method.figures).compared(runs)
    return figures
