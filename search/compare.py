"""Compare searchers at equal budget over paired repeats, and say what the comparison can show.

    python -m search.compare fsp --searchers grid,random,bo --budget 20 --repeats 5

Each (searcher, repeat) is an ordinary study that reads no test split: the same trials, kept and resumed as any other.
Repeat r uses seed r for every searcher. A stage that several need is computed once, and its cost is charged to each
as if it had computed it itself. Give the same command again to go on with a comparison that was stopped; more repeats
or searchers add to what is there.

    comparisons/NAME/question.json  what is asked of all searchers alike
    comparisons/NAME/compare.json   curves, regret, tests, verdict
    comparisons/NAME/report.html    the same as a page, which search.report makes again; its charts in figures/
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from methods.errors import UsageError
from search.command import (
    FAILED,
    INTERRUPTED,
    OK,
    Parser,
    carry_out,
    check_place,
    make_task,
    on_ray,
    positive,
    study_options,
)

if TYPE_CHECKING:
    from distributed.cluster import Layout
    from distributed.storage import Storage
    from methods.data.dataset import Info
    from methods.method import Method
    from search.statistics import Course
    from search.study import Plan, Study

FIRST = 3  # trials of a study whose budget is time or work, before it is known what a trial costs


def parser() -> Parser:
    p = Parser(prog="python -m search.compare", description="Compare searchers at equal budget.", allow_abbrev=False)
    study_options(p)
    p.add_argument("--searchers", default="grid,random,bo", metavar="NAMES", help="by commas (grid,random,bo)")
    how = p.add_mutually_exclusive_group()
    how.add_argument("--budget", type=int, metavar="N", help="trials of each study (default 20)")
    how.add_argument("--budget-seconds", type=float, metavar="S", help="training seconds charged to each study")
    how.add_argument("--budget-macs", type=float, metavar="M", help="training multiply-adds charged to each study")
    p.add_argument("--repeats", type=int, default=5, metavar="R", help="paired repeats, with seeds from --seed (5)")
    p.add_argument("--name", help="of the comparison (default: follows from the options)")
    return p


@dataclasses.dataclass(frozen=True)
class Budget:
    """What each study may spend; two of the three are infinite."""

    trials: float = math.inf
    seconds: float = math.inf
    macs: float = math.inf

    def more(self, course: Course) -> int:
        """Trials that what is left will pay for, at the mean cost so far."""
        left = self.trials - len(course.values)
        for limit, spent in ((self.seconds, course.seconds), (self.macs, course.macs)):
            if limit < math.inf:
                left = min(left, (limit - sum(spent)) // max(sum(spent) / len(spent), 1e-9) if spent else FIRST)
        return max(0, int(left))


def course(study: Study, method: Method, info: Info) -> Course:
    """What a study's search had spent and seen after each of its trials, in the order in which they ended.

    The seconds are those that its epochs took when they were trained, found or not. A trial that failed is charged
    what it took from start to finish, or the shared stages of the others where that is more.
    """
    from search.statistics import Course

    ended = [(trial, study.outcome(trial.job.number)) for trial in study.of_phase("search") if trial.finished]
    ended.sort(key=lambda pair: pair[1].started + pair[1].seconds)
    shared = {stage.name for stage in method.stages if stage.shared}
    found = max((sum(r["seconds"] for r in o.history if r["stage"] in shared) for _, o in ended), default=0.0)
    seconds = [found + sum(r["seconds"] for r in o.history if r["stage"] not in shared) for _, o in ended]
    # What a failed trial trained is not known; its time is.
    seconds = [max(s, o.seconds) if o.status == "failed" else s for s, (_, o) in zip(seconds, ended, strict=True)]
    values, macs = [], []
    for trial, _ in ended:
        chosen = trial.status == "done" and trial.val_accuracy is not None
        values.append(float(trial.val_accuracy or 0.0) if chosen else math.nan)
        configs = method.configure(study.plan.task.recipe, trial.job.settings)
        macs.append(float(sum(stage.macs(configs, info) for stage in method.stages)))
    return Course(tuple(values), tuple(seconds), tuple(macs))


def begun(storage: Storage, plan: Plan) -> Study:
    """The study of this plan, from where it was left. Its number of trials may differ, and where it lies and runs."""
    from search.study import Study

    if not storage.exists(f"studies/{plan.task.study}/study.json"):
        return Study(storage, plan)
    study = Study.open(storage, plan.task.study)
    same = dataclasses.replace(
        study.plan,
        trials=plan.trials,
        task=dataclasses.replace(
            study.plan.task,
            storage=plan.task.storage,
            workers=plan.task.workers,
            cpus=plan.task.cpus,
            gpus=plan.task.gpus,
        ),
    )
    if json.dumps(dataclasses.asdict(same)) != json.dumps(dataclasses.asdict(plan)):
        raise UsageError(f"--name: study {plan.task.study} was another comparison's; give another --name")
    study.plan = dataclasses.replace(plan, trials=study.plan.trials)
    return study


def spend(
    study: Study, budget: Budget, trials: int, method: Method, info: Info, place: Layout, terminal: TextIO
) -> Course | None:
    """Run a study until its budget is spent or its searcher has no more; None when it was interrupted.

    Args:
        trials: to begin with.
    """
    from search.driver import run_study

    grid = study.plan.searcher.startswith("grid")
    # A grid's points hang on their number, so a grid that was begun keeps its own.
    goal = study.plan.trials or trials if grid else trials
    exhausted = False
    with study.locked():
        while True:
            complete, asked = study.complete, len(study.of_phase("search"))
            if not complete or asked < goal:
                task = dataclasses.replace(study.plan.task, cpus=place.cpus, gpus=place.gpus)
                study.plan = dataclasses.replace(study.plan, task=task, trials=goal)
                study.save_plan()
                run_study(study, method, info, place, terminal)
                if not study.complete:
                    return None
                exhausted = complete and len(study.of_phase("search")) == asked
            done = course(study, method, info)
            more = budget.more(done)
            tried = done.values[asked:]
            futile = bool(tried) and all(value != value for value in tried)  # a round in which nothing was finished
            if grid or exhausted or futile or not more:
                return done.within(budget.seconds, budget.macs)
            goal = len(done.values) + more


def keep_question(storage: Storage, folder: str, what: Mapping[str, Any]) -> None:
    """Write down what a comparison asks, or see that it still asks the same: only then are its studies comparable.

    Raises:
        UsageError: a comparison of this name asks something else.
    """
    file, asked = f"{folder}/question.json", json.loads(json.dumps(what))
    if not storage.exists(file):
        storage.write_bytes(file, json.dumps(asked, indent=1).encode())
        return
    kept = json.loads(storage.read_bytes(file))
    for name, value in asked.items():
        if kept.get(name) != value:
            raise UsageError(f"--name: that comparison's {name} is {kept.get(name)}, not {value}; give another --name")


def compare(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    from search.replay import names_of

    positive("--budget", args.budget)
    positive("--repeats", args.repeats, 2)
    for name in ("budget_seconds", "budget_macs"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: give a number above 0")
    names = names_of(args.searchers)
    budget = Budget(
        trials=math.inf if args.budget_seconds or args.budget_macs else args.budget or 20,
        seconds=args.budget_seconds or math.inf,
        macs=args.budget_macs or math.inf,
    )
    sized = budget.trials < math.inf
    if not sized and all(name.startswith("grid") for name in names):
        raise UsageError("--searchers: a grid alone cannot tell how many trials a budget pays for; add random or bo")

    from distributed.storage import Storage
    from methods.data import load
    from search.study import Plan

    storage = Storage(args.storage)
    args.storage = storage.uri
    task, space, method = make_task(args)
    info = load(task.data).info
    if info.kind != method.kind:
        raise UsageError(f"--data {info.name}: {method.name} takes {method.kind} data; give another --data")
    if sized:
        from search.searchers import make_searcher

        for name in names:  # says now what a grid cannot do
            make_searcher(name, {field: method.fields()[field][0] for field in space}, 0, int(budget.trials))
    what = {
        "method": method.name,
        "recipe": task.recipe,
        "data": info.fingerprint,
        "settings": task.settings,
        "space": space,
        "precision": task.precision,
        "budget": {k: v for k, v in dataclasses.asdict(budget).items() if v < math.inf},
        "concurrency": args.concurrency,
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    comparison = args.name or f"{method.name}-compare-{digest}"
    folder = f"comparisons/{comparison}"
    check_place(args, args.workers or 1)
    storage.check_writable()
    keep_question(storage, folder, what)

    def planned(name: str, repeat: int) -> Plan:
        seed = args.seed + repeat
        own = dataclasses.replace(task, study=f"{comparison}-{name}-{seed}", seed=seed)
        return Plan(own, name, space, trials=None, seeds=0, controls=False)

    courses = run_all(args, storage, names, planned, budget, method, info, folder)
    if courses is None:
        print("interrupted; give the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    from search.conductor import provenance
    from search.report import comparison_page, keep
    from search.statistics import analyse

    words = f"{method.name} on {info.name}"
    summary = {
        "comparison": comparison,
        **what,
        "data": {"name": info.name, "fingerprint": info.fingerprint},
        "seeds": [args.seed + repeat for repeat in range(args.repeats)],
        "studies": {name: [planned(name, r).task.study for r in range(args.repeats)] for name in names},
        **analyse(courses),
        "curves": {
            name: [
                {"value": [None if v != v else v for v in run.values], "seconds": run.seconds, "macs": run.macs}
                for run in runs
            ]
            for name, runs in courses.items()
        },
        "report": f"{storage.uri}/{folder}/report.html",
        **provenance(),
    }
    content = json.dumps(summary, indent=1)
    storage.write_bytes(f"{folder}/compare.json", content.encode())
    if args.json:
        print(content)
    else:
        show(summary, words)
    sys.stdout.flush()
    keep(storage, f"{folder}/report.html", *comparison_page(json.loads(content)))
    return OK if any(v == v for runs in courses.values() for run in runs for v in run.values) else FAILED


def run_all(
    args: argparse.Namespace,
    storage: Storage,
    names: Sequence[str],
    planned: Callable[[str, int], Plan],
    budget: Budget,
    method: Method,
    info: Info,
    folder: str,
) -> dict[str, list[Course]] | None:
    """All studies, repeat by repeat, so that what is there when time runs out is paired. None when interrupted."""
    courses: dict[str, list[Course]] = {name: [] for name in names}
    with on_ray(args, args.workers or 1, storage, f"{folder}/ray.log") as (place, terminal):
        for repeat in range(args.repeats):
            # Grids last: where the budget is time or work, the others tell how many trials it pays for.
            for name in sorted(names, key=lambda name: name.startswith("grid")):
                if budget.trials < math.inf:
                    trials = int(budget.trials)
                elif name.startswith("grid"):
                    trials = max(len(runs[repeat].values) for runs in courses.values() if len(runs) > repeat)
                else:
                    trials = FIRST
                study = begun(storage, planned(name, repeat))
                done = spend(study, budget, trials, method, info, place, terminal)
                if done is None:
                    return None
                courses[name].append(done)
    return courses


def show(summary: Mapping[str, Any], words: str) -> None:
    """The comparison for a person, on stdout."""
    import statistics

    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    table = Table(title=f"{words}: best validation accuracy, {summary['repeats']} paired repeats", title_justify="left")
    table.add_column("searcher")
    reference = summary["reference"]
    for name in ("mean %", "sd", "regret", "trials", f"as good as {reference} after trials", "seconds", "reached"):
        table.add_column(name, justify="right")
    for name, found in summary["searchers"].items():
        trials, seconds = ([v for v in found["to_reference"][k] if v is not None] for k in ("trials", "seconds"))
        table.add_row(
            name,
            f"{100 * found['mean']:.2f}",
            f"{100 * found['sd']:.2f}",
            f"{100 * statistics.fmean(found['regret']):.2f}",
            f"{statistics.fmean(found['trials']):.4g}",
            f"{statistics.median(trials):g}" if trials else "-",
            f"{statistics.median(seconds):.1f}" if seconds else "-",
            f"{len(trials)} of {summary['repeats']}",
        )
    console.print(table)
    table = Table(title="Differences (interquartile mean, 95% bootstrap interval)", title_justify="left")
    for name in ("", "points", "from", "to", "p", "p (Holm)"):
        table.add_column(name, justify="right" if name else "left")
    for pair in summary["pairs"]:
        shares = [f"{100 * pair[name]:+.2f}" for name in ("difference", "low", "high")]
        table.add_row(f"{pair['a']} - {pair['b']}", *shares, f"{pair['p']:.3g}", f"{pair['p_holm']:.3g}")
    console.print(table)
    console.print(summary["verdict"], highlight=False)
    for name in ("comparison", "report"):
        console.print(f"{name:<12} {summary[name]}", highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    return carry_out(parser(), compare, argv)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code) if code == INTERRUPTED else sys.exit(code)
