"""A study carried through its trials without a training."""

from __future__ import annotations

from collections.abc import Callable

from bo_distill.search.study.conductor import Conductor, Finished
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Outcome, Trial


def carried(study: Study, outcome: Callable[[Trial], Outcome], stop: int | None = None) -> Conductor:
    """Run what is left, one trial at a time, but leave trial `stop` unfinished.

    Args:
        outcome: what comes of a trial.
    """
    conductor = Conductor(study)
    while True:
        try:
            trial = conductor.ask()
        except Finished:
            return conductor
        assert trial
        if trial.job.number == stop:
            return conductor
        conductor.settle(trial, outcome(trial))
