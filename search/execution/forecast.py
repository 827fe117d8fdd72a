"""What a search would do, before it does it."""

from __future__ import annotations

import heapq
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from bo_distill.distributed.cache import StageCache
from bo_distill.distributed.machine import cores, peak_memory
from bo_distill.distributed.pipeline import stage_keys, unmade
from bo_distill.distributed.ranks import Ranks
from bo_distill.distributed.ray.cluster import Layout
from bo_distill.distributed.seeds import seed_of
from bo_distill.distributed.worker import LocalWorker, Runtime, best_runtime, prepare
from bo_distill.methods import get
from bo_distill.methods.data import load, stage_running
from bo_distill.methods.data.dataset import Data, Split
from bo_distill.methods.data.source import sample
from bo_distill.methods.errors import counted
from bo_distill.methods.method import State, flatten
from bo_distill.methods.outside import trust
from bo_distill.methods.training import Training
from bo_distill.search.evidence.words import duration
from bo_distill.search.execution.processes import side_by_side
from bo_distill.search.searchers.registry import foreseen
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Task
from bo_distill.search.study.searches import tuned_controls

# Seconds on two cores; see docs/LOG.md.
RAY = 6.0  # to bring Ray up and down
TRIAL = 1.0  # of Ray, the ledger, the searcher and idle cores at a phase's end, for each trial
TRAIN = 7.0  # to start Ray Train's workers, once: they stay from trial to trial
PAGE = 8.0  # the report and the winner's model
REHEARSAL = 5.0  # what its measured part takes where a network is small

BUSY = 0.5  # share of a processor under which a rehearsal had to wait for others
ALONE = Ranks()


@dataclass(frozen=True)
class Speed:
    """How fast a stage trains: seconds = fixed + multiply-adds * pace."""

    fixed: float
    pace: float = 0.0


@dataclass(frozen=True)
class Rehearsal:
    """What one process found out.

    Attributes:
        start: seconds until it could train: to start, to import, to load the data. As all seconds here, those that it
            would take if nothing else ran.
        stages: stage -> its speed.
        memory: bytes that it held at most.
        share: of the time that passed, what it had a processor for.
    """

    start: float
    stages: Mapping[str, Speed]
    memory: int
    share: float = 1.0


@dataclass(frozen=True)
class Forecast:
    """What a study has left to run.

    Attributes:
        trials: of the search, still to come.
        confirm: runs of the best again over fresh seeds.
        tune: of the controls' own searches.
        final: retrainings of the winner and its controls.
        epochs: of one trial, over all stages.
        cached: stages of a trial with default settings that are there already.
        macs: multiply-adds of all that is left, forward and backward.
        seconds: until all is done, on a machine that does nothing else.
        memory: bytes that a rehearsal's process held; a trial's process holds about as much.
        share: of the time that passed, what rehearsals had a processor for.
    """

    trials: int
    confirm: int
    tune: int
    final: int
    epochs: int
    cached: tuple[str, ...]
    macs: int
    seconds: float
    memory: int
    share: float


def own_seconds(runtime: Runtime, ranks: Ranks, wall: float, processor: float) -> float:
    """What a computation takes when nothing else runs: no longer than the processor time of all its threads.

    On a GPU it is the wall's time: the processor waits for it, and other work there is not known. So it is where ranks
    wait for one another.
    """
    return wall if runtime.device == "cuda" or ranks.size > 1 else min(wall, processor)


