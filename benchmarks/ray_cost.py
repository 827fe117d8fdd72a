"""What Ray costs per trial: the same trials one after another on Ray Tune, and in a plain loop.

    python -m benchmarks.ray_cost [--trials 8] [--workers 1,2]

Trials are the main job's (`search.run fsp` on digits), the teacher is trained before, and both ways run one trial at a
time, one thread for each worker. Without Ray, several workers are a plain process group of torch. Start-up is counted
apart: it is paid once for a search.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from bo_distill.distributed.ranks import Ranks
from bo_distill.distributed.ray.cluster import chatter_to, connected, layout
from bo_distill.distributed.storage import Storage
from bo_distill.methods.data import DataSpec
from bo_distill.search.execution.trial import perform
from bo_distill.search.study.conductor import Conductor, Finished
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Plan, Task


def study_in(folder: str, trials: int, workers: int) -> Study:
    task = Task("cost", "fsp", "quick", DataSpec("digits"), {}, Storage(folder).uri, seed=0, workers=workers)
    space = ("transfer.weight", "transfer.lr")
    return Study(Storage(folder), Plan(task, "random", space, trials, seeds=0, controls=False))


def shared(rank: int, size: int, folder: str, trials: int) -> None:
    """One rank of trials that share their batches in a plain process group, as Ray Train's workers do; no Ray."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    study = study_in(folder, trials, size)
    conductor = Conductor(study) if rank == 0 else None
    ranks, ends = Ranks(rank, size), []
    while True:
        trial = None
        if conductor:
            with suppress(Finished):
                trial = conductor.ask()
        if (trial := ranks.from_first(trial)) is None:
            break
        outcome = perform(study.plan.task, trial.job, lambda row: None, rank=rank, world_size=size)
        if conductor:
            conductor.settle(trial, outcome)
        ends.append(time.monotonic())
    if rank == 0:
        Path(folder, "ends.json").write_text(json.dumps(ends))
    dist.destroy_process_group()


def in_a_loop(folder: str, trials: int, workers: int) -> list[float]:
    """Seconds between the ends of successive trials."""
    from torch.multiprocessing.spawn import spawn

    spawn(shared, args=(workers, folder, trials), nprocs=workers)
    return [later - earlier for earlier, later in pairwise(json.loads(Path(folder, "ends.json").read_text()))]


def on_ray(study: Study) -> tuple[list[float], float]:
    """The same on Tune, and the seconds until the first trial began."""
    started = time.time()
    with (
        tempfile.TemporaryDirectory() as scratch,
        chatter_to(Path(scratch) / "ray.log") as terminal,
        connected(None, terminal) as resources,
    ):
        from bo_distill.search.execution.tune import run_study

        place = layout(resources, workers=study.plan.task.workers, concurrency=1)
        study.plan = dataclasses.replace(study.plan, task=dataclasses.replace(study.plan.task, cpus=1))
        run_study(study, place, terminal)
    outcomes = [study.outcome(trial.job.number) for trial in study.trials]
    ends = [outcome.started + outcome.seconds for outcome in outcomes]
    return [later - earlier for earlier, later in pairwise(ends)], outcomes[0].started - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--workers", default="1,2", metavar="N,N", help="of a trial (1,2)")
    args = parser.parse_args()
    for workers in map(int, args.workers.split(",")):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            plain = in_a_loop(one, args.trials, workers)
            tuned, start = on_ray(study_in(other, args.trials, workers))
        a, b = statistics.median(plain), statistics.median(tuned)
        print(f"workers of a trial: {workers}")
        print(f"  plain loop   {a:.2f} s a trial (median of {len(plain)})")
        print(f"  Ray          {b:.2f} s a trial, {b - a:+.2f} s, {b / a:.2f} times")
        print(f"  start-up     {start:.1f} s until the first trial begins")


if __name__ == "__main__":
    main()
