"""Ray's ASHA scheduler, whose verdict reaches a trial as a sign that it reads."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import ASHAScheduler

from bo_distill.search.execution.trial import stop_sign
from bo_distill.search.study.ledger import Study


def halving(epochs: int) -> dict[str, Any]:
    """ASHA's arguments: it looks after 1, 3, 9, ... epochs of a trial that has so many, and keeps a third.

    A trial that reaches `max_t` is ended by Ray, so that lies beyond the last epoch.
    """
    return {"time_attr": "epoch", "max_t": max(epochs, 2) + 1, "grace_period": 1, "reduction_factor": 3}


def asha_scheduler(metric: str, epochs: int) -> ASHAScheduler:
    """Ray's own, for trials of so many epochs."""
    return ASHAScheduler(metric=metric, mode="max", **halving(epochs))


class GracefulStop(ASHAScheduler):
    """ASHA whose verdict reaches a trial as a sign that it reads after its next epoch.

    Tune would kill the trial. Ray Train's workers, nested in it, would then keep their placement group for ever and the
    next trial would wait for it; and a trial that ends by itself can say what it had reached.
    """

    def __init__(self, study: Study, **options: Any) -> None:
        super().__init__(**options)
        self.study = study

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Never STOP for a trial that trains: its sign is written instead."""
        if trial.config["job"]["phase"] != "search":  # what was chosen is trained to its end
            return str(self.CONTINUE)
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == self.STOP and "outcome" not in result:
            self.study.storage.write_bytes(stop_sign(self.study.plan.task, trial.config["job"]["number"]), b"")
            return str(self.CONTINUE)
        return str(decision)
