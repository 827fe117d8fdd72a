"""Where trials run: this machine or a Ray at an address, found out before anything is written."""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bo_distill.methods.errors import UsageError
from bo_distill.search.command.options import AUTO

if TYPE_CHECKING:
    from bo_distill.distributed.ray.cluster import Layout, Node
    from bo_distill.distributed.storage import Storage
    from bo_distill.methods.data.dataset import Info
    from bo_distill.search.study.records import Plan, Task


def place_of(args: argparse.Namespace, workers: int, nodes: Sequence[Node]) -> Layout:
    """Where trials of so many workers lie, as the command asks; where it left their number open, --concurrency is the
    most that run at once.

    Raises:
        UsageError: they do not fit.
    """
    from bo_distill.distributed.ray.cluster import layout, room

    most = room(nodes, workers) if args.workers == AUTO else math.inf
    return layout(nodes, workers=workers, concurrency=args.concurrency and min(args.concurrency, most))


def check_place(args: argparse.Namespace, task: Task, info: Info) -> None:
    """Refuse trials that cannot run, before anything is started or written.

    Raises:
        UsageError: so many workers do not fit on this machine or cannot share a stage's batches, or nothing answers at
            --address. Whether they fit on the Ray there is known once it is connected.
    """
    from bo_distill.distributed.ray.cluster import check_address, machine

    if not args.address:
        place_of(args, task.workers, machine())
    elif args.address != "auto":
        check_address(args.address)
    check_shares(task, info)


def check_shares(task: Task, info: Info) -> None:
    """Refuse workers that cannot share a stage's batches.

    Raises:
        UsageError: as it says.
    """
    if task.workers == 1:
        return
    from bo_distill.distributed.norm import has_batch_norm
    from bo_distill.distributed.ranks import Ranks, share_of
    from bo_distill.methods import get
    from bo_distill.methods.training import Training

    method = get(task.method)
    configs = method.configure(task.recipe, task.settings)
    normed = any(has_batch_norm(net) for net in method.costs(configs, info).values())
    for stage, config in configs.items():
        if isinstance(config, Training):
            rows = min(config.batch_size, info.train_size)
            try:
                share_of(Ranks(0, task.workers), config, rows, normed and config.norm == "group")
            except UsageError as error:
                raise UsageError(f"--workers {task.workers}, stage {stage}: {error}") from None


def settled(plan: Plan, place: Layout, address: str | None) -> Plan:
    """The plan with what is decided once, when its study starts: cores and GPUs of a worker, and the precision.

    A plan that says the precision keeps it, so that a study never mixes two, whichever machines it goes on with.

    Args:
        address: of the Ray that trials run on, if not one of this machine: a worker of it says what "auto" is there.
    """
    precision = plan.task.precision
    if precision == "auto":
        precision = _usual_precision(place, address)
    task = dataclasses.replace(plan.task, cpus=place.cpus, gpus=place.gpus, precision=precision)
    return dataclasses.replace(plan, task=task)


def _usual_precision(place: Layout, address: str | None) -> str:
    from bo_distill.distributed.worker import best_runtime

    if not address:
        return best_runtime().precision
    import ray

    ask = ray.remote(num_cpus=place.cpus, num_gpus=place.gpus)(lambda: best_runtime().precision)
    return str(ray.get(ask.remote()))


@contextmanager
def on_ray(args: argparse.Namespace, workers: int, storage: Storage, log: str) -> Iterator[tuple[Layout, TextIO]]:
    """Ray, as the command's --address and --concurrency ask; what it says is kept in the storage as `log`.

    Yields:
        where trials of so many workers run, and the terminal, as stderr is Ray's in here.

    Raises:
        UsageError: no Ray answers, or the trials do not fit on it. Nothing is kept then.
    """
    from bo_distill.distributed.ray.cluster import chatter_to, connected

    with tempfile.TemporaryDirectory() as folder:
        said, fits = Path(folder) / "ray.log", False
        try:
            with chatter_to(said) as terminal, connected(args.address, terminal) as nodes:
                place = place_of(args, workers, nodes)
                fits = True
                yield place, terminal
        finally:
            if fits:
                storage.write_bytes(log, said.read_bytes())