def rehearse(task: Task, asked: float, ranks: Ranks = ALONE, meeting: str = "") -> Rehearsal:
    """Run all stages of a trial with default settings, all of their networks, on a few rows for a few epochs.

    Args:
        asked: the time at which this process was asked for.
        ranks: of those that rehearse one trial together.
        meeting: a file that is not there yet, by which they find one another.
    """
    prepare(task.cpus)
    if ranks.size > 1:
        backend = "nccl" if best_runtime(task.precision).device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{meeting}", rank=ranks.rank, world_size=ranks.size)
    trust(task.method)  # the process that sent the task has looked at it
    method, whole = get(task.method), load(task.data)
    passed = time.time() - asked
    start = min(passed, time.process_time())
    configs = method.configure(task.recipe, task.settings)
    batch = max(getattr(config, "batch_size", 1) for config in configs.values())
    runtime = best_runtime(task.precision)

    def run(rows: int, length: int) -> dict[str, tuple[float, int, list[float]]]:
        """Seconds, multiply-adds and seconds of the epochs of each stage."""
        data = few(whole, rows)
        short = {
            name: config.rehearsed(length) if isinstance(config, Training) else config
            for name, config in configs.items()
        }
        worker = LocalWorker(data, seed=task.seed, runtime=runtime, rank=ranks.rank, world_size=ranks.size)
        states: dict[str, State] = {}
        found = {}
        for stage in method.stages:
            before, spent = time.perf_counter(), time.process_time()
            own = worker.for_stage(seed_of(task.seed, stage.name), None, None)
            with stage_running():
                states[stage.name] = stage.run(own, short[stage.name], {need: states[need] for need in stage.needs})
            wall = own_seconds(runtime, ranks, time.perf_counter() - before, time.process_time() - spent)
            epochs = [own_seconds(runtime, ranks, row["seconds"], row["cpu_seconds"]) for row in own.history]
            found[stage.name] = wall, stage.macs(short, data.info), epochs
        return found

    rows = max(batch, 2 * len(whole.info.classes))
    found = run(rows, 1)  # pays for imports and for what a network sets up with its first batch
    if ranks.from_first(sum(wall for wall, _, _ in found.values())) < REHEARSAL:  # else that does not matter much
        spent = ranks.from_first(sum(wall for wall, _, _ in run(rows, 1).values()))
        rows = int(min(max(rows, rows * REHEARSAL / (3 * spent)), 8 * batch, len(whole.train)))
        found = run(rows, 3)
    stages = {}
    for name, (wall, macs, epochs) in found.items():
        if macs and epochs:
            stages[name] = Speed(max(0.0, wall - sum(epochs)), statistics.median(epochs) * len(epochs) / macs)
        else:  # it trains nothing, or does not say what it costs; what it does grows with rows and epochs
            longer = configs[name].epochs / len(epochs) if epochs else 1.0
            stages[name] = Speed(wall * longer * len(whole.train) / rows)
    share = 1.0 if runtime.device == "cuda" else time.process_time() / max(time.time() - asked, 1e-9)
    if ranks.size > 1:
        dist.destroy_process_group()
    return Rehearsal(start, stages, peak_memory(), min(1.0, share))


