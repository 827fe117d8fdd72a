"""Compare searchers at equal budget over paired repeats, and say what the comparison can show.

    python -m search.compare fsp --searchers grid,random,bo --budget 20 --repeats 27

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
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.search.command.interruption import interruption
from bo_distill.search.command.options import AUTO, check_kind, make_task, study_options
from bo_distill.search.command.reading import tell_reading
from bo_distill.search.command.shell import FAILED, INTERRUPTED, OK, Parser, carry_out, positive
from bo_distill.search.command.terminal import print_table
from bo_distill.search.evidence.words import points
from bo_distill.search.execution.comparison import Budget, check_question, run_all
from bo_distill.search.execution.place import check_place
from bo_distill.search.rows.export import json_text, printable
from bo_distill.search.rows.provenance import provenance
from bo_distill.search.searchers.registry import entry_of, make_searcher, names_of
from bo_distill.search.study.kept import check_name, packed

if TYPE_CHECKING:
    from bo_distill.search.evidence.statistics import Course
    from bo_distill.search.study.records import Plan


def parser() -> Parser:
    """The command's options."""
    p = Parser(prog="python -m search.compare", description="Compare searchers at equal budget.", allow_abbrev=False)
    study_options(p)
    p.add_argument("--searchers", default="grid,random,bo", metavar="NAMES", help="by commas (grid,random,bo)")
    how = p.add_mutually_exclusive_group()
    how.add_argument("--budget", type=int, metavar="N", help="trials of each study (default 20)")
    how.add_argument("--budget-seconds", type=float, metavar="S", help="training seconds charged to each study")
    how.add_argument("--budget-macs", type=float, metavar="M", help="training multiply-adds charged to each study")
    p.add_argument(
        "--repeats",
        type=int,
        metavar="R",
        help="paired repeats, with seeds from --seed (default: what finds a difference of one standard deviation in "
        "four of five cases, 27 for three searchers, 20 for two)",
    )
    p.add_argument("--name", help="of the comparison (default: follows from the options)")
    return p


