"""One HTML file that shows what a study did and found; it needs no network and no server.

    python -m search.report NAME                 studies/NAME/report.html, pictures beside it under figures/
    python -m search.report A B --out both.html  several studies, side by side
    python -m search.report COMPARISON           comparisons/NAME/report.html: the verdict of compare or of run all
    python -m search.report NAME --live          at an address of this machine, while another process runs the search

Nothing here reads the test split: test scores are those that the study noted when it ended, and the method's own
figures are drawn on validation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath

from bo_distill.distributed.storage import Storage, write_whole
from bo_distill.methods.errors import UsageError
from bo_distill.search.api.view import open_study, study_folder
from bo_distill.search.command.options import live_option
from bo_distill.search.command.shell import OK, Parser, carry_out, storage_option, trust_option
from bo_distill.search.command.terminal import named_file, write_named
from bo_distill.search.pages.live import follow


def parser() -> Parser:
    """The command's options."""
    p = Parser(prog="python -m search.report", description="Studies as one HTML file.", allow_abbrev=False)
    p.add_argument("studies", nargs="+", metavar="STUDY", help="a study's name or folder, or a comparison's name")
    storage_option(p)
    p.add_argument("--out", metavar="FILE", help="default: report.html in the study's folder; of several, here")
    p.add_argument("--no-figures", action="store_true", help="leave out the method's own figures, which take a while")
    live_option(p)
    trust_option(p)
    return p


def _of_folder(storage: Storage, folder: str) -> tuple[str, dict[str, bytes]]:
    """The page of a comparison of searchers, or of `search.run all`, and its pictures.

    Raises:
        UsageError: its file cannot be read.
    """
    if storage.exists(f"{folder}/all.json"):
        from bo_distill.search.api.every import page_of_all

        return page_of_all(storage, PurePosixPath(folder).name)
    from bo_distill.search.pages.comparison import comparison_page
    from bo_distill.search.study.kept import damaged, read

    _, summary = read(storage, f"{folder}/compare.json")
    try:
        return comparison_page(summary)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise damaged(storage.path(f"{folder}/compare.json"), f"it is no comparison: {error!r}") from None


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    from bo_distill.search.pages.study import keep, page_of
    from bo_distill.search.study.kept import check_name

    storage = Storage(args.storage)
    names = list(dict.fromkeys(args.studies))
    if args.live is not None:
        if len(names) > 1:
            raise UsageError(f"--live: follows one study; leave out {', '.join(names[1:])}")
        follow(open_study(names[0], storage), args.live)
        return OK
    summaries = []
    for name in names:
        if study_folder(name) is None:
            check_name("STUDY", name.strip("/"))
            folder = f"comparisons/{name.strip('/')}"
            summaries += [name] if any(storage.exists(f"{folder}/{file}.json") for file in ("compare", "all")) else []
    if summaries and len(names) > 1:
        raise UsageError(f"{summaries[0]} is a comparison and has a page of its own; give it alone")
    draw, several = not args.no_figures, len(names) > 1
    target = named_file("--out", args.out or "report.html") if several or args.out else None
    if summaries:
        folder = f"comparisons/{summaries[0].strip('/')}"
        page = _of_folder(storage, folder)
    else:
        studies = [open_study(name, storage) for name in names]
        folder, storage = studies[0].folder, studies[0].storage
        page = page_of(studies, draw)
    if target is None:
        try:
            print(storage.path(keep(storage, f"{folder}/report.html", *page)))
        except UsageError as error:
            raise UsageError(f"{error}, or write the page elsewhere by --out FILE") from None
        return OK
    text, pictures = page
    write_named("--out", str(target), text.encode())
    try:
        for picture, content in pictures.items():
            write_whole(target.parent / "figures" / picture, content)
    except OSError as error:
        words = f"--out {target} is written, but not all its pictures in figures/: {error.strerror}"
        raise UsageError(f"{words}; use it as it is, or give another file") from None
    print(target)
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
