"""What a study is asked, and what came of it: plain records that travel as JSON."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError, counted
from bo_distill.search.study.metrics import ACCURACY

if TYPE_CHECKING:
    from bo_distill.methods.method import Control, Method

Phase = Literal["search", "confirm", "tune", "final", "control"]


Status = Literal["done", "failed", "pruned", "interrupted", "paused"]


@dataclass(frozen=True)
class Task:
    """What all trials of a study have in common; travels to the workers.

    Attributes:
        study: its name, which is also its folder under `studies/`.
        method, recipe, data: as on the command line.
        settings: fixed for all trials ("stage.field" -> value).
        storage: URI.
        seed: of the shared stages.
        precision: "auto", "float32" or "bfloat16".
        workers, cpus, gpus: as in `distributed.ray.cluster.Layout`.
        stoppable: look for a scheduler's stop sign after every epoch.
        measured: also score the whole network on validation, as winners are on test, for metrics that need it.
    """

    study: str
    method: str
    recipe: str
    data: DataSpec
    settings: Mapping[str, Any]
    storage: str
    seed: int
    precision: str = "auto"
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    stoppable: bool = False
    measured: bool = False


@dataclass(frozen=True)
class Job:
    """What one trial does.

    Attributes:
        number: unique in the study.
        phase: "search", "confirm" and "tune" (a control's own search) choose on validation; "final" and "control" are
            also scored on test.
        settings: beside the task's.
        seed: of the stages that are not shared.
        control: name of the control, or None.
        until: epochs of the curve (`search.study.curve`) after which the trial pauses; None: it goes to its end.
    """

    number: int
    phase: Phase
    settings: Mapping[str, Any]
    seed: int
    control: str | None = None
    until: int | None = None

    @property
    def words(self) -> str:
        """The settings as JSON, which does not tell a list that was read from a tuple: alike where they are."""
        return json.dumps(self.settings, sort_keys=True)


@dataclass
class Outcome:
    """What came of a trial; plain JSON.

    Attributes:
        status: "done"; "pruned" by a scheduler; "failed"; "paused" by the searcher, and "interrupted" as its time was
            up: it can go on from its checkpoint, so it has no row.
        reason: why it is not done, one line.
        val: "accuracy", "loss" and further scalars on validation: the last stage's, or a pruned trial's last epoch's.
        test: the same on test, of winners and controls only; empty else.
        tables: the method's own tables on test: name -> fields of `methods.method.Table`.
        stage_seconds: stage -> seconds, near zero where it was found.
        stage_keys: stage -> key of its result in the stage cache.
        shared_stages: stage that seeds share -> digest of its result.
        cached: stages whose results were found.
        epochs: over all stages, those of found stages included.
        history: every epoch's row (`methods.method.EpochRow`), epochs counted by stage and those of found stages
            included; of a trial that has not ended by itself, its own rows alone.
        seconds: from start to finish.
        started: seconds since 1970.
        device: "cpu" or the GPU's name.
        precision: in which it trained, "float32" or "bfloat16".
        nodes: Ray's id of each worker's node, by rank; without Ray the host's name.
        memory: bytes that the trial's process had held at most when it ended.
        processor: the name of the machine's, as its system says it.
        cpu_seconds: of all workers' processes, over the epochs that they trained themselves.
    """

    status: Status = "done"
    reason: str | None = None
    val: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    stage_keys: dict[str, str] = field(default_factory=dict)
    shared_stages: dict[str, str] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    epochs: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    started: float = 0.0
    device: str = "cpu"
    precision: str = "float32"
    nodes: list[str] = field(default_factory=list)
    memory: int | None = None
    processor: str | None = None
    cpu_seconds: float | None = None


def on_validation(scalars: Mapping[str, Any]) -> dict[str, float]:
    """Scalars on validation by bare names.

    Only where those of training stand beside them, in an epoch's row and in a stage's metrics, does a name of
    validation begin with "val_". Everywhere else the record says which split it is.
    """
    return {name.removeprefix("val_"): value for name, value in scalars.items()}


def failed(error: BaseException, started: float) -> Outcome:
    """An error as a trial's outcome: its last line says what, the log of Ray's worker says where."""
    traceback.print_exception(error)
    lines = str(error).strip().splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[-1]}"[:300]
    seconds = max(0.0, time.time() - started)  # a clock may have been set back
    return Outcome(status="failed", reason=reason, started=started, seconds=seconds)


CONFIRM_SEEDS = 3
"""Runs of each of the best again."""

ATTEMPTS = 3
"""A trial has failed if its process died, or the GPU refused it, so often. Nodes lost with it do not count."""


@dataclass(frozen=True)
class TestNote:
    """That the test split was opened, or that a second look at it was refused.

    Attributes:
        time: in ISO 8601, UTC.
        what: it was opened for, or was asked for.
        earlier: other studies of this method and data that had read it before.
    """

    __test__ = False  # pytest would otherwise take the name for a test class

    time: str
    event: Literal["opened", "refused"]
    what: str
    earlier: int = 0

    def __str__(self) -> str:
        return f"{self.what}; {self.before}" if self.earlier else self.what

    @property
    def before(self) -> str:
        """In words, how many had read it before."""
        return f"read before by {counted(self.earlier, 'other study', 'other studies')} of this method and data"


@dataclass(frozen=True)
class Plan:
    """What was asked for.

    Attributes:
        task: what all trials share.
        searcher: a word of `search.searchers.registry`, or its NONE.
        space: searched fields, in order.
        trials: budget of the search; for a grid, None means its natural size, for others that time alone ends it.
        patience: stop after so many trials in a row that were no better in the metric (of two: that did not join the
            front), or None.
        seeds: of the winner's and each control's final retraining; 0 leaves the test split unread.
        controls: run the method's controls beside the winner.
        tune_controls: give each control that has fields of its own a search like the winner's before that.
        against: the controls that run, by name; none named: all.
        asha: let a scheduler stop trials that fall behind.
        confirm: so many of the best are run again over `CONFIRM_SEEDS` fresh seeds, within the budget, and the one with
            the best mean over those wins (the best of many noisy values is too good: the winner's curse).
        retrained: laid over the winner's settings for its final runs, such as the epochs that a search could not spend.
        ranges: of searched fields, a person's own in place of the declared ones ("stage.field" -> text, as
            `methods.space.ranged` reads it).
        seconds: of wall-clock time, after which a run of the command proposes no new trial; None for no limit.
        out_of_time: the search has ended because those were spent.
        over: all that was asked for has run: the search proposes nothing new until more is asked for.
        patient_from: trials of the search that were there when more were asked for; patience does not count them.
        extends: the study whose finished search trials this one began with; "" for none.
        warm: other studies of the method, whose finished search trials this one's searcher learns from.
        fingerprint: of the data that all trials see; "" before it was read.
        metrics: words of `search.study.metrics.METRICS`: what is searched for, the one that chooses the winner first.
    """

    task: Task
    searcher: str
    space: tuple[str, ...]
    trials: int | None
    patience: int | None = None
    seeds: int = 3
    controls: bool = True
    tune_controls: bool = False
    asha: bool = False
    confirm: int = 0
    retrained: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    out_of_time: bool = False
    extends: str = ""
    warm: tuple[str, ...] = ()
    fingerprint: str = ""
    metrics: tuple[str, ...] = (ACCURACY,)
    against: tuple[str, ...] = ()
    over: bool = False
    patient_from: int = 0

    @property
    def searched(self) -> int | None:
        """Trials of the budget that propose something new."""
        return None if self.trials is None else self.trials - self.confirmations

    @property
    def confirmations(self) -> int:
        """Runs of the best again."""
        return self.confirm * CONFIRM_SEEDS

    @property
    def outside(self) -> list[str]:
        """Modules from outside the project, of its method and searcher, that only a person's `--trust` lets run."""
        words = (self.task.method, self.searcher)
        return list(dict.fromkeys(word.partition(":")[0] for word in words if ":" in word))

    @property
    def trusting(self) -> str:
        """The options that let `outside` run, with a space before each."""
        return "".join(f" --trust {module}" for module in self.outside)

    def final_seeds(self, seen: Collection[int] = ()) -> list[int]:
        """Fresh seeds, of the retrainings of the winner and of each control: none that was `seen` in choosing it."""
        first = self.task.seed + 1
        return [seed for seed in range(first, first + self.seeds + len(seen)) if seed not in seen][: self.seeds]

    @property
    def confirm_seeds(self) -> range:
        """Fresh seeds, of the runs of the best again; not those of the final runs, which are to be fresh too."""
        first = self.task.seed + 1 + self.seeds
        return range(first, first + CONFIRM_SEEDS)

    def check_confirm(self, begun: int = 0) -> None:
        """See that running the best again leaves a search.

        Args:
            begun: trials of the search that were asked for already.

        Raises:
            UsageError: it takes the whole budget, or what is left of it.
        """
        if not self.confirm or self.searched is None or self.searched >= max(begun, 1):
            return
        taken = f", and {begun} were asked for already" if begun else ""
        raise UsageError(
            f"--confirm {self.confirm}: takes {self.confirmations} of --trials {self.trials}{taken}; give more --trials"
        )


def running_controls(plan: Plan, method: Method) -> dict[str, Control]:
    """The method's controls that run beside the winner, by name."""
    every = method.controls if plan.controls else {}
    return {name: control for name, control in every.items() if not plan.against or name in plan.against}


@dataclass
class Trial:
    """A line of the ledger: what was asked of a trial, and in short what came of it.

    Attributes:
        asked: when the searcher proposed it, seconds since 1970.
        status: "running" until it has ended; also while it waits to run again. "paused": it waits for the searcher.
        val_accuracy: 0 to 1, once it has ended with one; that of its last epoch where it was stopped early.
        estimate: of a trial that was stopped early: the accuracy at its end that the searcher was told of instead of
            the one it had. It is not observed: `search.searchers.curves` makes it, anew with each trial that finishes.
            Where the searcher pauses trials, of each: the mean of its model at the end. None: nothing was told.
        reason, seconds: as in `Outcome`.
        values: of the study's metrics but `val_accuracy`: word -> value; those that it has.
        deaths: how often its process died or the GPU refused it; nodes that were lost with it do not count.
    """

    job: Job
    asked: float
    status: Status | Literal["running"] = "running"
    val_accuracy: float | None = None
    estimate: float | None = None
    reason: str | None = None
    seconds: float = 0.0
    deaths: int = 0
    values: dict[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether it is over, however it ended."""
        return self.status not in ("running", "paused")
