"""What is in a data set, before anything is trained on it.

    python -m search.data imagefolder:PATH
    python -m search.data text:FILE.csv --label-column topic --out page.html
    python -m search.data imagefolder:PATH --out sheet.png

It reads the data as a search with the same options does: rows of each part and class, what was left out and why,
labels that look alike, equal rows. A page (.html) also has the balance of classes and some training rows of each; a
.png is the sheet of images alone. Rows of validation and test are counted and not shown.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from bo_distill.methods.errors import UsageError
from bo_distill.search.command.data import add_data_options, data_of
from bo_distill.search.command.shell import OK, Parser, carry_out
from bo_distill.search.command.terminal import named_file, print_table, write_named
from bo_distill.search.rows.export import json_text, printable


def parser() -> Parser:
    """The command's options."""
    p = Parser(prog="python -m search.data", description="Say what is in a data set.", allow_abbrev=False)
    p.add_argument("spec", nargs="?", metavar="SPEC", help="as --data")
    add_data_options(p)
    p.add_argument("--out", metavar="FILE", help="write a page (.html) or a sheet of images (.png)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    if (args.spec is None) == (args.data is None):
        raise UsageError("which data? give one SPEC, e.g. imagefolder:PATH; see --help")
    args.data = args.data or args.spec
    out = Path(args.out) if args.out else None
    if out and out.suffix.lower() not in (".html", ".png"):
        raise UsageError(f"--out {out}: give a name that ends in .html or .png")
    if out:
        named_file("--out", args.out)

    from bo_distill.methods.data import load
    from bo_distill.methods.data_spec import DataSpec

    data = load(data_of(args, DataSpec(args.data)))
    info = data.info
    if out and out.suffix.lower() == ".png" and info.kind != "image":
        raise UsageError(f"--out {out}: {info.name} has no images; give a name that ends in .html")
    if args.json:
        seen = {"name": info.name, "kind": info.kind, "shape": info.shape, "fingerprint": info.fingerprint}
        print(json_text({**seen, "tasks": info.tasks, **dataclasses.asdict(info.account)}))
    else:
        from bo_distill.search.command.reading import reading_rows

        print(
            f"{printable(info.name)}: {info.kind}, {' x '.join(map(str, info.shape))}, fingerprint {info.fingerprint}"
        )
        print_table(("class", "train", "val", "test"), reading_rows(info, most=100))
        for line in info.account.lines() or ["nothing was left out"]:
            print(printable(line))
    if out:
        from bo_distill.search.pages.sections.reading import contact_sheet, dataset_page

        content = contact_sheet(data) if out.suffix.lower() == ".png" else dataset_page(data).encode()
        write_named("--out", args.out, content)
        print(f"{out}: written", file=sys.stderr)
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
