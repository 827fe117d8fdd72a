"""A search from its options to its result, whoever gave them: the command line, a script or a notebook.

Nothing heavy is imported before the options are understood.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bo_distill.methods.errors import UsageError
from bo_distill.search.command.asking import asked_for
from bo_distill.search.command.config import toml_of
from bo_distill.search.command.interruption import interruption
from bo_distill.search.command.options import AUTO, check_kind
from bo_distill.search.command.reading import tell_reading
from bo_distill.search.command.shell import positive
from bo_distill.search.execution.place import check_place, on_ray, settled
from bo_distill.search.pages.live import live

if TYPE_CHECKING:
    from bo_distill.search.study.ledger import Study


def begun(args: argparse.Namespace) -> Study:
    """The study that the options ask for, with its data read and all that can be seen before it runs looked at; what
    is written is that of `search.command.asking.asked_for`.

    Args:
        args: the options of `search.command.run_options`; `storage` becomes absolute.

    Raises:
        UsageError: it cannot be.
    """
    positive("--concurrency", args.concurrency)
    positive("--patience", args.patience)
    positive("--seeds", args.seeds, 0)
    if args.confirm:
        positive("--confirm", args.confirm, 2)

    from bo_distill.distributed.storage import Storage
    from bo_distill.search.study.searches import ControlSearches, searcher_of, tuned_controls

    storage = Storage(args.storage)
    args.storage = storage.uri
    study = asked_for(args, storage)
    task = study.plan.task
    searcher_of(study)  # says now what cannot be: a grid in too few trials, ranges that have changed since
    if tuned_controls(study.plan, study.method):
        ControlSearches(study, task.settings)  # likewise
    if not args.resume:
        check_controls(study)
    method, info = study.method, study.info
    check_kind(info.name, info.kind, method)
    study.know_data()
    method.costs(method.configure(task.recipe, task.settings), info)  # refuses what networks cannot take
    check_place(args, task, info)
    if args.workers == AUTO:
        from bo_distill.search.execution.layouts import fastest

        workers = fastest(study, args, sys.stderr).workers
        study.plan = dataclasses.replace(study.plan, task=dataclasses.replace(task, workers=workers))
    return study


def check_controls(study: Study) -> None:
    """See that the controls can run beside a winner, with the recipe's settings or from an end of every range.

    Raises:
        UsageError: one cannot.
    """
    from bo_distill.methods.method import flatten
    from bo_distill.methods.space import Choice

    method, task = study.method, study.plan.task
    numbers = {name: domain for name, domain in study.space.items() if not isinstance(domain, Choice)}
    ends = [{name: getattr(domain, end) for name, domain in numbers.items()} for end in ("low", "high")]
    for winner in ({}, *ends):
        settings = {**task.settings, **winner}
        try:
            complete = flatten(method.configure(task.recipe, settings))
        except UsageError:
            continue  # no trial can be that either
        for name, change in study.controls.items():
            try:
                method.configure(task.recipe, {**settings, **change(complete)})
            except UsageError as error:
                own = ", ".join(f"{field}={complete[field]}" for field in complete if field.endswith(".epochs"))
                raise UsageError(
                    f"--controls {name}: cannot run beside a winner of {own} ({error}); name others, or give "
                    "--no-controls"
                ) from None


def trackers(args: argparse.Namespace) -> list[str]:
    """Who else is told of each trial."""
    return [name for name in ("tensorboard", "mlflow") if getattr(args, name)]


def search(args: argparse.Namespace, study: Study, go_on: str = "") -> float:
    """Run a study on Ray, and keep its winner's model and its page; returns the seconds that it took.

    A search that was interrupted returns, too: its study is not complete.

    Args:
        go_on: the words by which the person goes on after an interruption, if not those of the study.

    Raises:
        UsageError: the storage cannot be written, another process runs the study, no Ray answers.
        KeyboardInterrupt: it was interrupted before its trials ran.
    """
    from bo_distill.search.study.ledger import WRITTEN

    started, task = time.monotonic(), study.plan.task
    study.storage.check_writable(*WRITTEN, study.folder, f"{study.folder}/trials")
    for name in trackers(args):
        from bo_distill.search.execution.tracking import check

        check(study.storage, name)
    go_on = f"interrupted; go on with {go_on or study.resume_words}"
    with live(args) as page:
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
            if not args.quiet:
                tell_reading(study.info, terminal)
            for name in trackers(args):
                from bo_distill.search.execution.tracking import track

                track(study, name)
            if page:
                page.show(study, terminal)
            run_study(study, place, None if args.quiet else terminal)
        keep(study, args.quiet)
    return time.monotonic() - started


def keep(study: Study, quiet: bool) -> None:
    """Write the winner's model and the page, once the study is complete. A page that fails costs the page only."""
    if not study.complete or study.best() is None:
        return
    from bo_distill.search.pages.study import attempt, write
    from bo_distill.search.study.winner import save_winner

    save_winner(study)
    if not quiet:
        print("drawing the page", file=sys.stderr)
    attempt(lambda: write(study), study.plan.task.study, study.storage)
