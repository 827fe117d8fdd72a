"""Ray's ASHA scheduler, whose verdict reaches a trial as a sign that it reads."""

from __future__ import annotations

import math
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from bo_distill.search.execution.trial import stop_sign
from bo_distill.search.study.ledger import Study


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

    Args:
        stage: whose epochs are judged.
        epochs: of that stage.
    """

    def __init__(self, study: Study, stage: str, epochs: int) -> None:
        super().__init__(**halving(epochs))
        self.study, self.stage, self.epochs = study, stage, epochs

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Never STOP for a trial that trains: its sign is written instead."""
        if trial.config["job"]["phase"] != "search":  # what was chosen is trained to its end
            return str(self.CONTINUE)
        if "outcome" not in result and (result.get("stage") != self.stage or result["epoch"] >= self.epochs):
            return str(self.CONTINUE)
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == self.STOP and "outcome" not in result:
            self.study.storage.write_bytes(stop_sign(self.study.plan.task, trial.config["job"]["number"]), b"")
            return str(self.CONTINUE)
        return str(decision)
