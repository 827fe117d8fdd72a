"""What a search would do, before it does it."""

from __future__ import annotations

import heapq
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch

from distributed.cache import StageCache
from distributed.cluster import Layout
from distributed.loop import seed_of
from distributed.pipeline import stage_keys
from distributed.worker import LocalWorker, Runtime, best_runtime
from methods import get
from methods.cost import count
from methods.data import load, stage_running
from methods.data.dataset import Data, Info, Split
from methods.data.source import sample
from methods.method import Configs, Method, State, flatten
from search.study import CONFIRM_SEEDS, Study
from search.trial import Task, peak_memory

# Seconds. The first is a guess, the next two are of single runs on two cores; see docs/LOG.md.
RAY = 6.0  # to bring Ray up and down
TRAIN = 6.3  # of Ray Train, for each trial of several workers
PAGE = 8.0  # the report and the winner's model
REHEARSAL = 5.0  # what its measured part takes where a network is small


def probe(method: Method, configs: Configs, info: Info, runtime: Runtime, threads: int) -> float:
    """Multiply-adds a second of training the deployed network, from a few steps on made-up rows."""
    torch.set_num_threads(threads)
    net = method.costs(configs, info)["model"].to(runtime.device).train()
    cost = count(net, info)
    net.train()
    rows = min(getattr(configs[method.stages[-1].name], "batch_size", 64), info.train_size)
    if info.kind == "image":
        x = torch.rand(rows, *info.shape, device=runtime.device).contiguous(memory_format=torch.channels_last)
        net.to(memory_format=torch.channels_last)
    else:
        x = torch.randint(0, 2 + len(info.vocabulary), (rows, *info.shape), device=runtime.device)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        with torch.autocast(runtime.device, torch.bfloat16, enabled=runtime.precision == "bfloat16"):
            out = net(x)
        out.float().logsumexp(1).mean().backward()
        if runtime.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 3 * cost.macs * rows / sorted(times)[1]


@dataclass(frozen=True)
class Speed:
    """How fast a stage trains: seconds = fixed + multiply-adds / rate."""

    fixed: float
    rate: float = float("inf")


@dataclass(frozen=True)
class Rehearsal:
    """What one process found out.

    Attributes:
        start: seconds until it could train: to start, to import, to load the data.
        stages: stage -> its speed.
        memory: bytes that it held at most.
    """

    start: float
    stages: Mapping[str, Speed]
    memory: int


@dataclass(frozen=True)
class Forecast:
    """What a study has left to run.

    Attributes:
        trials: of the search, still to come.
        confirm: runs of the best again over fresh seeds.
        final: retrainings of the winner and its controls.
        epochs: of one trial, over all stages.
        cached: stages of a trial with default settings that are there already.
        macs: multiply-adds of all that is left, forward and backward.
        seconds: until all is done.
        memory: bytes that a rehearsal's process held; a trial's process holds about as much.
    """

    trials: int
    confirm: int
    final: int
    epochs: int
    cached: tuple[str, ...]
    macs: int
    seconds: float
    memory: int


def rehearse(task: Task, asked: float) -> Rehearsal:
    """Run all stages of a trial with default settings, all of their networks, on a few rows for a few epochs.

    Args:
        asked: the time at which this process was asked for.
    """
    torch.set_num_threads(task.cpus)
    method, whole = get(task.method), load(task.data)
    start = time.time() - asked
    configs = method.configure(task.recipe, task.settings)
    batch = max(getattr(config, "batch_size", 1) for config in configs.values())
    runtime = best_runtime(task.precision)

    def walls(rows: int, epochs: int) -> tuple[dict[str, float], dict[str, int]]:
        """Seconds and multiply-adds of each stage."""
        data = few(whole, rows)
        short = {
            name: replace(config, epochs=min(config.epochs, epochs)) if hasattr(config, "epochs") else config
            for name, config in configs.items()
        }
        worker = LocalWorker(data, seed=task.seed, runtime=runtime)
        states: dict[str, State] = {}
        seconds, macs = {}, {}
        for stage in method.stages:
            before = time.perf_counter()
            own = worker.for_stage(seed_of(task.seed, stage.name), None, None)
            with stage_running():
                states[stage.name] = stage.run(own, short[stage.name], {need: states[need] for need in stage.needs})
            seconds[stage.name] = time.perf_counter() - before
            macs[stage.name] = stage.macs(short, data.info)
        return seconds, macs

    rows = max(batch, 2 * len(whole.info.classes))
    cold, macs = walls(rows, 1)  # pays for imports and for what a network sets up with its first batch
    if sum(cold.values()) > REHEARSAL:  # slow enough for that not to matter
        stages = {name: Speed(0.0, macs[name] / cold[name]) if macs[name] else Speed(cold[name]) for name in cold}
        return Rehearsal(start, stages, peak_memory())
    warm, _ = walls(rows, 1)
    rows = int(min(max(rows, rows * REHEARSAL / (4 * sum(warm.values()))), 8 * batch, len(whole.train)))
    (one, macs), (three, more) = walls(rows, 1), walls(rows, 3)
    stages = {}
    for name, seconds in one.items():
        gain, extra = more[name] - macs[name], three[name] - seconds
        if gain and extra > 0:
            rate = gain / extra
            stages[name] = Speed(max(0.0, seconds - macs[name] / rate), rate)
        elif more[name]:
            stages[name] = Speed(0.0, more[name] / three[name])
        else:  # such a stage trains nothing; what it does grows with the rows
            stages[name] = Speed(seconds * len(whole.train) / rows)
    return Rehearsal(start, stages, peak_memory())


