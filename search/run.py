"""The main command: search a method's hyperparameters, retrain the winner, score it on test once.

    python -m search.run fsp --bo

Nothing heavy is imported before the command line is parsed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bo_distill.methods.errors import UsageError
from bo_distill.search.command.asking import asked_for
from bo_distill.search.command.config import FileParser, toml_of
from bo_distill.search.command.interruption import interruption
from bo_distill.search.command.options import study_options
from bo_distill.search.command.reading import tell_reading
from bo_distill.search.command.shell import (
    FAILED,
    INTERRUPTED,
    OK,
    SOME_FAILED,
    Parser,
    carry_out,
    positive,
    trust_option,
)
from bo_distill.search.execution.place import check_place, on_ray, settled
from bo_distill.search.searchers.registry import DEFAULT, SEARCHERS

if TYPE_CHECKING:
    from bo_distill.search.study.ledger import Study


def parser() -> Parser:
    p = FileParser(
        prog="python -m search.run",
        usage="%(prog)s METHOD [options]",
        description="Search a method's hyperparameters on Ray, retrain the winner, score it on test once.",
        allow_abbrev=False,
    )
    for title in ("data", "what is searched", "searcher", "budget", "going on", "place", "output"):
        p.group(title)
    study_options(p)
    how = p.group("searcher").add_mutually_exclusive_group()
    for entry in SEARCHERS.values():
        if entry.flag:
            words = entry.title + " (default)" * (entry.word == DEFAULT)
            how.add_argument(f"--{entry.word}", dest="searcher", action="store_const", const=entry.word, help=words)
    how.add_argument("--searcher", metavar="WORD", help=f"{', '.join(SEARCHERS)}, or MODULE:CLASS, a Tune searcher")
    spent = p.group("budget")
    spent.add_argument(
        "--trials",
        metavar="N",
        help="trials (default 12; a grid's natural size; no limit with --time); +N with --resume",
    )
    spent.add_argument(
        "--time",
        metavar="T",
        help="propose no trial after 90s, 30m or 2h; those under way end, and winner and controls are retrained as "
        "usual, which takes longer than T; --resume begins T anew",
    )
    spent.add_argument("--patience", type=int, metavar="N", help="stop after N trials without a better accuracy")
    spent.add_argument("--asha", action="store_true", help="stop trials that fall behind")
    spent.add_argument("--confirm", type=int, default=0, metavar="K", help="run the K best again over 3 fresh seeds")
    spent.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="retrainings of the winner, scored on test (default 3); 0 leaves the test split unread, so that --resume "
        "STUDY can extend the search, and give --seeds at its end",
    )
    spent.add_argument("--no-controls", action="store_true", help="do not run the method's controls beside the winner")
    going_on = p.group("going on").add_mutually_exclusive_group()
    going_on.add_argument(
        "--resume", metavar="STUDY", help="go on with a study, maybe by another searcher; --trials +N extends it"
    )
    going_on.add_argument(
        "--extend",
        metavar="STUDY",
        help="begin a new study that inherits the trials of a finished one, for --trials +N more; the test split is "
        "read again, which the new study notes",
    )
    told = p.group("output")
    told.add_argument("--quiet", action="store_true", help="say nothing while the search runs")
    told.add_argument("--dry-run", action="store_true", help="say what would run, and run nothing")
    told.add_argument("--fields", action="store_true", help="list the method's hyperparameters, and run nothing")
    told.add_argument("--tensorboard", action="store_true", help="also write each trial for TensorBoard")
    told.add_argument("--mlflow", action="store_true", help="also write each trial to a file store of MLflow")
    trust_option(p)
    return p


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    if args.fields:
        from bo_distill.search.command.fields import list_fields

        return list_fields(args)
    for name in ("workers", "concurrency", "patience"):
        positive(f"--{name}", getattr(args, name))
    positive("--seeds", args.seeds, 0)
    if args.confirm:
        positive("--confirm", args.confirm, 2)

    from bo_distill.distributed.storage import Storage

    storage = Storage(args.storage)
    args.storage = storage.uri
    study = asked_for(args, storage)
    plan = study.plan
    from bo_distill.search.study.conductor import searcher_of
    from bo_distill.search.study.ledger import WRITTEN

    searcher_of(study)  # says now what cannot be: a grid in too few trials, ranges that have changed since
    method, info = study.method, study.info
    if info.kind != method.kind:
        raise UsageError(f"--data {info.name}: {method.name} takes {method.kind} data; give another --data")
    study.know_data()
    method.costs(method.configure(plan.task.recipe, plan.task.settings), info)  # refuses what networks cannot take
    check_place(args, plan.task, info)
    if args.dry_run:
        from contextlib import nullcontext

        from bo_distill.distributed.ray.cluster import connected, layout, machine
        from bo_distill.search.execution.forecast import describe

        with connected(args.address, sys.stderr) if args.address else nullcontext(machine()) as nodes:
            place = layout(nodes, workers=plan.task.workers, concurrency=args.concurrency)
        print(describe(study, place))
        return OK
    storage.check_writable(*WRITTEN, study.folder, f"{study.folder}/trials")
    for name in trackers(args):
        from bo_distill.search.execution.tracking import check

        check(storage, name)
    return search(args, study)


def trackers(args: argparse.Namespace) -> list[str]:
    return [name for name in ("tensorboard", "mlflow") if getattr(args, name)]


def search(args: argparse.Namespace, study: Study) -> int:
    """Run the study on Ray and say what it found; returns the exit code.

    Raises:
        KeyboardInterrupt: the search was interrupted and can go on.
    """
    started, task = time.monotonic(), study.plan.task
    go_on = f"interrupted; go on with {study.resume_words}"
    with ExitStack() as stack:
        if args.resume:
            stack.enter_context(study.locked())
            interruption().words = go_on
        place, terminal = stack.enter_context(on_ray(args, task.workers, study.storage, f"{study.folder}/ray.log"))
        if not args.resume:  # a Ray that does not answer leaves nothing of a new study, no lock either
            stack.enter_context(study.locked())
        from bo_distill.search.execution.tune import run_study

        study.plan = settled(study.plan, place, args.address)
        study.save_plan()
        study.storage.write_bytes(f"{study.folder}/config.toml", toml_of(study.plan).encode())
        interruption().words = go_on
        tell_reading(study.info)
        for name in trackers(args):
            from bo_distill.search.execution.tracking import track

            track(study, name)
        run_study(study, place, None if args.quiet else terminal)
    from bo_distill.search.command.summary import print_summary
    from bo_distill.search.evidence.summary import summarise

    keep(study, args.quiet)
    summary = summarise(study, time.monotonic() - started)
    if args.json:
        print(json.dumps(summary, indent=1))
    else:
        print_summary(summary)
    sys.stdout.flush()
    if not study.complete:
        raise KeyboardInterrupt
    if summary["best"] is None:
        return FAILED
    return SOME_FAILED if any(trial["status"] == "failed" for trial in summary["trials"]) else OK


def keep(study: Study, quiet: bool) -> None:
    """Write the winner's model and the page, once the study is complete. A page that fails costs the page only."""
    if not study.complete or study.best() is None:
        return
    from bo_distill.search.pages.study import write
    from bo_distill.search.study.winner import save_winner

    save_winner(study)
    if not quiet:
        print("drawing the page", file=sys.stderr)
    try:
        write(study)
    except Exception as error:  # what draws is a dozen libraries
        name = study.plan.task.study
        print(f"the page was not drawn: {error}; python -m search.report {name} tries again", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these words, sys.argv's by default; returns the exit code."""
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code) if code == INTERRUPTED else sys.exit(code)
