"""Carries the papers' studies through, side by side: of all that they lack, always the training that counts most."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from bo_distill.distributed.cache import StageCache
from bo_distill.distributed.pipeline import stage_keys, unmade
from bo_distill.distributed.worker import best_runtime
from bo_distill.search.command.reading import tell_reading
from bo_distill.search.execution.processes import Pool
from bo_distill.search.papers.publish import add_rows
from bo_distill.search.rows.export import printable
from bo_distill.search.searchers.registry import NONE, entry_of
from bo_distill.search.study.conductor import Conductor, Finished
from bo_distill.search.study.records import Job
from bo_distill.search.study.searches import readers

if TYPE_CHECKING:
    from pathlib import Path

    from bo_distill.distributed.storage import Storage
    from bo_distill.search.papers.lines import Reproduction
    from bo_distill.search.study.ledger import Study
    from bo_distill.search.study.records import Outcome, Trial

Order = Mapping[tuple[str, str, int], tuple[int, int, int]]


class Sitting:
    """Everything that several reproductions lack, trained on one pool until it is done or the time is up.

    A training that would wait for a stage which another one is making is passed over for as long. The row of each is
    published in `out` as soon as it has ended: what ends the sitting then, costs nothing that was finished.
    """

    def __init__(self, wanted: Sequence[Reproduction], pool: Pool, until: float, out: Path) -> None:
        self.wanted, self.pool, self.until, self.out = wanted, pool, until, out
        self.reproduced: dict[str, Reproduction] = {}  # by the names of its studies
        self.failed = False
        self.closing = False  # a training had no time for another epoch: none is begun any more
        self.running: dict[Future[Outcome], tuple[Conductor, Trial, set[str]]] = {}

    def run(self, storage: Storage, precision: str) -> None:
        """Train. Finished trials are kept whatever happens then; those cut short go on from their checkpoints.

        Raises:
            UsageError: a study's data is not that of its trials.
        """
        with contextlib.ExitStack() as held:
            self.conductors, told = [], set[str]()
            for one in self.wanted:
                for study in one.studies(storage, precision):
                    if reason := left_out(study):
                        print(reason, file=sys.stderr)
                        continue
                    held.enter_context(study.locked())
                    one.fill(study)  # again: taking the lock may have read what another process added
                    study.know_data()
                    if study.plan.fingerprint not in told:
                        told.add(study.plan.fingerprint)
                        tell_reading(study.info)
                    study.save_plan()
                    self.conductors.append(Conductor(study))
                    self.reproduced[study.plan.task.study] = one
            ranks = {
                needed.key: (needed.round, needed.seed, number)
                for number, needed in enumerate(needed for one in self.wanted for needed in one.needed())
            }
            while self._start(ranks):
                self._settle()

    def _start(self, ranks: Order) -> bool:
        """Fill the pool; false when nothing runs and nothing is left to."""
        trials = [trial for conductor in self.conductors for trial in conductor.study.trials]
        # When a process is killed, all that ran beside it are lost with it. Which one was it? One by one will tell.
        suspected = any(trial.deaths and not trial.finished for trial in trials)
        ended = self.closing or time.time() >= self.until
        while not ended and len(self.running) < (1 if suspected else self.pool.processes):
            if not (found := self._line(ranks) or self._search()):
                break
            conductor, trial = found
            study = conductor.study
            if trial.job.phase in ("control", "final") and not any(n.event == "opened" for n in study.test_notes()):
                study.note_test("opened", "lines of the paper's tables", readers(study))
            future = self.pool.submit(study.plan.task, trial.job, self.until)
            self.running[future] = conductor, trial, lacking(study, trial.job)
        return bool(self.running)

    def _line(self, ranks: Order) -> tuple[Conductor, Trial] | None:
        """The training of a line that counts most, of those that need wait for no other."""
        from bo_distill.search.papers.lines import text

        waiting = []
        for conductor in self.conductors:
            study = conductor.study
            if study.plan.searcher == NONE:
                for trial in conductor.waiting:
                    key = study.plan.task.study, text(trial.job.settings), trial.job.seed
                    if key in ranks:
                        waiting.append((ranks[key], conductor, trial))
        for _, conductor, trial in sorted(waiting, key=lambda entry: entry[0]):
            if not self._making() & lacking(conductor.study, trial.job):
                return conductor, conductor.take(trial)
        return None

    def _making(self) -> set[str]:
        """Keys of the stages that are being made."""
        return {key for *_, keys in self.running.values() for key in keys}

    def _search(self) -> tuple[Conductor, Trial] | None:
        """A trial of the first search that has one, and whose shared stages nobody is making."""
        for conductor in self.conductors:
            study = conductor.study
            any_trial = Job(0, "search", {}, study.plan.task.seed)
            if study.plan.searcher != NONE and not self._making() & lacking(study, any_trial, shared=True):
                with contextlib.suppress(Finished):
                    if trial := conductor.ask():
                        return conductor, trial
        return None

    def _settle(self) -> None:
        """Wait until a training ends, or the time is up: then forget what still runs, which can go on another time."""
        ended = self.pool.ended(self.running, self.until)
        if not ended:
            self.running.clear()
        for future in ended:
            conductor, trial, _ = self.running.pop(future)
            if isinstance(error := future.exception(), BrokenProcessPool):
                conductor.lost(trial, error)
            elif (outcome := future.result()).status == "interrupted":
                self.closing = True
            else:
                conductor.settle(trial, outcome)
            if trial.finished:
                self.failed |= trial.status == "failed"
                add_rows(self.reproduced[conductor.study.plan.task.study], conductor.study.storage, self.out)
                print(printable(_line(conductor.study, trial)), file=sys.stderr, flush=True)


def lacking(study: Study, job: Job, shared: bool = False) -> set[str]:
    """The keys of the stages that a trial will have to make; `shared`: of those alone that all trials share."""
    task, method = study.plan.task, study.method
    configs = method.configure(task.recipe, {**task.settings, **job.settings})
    runtime = best_runtime(task.precision)
    keys = stage_keys(method, configs, study.info.fingerprint, job.seed, task.seed, runtime, task.workers)
    missing = unmade(method, keys, StageCache(study.storage), set())
    return {keys[stage.name] for stage in missing if stage.shared or not shared}


def _line(study: Study, trial: Trial) -> str:
    outcome = study.outcome(trial.job.number)
    name = trial.job.control or trial.job.phase
    score = (
        f"test {100 * outcome.test['accuracy']:.2f}" if outcome.test else f"val {100 * (trial.val_accuracy or 0):.2f}"
    )
    left = sum(not t.finished for t in study.trials)
    what = score if trial.status == "done" else f"{trial.status}: {trial.reason}"
    return (
        f"{study.plan.task.study} {name}, seed {trial.job.seed}: {what}, {trial.seconds:.0f} s; {left} known to be left"
    )


def left_out(study: Study) -> str:
    """Why a study cannot be carried through on this machine; empty where it can."""
    if study.complete or study.plan.searcher == NONE:
        return ""
    lacking = entry_of(study.plan.searcher).lacking
    return f"{study.plan.task.study} is left out: {lacking} not installed here" if lacking else ""
