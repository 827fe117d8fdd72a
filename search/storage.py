"""What a storage holds, and the removal of what nobody needs any more.

    python -m search.storage show
    python -m search.storage clean --unused --dry-run
    python -m search.storage clean --older 30d --storage s3://bucket/prefix

Cleaning removes stage results that no kept study needs, checkpoints of stages that are finished or that nobody will go
on with, left-over locks and files that were never finished. Nothing goes that a running search needs or that a study
which is not complete would look for. Once a winner has been retrained, its study needs what the retrainings and the
controls left; what the search's own trials left goes, and a study that extends it trains those again. A study is
removed by deleting its folder; what it alone needed goes with the next cleaning.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bo_distill.methods.errors import UsageError
from bo_distill.search.command.options import seconds_of
from bo_distill.search.command.shell import OK, Parser, carry_out, storage_option, trust_option

if TYPE_CHECKING:
    from bo_distill.distributed.storage import Storage


def parser() -> Parser:
    """The command's options."""
    p = Parser(prog="python -m search.storage", description="What a storage holds.", allow_abbrev=False)
    p.add_argument("action", choices=("show", "clean"), help="say what is there, or remove what nobody needs")
    storage_option(p)
    p.add_argument("--older", metavar="AGE", help="clean: only what was last written so long ago, such as 30d or 12h")
    p.add_argument("--unused", action="store_true", help="clean: whatever its age")
    p.add_argument("--dry-run", action="store_true", help="clean: say what would go, and remove nothing")
    trust_option(p)
    return p


def megabytes(size: int) -> str:
    """Bytes in MB."""
    return f"{size / 1e6:,.2f} MB"


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    if args.action == "show" and (args.older or args.unused or args.dry_run):
        raise UsageError("show: --older, --unused and --dry-run are options of clean; leave them out")
    if args.action == "clean" and bool(args.older) == args.unused:
        raise UsageError("clean: give either --older AGE, such as 30d, or --unused for all that nobody needs")
    older = seconds_of("--older", args.older) or 0.0

    from bo_distill.distributed.storage import Storage
    from bo_distill.search.rows.export import printable
    from bo_distill.search.study.cleaning import clean

    storage = Storage(args.storage)
    if not storage.exists():
        raise UsageError(f"--storage {storage.uri}: there is no such folder; give another")
    if args.action == "show":
        show(storage)
        return OK
    count = freed = 0
    for removal in clean(storage, older, args.dry_run):
        print(f"{printable(removal.name)}: {removal.what}, {megabytes(removal.size)}")
        count, freed = count + 1, freed + removal.size
    print(f"{count} {'would be removed' if args.dry_run else 'removed'}, {freed:,} bytes")
    return OK


def show(storage: Storage) -> None:
    """Sizes by study and by stage, on standard output."""
    from bo_distill.search.command.terminal import print_table
    from bo_distill.search.study.cleaning import needed, stages, studies

    needs, found = needed(storage), stages(storage)
    sizes = {stem: parts.size for stem, parts in found.items()}
    headers = ("study", "its folder", "stages it needs")
    print_table(
        headers,
        [
            (name, megabytes(size), megabytes(sum(sizes.get(stem, 0) for stem in needs.get(name, ()))))
            for name, size in studies(storage).items()
        ],
    )
    every = set().union(*needs.values())
    by_stage: dict[str, list[str]] = {}
    for stem in sorted(found):
        by_stage.setdefault(stem.rpartition("-")[0], []).append(stem)
    print_table(
        ("stage", "results", "size", "checkpoints", "unused"),
        [
            (
                stage,
                f"{sum(bool(found[stem].result) for stem in stems):,}",
                megabytes(sum(sizes[stem] for stem in stems)),
                megabytes(sum(entry.size for stem in stems for entry in found[stem].progress)),
                megabytes(sum(sizes[stem] for stem in stems if stem not in every)),
            )
            for stage, stems in by_stage.items()
        ],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
