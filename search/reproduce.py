"""The papers' tables with our column beside theirs.

    python -m search.reproduce fsp --data-dir DIR

Runs whatever is missing of every line of a method's tables, over seeds, and writes docs/results/METHOD: the page,
the rows behind it and the figures. Neither Ray nor a cluster is needed: trainings run side by side in processes of
this machine. What is finished is kept in the storage, so that the command goes on where it was stopped, on another
machine too.

What trains here is torch, torchvision, numpy, scikit-learn, scipy and pyarrow. A machine that has no more leaves out
what is done with more, and says so: Bayesian searches (bayesian-optimization) and figures (matplotlib). The same
command with the same storage on a machine that has them adds those.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from methods import METHODS
from search.command import OK, SOME_FAILED, Parser, carry_out, positive

if TYPE_CHECKING:
    from distributed.storage import Storage
    from methods.data.dataset import Info
    from search.papers import Reproduction
    from search.study import Study, Trial
    from search.trial import Job, Outcome, Task


def parser() -> Parser:
    p = Parser(
        prog="python -m search.reproduce", description="The papers' tables, ours beside theirs.", allow_abbrev=False
    )
    p.add_argument("method", metavar="METHOD", help=f"{', '.join(METHODS)} or all")
    p.add_argument("--scale", default="small", help="small (minutes on two cores, default) or paper (a GPU)")
    p.add_argument("--data-dir", metavar="DIR", default="data", help="where the data sets lie (default data)")
    p.add_argument("--seeds", type=int, metavar="N", help="trainings of every line (default: the scale's)")
    p.add_argument("--processes", type=int, metavar="N", help="trainings side by side (default: one for each core)")
    p.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    p.add_argument("--storage", default="results", metavar="DIR", help="folder, or s3://bucket/prefix")
    p.add_argument("--out", default="docs/results", metavar="DIR", help="for tables, rows and figures")
    p.add_argument("--dry-run", action="store_true", help="list what is missing, and run nothing")
    return p


def quiet_trial(task: Task, job: Job) -> Outcome:
    """What a process of the pool does; its epochs are in the outcome."""
    from search.trial import attempt

    return attempt(task, job, lambda row: None)


def end_with_parent() -> None:
    """Let a process of the pool end when the one that started it is killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Pool:
    """Processes that train side by side, and new ones where one of them was killed."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.start()

    def start(self) -> None:
        self.executor = ProcessPoolExecutor(self.processes, multiprocessing.get_context("spawn"), end_with_parent)

    def submit(self, task: Task, job: Job) -> Future[Outcome]:
        return self.executor.submit(quiet_trial, task, job)

    def ended(self, running: Iterable[Future[Outcome]]) -> set[Future[Outcome]]:
        """Those that have ended, once one has. Where a process was killed the executor breaks, and all are lost."""
        ended = wait(running, return_when=FIRST_COMPLETED).done
        if any(isinstance(future.exception(), BrokenProcessPool) for future in ended):
            ended = wait(running).done
            self.executor.shutdown()
            self.start()
        return ended


def carry_through(one: Reproduction, study: Study, info: Info, pool: Pool) -> None:
    """Run what is missing of a study, side by side, one thread each. Finished trials are kept whatever happens then."""
    from search.conductor import Conductor, Finished

    with study.locked():
        one.fill(study)  # again: taking the lock may have read what another process added
        study.save_plan()
        conductor = Conductor(study, one.method, info)
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
    if study.complete or study.plan.searcher != "bo" or importlib.util.find_spec("bayes_opt"):
        return ""
    return f"{study.plan.task.study} is left out: bayesian-optimization not installed here"


def missing(one: Reproduction, storage: Storage, precision: str, processes: int) -> Iterator[str]:
    """What is left to be trained, line by line, with its multiply-adds and the time that they take here.

    A stage that several trainings share, or that the storage holds, is not counted again. A Bayesian search counts as
    if it went on to its last trial.
    """
    from distributed.cache import StageCache
    from distributed.pipeline import stage_keys, unmade
    from distributed.worker import best_runtime
    from search.plan import probe
    from search.report import duration
    from search.searchers import grid, random_point
    from search.trial import Job

    cache, runtime = StageCache(storage), best_runtime(precision)
    counted: set[str] = set()
    total, speed = 0, 0.0
    for study, info in one.studies(storage, precision):
        plan, task = study.plan, study.plan.task
        if reason := left_out(study):
            yield reason
            continue
        trials = [trial.job for trial in study.trials if not trial.finished]
        if plan.searcher != "none" and not study.complete:
            space = {name: one.method.fields()[name][0] for name in plan.space}
            number = len(grid(space, None)) if plan.searcher == "grid" else plan.trials or 0
            # Which points they will be is not known; new points they are, and cost what any others do.
            point = [random_point(space, len(counted), n) for n in range(number + 1)]
            trials += [Job(n, "search", point[n], task.seed) for n in range(len(study.of_phase("search")), number)]
            if not study.of_phase("final"):
                trials += [Job(number + n, "final", point[number], task.seed + 1 + n) for n in range(plan.seeds)]
        macs: dict[str, int] = {}
        for job in trials:
            configs = one.method.configure(task.recipe, {**task.settings, **job.settings})
            keys = stage_keys(one.method, configs, info.fingerprint, job.seed, task.seed, runtime.precision)
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


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    positive("--seeds", args.seeds, 2)
    positive("--processes", args.processes)
    names = list(METHODS) if args.method == "all" else [args.method]
    from search.papers import Reproduction

    wanted = [Reproduction.of(name, args.scale, args.seeds, args.data_dir) for name in names]

    from distributed.storage import Storage

    storage, processes = Storage(args.storage), args.processes or len(os.sched_getaffinity(0))
    if args.dry_run:
        for one in wanted:
            print("\n".join(missing(one, storage, args.precision, processes)))
        return OK
    storage.check_writable()
    from search.results import publish

    some_failed = False
    pool = Pool(processes)
    try:
        for one in wanted:
            for study, info in one.studies(storage, args.precision):
                if reason := left_out(study):
                    print(reason, file=sys.stderr)
                    continue
                carry_through(one, study, info, pool)
                some_failed |= any(trial.status == "failed" for trial in study.trials)
            print(publish(one, storage, Path(args.out)))
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()  # what they train can go on from its checkpoint
        raise
    finally:
        pool.executor.shutdown(cancel_futures=True)
    return SOME_FAILED if some_failed else OK


def main(argv: Sequence[str] | None = None) -> int:
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
