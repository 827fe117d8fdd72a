"""Ray's ASHA scheduler, whose verdict reaches a trial as a sign that it reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from bo_distill.methods.errors import UsageError
from bo_distill.search.execution.trial import stop_sign
from bo_distill.search.study.curve import reached
from bo_distill.search.study.ledger import Study

NOBODY: Any = None  # in the place of Tune's controller, of which ASHA asks nothing


def halving(epochs: int) -> dict[str, Any]:
    """ASHA's arguments: it looks after half of a curve of so many epochs, and keeps the better half.

    Trainings here have tens of epochs, not thousands: looks at the first of them stop what learns slowly, or late, and
    ends high. A trial that reaches `max_t` is ended by Ray, so that lies beyond the last epoch.
    """
    return {
        "time_attr": "epoch",
        "max_t": max(epochs, 2) + 1,
        "grace_period": max(1, math.ceil(epochs / 2)),
        "reduction_factor": 2,
    }


def asha_scheduler(metric: str, epochs: int) -> ASHAScheduler:
    """Ray's own, for trials of so many epochs."""
    return ASHAScheduler(metric=metric, mode="max", **halving(epochs))


class GracefulStop(ASHAScheduler):
    """ASHA whose verdict reaches a trial as a sign that it reads after the same epoch; after the next where it has
    several workers, which do not wait for the verdict.

    Tune would kill the trial. Ray Train's workers, nested in it, would then keep their placement group for ever and the
    next trial would wait for it; and a trial that ends by itself can say what it had reached.

    Trials are held against all that the study's search has trained, also those that ended before it was interrupted,
    and those whose epochs were found in the cache, which report none.

    Args:
        stage: whose epochs are judged.
        epochs: of that stage.
    """

    def __init__(self, study: Study, stage: str, epochs: int) -> None:
        super().__init__(**halving(epochs))
        self.study, self.stage, self.epochs = study, stage, epochs

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Hear of the study's earlier trials, once it is known what is compared."""
        accepted = super().set_search_properties(metric, mode, **spec)
        for trial in self.study.of_phase("search"):
            if trial.status in ("done", "pruned"):
                self._hear(trial.job.number, self.study.outcome(trial.job.number).history)
        return bool(accepted)

    def _verdict(self, number: int, epoch: int, value: float) -> str:
        """ASHA's, of one epoch; of an epoch that it was told before it has none.

        It knows a trial by its number in the study: one that died has the same when it runs again, and Tune's id not.
        """
        trial: Any = SimpleNamespace(trial_id=number)
        self.on_trial_add(NOBODY, trial)
        verdict = super().on_trial_result(NOBODY, trial, {"epoch": epoch, self._metric: value})
        self.on_trial_remove(NOBODY, trial)
        return str(verdict)

    def _hear(self, number: int, history: Sequence[Mapping[str, Any]]) -> None:
        """Note a curve that has ended."""
        for epoch, value in reached(history, self.stage).items():
            if epoch < self.epochs:
                self._verdict(number, epoch, value)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Never STOP for a trial that trains: its sign is written instead."""
        job = trial.config["job"]
        if job["phase"] != "search":  # what was chosen is trained to its end
            return str(self.CONTINUE)
        if "outcome" in result:
            outcome = json.loads(result["outcome"])
            if outcome["status"] in ("done", "pruned"):
                self._hear(job["number"], outcome["history"])
        elif (
            result.get("stage") == self.stage
            and result["epoch"] < self.epochs
            and self._metric in result
            and self._verdict(job["number"], result["epoch"], result[self._metric]) == self.STOP
        ):
            with suppress(UsageError):  # then it trains on, and whoever keeps its outcome says what the storage lacks
                self.study.storage.write_bytes(stop_sign(self.study.plan.task, job["number"]), b"")
        return str(self.CONTINUE)