def few(data: Data, rows: int) -> Data:
    """A stratified subset of the training rows, and as large a share of the validation rows."""

    def part(split: Split, size: int) -> Split:
        """A stratified sample of so many rows; all where there are no more."""
        if size >= len(split):
            return split
        labels = split.y if split.y.dim() == 1 else split.y[:, 0]
        index = torch.from_numpy(sample(labels.numpy(), size))
        return Split(split.x[index], split.y[index], tuple(split.texts[i] for i in index) if split.texts else ())

    classes = len(data.info.classes)
    train = part(data.train, rows)
    val = part(data.val, max(2 * classes, len(data.val) * len(train) // len(data.train)))
    return Data(replace(data.info, train_size=len(train), val_size=len(val)), train, val)


def rehearsals(task: Task, place: Layout) -> Rehearsal:
    """The mean of as many rehearsals side by side as trials will be: they share caches and memory as trials do.

    Of workers that this machine has no cores for, as many rehearse as it has; the others are taken to do as well.
    """
    here = cores()
    ranks = min(place.workers, here)
    asked, task = time.time(), replace(task, cpus=place.cpus)
    with tempfile.TemporaryDirectory() as folder:
        members = [
            (task, asked, Ranks(rank, ranks), f"{folder}/{trial}")
            for trial in range(min(place.concurrency, here // ranks))
            for rank in range(ranks)
        ]
        with side_by_side(len(members)) as pool:
            found = list(pool.map(rehearse, *zip(*members, strict=True)))
    stages = {
        name: Speed(
            statistics.fmean(one.stages[name].fixed for one in found) * ranks / place.workers,
            statistics.fmean(one.stages[name].pace for one in found) * ranks / place.workers,
        )
        for name in found[0].stages
    }
    return Rehearsal(
        statistics.fmean(one.start for one in found),
        stages,
        max(one.memory for one in found),
        statistics.fmean(one.share for one in found),
    )


def makespan(durations: Sequence[float], workers: int) -> float:
    """Seconds until the last of these is done, each taken by the first worker that is free."""
    free = [0.0] * workers
    for seconds in durations:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free)


def forecast(study: Study, place: Layout) -> Forecast:
    """Look at what is cached, count what is not, and rehearse on this machine how long it takes in such a layout."""
    plan, task, method, info = study.plan, study.plan.task, study.method, study.info
    runtime, cache = best_runtime(task.precision), StageCache(study.storage)
    configs = method.configure(task.recipe, task.settings)
    points = foreseen(plan.searcher, study.space, task.seed, plan.searched)
    variants: list[Mapping[str, Any]] = [{}, *(change(flatten(configs)) for change in study.controls.values())]

    def left(phase: str, planned: int) -> int:
        """Trials of the phase that are still to run."""
        return max(0, planned - sum(trial.finished for trial in study.of_phase(phase)))

    trials, confirm = left("search", len(points)), left("confirm", plan.confirmations)
    tuned = tuned_controls(plan, method)
    tune = left("tune", len(tuned) * len(points))
    final = left("final", plan.seeds) + left("control", plan.seeds * (len(variants) - 1))
    found, made = rehearsals(task, place), set[str]()

    def price(settings: Mapping[str, Any], seed: int) -> tuple[int, float]:
        """Multiply-adds and seconds of a run's stages that neither the cache nor an earlier run has."""
        changed = method.configure(task.recipe, {**task.settings, **settings})
        keys = stage_keys(method, changed, info.fingerprint, seed, task.seed, runtime, place.workers)
        macs, seconds = 0, TRIAL
        for stage in unmade(method, keys, cache, made):
            speed, work = found.stages[stage.name], stage.macs(changed, info)
            macs += work
            seconds += speed.fixed + work * speed.pace
        return macs, seconds

    own = stage_keys(method, configs, info.fingerprint, task.seed, task.seed, runtime, place.workers)
    lacking = unmade(method, own, cache, set())
    search = [price(point, task.seed) for point in points[len(points) - trials :]]
    best = [price(point, seed) for seed in plan.confirm_seeds for point in points[: plan.confirm]]
    last = [price(change, seed) for change in variants for seed in plan.final_seeds()]
    # As long as its runs over fresh seeds: where its own fields lie, its training takes no longer or shorter.
    own_search = [price(method.controls[name](flatten(configs)), task.seed) for name in tuned for _ in points]
    phases = [search, best[len(best) - confirm :], own_search[len(own_search) - tune :], last[len(last) - final :]]
    # The first trial makes what all share, and the others wait for it.
    shared = search[0][1] - min(seconds for _, seconds in search) if search else 0.0
    wait = shared * (1 - 1 / place.concurrency)
    spent = [makespan([s for _, s in phase], place.concurrency) for phase in phases]
    if plan.seconds is not None:  # what is under way then ends, too; where no number of trials was given, all is spent
        spent[0] = min(spent[0], plan.seconds) if points else plan.seconds
    seconds = sum(spent) + wait
    return Forecast(
        trials=trials,
        confirm=confirm,
        tune=tune,
        final=final,
        epochs=sum(getattr(config, "epochs", 0) for config in configs.values()),
        cached=tuple(stage.name for stage in method.stages if stage not in lacking),
        macs=sum(macs for phase in phases for macs, _ in phase),
        seconds=RAY + TRAIN * (place.workers > 1) + found.start + seconds + PAGE,
        memory=found.memory,
        share=found.share,
    )


def describe(study: Study, place: Layout, others: Sequence[Layout]) -> str:
    """A forecast in words.

    Args:
        others: layouts whose time is said beside that of `place`.
    """
    plan, method, info, seen = study.plan, study.method, study.info, forecast(study, place)
    ranges = [f"  {n}: {d}{', log scale' if getattr(d, 'log', False) else ''}" for n, d in study.space.items()]
    confirm = f"{counted(seen.confirm, 'run')} of the best {plan.confirm} over fresh seeds, " if plan.confirm else ""
    confirm += f"{seen.tune} of the controls' own searches, " if seen.tune else ""
    many = f"{seen.trials} of the search"
    if plan.seconds is not None:
        limit = f"as begin within {duration(plan.seconds)}"
        many = f"{many}, or as many {limit}" if seen.trials else f"as many of the search {limit}"
    busy = ""
    if seen.share < BUSY:
        busy = (
            f"; by processor time: other work left the rehearsal {100 * seen.share:.0f}% of a core, so it takes longer"
        )
    lines = [
        f"{method.name} on {info.name}, recipe {plan.task.recipe}, searcher {plan.searcher}",
        f"data        {info.train_size:,} training, {info.val_size:,} validation and {info.test_size:,} test rows",
        *(f"            {line}" for line in info.account.lines()),
        *ranges,
        *([f"warm        begins with what {', '.join(plan.warm)} found"] if plan.warm else []),
        f"trials      {many}, {confirm}then {counted(seen.final, 'retraining')} (winner, controls)",
        f"stages      {', '.join(s.name for s in method.stages)}; cached: {', '.join(seen.cached) or 'none'}",
        f"epochs      {seen.epochs} a trial, over all stages",
        f"MACs        {seen.macs:.3g} to train",
        f"time        about {seen.seconds:.0f} s, as this machine rehearsed every stage with default settings{busy}",
        f"memory      about {seen.memory / 2**30:.1f} GiB a process",
        f"layout      {place}",
    ]
    if others and seen.share < BUSY:
        lines.append("            ask again on a quiet machine whether another layout would be faster")
    elif others:
        lines += (f"            {other}: about {forecast(study, other).seconds:.0f} s" for other in others)
    return "\n".join(lines)
