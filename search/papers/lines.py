"""The papers' tables as studies: which trainings each line of a table asks for, and where they are kept."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from bo_distill.distributed.storage import Storage
from bo_distill.methods import get
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import Method
from bo_distill.methods.published import Cell, PaperTable, Scale
from bo_distill.methods.space import Searched
from bo_distill.search.rows.row import Row
from bo_distill.search.searchers.registry import NONE, entry_of
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Plan, Task, Trial


@dataclasses.dataclass(frozen=True)
class Run:
    """What is to be trained for a table's line.

    Attributes:
        study: that holds its trials.
        phase: of those trials that are scored on test.
        settings: of the trials; empty where a search chooses them.
    """

    study: str
    phase: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Needed:
    """A training that a line without a search lacks.

    Attributes:
        run: where it is found, and its settings.
        name: of the line; of the first where several share it.
        seed: 1, 2, ...
        round: 0 for the first of a headline's lines, 1 for its others, 2 for all else.
    """

    run: Run
    name: str
    seed: int
    round: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from others; a study's trial of these settings and this seed is this training."""
        return self.run.study, text(self.run.settings), self.seed


@dataclasses.dataclass
class Reproduction:
    """A method's tables at one scale, and the studies that fill them.

    Attributes:
        published: rows that are kept with the pages. A line's training that has one is not made again.
        only: words of the lines that are to be trained, see `asked`.
    """

    method: Method
    word: str
    scale: Scale
    tables: tuple[PaperTable, ...]
    published: Sequence[Row] = ()
    only: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        word: str,
        seeds: int | None,
        directory: str,
        published: Sequence[Row] = (),
        only: str = "",
    ) -> Reproduction:
        """The reproduction that a command asks for.

        Raises:
            UsageError: there is no such method or scale.
        """
        method = get(name)
        module = importlib.import_module(method.published)
        if word not in module.SCALES:
            raise UsageError(f"--scale {word}: {name} has {', '.join(module.SCALES)}")
        scale = module.SCALES[word]
        data = {name: _located(spec, directory) for name, spec in scale.data.items()}
        scale = dataclasses.replace(scale, data=data, seeds=seeds or scale.seeds)
        return cls(method, word, scale, module.tables(scale), published, only)

    def asked(self, table: PaperTable, cell: Cell) -> bool:
        """Whether a line is to be trained: its name, or its table's title, contains the words of `only`."""
        return any(self.only.casefold() in name.casefold() for name in (table.title, cell.name))

    def settings_of(self, table: PaperTable, cell: Cell) -> dict[str, Any]:
        """What a line sets, checked."""
        each = self.scale.each.get(table.data, {})
        return self.method.check({**self.scale.settings, **each, **cell.settings})

    def space_of(self, table: PaperTable, cell: Cell) -> dict[str, Searched]:
        """What a line's search moves."""
        settings = self.settings_of(table, cell)
        usual = [name for name, field in self.method.fields().items() if field.searched and name not in settings]
        return self.method.space(cell.space or usual, cell.space)

    def run_of(self, table: PaperTable, cell: Cell) -> Run:
        """Where a line's trainings are found."""
        return self._runs[table.title, cell.name]

    @cached_property
    def _runs(self) -> dict[tuple[str, str], Run]:
        return {(table.title, cell.name): self._run(table, cell) for table in self.tables for cell in table.cells}

    def _run(self, table: PaperTable, cell: Cell) -> Run:
        base = f"reproduce-{self.method.name}-{self.word}" + (f"-{table.data}" if len(self.scale.data) > 1 else "")
        if cell.searcher:
            return Run(f"{base}-{cell.name.replace(', ', '-').replace(' ', '-').lower()}", "final")
        return Run(base, "control", self.settings_of(table, cell))

    def names_of(self, table: PaperTable, cell: Cell) -> set[str]:
        """The lines that share a line's trainings, itself included; a training bears the name of one of them."""
        mine = self.run_of(table, cell)
        return {c.name for t in self.tables for c in t.cells if self.run_of(t, c) == mine}

    def rows_of(self, table: PaperTable, cell: Cell, rows: Iterable[Row]) -> list[Row]:
        """A line's scored trainings among `rows`, one for each seed: that which was finished first."""
        run, names = self.run_of(table, cell), self.names_of(table, cell)
        settings = json.loads(json.dumps(run.settings))
        found: dict[int, Row] = {}
        for row in sorted(rows, key=lambda row: row.finished):
            if (
                (row.study, row.phase, row.status) == (run.study, run.phase, "done")
                and all(row.config.get(name) == value for name, value in settings.items())
                and (cell.searcher or row.control in names)
            ):
                found.setdefault(row.seed, row)
        return [found[seed] for seed in sorted(found)]

    def needed(self) -> list[Needed]:
        """What the lines without a search lack, in order: each headline line once, then again, then all else."""
        lines: dict[tuple[str, str], tuple[Run, list[Cell], set[int]]] = {}
        for table in self.tables:
            for cell in table.cells:
                run = self.run_of(table, cell)
                if not cell.searcher and self.asked(table, cell):
                    made = {row.seed for row in self.rows_of(table, cell, self.published)}
                    lines.setdefault((run.study, text(run.settings)), (run, [], made))[1].append(cell)
        found = []
        for run, cells, made in lines.values():
            first = any(cell.headline for cell in cells)
            for seed in range(1, max(cell.seeds or self.scale.seeds for cell in cells) + 1):
                if seed not in made:
                    found.append(Needed(run, cells[0].name, seed, (seed > 1 if first else 2)))
        return sorted(found, key=lambda one: (one.round, one.seed))

    def studies(self, storage: Storage, precision: str) -> Iterator[Study]:
        """Every study that lacks a training, with those that it lacks; nothing is written.

        Raises:
            UsageError: the storage holds a study of this name on other data or with other settings.
        """
        every = [(table, cell) for table in self.tables for cell in table.cells]
        asked = {self.run_of(table, cell).study for table, cell in every if cell.searcher and self.asked(table, cell)}
        asked |= {needed.run.study for needed in self.needed()}
        lines = {self.run_of(table, cell).study: (table, cell) for table, cell in every}
        for name, (table, cell) in lines.items():
            if name not in asked:
                continue
            finals = self.rows_of(table, cell, self.published) if cell.searcher else []
            if cell.searcher and len(finals) >= self.scale.seeds:
                continue
            study = Study(storage, self._plan(name, table, cell, storage, precision))
            if storage.exists(f"{study.folder}/study.json"):
                plan, study = study.plan, Study.open(storage, name)
                _check_same(study.plan, plan)
                study.plan = dataclasses.replace(plan, fingerprint=study.plan.fingerprint)
            self.fill(study)
            yield study

    def _plan(self, name: str, table: PaperTable, cell: Cell, storage: Storage, precision: str) -> Plan:
        complete = self.settings_of(table, cell) if cell.searcher else self.settings_of(table, Cell(""))
        searching = self.scale.searching if cell.searching is None else cell.searching
        searching = self.method.check(searching) if cell.searcher else {}
        settings = {**complete, **searching}
        task = Task(
            study=name,
            method=self.method.name,
            recipe=self.scale.recipe,
            data=self.scale.data[table.data],
            settings=settings,
            storage=storage.uri,
            seed=0,
            precision=precision,
        )
        sized = bool(cell.searcher) and entry_of(cell.searcher).sized
        return Plan(
            task=task,
            searcher=cell.searcher or NONE,
            space=tuple(self.space_of(table, cell)) if cell.searcher else (),
            ranges=cell.space,
            trials=0 if not cell.searcher else None if sized else self.scale.trials,
            patience=self.scale.patience if cell.searcher and not sized else None,
            seeds=self.scale.seeds if cell.searcher else 0,
            controls=False,
            retrained={name: complete[name] for name in searching},
        )

    def fill(self, study: Study) -> None:
        """Add the trainings that a study still lacks. A search proposes its own; a winner may lack seeds."""
        known = {(text(trial.job.settings), trial.job.seed) for trial in study.trials}
        if study.plan.searcher == NONE:
            for needed in self.needed():
                _, settings, seed = needed.key
                if needed.run.study == study.plan.task.study and (settings, seed) not in known:
                    job = Job(len(study.trials), "control", needed.run.settings, seed, needed.name)
                    study.trials.append(Trial(job, time.time()))
            return
        finals = [(trial.job.settings, trial.job.seed) for trial in study.of_phase("final")]
        for table in self.tables:
            for cell in table.cells:
                if self.run_of(table, cell).study == study.plan.task.study:
                    for row in self.rows_of(table, cell, self.published):
                        fields = (*study.plan.task.settings, *study.plan.space)
                        finals.append((self.method.check({name: row.config[name] for name in fields}), row.seed))
        made = {seed for _, seed in finals}
        for seed in study.plan.final_seeds():
            if finals and seed not in made:
                job = Job(len(study.trials), "final", finals[0][0], seed)
                study.trials.append(Trial(job, time.time()))


def text(settings: Mapping[str, Any]) -> str:
    """Settings as text that is equal where they are."""
    return json.dumps(settings, sort_keys=True)


def _located(spec: DataSpec, directory: str) -> DataSpec:
    root = os.path.abspath(os.path.expanduser(directory))
    kind, colon, path = spec.name.partition(":")
    return dataclasses.replace(spec, name=kind + colon + (os.path.join(root, path) if path else ""), directory=root)


def _check_same(kept: Plan, asked: Plan) -> None:
    """A study goes on only with the data and the settings that it was begun with; where they lie may differ."""

    def essence(plan: Plan) -> str:
        task = plan.task
        data = dataclasses.replace(task.data, directory=None, name=os.path.basename(task.data.name))
        return json.dumps([task.recipe, task.settings, dataclasses.asdict(data), plan.space], sort_keys=True)

    if essence(kept) != essence(asked):
        raise UsageError(
            f"study {asked.task.study}: {kept.task.storage} holds it with other settings; give another --storage"
        )
