"""What is left to be trained of a paper's tables."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from bo_distill.distributed.cache import StageCache
from bo_distill.distributed.pipeline import stage_keys, unmade
from bo_distill.distributed.seeds import seed_of
from bo_distill.distributed.worker import Runtime, best_runtime
from bo_distill.methods.cost import count
from bo_distill.methods.data.dataset import Info
from bo_distill.methods.errors import counted
from bo_distill.methods.method import Configs, Method
from bo_distill.search.evidence.words import duration
from bo_distill.search.papers.lines import text
from bo_distill.search.papers.training import left_out
from bo_distill.search.rows.export import printable
from bo_distill.search.searchers.random import random_point
from bo_distill.search.searchers.registry import NONE, foreseen
from bo_distill.search.study.records import Job, Trial

if TYPE_CHECKING:
    from bo_distill.distributed.storage import Storage
    from bo_distill.search.papers.lines import Reproduction
    from bo_distill.search.study.ledger import Study


def missing(one: Reproduction, storage: Storage, precision: str, priced: bool) -> Iterator[str]:
    """What is left to be trained, line by line.

    A stage that several trainings share, or that the storage holds, is not counted again; epochs in a checkpoint are. A
    Bayesian search counts as if it went on to its last trial.

    Args:
        priced: with multiply-adds, and the time that they take on one thread or the GPU here, as a few steps of each
            deployed network tell.
    """
    cache, runtime = StageCache(storage), best_runtime(precision)
    kind = "GPU" if runtime.device == "cuda" else "CPU"
    priced_before: set[str] = set()
    speeds: dict[int, float] = {}
    total, hours, trainings = 0, 0.0, 0
    for study in one.studies(storage, precision):
        if reason := left_out(study):
            yield reason
            continue
        yield from failures(one, study)
        task, info = study.plan.task, study.info
        jobs: dict[str, list[Job]] = {}
        for job in left(one, study):
            jobs.setdefault(job.control or job.phase, []).append(job)
        for name, own in jobs.items():
            trainings += len(own)
            words = f"{task.study} {name}: {counted(len(own), 'training')}"
            if not priced:
                yield words
                continue
            macs = 0
            for job in own:
                configs = one.method.configure(task.recipe, {**task.settings, **job.settings})
                keys = stage_keys(one.method, configs, info.fingerprint, job.seed, task.seed, runtime, task.workers)
                macs += sum(stage.macs(configs, info) for stage in unmade(one.method, keys, cache, priced_before))
            forward = count(one.method.costs(configs, info)["model"], info).macs
            if forward not in speeds:
                speeds[forward] = probe(one.method, configs, info, runtime, forward)
            seconds = macs / speeds[forward]
            total, hours = total + macs, hours + seconds / 3600
            yield f"{words}, {macs:.3g} MACs, about {duration(seconds)} of {kind}"
    what = "nothing is" if not trainings else "1 training is" if trainings == 1 else f"{trainings} trainings are"
    price = f", {total:.3g} MACs, about {hours:.1f} {kind} hours" if total else ""
    yield f"{one.method.name}, scale {one.word}: {what} missing{price}"


def lacked(one: Reproduction, study: Study) -> list[Trial]:
    """The trials of a study without a search that a line lacks."""
    keys = {needed.key for needed in one.needed()}
    name = study.plan.task.study
    return [trial for trial in study.trials if (name, text(trial.job.settings), trial.job.seed) in keys]


def failures(one: Reproduction, study: Study) -> Iterator[str]:
    """The trainings that a line lacks since they failed, a sentence for each: no sitting tries them again."""
    for trial in lacked(one, study) if study.plan.searcher == NONE else study.of_phase("final"):
        if trial.status == "failed":
            name = f"{study.plan.task.study} {trial.job.control or trial.job.phase}, seed {trial.job.seed}"
            yield printable(f"{name}: failed here ({trial.reason}); with another --storage it is tried again")


def left(one: Reproduction, study: Study) -> list[Job]:
    """The jobs that a study has to run still."""
    plan, task = study.plan, study.plan.task
    if plan.searcher == NONE:
        return [trial.job for trial in lacked(one, study) if not trial.finished]
    jobs = [trial.job for trial in study.trials if not trial.finished]
    if not study.complete and not study.of_phase("final"):
        number = len(foreseen(plan.searcher, study.space, 0, plan.trials))
        # Which points they will be is not known; no other search has them, and they cost what any others do.
        points = [random_point(study.space, seed_of(task.study), n) for n in range(number + 1)]
        jobs += [Job(n, "search", points[n], task.seed) for n in range(len(study.of_phase("search")), number)]
        winner = {**points[number], **plan.retrained}
        jobs += [Job(number + n, "final", winner, seed) for n, seed in enumerate(plan.final_seeds())]
    return jobs


def probe(method: Method, configs: Configs, info: Info, runtime: Runtime, macs: int) -> float:
    """Multiply-adds a second of one thread, or of the GPU, in training the deployed network, from a few steps on
    made-up rows.

    Seconds are of the processor, whatever else it does; of the wall where a GPU works.

    Args:
        macs: of one row forward.
    """
    torch.set_num_threads(1)
    clock = time.process_time if runtime.device == "cpu" else time.perf_counter
    net = method.costs(configs, info)["model"]
    net.to(runtime.device).train()
    rows = min(getattr(configs[method.stages[-1].name], "batch_size", 64), info.train_size)
    if info.kind == "image":
        x = torch.rand(rows, *info.shape, device=runtime.device).contiguous(memory_format=torch.channels_last)
        net.to(memory_format=torch.channels_last)
    else:
        x = torch.randint(0, 2 + len(info.vocabulary), (rows, *info.shape), device=runtime.device)
    times = []
    for _ in range(4):
        started = clock()
        with torch.autocast(runtime.device, torch.bfloat16, enabled=runtime.precision == "bfloat16"):
            out = net(x)
        out.float().logsumexp(1).mean().backward()
        if runtime.device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - started)
    return 3 * macs * rows / sorted(times)[1]
