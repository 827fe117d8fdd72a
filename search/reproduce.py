"""The papers' tables with our column beside theirs.

    nice -n 19 python -m search.reproduce all --scale full --data-dir DIR --processes 2 --for 2h

Trains what is missing of every line of a method's tables, over seeds, and writes docs/results/METHOD: the page, the
rows behind it and the figures. Neither Ray nor a cluster is needed: trainings of one thread each run side by side in
processes of this machine.

It is made over many sittings, on many machines. `--for` ends a sitting in time: trainings under way stop at an epoch's
checkpoint, which the storage keeps, and go on in the next. A line's training whose row is published under docs/results
is not made again, so that a new machine goes on from the repository alone.

What trains here is torch, torchvision, numpy, scikit-learn, scipy and pyarrow. A machine that has no more leaves out
what is done with more, and says so: Bayesian searches (bayesian-optimization) and figures (matplotlib). The same
command with the same storage on a machine that has them adds those.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bo_distill.distributed.machine import cores
from bo_distill.methods import METHODS
from bo_distill.methods.errors import UsageError
from bo_distill.search.command.options import seconds_of
from bo_distill.search.command.shell import OK, SOME_FAILED, Parser, carry_out, positive, storage_option
from bo_distill.search.execution.processes import Pool


def parser() -> Parser:
    """The command's options."""
    p = Parser(
        prog="python -m search.reproduce", description="The papers' tables, ours beside theirs.", allow_abbrev=False
    )
    p.add_argument("method", metavar="METHOD", help=f"{', '.join(METHODS)} or all")
    p.add_argument(
        "--scale",
        default="small",
        help="small (the machinery in minutes, default), full (all rows, hours on two cores) or paper (a GPU)",
    )
    p.add_argument("--data-dir", metavar="DIR", default="data", help="where the data sets lie (default data)")
    p.add_argument(
        "--only", default="", metavar="WORDS", help="train only the lines with these words in name or table's title"
    )
    p.add_argument("--seeds", type=int, metavar="N", help="trainings of every line (default: the scale's)")
    p.add_argument("--processes", type=int, metavar="N", help="trainings side by side (default: one for each core)")
    p.add_argument("--for", dest="time", metavar="TIME", help="end after so long, such as 2h or 90m, and go on later")
    p.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    storage_option(p)
    p.add_argument(
        "--out", default="docs/results", metavar="DIR", help="for tables, rows and figures (default docs/results)"
    )
    p.add_argument("--dry-run", action="store_true", help="list what is missing and how long it takes, and run nothing")
    p.add_argument(
        "--readme", metavar="FILE", help="write the pages and this file's table from the rows in --out, and run nothing"
    )
    return p


def check_out(out: Path) -> None:
    """See that what hours of training find can be published.

    Raises:
        UsageError: nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}; give another folder") from None


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    begun = time.time()
    positive("--seeds", args.seeds, 2)
    positive("--processes", args.processes)
    until = begun + (seconds_of("--for", args.time) or math.inf)
    names, out = list(METHODS) if args.method == "all" else [args.method], Path(args.out)
    from bo_distill.distributed.storage import Storage
    from bo_distill.search.papers import publish
    from bo_distill.search.papers.lines import Reproduction
    from bo_distill.search.papers.missing import missing
    from bo_distill.search.papers.readme import write
    from bo_distill.search.papers.training import Sitting
    from bo_distill.search.study.ledger import WRITTEN

    if args.readme:
        write(out, Path(args.readme))
        return OK

    def wanted() -> list[Reproduction]:
        """What is to be trained, with what is on the pages already."""
        kept = {name: publish.published(out, name) for name in names}
        found = [Reproduction.of(name, args.scale, args.seeds, args.data_dir, kept[name], args.only) for name in names]
        if not any(one.asked(table, cell) for one in found for table in one.tables for cell in table.cells):
            raise UsageError(f"--only {args.only}: no line has these words; docs/results has the lines of each method")
        return found

    storage, processes = Storage(args.storage), args.processes or cores()
    if args.dry_run:
        for one in wanted():
            for line in missing(one, storage, args.precision, priced=True):
                print(line, flush=True)
        return OK
    check_out(out)
    storage.check_writable(*WRITTEN)
    sitting = Sitting(wanted(), Pool(processes), until, out)
    try:
        sitting.run(storage, args.precision)
    finally:
        sitting.pool.close()
    for one in sitting.wanted:
        print(publish.publish(one, storage, out))
    if until < math.inf:
        for one in wanted():
            print("\n".join(missing(one, storage, args.precision, priced=False)))
    return SOME_FAILED if sitting.failed else OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
