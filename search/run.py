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
from typing import TYPE_CHECKING

from methods import get
from methods.errors import UsageError
from search.command.data import resumed_data, same
from search.command.options import assignments, make_task, names_in, study_options
from search.command.reading import tell_reading
from search.command.shell import FAILED, INTERRUPTED, OK, SOME_FAILED, Parser, carry_out, positive, trust_option
from search.execution.place import check_place, on_ray, settled
from search.searchers.registry import DEFAULT, SEARCHERS, entry_of

if TYPE_CHECKING:
    from search.study.ledger import Study
    from search.study.records import Plan


def parser() -> Parser:
    p = Parser(prog="python -m search.run", description="Search a method's hyperparameters on Ray.", allow_abbrev=False)
    how = p.add_mutually_exclusive_group()
    for entry in SEARCHERS.values():
        if entry.flag:
            words = entry.title + " (default)" * (entry.word == DEFAULT)
            how.add_argument(f"--{entry.word}", dest="searcher", action="store_const", const=entry.word, help=words)
    how.add_argument("--searcher", metavar="WORD", help=f"{', '.join(SEARCHERS)}, or MODULE:CLASS, a Tune searcher")
    study_options(p)
    p.add_argument("--trials", metavar="N", help="budget (default 12; a grid's natural size); +N with --resume")
    p.add_argument("--patience", type=int, metavar="N", help="stop after N trials without a better accuracy")
    p.add_argument("--confirm", type=int, default=0, metavar="K", help="run the K best again over 3 fresh seeds")
    p.add_argument("--asha", action="store_true", help="stop trials that fall behind")
    p.add_argument("--seeds", type=int, metavar="N", help="retrainings of the winner, scored on test (default 3)")
    p.add_argument("--no-controls", action="store_true", help="do not run the method's controls beside the winner")
    p.add_argument(
        "--resume", metavar="STUDY", help="go on with a study, maybe by another searcher; --trials +N extends it"
    )
    p.add_argument("--tensorboard", action="store_true", help="also write each trial for TensorBoard")
    p.add_argument("--mlflow", action="store_true", help="also write each trial to a file store of MLflow")
    p.add_argument("--quiet", action="store_true", help="say nothing while the search runs")
    p.add_argument("--dry-run", action="store_true", help="say what would run, and run nothing")
    trust_option(p)
    return p


def budget(text: str | None, resumed: bool) -> tuple[int | None, bool]:
    """--trials as (number, is it an extension)."""
    if text is None:
        return None, False
    try:
        number = int(text)
    except ValueError:
        raise UsageError(f"--trials {text}: give a whole number") from None
    more = text.startswith("+")
    if more and not resumed:
        raise UsageError(f"--trials {text}: only --resume can extend a search; give --trials {number}")
    positive("--trials", number)
    return number, more


def make_plan(args: argparse.Namespace) -> Plan:
    """What the words of the command ask for, checked.

    Raises:
        UsageError: any of them cannot be.
    """
    import dataclasses

    from search.study.ledger import new_name
    from search.study.records import Plan

    task, space, method = make_task(args)
    searcher = entry_of(args.searcher or DEFAULT)
    trials, _ = budget(args.trials, False)
    if trials is None and not searcher.sized:
        trials = 12
    plan = Plan(
        task=dataclasses.replace(task, study=new_name(method.name, searcher.slug), stoppable=args.asha),
        searcher=searcher.word,
        space=space,
        trials=trials,
        patience=args.patience,
        seeds=3 if args.seeds is None else args.seeds,
        controls=not args.no_controls,
        asha=args.asha,
        confirm=args.confirm,
    )
    plan.check_confirm()
    return plan


def check_same(args: argparse.Namespace, plan: Plan) -> None:
    """See that the command asks for nothing that the study's trials have in common and that --resume cannot change.

    Raises:
        UsageError: it does.
    """
    task = plan.task
    for word in ("method", "recipe"):
        if given := getattr(args, word):
            same(word if word == "method" else f"--{word}", given, getattr(task, word))
    settings = get(task.method).check(assignments(args.set)) if args.set else {}
    for name, value in settings.items():
        same(f"--set {name}", value, task.settings.get(name, "searched or left at its default"))
    if args.search:
        same("--search", tuple(names_in(args.search)), plan.space)
    for word, kept in (("seed", task.seed), ("precision", task.precision)):
        if (given := getattr(args, word)) != parser().get_default(word):
            same(f"--{word}", given, kept)
    if args.asha and not plan.asha:
        raise UsageError("--asha: the study's trials run without a scheduler; leave it out")
    if args.no_controls and plan.controls:
        raise UsageError("--no-controls: the study has controls; leave it out")


