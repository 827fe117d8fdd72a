"""README's short table of results, from the rows under docs/results."""

from __future__ import annotations

from pathlib import Path

from bo_distill.distributed.storage import write_whole
from bo_distill.methods import METHODS
from bo_distill.methods.errors import UsageError
from bo_distill.search.evidence.words import NONE
from bo_distill.search.papers.lines import Reproduction
from bo_distill.search.papers.page import number
from bo_distill.search.papers.publish import claims_of, published, write_pages
from bo_distill.search.papers.scores import findings
from bo_distill.search.rows.export import markdown

MARKS = ("<!-- results: python -m search.reproduce all --readme README.md -->", "<!-- end of results -->")


def summary(out: Path) -> str:
    """Each claim at full size: what the paper says, its figure, ours, the answer."""
    body = []
    for name in METHODS:
        one = Reproduction.of(name, "full", None, "")
        claims = claims_of(one)
        several = len({claim.table for claim in claims}) > 1
        for finding in findings(one, claims, published(out, name)):
            line, control = finding.line, finding.control
            body.append(
                (
                    f"[`{name}`](docs/results/{name}/README.md)",
                    line.cell.name + (f", {finding.claim.table}" if several else ""),
                    finding.claim.paper or NONE,
                    number(line.cell.printed),
                    *(f"{number(own.mean)} ({len(own.scores)})" if own.scores else NONE for own in (line, control)),
                    line.over(control),
                    finding.verdict,
                )
            )
    columns = (
        "method",
        "line",
        "the paper says",
        "paper %",
        "here % (n)",
        "control % (n)",
        "difference, 95%",
        "answer",
    )
    return markdown(columns, body)


def inserted(readme: str, table: str) -> str:
    """README's text with the table between its marks.

    Raises:
        UsageError: the marks are not there.
    """
    before, start, rest = readme.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not start or not end:
        raise UsageError(f"--readme: no place for the table; put {MARKS[0]} and {MARKS[1]} around it")
    return f"{before}{start}\n{table}{end}{after}"


def write(out: Path, readme: Path) -> None:
    """Write all pages anew from the rows that are kept with them, and the table between README's marks.

    Raises:
        UsageError: README cannot be read or has no such marks, or the rows cannot be read.
    """
    try:
        before = readme.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--readme {readme} cannot be read: {error}; give another file") from None
    text = inserted(before, summary(out))
    for name in METHODS:
        write_pages(out, name)
    write_whole(readme, text.encode())
