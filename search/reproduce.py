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
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from methods import METHODS
from search.command.shell import OK, SOME_FAILED, Parser, carry_out, positive
from search.execution.processes import Pool
from search.papers.missing import missing
from search.papers.training import carry_through, left_out


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


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    positive("--seeds", args.seeds, 2)
    positive("--processes", args.processes)
    names = list(METHODS) if args.method == "all" else [args.method]
    from search.papers.lines import Reproduction

    wanted = [Reproduction.of(name, args.scale, args.seeds, args.data_dir) for name in names]

    from distributed.storage import Storage

    storage, processes = Storage(args.storage), args.processes or len(os.sched_getaffinity(0))
    if args.dry_run:
        for one in wanted:
            print("\n".join(missing(one, storage, args.precision, processes)))
        return OK
    storage.check_writable()
    from search.papers.page import publish

    some_failed = False
    pool = Pool(processes)
    try:
        for one in wanted:
            for study in one.studies(storage, args.precision):
                if reason := left_out(study):
                    print(reason, file=sys.stderr)
                    continue
                carry_through(one, study, pool)
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