def resumed(args: argparse.Namespace, study: Study) -> Plan:
    """The study's plan with what this command changes of it.

    Raises:
        UsageError: it changes what all trials have in common, or what was decided already.
    """
    import dataclasses

    check_same(args, study.plan)
    plan = study.plan
    searcher = entry_of(args.searcher or plan.searcher)
    trials, more = budget(args.trials, True)
    words = {"--trials": args.trials, "--seeds": args.seeds, "--confirm": args.confirm or None}
    asked = [f"{word} {value}" for word, value in words.items() if value is not None]
    asked += [" ".join(searcher.option)] if searcher.word != plan.searcher else []
    if asked and study.of_phase("final"):
        study.note_test("refused", " ".join(asked))
        raise UsageError(
            f"--resume {args.resume}: its test split has been read, so its search is over; start a new study"
        )
    if searcher.sized and (trials is not None or plan.searcher != searcher.word):
        raise UsageError(f"--resume {args.resume}: a grid has the trials that it has; start a new study")
    begun = len(study.of_phase("search"))
    if trials is not None:
        trials = (plan.trials or begun) + trials if more else trials
        if trials < begun:
            raise UsageError(f"--trials {trials}: {begun} were asked already; give more")
    elif not searcher.sized and plan.trials is None:
        raise UsageError(
            f"--resume {args.resume} {' '.join(searcher.option)}: the grid set no budget; give --trials +N"
        )
    if args.confirm and searcher.sized:
        raise UsageError(f"--resume {args.resume} --confirm: a grid has the trials that it has; start a new study")
    if searcher.word != plan.searcher:
        study.searcher_state = None
    workers = args.workers or plan.task.workers
    data = resumed_data(args, plan.task.data)
    if data.name != plan.task.data.name and not plan.fingerprint:
        raise UsageError(f"--data {data.name}: the study is of a version that did not note its data; leave it out")
    task = dataclasses.replace(plan.task, storage=args.storage, workers=workers, data=data)
    changed = dataclasses.replace(
        plan,
        task=task,
        searcher=searcher.word,
        trials=plan.trials if trials is None else trials,
        seeds=plan.seeds if args.seeds is None else args.seeds,
        patience=plan.patience if args.patience is None else args.patience,
        confirm=args.confirm or plan.confirm,
    )
    if args.confirm:
        changed.check_confirm(begun)
    return changed


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    for name in ("workers", "concurrency", "patience", "seeds"):
        positive(f"--{name}", getattr(args, name))
    if args.confirm:
        positive("--confirm", args.confirm, 2)

    from distributed.storage import Storage

    storage = Storage(args.storage)
    args.storage = storage.uri
    if args.resume:
        from search.study.ledger import Study

        study = Study.open(storage, args.resume)
        plan = resumed(args, study)
        study.plan = plan
    else:
        plan = make_plan(args)
        from search.study.ledger import Study

        study = Study(storage, plan)
    from search.study.conductor import searcher_of

    searcher_of(study)  # says now what cannot be: a grid in too few trials, ranges that have changed since
    method, info = study.method, study.info
    if info.kind != method.kind:
        raise UsageError(f"--data {info.name}: {method.name} takes {method.kind} data; give another --data")
    study.know_data()
    method.costs(method.configure(plan.task.recipe, plan.task.settings), info)  # refuses what networks cannot take
    check_place(args, plan.task, info)
    if args.dry_run:
        from contextlib import nullcontext

        from distributed.ray.cluster import connected, layout, machine
        from search.execution.forecast import describe

        with connected(args.address, sys.stderr) if args.address else nullcontext(machine()) as nodes:
            place = layout(nodes, workers=plan.task.workers, concurrency=args.concurrency)
        print(describe(study, place))
        return OK
    storage.check_writable()
    for name in trackers(args):
        from search.execution.tracking import check

        check(storage, name)
    return search(args, study)


def trackers(args: argparse.Namespace) -> list[str]:
    return [name for name in ("tensorboard", "mlflow") if getattr(args, name)]


def search(args: argparse.Namespace, study: Study) -> int:

    started, task = time.monotonic(), study.plan.task
    with study.locked(), on_ray(args, task.workers, study.storage, f"{study.folder}/ray.log") as (place, terminal):
        from search.execution.tune import run_study

        study.plan = settled(study.plan, place, args.address)
        study.save_plan()
        tell_reading(study.info)
        for name in trackers(args):
            from search.execution.tracking import track

            track(study, name)
        run_study(study, place, None if args.quiet else terminal)
    from search.command.summary import print_summary
    from search.evidence.summary import summarise

    keep(study, args.quiet)
    summary = summarise(study, time.monotonic() - started)
    if args.json:
        print(json.dumps(summary, indent=1))
    else:
        print_summary(summary)
    sys.stdout.flush()
    if not study.complete:
        print(f"interrupted; go on with {study.resume_words}", file=sys.stderr)
        return INTERRUPTED
    if summary["best"] is None:
        return FAILED
    return SOME_FAILED if any(trial["status"] == "failed" for trial in summary["trials"]) else OK


def keep(study: Study, quiet: bool) -> None:
    """Write the winner's model and the page, once the study is complete. A page that fails costs the page only."""
    if not study.complete or study.best() is None:
        return
    from search.pages.study import write
    from search.study.winner import save_winner

    save_winner(study)
    if not quiet:
        print("drawing the page", file=sys.stderr)
    try:
        write(study)
    except Exception as error:  # what draws is a dozen libraries
        name = study.plan.task.study
        print(f"the page was not drawn: {error}; python -m search.report {name} tries again", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code) if code == INTERRUPTED else sys.exit(code)
