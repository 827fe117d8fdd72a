"""A method's stages in order, each from the cache or trained; the same code in one process and on every rank."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from bo_distill.distributed.cache import StageCache, decode, encode, stage_key
from bo_distill.distributed.locks import Lock, LockLost
from bo_distill.distributed.seeds import seed_of
from bo_distill.distributed.worker import LocalWorker, Runtime
from bo_distill.methods.data import stage_running
from bo_distill.methods.method import Configs, EpochRow, Method, Stage, State

log = logging.getLogger(__name__)


@dataclass
class Run:
    """What came of a method's stages.

    Attributes:
        states: by stage.
        keys: the cache's, by stage.
        seconds: spent on each stage, waiting for another process's result included.
        cached: stages that were found, not computed.
        epochs: trained or found.
    """

    states: dict[str, State] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    epochs: int = 0


def stage_keys(
    method: Method, configs: Configs, fingerprint: str, seed: int, shared_seed: int, runtime: Runtime, ranks: int
) -> dict[str, str]:
    """The cache keys of all stages, by name; they need nothing to have run."""
    keys: dict[str, str] = {}
    for stage in method.stages:
        keys[stage.name] = stage_key(
            f"{method.name}.{stage.name}",
            stage.run.__module__,
            dataclasses.asdict(configs[stage.name]),
            {name: keys[name] for name in stage.needs},
            fingerprint,
            shared_seed if stage.shared else seed,
            runtime.device,
            runtime.precision,
            ranks,
        )
    return keys


def unmade(method: Method, keys: Mapping[str, str], cache: StageCache, made: set[str]) -> list[Stage]:
    """The stages whose results neither the cache nor `made` holds.

    Args:
        keys: of `stage_keys`.
        made: keys of what earlier runs will have made; these stages' join them.
    """
    found = []
    for stage in method.stages:
        key = keys[stage.name]
        if key not in made and not cache.holds(f"{method.name}.{stage.name}", key):
            made.add(key)
            found.append(stage)
    return found


def run_stages(
    worker: LocalWorker,
    method: Method,
    configs: Configs,
    cache: StageCache,
    *,
    shared_seed: int,
    on_epoch: Callable[[EpochRow], bool] | None = None,
    run: Run | None = None,
) -> Run:
    """Run the stages on this rank.

    Args:
        worker: its seed is that of the stages that are not shared.
        shared_seed: of the stages that are.
        on_epoch: called on every rank with each epoch's row, and its "stage"; a true answer on rank 0 ends the run.
        run: a new one, which is filled stage by stage; of a run that ends early it holds the stages before.

    Raises:
        distributed.loop.Stopped: `on_epoch` said so.
        FloatingPointError: a training diverged; the message begins with its stage.
    """
    run = Run() if run is None else run
    run.keys = stage_keys(
        method, configs, worker.data.info.fingerprint, worker.seed, shared_seed, worker.runtime, worker.world_size
    )
    for stage in method.stages:
        started = time.monotonic()
        name, key, seed = (
            f"{method.name}.{stage.name}",
            run.keys[stage.name],
            shared_seed if stage.shared else worker.seed,
        )

        def listen(row: EpochRow, stage: str = stage.name) -> bool:
            return bool(on_epoch and on_epoch({**row, "stage": stage}))

        with cache.lock(name, key) if worker.rank == 0 else nullcontext(Lock()) as lock:
            content = worker.ranks.from_first(cache.get(name, key) if worker.rank == 0 else None)
            if content is None:
                alone = worker.for_stage(
                    seed_of(seed, stage.name), listen, cache.checkpoints(name, key, lock), judged=not stage.shared
                )
                torch.manual_seed(alone.seed)
                try:
                    with stage_running():
                        state = stage.run(alone, configs[stage.name], {need: run.states[need] for need in stage.needs})
                except FloatingPointError as error:
                    raise FloatingPointError(f"{stage.name}: {error}") from None
                content = encode(dataclasses.replace(state, history=tuple(alone.history)))
                if worker.rank == 0:
                    try:
                        lock.check()
                        cache.put(name, key, content)
                    except LockLost as error:
                        log.warning("stage %s is not kept: %s", name, error)
            else:
                run.cached.append(stage.name)
        # A result goes through its stored form also where it was just made: a later hit is then the same to the bit.
        run.states[stage.name] = decode(content)
        run.epochs += len(run.states[stage.name].history)
        run.seconds[stage.name] = time.monotonic() - started
    return run
