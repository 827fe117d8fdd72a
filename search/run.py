"""The main command: search a method's hyperparameters, retrain the winner, score it on test once.

    python -m search.run fsp --bo

Nothing heavy is imported before the command line is parsed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from bo_distill.methods.errors import UsageError
from bo_distill.search.api.searching import begun, search
from bo_distill.search.command.options import EVERY
from bo_distill.search.command.run_options import parser
from bo_distill.search.command.shell import FAILED, INTERRUPTED, OK, SOME_FAILED, carry_out
from bo_distill.search.rows.export import json_text

if TYPE_CHECKING:
    from bo_distill.search.study.ledger import Study

__all__ = ["main", "parser", "run"]


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code.

    Raises:
        UsageError: it cannot be done.
        KeyboardInterrupt: the search was interrupted and can go on.
    """
    if args.json and args.dry_run:
        raise UsageError("--json: a dry run prints text; leave it out")
    if args.fields and args.method != EVERY:
        from bo_distill.search.command.fields import list_fields

        return list_fields(args)
    if args.method == EVERY:
        from bo_distill.search.api.every import run_every

        return run_every(args)
    study = begun(args)
    if args.dry_run:
        return rehearse(args, study)
    return tell(args, study, search(args, study))


def rehearse(args: argparse.Namespace, study: Study) -> int:
    """Say what would run and for how long; returns the exit code."""
    from bo_distill.distributed.ray.cluster import connected, machine
    from bo_distill.search.execution.forecast import describe
    from bo_distill.search.execution.layouts import layouts
    from bo_distill.search.execution.place import place_of

    with connected(args.address, sys.stderr) if args.address else nullcontext(machine()) as nodes:
        place = place_of(args, study.plan.task.workers, nodes)
    others = [] if args.address else [other for other in layouts(study, args.concurrency) if other != place]
    print(describe(study, place, others))
    return OK


def tell(args: argparse.Namespace, study: Study, seconds: float) -> int:
    """Say what a search found; returns the exit code.

    Raises:
        KeyboardInterrupt: the search was interrupted and can go on.
    """
    from bo_distill.search.command.summary import print_summary
    from bo_distill.search.evidence.summary import summarise

    summary = summarise(study, seconds)
    if args.json:
        print(json_text(summary))
    else:
        print_summary(summary)
    sys.stdout.flush()
    if not study.complete:
        raise KeyboardInterrupt
    if summary["best"] is None:
        return FAILED
    return SOME_FAILED if any(trial["status"] == "failed" for trial in summary["trials"]) else OK


def main(argv: Sequence[str] | None = None) -> int:
    """The command with these words, sys.argv's by default; returns the exit code."""
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code) if code == INTERRUPTED else sys.exit(code)
