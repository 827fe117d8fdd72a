"""Carries a paper's studies through, side by side."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.papers.lines import Reproduction
    from search.study.ledger import Study
    from search.study.records import Outcome, Trial
from search.execution.processes import Pool
from search.searchers.registry import NONE, entry_of


def carry_through(one: Reproduction, study: Study, pool: Pool) -> None:
    """Run what is missing of a study, side by side, one thread each. Finished trials are kept whatever happens then."""
    from search.study.conductor import Conductor, Finished

    with study.locked():
        one.fill(study)  # again: taking the lock may have read what another process added
        study.save_plan()
        conductor = Conductor(study)
        running: dict[Future[Outcome], Trial] = {}
        done = False
        while running or not done:
            trial = None
            # When a process is killed, all that ran beside it are lost with it. Which one was it? One by one will tell.
            suspected = any(trial.deaths and not trial.finished for trial in study.trials)
            while not done and len(running) < (1 if suspected else pool.processes):
                try:
                    trial = conductor.ask()
                except Finished:
                    done = True
                if done or trial is None:
                    break
                running[pool.submit(study.plan.task, trial.job)] = trial
            for future in pool.ended(running):
                trial = running.pop(future)
                if isinstance(error := future.exception(), BrokenProcessPool):
                    conductor.lost(trial, error)
                else:
                    conductor.settle(trial, future.result())
                if trial.finished:
                    print(_line(study, trial), file=sys.stderr, flush=True)


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
