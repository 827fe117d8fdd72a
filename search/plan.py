"""What a search would do, before it does it."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import Any

import torch

from distributed.cache import StageCache
from distributed.cluster import Layout, layout, machine
from distributed.pipeline import stage_keys
from distributed.worker import Runtime, best_runtime
from methods.cost import count
from methods.data.dataset import Info
from methods.method import Configs, Method, flatten
from search.study import Study


@dataclass(frozen=True)
class Forecast:
    """What a study has left to run.

    Attributes:
        trials: of the search, still to come.
        final: retrainings of the winner and its controls.
        epochs: of one trial, over all stages.
        cached: stages of a trial with default settings that are there already.
        macs: multiply-adds of all that is left, forward and backward.
        macs_per_second: of one trial's process, measured on one batch of the deployed network.
        seconds: `macs` at that speed with the layout's concurrency.
        memory: bytes that this process held after the probe; a trial's process holds about as much.
    """

    trials: int
    final: int
    epochs: int
    cached: tuple[str, ...]
    macs: int
    macs_per_second: float
    seconds: float
    memory: int
    place: Layout


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


def forecast(study: Study, method: Method, info: Info, concurrency: int | None) -> Forecast:
    """Look at what is cached, count what is not, and time one step.

    Raises:
        UsageError: the layout cannot be scheduled on this machine.
    """
    plan, task = study.plan, study.plan.task
    place = layout(machine(), workers=task.workers, concurrency=concurrency)
    runtime = best_runtime(task.precision)
    configs = method.configure(task.recipe, task.settings)
    keys = stage_keys(method, configs, info.fingerprint, task.seed, task.seed, runtime.precision)
    cache = StageCache(study.storage)
    cached = tuple(
        s.name for s in method.stages if study.storage.exists(cache.name(f"{method.name}.{s.name}", keys[s.name]))
    )
    budget = plan.trials
    if plan.searcher == "grid":
        from search.searchers import grid

        budget = len(grid({name: method.fields()[name][0] for name in plan.space}, plan.trials))
    trials = max(0, (budget or 0) - sum(trial.finished for trial in study.of_phase("search")))
    searched = {name.split(".")[0] for name in plan.space}
    moves: set[str] = set()
    for stage in method.stages:
        if stage.name in searched or moves & set(stage.needs):
            moves.add(stage.name)

    def own(changed: Configs, only: set[str] | None = None) -> int:
        names = {s.name for s in method.stages} if only is None else only
        return sum(s.macs(changed, info) for s in method.stages if s.name in names)

    # What no searched field moves is computed once, if it is not there; a final run shares only `shared` stages.
    once = {s.name for s in method.stages} - moves - set(cached)
    macs = own(configs, once) + trials * own(configs, moves)
    fresh = {s.name for s in method.stages if not s.shared}
    settings = flatten(configs)
    variants: list[Any] = [{}] + [c(settings) for c in method.controls.values()] * plan.controls
    final = plan.seeds * len(variants)
    for change in variants:
        macs += plan.seeds * own(method.configure(task.recipe, {**task.settings, **change}), fresh)
    speed = probe(method, configs, info, runtime, place.cpus)
    return Forecast(
        trials=trials,
        final=final,
        epochs=sum(getattr(config, "epochs", 0) for config in configs.values()),
        cached=cached,
        macs=macs,
        macs_per_second=speed,
        seconds=macs / (speed * place.concurrency * place.workers),
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        place=place,
    )


def describe(study: Study, method: Method, info: Info, concurrency: int | None) -> str:
    """A forecast in words."""
    plan, seen = study.plan, forecast(study, method, info, concurrency)
    ranges = [f"  {name}: {method.fields()[name][0]}" for name in plan.space]
    lines = [
        f"{method.name} on {info.name} ({info.train_size} rows), recipe {plan.task.recipe}, searcher {plan.searcher}",
        *ranges,
        f"trials      {seen.trials} of the search, then {seen.final} retrainings (winner, controls)",
        f"stages      {', '.join(s.name for s in method.stages)}; cached: {', '.join(seen.cached) or 'none'}",
        f"epochs      {seen.epochs} a trial, over all stages",
        f"MACs        {seen.macs:.3g} to train, at {seen.macs_per_second:.3g} a second and process",
        f"time        about {seen.seconds:.0f} s, and some seconds to start Ray",
        f"memory      about {seen.memory / 2**30:.1f} GiB a process",
        f"layout      {seen.place.concurrency} trials at once, {seen.place.workers} workers each, "
        f"{seen.place.cpus} CPUs and {seen.place.gpus:g} GPUs a worker: fits",
    ]
    return "\n".join(lines)
