"""A study: one search from its first trial to the winner's score on test, kept so that nothing finished is lost.

    studies/NAME/study.json     what was asked for
    studies/NAME/config.toml    the options that ask for the same search
    studies/NAME/data.json      what was read of the data, and what was left out
    studies/NAME/ledger.json    every trial and the searcher's state, replaced whole after each event
    studies/NAME/ledger.previous.json  the one before, should the last be damaged
    studies/NAME/trials/N.json  what came of trial N: metrics, epochs, times
    studies/NAME/test/*.json    when the test split was opened and what for, and each second look that was refused
    studies/NAME/ray.log        Ray's own words

A search that was cut short goes on from the ledger: finished trials stay, those under way run again and find their
finished stages in the cache and their last epoch in a checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from statistics import fmean
from typing import Any, Literal, TypeVar

from bo_distill.distributed.locks import Lock, LockLost, Taken, locked
from bo_distill.distributed.storage import Conflict, Storage
from bo_distill.methods import get
from bo_distill.methods.data import load
from bo_distill.methods.data.account import Account
from bo_distill.methods.data.dataset import Info
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import Control, Method
from bo_distill.methods.records import Malformed, decoded
from bo_distill.methods.space import Searched
from bo_distill.search.rows.row import ROWS
from bo_distill.search.searchers.registry import NONE, pauses
from bo_distill.search.study.kept import FORMAT, Damaged, check_name, damaged, packed, read, sealed
from bo_distill.search.study.metrics import ACCURACY, METRICS, Metric
from bo_distill.search.study.records import Outcome, Plan, TestNote, Trial, on_validation, running_controls

T = TypeVar("T")

WRITTEN = ("studies", "stages", ROWS)
"""Folders of a storage that every search writes to."""

LEDGERS = ("ledger.json", "ledger.previous.json")


@dataclass
class Study:
    """A study's folder.

    Attributes:
        listeners: told of each trial that ends, once it is kept.

    Raises (`open`):
        UsageError: there is no such study, or its files cannot be read.
    """

    storage: Storage
    plan: Plan
    trials: list[Trial] = field(default_factory=list)
    searcher_state: dict[str, Any] | None = None
    listeners: list[Callable[[Trial, Outcome], None]] = field(default_factory=list, repr=False, compare=False)
    _begun: bool = field(default=False, init=False, repr=False, compare=False)  # its folder is there
    _lines: dict[int, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _lock: Lock | None = field(default=None, init=False, repr=False, compare=False)
    _last: bytes = field(default=b"", init=False, repr=False, compare=False)  # of an object store: the ledger there
    _version: str = field(default="", init=False, repr=False, compare=False)  # and which of its versions that is
    _whole: bool = field(default=True, init=False, repr=False, compare=False)  # so that it may become the one before

    def __getstate__(self) -> dict[str, Any]:
        """Without the lock: another process that reads this study, or Tune's copy of the search, does not hold it."""
        return {**vars(self), "_lock": None}

    @property
    def folder(self) -> str:
        """The study's folder in the storage."""
        return f"studies/{self.plan.task.study}"

    @cached_property
    def method(self) -> Method:
        """The method that is searched."""
        return get(self.plan.task.method)

    @cached_property
    def info(self) -> Info:
        """Of the data, which is read when this is first asked for."""
        return load(self.plan.task.data).info

    def know_data(self) -> None:
        """Note the data's fingerprint and what was read of it, or see that it is still the data of the first trial.

        Raises:
            UsageError: it is not.
        """
        found, kept = self.info.fingerprint, self.plan.fingerprint
        if kept and found != kept:
            raise UsageError(
                f"study {self.plan.task.study}: {self.info.name} is not the data of its trials (fingerprint {found}, "
                f"theirs {kept}); restore it, name its place with --data, or start a new study"
            )
        self.plan = dataclasses.replace(self.plan, fingerprint=found)

    @property
    def account(self) -> Account | None:
        """What was read of the data, as noted when the search began; None for a study of version 0.1."""
        try:
            return _record(Account, self.storage, f"{self.folder}/data.json")[1]
        except FileNotFoundError:
            return None

    @cached_property
    def space(self) -> dict[str, Searched]:
        """The searched fields with their domains, in order.

        Raises:
            UsageError: the method has one of them no more, or is not to be had.
        """
        method, name = self.method, self.plan.task.study
        try:
            return method.space(self.plan.space, self.plan.ranges)
        except UsageError as error:
            said = f"its search space is of another version ({error}); use its commit"
            raise UsageError(f"study {name}: {said}") from None

    @property
    def resume_words(self) -> str:
        """The options by which a person goes on with the study."""
        return f"--resume {self.plan.task.study} --storage {shlex.quote(self.storage.uri)}{self.plan.trusting}"

    @classmethod
    def open(cls, storage: Storage, name: str) -> Study:
        """A study that was begun before."""
        check_name("study", name)
        try:
            plan = _record(Plan, storage, f"studies/{name}/study.json")[1]
        except FileNotFoundError:
            known = sorted({entry.split("/")[1] for entry in storage.list("studies")})
            there = f"{storage.uri}, which has {', '.join(known[-5:]) or 'none at all'}"
            raise UsageError(f"study {name}: none of this name under {there}; give another name or --storage") from None
        # A folder that was copied or renamed is a study of its own.
        study = cls(storage, replace(plan, task=replace(plan.task, study=name)))
        study._begun = True
        study._read_ledger()
        return study

    def _read_ledger(self) -> None:
        """The last ledger; the one before it where a crash or a damaged disk left no whole one.

        Raises:
            UsageError: neither can be read.
        """
        problem: Damaged | None = None
        for name in LEDGERS:
            try:
                version, content = _record(_Ledger, self.storage, f"{self.folder}/{name}")
            except FileNotFoundError:
                continue
            except Damaged as error:
                problem = problem or error
                continue
            self.trials = content.trials
            # An earlier version's searcher may mean something else by its state: this one is told what was found.
            if version == FORMAT and content.of == self.plan.searcher:
                self.searcher_state = content.searcher
            if problem:
                print(f"{problem}; going on from {name}, which lacks the last event", file=sys.stderr)
            self._whole = not problem
            return
        if problem:
            raise problem

    def save_plan(self) -> None:
        """Write what was asked for, and of the data what is known; before, the trials that a new study begins with.

        Raises: as `save`.
        """
        if self.trials and not self._begun:
            self.save()
        self._write("study.json", dataclasses.asdict(self.plan))
        self._begun = True
        if self.plan.fingerprint:
            self._write("data.json", dataclasses.asdict(self.info.account))

    def save(self) -> None:
        """Write the ledger, whole, and keep the one before.

        Raises:
            LockLost: another process has taken the study over.
            UsageError: the storage cannot be written, or the study's folder is gone from it.
        """
        last, previous = (f"{self.folder}/{name}" for name in LEDGERS)
        lines = ",\n".join(self._lines.get(trial.job.number) or self._line(trial) for trial in self.trials)
        rest = json.dumps({"searcher": self.searcher_state, "of": self.plan.searcher})
        content = sealed(f'"trials": [\n{lines}\n],\n{rest[1:]}\n')
        self._check_writable()
        if self._lock is None or self.storage.is_local:
            if self._whole:
                with contextlib.suppress(FileNotFoundError):
                    self.storage.move(last, previous)
            self.storage.write_bytes(last, content)
            self._whole = True
            return
        # Should another process have written meanwhile, the store itself refuses a ledger that does not follow from it.
        if self._last and self._whole:
            self.storage.write_bytes(previous, self._last)
        try:
            self._version = self.storage.write_versioned(last, content, self._version)
        except Conflict:
            raise LockLost(f"study {self.plan.task.study}: another process goes on with it; this one stops") from None
        self._last, self._whole = content, True

    def _check_writable(self) -> None:
        """See, before a write that only the holder of the study may make, that this process still is."""
        if self._lock:
            self._lock.check()
            if self._begun and not self.storage.exists(f"{self.folder}/study.json"):
                where = self.storage.path(self.folder)
                raise UsageError(f"{where} is gone or lost its study.json; the search stops, and what is left stays")

    def _line(self, trial: Trial) -> str:
        line = json.dumps(dataclasses.asdict(trial))
        # What will not change is kept: with a thousand trials, writing all anew would take most of the time.
        if trial.finished and trial.status != "pruned" and not pauses(self.plan.searcher):
            self._lines[trial.job.number] = line
        return line

    def save_outcome(self, number: int, outcome: Outcome) -> None:
        """Write all that came of a trial, before the ledger says that it is over."""
        self._write(f"trials/{number}.json", dataclasses.asdict(outcome))

    def outcome(self, number: int) -> Outcome:
        """What came of a trial that has ended.

        Raises:
            UsageError: its file is missing or cannot be read.
        """
        name = f"{self.folder}/trials/{number}.json"
        try:
            version, outcome = _record(Outcome, self.storage, name)
        except FileNotFoundError:
            raise damaged(self.storage.path(name), "it is missing") from None
        if version == 1:  # whose names on validation began with "val_"
            outcome.val = on_validation(outcome.val)
        return outcome

    def note_test(self, event: Literal["opened", "refused"], what: str, earlier: int = 0) -> None:
        """Keep that the test split is opened now, or that a second look was refused. A file for each: no lock is
        needed, and nothing is overwritten.

        Args:
            earlier: studies that had read it before.
        """
        now = datetime.now(UTC)
        note = TestNote(now.isoformat(), event, what, earlier)
        self._write(f"test/{now:%Y%m%dT%H%M%S.%f}.json", dataclasses.asdict(note))

    def test_notes(self) -> list[TestNote]:
        """What `note_test` kept, the oldest first."""
        names = self.storage.list(f"{self.folder}/test")
        return [_record(TestNote, self.storage, name)[1] for name in names]

    def of_phase(self, phase: str) -> list[Trial]:
        """Trials of a phase, in the order in which they were asked for."""
        return [trial for trial in self.trials if trial.job.phase == phase]

    @property
    def controls(self) -> dict[str, Control]:
        """The method's controls that run beside the winner."""
        return running_controls(self.plan, self.method)

    @property
    def metric(self) -> Metric:
        """The metric that chooses the winner."""
        return METRICS[self.plan.metrics[0]]

    def value(self, trial: Trial, word: str | None = None) -> float | None:
        """A trial's value of a metric, of the one that chooses the winner by default; None where it has none."""
        word = word or self.plan.metrics[0]
        return trial.val_accuracy if word == ACCURACY else trial.values.get(word)

    def scores(self, trial: Trial) -> list[float] | None:
        """What the search makes large of a trial, for each of its metrics; None where a value is missing."""
        values = [(METRICS[word], self.value(trial, word)) for word in self.plan.metrics]
        scores = [metric.score(value) for metric, value in values if value is not None]
        return scores if len(scores) == len(values) else None

    def ranked(self) -> list[Trial]:
        """The search trials that are done, the best by the first metric (or a model's estimate of it) first."""
        done = [t for t in self.of_phase("search") if t.status == "done"]
        worth = [(t, self.scores(t) if t.estimate is None else [t.estimate]) for t in done]
        best = sorted(([-score for score in scores], t.job.number, t) for t, scores in worth if scores)
        return [trial for *_, trial in best]

    def confirmed(self, trial: Trial) -> list[float]:
        """Values of the metric that chooses the winner, of a search trial's settings, one for each fresh seed."""
        words = trial.job.words
        again = {t.job.seed: t for t in self.of_phase("confirm") if t.status == "done" and t.job.words == words}
        return [value for value in map(self.value, again.values()) if value is not None]

    def best(self) -> Trial | None:
        """The winner: where the best were run again, by the mean over fresh seeds, of those alone that ended well over
        the most of these; else by the search's own value."""
        runs = [(trial, self.confirmed(trial)) for trial in self.ranked()]
        most = max((len(values) for _, values in runs), default=0)
        if not most:
            return runs[0][0] if runs else None
        return max((run for run in runs if len(run[1]) == most), key=lambda run: self.metric.score(fmean(run[1])))[0]

    def tuned(self, control: str) -> Trial | None:
        """The best trial of a control's own search; None where it had none."""
        done = [t for t in self.of_phase("tune") if t.job.control == control and t.status == "done"]
        return max(done, key=lambda t: (t.val_accuracy or 0.0, -t.job.number), default=None)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to run."""
        plan = self.plan
        if plan.confirm and self.ranked() and not self.of_phase("confirm"):
            return False
        asked = (
            plan.searched is not None and not pauses(plan.searcher) and len(self.of_phase("search")) >= plan.searched
        )
        over = plan.over or asked or plan.searcher == NONE
        planned = bool(self.of_phase("final")) or (over and (not plan.seeds or self.best() is None))
        return bool(self.trials) and planned and all(trial.finished for trial in self.trials)

    def stale(self) -> int:
        """Finished search trials in a row, up to the last, that an earlier one equals or beats in every metric, or that
        were stopped early: what these had reached is no result. None of those that were there when more were asked
        for."""
        seen: list[list[float]] = []
        since = 0
        for number, trial in enumerate(self.of_phase("search")):
            if trial.finished:
                since += number >= self.plan.patient_from
                scores = self.scores(trial) if trial.status == "done" else None
                if scores and not any(all(a >= b for a, b in zip(old, scores, strict=True)) for old in seen):
                    seen, since = [*seen, scores], 0
        return since

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process may run a study. What another one added before is read again.

        Raises:
            UsageError: another one does.
        """
        try:
            with locked(self.storage, f"{self.folder}/.lock") as lock:
                if not self.storage.is_local:
                    with contextlib.suppress(FileNotFoundError):
                        self._last, self._version = self.storage.read_versioned(f"{self.folder}/{LEDGERS[0]}")
                self._read_ledger()
                self._lock = lock
                try:
                    yield
                finally:
                    self._lock = None
        except Taken as taken:
            raise UsageError(f"study {self.plan.task.study}: another process is running it, {taken}") from None

    def _write(self, name: str, content: Any) -> None:
        self._check_writable()
        self.storage.write_bytes(f"{self.folder}/{name}", packed(content))


@dataclass
class _Ledger:
    """The content of ledger.json.

    Attributes:
        searcher: the searcher's state.
        of: which searcher's.
    """

    trials: list[Trial]
    searcher: dict[str, Any] | None = None
    of: str | None = None


def _record(kind: type[T], storage: Storage, name: str) -> tuple[int, T]:
    """A kept file's format and its content as a record.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it does not hold such a record.
        UsageError: a later version wrote it.
    """
    version, content = read(storage, name)
    try:
        return version, decoded(kind, content)
    except Malformed as error:
        raise damaged(storage.path(name), error) from None
