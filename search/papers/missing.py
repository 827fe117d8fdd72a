"""What is left to be trained of a paper's tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed.storage import Storage
    from search.papers.lines import Reproduction
from search.papers.training import left_out


def missing(one: Reproduction, storage: Storage, precision: str, processes: int) -> Iterator[str]:
    """What is left to be trained, line by line, with its multiply-adds and the time that they take here.

    A stage that several trainings share, or that the storage holds, is not counted again. A Bayesian search counts as
    if it went on to its last trial.
    """
    from distributed.cache import StageCache
    from distributed.pipeline import stage_keys, unmade
    from distributed.worker import best_runtime
    from search.evidence.words import duration
    from search.execution.forecast import probe
    from search.searchers.random import random_point
    from search.searchers.registry import NONE, foreseen
    from search.study.records import Job

    cache, runtime = StageCache(storage), best_runtime(precision)
    counted: set[str] = set()
    total, speed = 0, 0.0
    for study in one.studies(storage, precision):
        plan, task, info = study.plan, study.plan.task, study.info
        if reason := left_out(study):
            yield reason
            continue
        trials = [trial.job for trial in study.trials if not trial.finished]
        if plan.searcher != NONE and not study.complete:
            # Which points they will be is not known; new points they are, and cost what any others do.
            number = len(foreseen(plan.searcher, study.space, 0, plan.trials))
            point = [random_point(study.space, len(counted), n) for n in range(number + 1)]
            trials += [Job(n, "search", point[n], task.seed) for n in range(len(study.of_phase("search")), number)]
            if not study.of_phase("final"):
                trials += [Job(number + n, "final", point[number], seed) for n, seed in enumerate(plan.final_seeds)]
        macs: dict[str, int] = {}
        for job in trials:
            configs = one.method.configure(task.recipe, {**task.settings, **job.settings})
            keys = stage_keys(one.method, configs, info.fingerprint, job.seed, task.seed, runtime)
            speed = speed or probe(one.method, configs, info, runtime, task.cpus)
            name = job.control or job.phase
            macs.setdefault(name, 0)
            macs[name] += sum(stage.macs(configs, info) for stage in unmade(one.method, keys, cache, counted))
        for name, cost in macs.items():
            number = sum((job.control or job.phase) == name for job in trials)
            spent = duration(cost / speed / processes)
            yield f"{task.study} {name}: {number} trainings, {cost:.3g} MACs, about {spent}"
        total += sum(macs.values())
    seconds = (
        f", {total:.3g} MACs, about {duration(total / speed / processes)} on {processes} processes" if speed else ""
    )
    yield f"{one.method.name}, scale {one.word}: " + (f"in all{seconds}" if total else "nothing is missing")
