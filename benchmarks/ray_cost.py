"""What Ray costs per trial: the same trials one after another on Ray Tune, and in a plain loop.

    python -m benchmarks.ray_cost [--trials 8]

Trials are the main job's (`search.run fsp` on digits), the teacher is trained before, and both ways run one trial at a
time on one thread. Start-up is counted apart: it is paid once for a search.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from distributed.ray.cluster import chatter_to, connected, layout
from distributed.storage import Storage
from methods.data import DataSpec
from search.execution.trial import perform
from search.study.conductor import Conductor, Finished
from search.study.ledger import Study
from search.study.records import Plan, Task


def study_in(folder: str, trials: int) -> Study:
    task = Task("cost", "fsp", "quick", DataSpec("digits"), {}, Storage(folder).uri, seed=0)
    space = ("transfer.weight", "transfer.lr")
    return Study(Storage(folder), Plan(task, "random", space, trials, seeds=0, controls=False))


def in_a_loop(study: Study) -> list[float]:
    """Seconds between the ends of successive trials."""
    conductor = Conductor(study)
    ends = []
    while True:
        try:
            trial = conductor.ask()
        except Finished:
            return [later - earlier for earlier, later in pairwise(ends)]
        assert trial is not None
        conductor.settle(trial, perform(study.plan.task, trial.job, lambda row: None))
        ends.append(time.monotonic())


def on_ray(study: Study) -> tuple[list[float], float]:
    """The same on Tune, and the seconds until the first trial began."""
    started = time.time()
    with (
        tempfile.TemporaryDirectory() as scratch,
        chatter_to(Path(scratch) / "ray.log") as terminal,
        connected(None, terminal) as resources,
    ):
        from search.execution.tune import run_study

        place = layout(resources, workers=1, concurrency=1)
        study.plan = dataclasses.replace(study.plan, task=dataclasses.replace(study.plan.task, cpus=1))
        run_study(study, place, terminal)
    outcomes = [study.outcome(trial.job.number) for trial in study.trials]
    ends = [outcome.started + outcome.seconds for outcome in outcomes]
    return [later - earlier for earlier, later in pairwise(ends)], outcomes[0].started - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        plain = in_a_loop(study_in(one, args.trials))
        tuned, start = on_ray(study_in(other, args.trials))
    a, b = statistics.median(plain), statistics.median(tuned)
    print(f"plain loop   {a:.2f} s a trial (median of {len(plain)})")
    print(f"Ray Tune     {b:.2f} s a trial, {b - a:+.2f} s, {b / a:.2f} times")
    print(f"start-up     {start:.1f} s until the first trial begins")


if __name__ == "__main__":
    main()