def few(data: Data, rows: int) -> Data:
    """A stratified subset of the training rows, and as large a share of the validation rows."""

    def part(split: Split, size: int) -> Split:
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
    """The mean of as many rehearsals side by side as trials will be: they share caches and memory as trials do."""
    many = min(place.concurrency, len(os.sched_getaffinity(0)))
    asked, task = time.time(), replace(task, cpus=place.cpus)
    with ProcessPoolExecutor(many, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(rehearse, [task] * many, [asked] * many))
    stages = {
        name: Speed(
            statistics.fmean(one.stages[name].fixed for one in found),
            statistics.harmonic_mean([one.stages[name].rate for one in found]),
        )
        for name in found[0].stages
    }
    return Rehearsal(statistics.fmean(one.start for one in found), stages, max(one.memory for one in found))


def makespan(durations: Sequence[float], workers: int) -> float:
    """Seconds until the last of these is done, each taken by the first worker that is free."""
    free = [0.0] * workers
    for seconds in durations:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free)


def forecast(study: Study, method: Method, info: Info, place: Layout) -> Forecast:
    """Look at what is cached, count what is not, and rehearse on this machine how long it takes in such a layout."""
    plan, task = study.plan, study.plan.task
    runtime = best_runtime(task.precision)
    configs = method.configure(task.recipe, task.settings)
    keys = stage_keys(method, configs, info.fingerprint, task.seed, task.seed, runtime.precision)
    cache = StageCache(study.storage)
    cached = tuple(
        s.name for s in method.stages if study.storage.exists(cache.name(f"{method.name}.{s.name}", keys[s.name]))
    )
    budget = plan.searched or 0
    if plan.searcher == "grid":
        from search.searchers import grid

        budget = len(grid({name: method.fields()[name][0] for name in plan.space}, plan.searched))

    def left(phase: str, planned: int) -> int:
        return max(0, planned - sum(trial.finished for trial in study.of_phase(phase)))

    variants = [task.settings]
    if plan.controls:
        settings = flatten(configs)
        variants += [{**task.settings, **change(settings)} for change in method.controls.values()]
    trials, confirm = left("search", budget), left("confirm", plan.confirm * CONFIRM_SEEDS)
    final = left("final", plan.seeds) + left("control", plan.seeds * (len(variants) - 1))

    searched = {name.split(".")[0] for name in plan.space}
    moves: set[str] = set()
    for stage in method.stages:
        if stage.name in searched or moves & set(stage.needs):
            moves.add(stage.name)
    # What no searched field moves is computed once, if it is not there; a run with another seed finds `shared` stages.
    once = {s.name for s in method.stages} - moves - set(cached)
    fresh = {s.name for s in method.stages if not s.shared}
    found = rehearsals(task, place)

    def cost(changed: Configs, names: set[str]) -> tuple[int, float]:
        """Multiply-adds and seconds of these stages."""
        macs = {s.name: s.macs(changed, info) for s in method.stages if s.name in names}
        seconds = sum(found.stages[name].fixed + work / found.stages[name].rate for name, work in macs.items())
        return sum(macs.values()), seconds / task.workers + TRAIN * (task.workers > 1)

    # Runs of one seed share what they have in common: the stages that no searched field moves, or no control changes.
    again = ([cost(configs, fresh)] + [cost(configs, fresh & moves)] * (plan.confirm - 1)) * CONFIRM_SEEDS
    last, seen = [], set()
    for values in variants:
        changed = method.configure(task.recipe, values)
        for seed in range(task.seed + 1, task.seed + 1 + plan.seeds):
            own = stage_keys(method, changed, info.fingerprint, seed, task.seed, runtime.precision)
            last.append(cost(changed, {name for name in fresh if own[name] not in seen}))
            seen |= set(own.values())
    phases = [[cost(configs, moves)] * trials, again[len(again) - confirm :], last[len(last) - final :]]
    first = cost(configs, once)  # the other trials wait for it
    seconds = first[1] + sum(makespan([s for _, s in phase], place.concurrency) for phase in phases)
    return Forecast(
        trials=trials,
        confirm=confirm,
        final=final,
        epochs=sum(getattr(config, "epochs", 0) for config in configs.values()),
        cached=cached,
        macs=first[0] + sum(macs for phase in phases for macs, _ in phase),
        seconds=RAY + found.start + seconds + PAGE,
        memory=found.memory,
    )


def describe(study: Study, method: Method, info: Info, place: Layout) -> str:
    """A forecast in words."""
    plan, seen = study.plan, forecast(study, method, info, place)
    ranges = [f"  {name}: {method.fields()[name][0]}" for name in plan.space]
    confirm = f"{seen.confirm} runs of the best {plan.confirm} over fresh seeds, " if plan.confirm else ""
    lines = [
        f"{method.name} on {info.name} ({info.train_size} rows), recipe {plan.task.recipe}, searcher {plan.searcher}",
        *ranges,
        f"trials      {seen.trials} of the search, {confirm}then {seen.final} retrainings (winner, controls)",
        f"stages      {', '.join(s.name for s in method.stages)}; cached: {', '.join(seen.cached) or 'none'}",
        f"epochs      {seen.epochs} a trial, over all stages",
        f"MACs        {seen.macs:.3g} to train",
        f"time        about {seen.seconds:.0f} s, as this machine rehearsed every stage with default settings",
        f"memory      about {seen.memory / 2**30:.1f} GiB a process",
        f"layout      {place.concurrency} trials at once, {place.workers} workers each, "
        f"{place.cpus} CPUs and {place.gpus:g} GPUs a worker: fits",
    ]
    return "\n".join(lines)