def budget_of(args: argparse.Namespace, names: Sequence[str]) -> Budget:
    """What each study may spend.

    Raises:
        UsageError: a number is out of range, or no searcher can say how many trials the budget pays for.
    """
    positive("--budget", args.budget)
    positive("--repeats", args.repeats, 2)
    if args.workers == AUTO:
        raise UsageError("--workers auto: searchers are compared in one layout; give a number")
    for name in ("budget_seconds", "budget_macs"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: give a number above 0")
    budget = Budget(
        trials=math.inf if args.budget_seconds or args.budget_macs else args.budget or 20,
        seconds=args.budget_seconds or math.inf,
        macs=args.budget_macs or math.inf,
    )
    if budget.trials == math.inf and all(entry_of(name).sized for name in names):
        raise UsageError("--searchers: a grid alone cannot tell how many trials a budget pays for; add random or bo")
    return budget


def compare(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    names = names_of(args.searchers)
    if pausing := [name for name in names if entry_of(name).pauses]:
        raise UsageError(f"--searchers {pausing[0]}: a comparison charges whole trials; compare it by search.replay")
    budget = budget_of(args, names)
    if len(names) < 2:
        raise UsageError(f"--searchers {args.searchers}: nothing to compare it with; name at least two")

    from bo_distill.methods.data import load
    from bo_distill.search.evidence.statistics import repeats_needed
    from bo_distill.search.study.ledger import WRITTEN
    from bo_distill.search.study.records import Plan

    if args.repeats is None:
        args.repeats = repeats_needed(math.comb(len(names), 2))
    if args.name is not None:
        check_name("--name", args.name)
    storage = Storage(args.storage)
    args.storage = storage.uri
    task, space, ranges, method = make_task(args)
    info = load(task.data).info
    check_kind(info.name, info.kind, method)
    configs = method.configure(task.recipe, task.settings)
    if budget.macs < math.inf and not method.macs(configs, info):
        raise UsageError(f"--budget-macs: {method.name} counts no MACs of its training; give --budget")
    if budget.trials < math.inf:
        for name in names:  # says now what a grid cannot do
            make_searcher(name, method.space(space, ranges), 0, int(budget.trials))
    what = {
        "method": method.name,
        "recipe": task.recipe,
        "data": info.fingerprint,
        "settings": task.settings,
        "space": space,
        **({"ranges": ranges} if ranges else {}),
        "precision": task.precision,
        "budget": {k: v for k, v in dataclasses.asdict(budget).items() if v < math.inf},
        "concurrency": args.concurrency,
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    comparison = args.name or f"{method.name}-compare-{digest}"
    folder = f"comparisons/{comparison}"
    check_place(args, task, info)
    storage.check_writable(*WRITTEN, folder)
    check_question(storage, folder, what)

    def planned(name: str, repeat: int) -> Plan:
        """The study of a searcher and a repeat, as it is to be run."""
        seed = args.seed + repeat
        own = dataclasses.replace(task, study=f"{comparison}-{entry_of(name).slug}-{seed}", seed=seed)
        return Plan(own, name, space, trials=None, seeds=0, controls=False, ranges=ranges)

    tell_reading(info)
    interruption().words = "interrupted; give the same command again to go on"
    courses = run_all(args, storage, names, planned, budget, folder, what)
    if courses is None:
        raise KeyboardInterrupt
    asked = {
        "comparison": comparison,
        **what,
        "data": {"name": info.name, "fingerprint": info.fingerprint, "account": dataclasses.asdict(info.account)},
        "seeds": [args.seed + repeat for repeat in range(args.repeats)],
        "studies": {name: [planned(name, r).task.study for r in range(args.repeats)] for name in names},
    }
    conclude(storage, folder, asked, courses, f"{method.name} on {info.name}", as_json=args.json)
    return OK if any(v == v for runs in courses.values() for run in runs for v in run.values) else FAILED


def conclude(
    storage: Storage,
    folder: str,
    asked: Mapping[str, Any],
    courses: Mapping[str, Sequence[Course]],
    title: str,
    *,
    as_json: bool,
) -> None:
    """Analyse what ran; keep it as compare.json and as a page, and print it."""
    from bo_distill.search.evidence.statistics import analyse
    from bo_distill.search.pages.comparison import comparison_page
    from bo_distill.search.pages.study import attempt, keep

    summary = {
        **asked,
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
    storage.write_bytes(f"{folder}/compare.json", packed(summary))
    page = f"{folder}/report.html"
    attempt(
        lambda: keep(storage, page, *comparison_page(json.loads(json.dumps(summary)))), asked["comparison"], storage
    )
    if as_json:
        print(json_text(summary))
    else:
        show(summary, title)
    sys.stdout.flush()


def show(summary: Mapping[str, Any], title: str) -> None:
    """The comparison for a person, on stdout."""
    reference = summary["reference"]
    rows: list[tuple[str, ...]] = []
    for name, found in summary["searchers"].items():
        trials, seconds = ([v for v in found["to_reference"][k] if v is not None] for k in ("trials", "seconds"))
        rows.append(
            (
                name,
                f"{100 * found['mean']:.2f}",
                f"{100 * found['sd']:.2f}",
                f"{100 * statistics.fmean(found['regret']):.2f}",
                f"{statistics.fmean(found['trials']):.4g}",
                f"{statistics.median(trials):g}" if trials else "-",
                f"{statistics.median(seconds):.1f}" if seconds else "-",
                f"{len(trials)} of {summary['repeats']}",
            )
        )
    columns = ("mean %", "sd", "regret", "trials", f"as good as {reference} after trials", "seconds", "reached")
    print(printable(f"{title}: best validation accuracy, {summary['repeats']} paired repeats"))
    print_table(("searcher", *columns), rows)
    rows = []
    for pair in summary["pairs"]:
        shares = [points(pair[name]) for name in ("difference", "low", "high")]
        rows.append((f"{pair['a']} - {pair['b']}", *shares, f"{pair['p']:.3g}", f"{pair['p_holm']:.3g}"))
    few = (
        f"; {summary['repeats']} repeats are too few for one" if all(p["low"] is None for p in summary["pairs"]) else ""
    )
    print(f"Differences (interquartile mean, 95% bootstrap interval{few})")
    print_table(("", "points", "from", "to", "p", "p (Holm)"), rows)
    print(printable(summary["verdict"]))
    for name in ("comparison", "report"):
        print(printable(f"{name:<12} {summary[name]}"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return carry_out(parser(), compare, argv)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code) if code == INTERRUPTED else sys.exit(code)
