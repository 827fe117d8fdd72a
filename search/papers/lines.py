"""The papers' tables as studies: which trainings each line of a table asks for, and where they are kept."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from distributed.storage import Storage
from methods import get
from methods.data.dataset import DataSpec
from methods.errors import UsageError
from methods.method import Method
from methods.published import Cell, PaperTable, Scale
from search.searchers.registry import NONE, entry_of
from search.study.ledger import Study
from search.study.records import Job, Plan, Task, Trial


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


@dataclasses.dataclass
class Reproduction:
    """A method's tables at one scale, and the studies that fill them."""

    method: Method
    word: str
    scale: Scale
    tables: tuple[PaperTable, ...]

    @classmethod
    def of(cls, name: str, word: str, seeds: int | None, directory: str) -> Reproduction:
        """The reproduction that a command asks for.

        Raises:
            UsageError: there is no such method or scale.
        """
        method = get(name)
        published = importlib.import_module(method.published)
        if word not in published.SCALES:
            raise UsageError(f"--scale {word}: {name} has {', '.join(published.SCALES)}")
        scale = published.SCALES[word]
        data = {name: _located(spec, directory) for name, spec in scale.data.items()}
        scale = dataclasses.replace(scale, data=data, seeds=seeds or scale.seeds)
        return cls(method, word, scale, published.tables(scale))

    def run_of(self, table: PaperTable, cell: Cell) -> Run:
        """Where a line's trainings are found."""
        base = f"reproduce-{self.method.name}-{self.word}" + (f"-{table.data}" if len(self.scale.data) > 1 else "")
        if cell.searcher:
            return Run(f"{base}-{cell.name.replace(', ', '-').replace(' ', '-').lower()}", "final")
        return Run(base, "control", self.method.check({**self.scale.settings, **cell.settings}))

    def names_of(self, table: PaperTable, cell: Cell) -> set[str]:
        """The lines that share a line's trainings, itself included; a training bears the name of one of them."""
        mine = self.run_of(table, cell)
        return {c.name for t in self.tables for c in t.cells if self.run_of(t, c) == mine}

    def studies(self, storage: Storage, precision: str) -> Iterator[Study]:
        """Every study, with the trials that it still lacks; nothing is written.

        Raises:
            UsageError: the storage holds a study of this name on other data or with other settings.
        """
        lines = {self.run_of(table, cell).study: (table, cell) for table in self.tables for cell in table.cells}
        for name, (table, cell) in lines.items():
            settings = self.method.check({**self.scale.settings, **(cell.settings if cell.searcher else {})})
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
            searched = [field for field, (_, own) in self.method.fields().items() if own and field not in settings]
            sized = bool(cell.searcher) and entry_of(cell.searcher).sized
            plan = Plan(
                task=task,
                searcher=cell.searcher or NONE,
                space=tuple(searched) if cell.searcher else (),
                trials=0 if not cell.searcher else None if sized else self.scale.trials,
                patience=self.scale.patience if cell.searcher and not sized else None,
                seeds=self.scale.seeds if cell.searcher else 0,
                controls=False,
            )
            study = Study(storage, plan)
            if storage.exists(f"{study.folder}/study.json"):
                study = Study.open(storage, name)
                _check_same(study.plan, plan)
                study.plan = plan
            self.fill(study)
            yield study

    def fill(self, study: Study) -> None:
        """Add the trainings that a study still lacks. A search proposes its own; a winner may lack seeds."""

        def text(settings: Mapping[str, Any]) -> str:
            return json.dumps(settings, sort_keys=True)

        lines: dict[str, tuple[Mapping[str, Any], str]] = {}
        for table in self.tables:
            for cell in table.cells:
                run = self.run_of(table, cell)
                if run.study == study.plan.task.study and not cell.searcher:
                    lines.setdefault(text(run.settings), (run.settings, cell.name))
        known = {(text(trial.job.settings), trial.job.seed) for trial in study.trials}
        seeds, every = range(1, self.scale.seeds + 1), list(lines.items())
        winners = study.of_phase("final")
        for seed in seeds:
            if winners and seed not in {trial.job.seed for trial in winners}:
                job = Job(len(study.trials), "final", winners[0].job.settings, seed)
                study.trials.append(Trial(job, time.time()))
        # Seed by seed: a table that was cut short has every line before it has any line twice. But first one line with
        # all seeds: lines of one seed share stages and would wait for one another.
        order = [(seed, line) for line in every[:1] for seed in seeds]
        order += [(seed, line) for seed in seeds for line in every[1:]]
        for seed, (words, (settings, name)) in order:
            if (words, seed) not in known:
                study.trials.append(Trial(Job(len(study.trials), "control", settings, seed, name), time.time()))


def _located(spec: DataSpec, directory: str) -> DataSpec:
    root = os.path.abspath(os.path.expanduser(directory))
    kind, colon, path = spec.name.partition(":")
    return dataclasses.replace(spec, name=kind + colon + (os.path.join(root, path) if path else ""), directory=root)


def _check_same(kept: Any, asked: Any) -> None:
    """A study goes on only with the data and the settings that it was begun with; where they lie may differ."""

    def essence(plan: Any) -> str:
        task = plan.task
        data = dataclasses.replace(task.data, directory=None, name=os.path.basename(task.data.name))
        return json.dumps([task.recipe, task.settings, dataclasses.asdict(data), plan.space], sort_keys=True)

    if essence(kept) != essence(asked):
        raise UsageError(
            f"study {asked.task.study}: {kept.task.storage} holds it with other settings; give another --storage"
        )
