"""The page of a study, or of several side by side."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from statistics import fmean
from typing import Any

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import counted
from bo_distill.search.evidence.advice import on_command_line, where
from bo_distill.search.evidence.statistics import student
from bo_distill.search.evidence.words import duration, percent, span
from bo_distill.search.execution.comparison import course
from bo_distill.search.pages.charts import look
from bo_distill.search.pages.charts.scores import anytime
from bo_distill.search.pages.details import details
from bo_distill.search.pages.findings import Findings
from bo_distill.search.pages.page import Live, Page
from bo_distill.search.pages.sections.paper import add_paper
from bo_distill.search.pages.sections.predictions import add_predictions
from bo_distill.search.pages.sections.provenance import add_provenance
from bo_distill.search.pages.sections.settings import add_settings
from bo_distill.search.pages.sections.summary import add_summary
from bo_distill.search.pages.sections.training import add_training
from bo_distill.search.pages.sections.trials import add_costs, add_front, add_history
from bo_distill.search.rows.export import printable
from bo_distill.search.study.ledger import Study


def page_of(studies: Sequence[Study], draw: bool = True) -> tuple[str, dict[str, bytes]]:
    """The page of one or several studies, and its pictures by file name (PNG).

    Args:
        studies: finished or not.
        draw: also what needs the winner's network, run on validation: its answers and the method's own figures.
    """
    every = [Findings.of(study) for study in studies]
    page = Page()
    with look.style():
        if len(every) == 1:
            _add_study(page, every[0], draw)
            return page.html(_title(studies[0])), page.pictures
        _side_by_side(page, every)
        for number, findings in enumerate(every, 1):
            page.prefix = ""
            page.section(findings.name, level=1)
            kept = list(page.contents)
            page.prefix = f"s{number}-"
            _add_study(page, findings, draw)
            page.contents = kept
    return page.html(f"{len(every)} studies"), page.pictures


def live_page(study: Study, version: int) -> str:
    """The page of a search that still runs, without what needs the winner's network."""
    page = Page(alone=True)
    with look.style():
        _add_study(page, Findings.of(study), draw=False)
    searched, total = study.of_phase("search"), study.plan.searched
    ended, later = [t for t in searched if t.finished], len(study.trials) - len(searched)
    running = [t.job.number for t in study.trials if t.status == "running"]
    paused = sum(t.status == "paused" for t in study.trials)
    of = f"{len(ended)} of " if total else ""
    words = [f"Live: {of}{counted(total or len(ended), 'trial has ended', 'trials have ended')}"]
    if later:
        words.append(f"{sum(t.finished for t in study.trials) - len(ended)} of {counted(later, 'later run')}")
    if running:
        words.append(f"under way: {', '.join(map(str, running))}")
    if paused:
        words.append(f"{paused} paused")
    return page.html(_title(study), Live(version, "; ".join(words) + "."))


def _title(study: Study) -> str:
    task = study.plan.task
    return f"{task.method} on {task.data.name}: {task.study}"


def _add_study(page: Page, findings: Findings, draw: bool) -> None:
    with page.study(findings.name, details(findings)):
        add_summary(page, findings)
        add_history(page, findings)
        add_front(page, findings)
        add_settings(page, findings)
        add_costs(page, findings)
        add_training(page, findings)
        add_predictions(page, findings, draw)
        add_paper(page, findings, draw)
        add_provenance(page, findings)


def _side_by_side(page: Page, every: Sequence[Findings]) -> None:
    page.section("Side by side")
    rows: list[tuple[Any, ...]] = []
    courses, names = {}, [f.name for f in every]
    for number, f in enumerate(every, 1):
        best, tested, plan = f.study.best(), list(f.tests("final").values()), f.study.plan
        rows.append(
            (
                f.name,
                plan.task.method,
                plan.task.data.name,
                plan.searcher,
                len(f.study.of_phase("search")),
                percent(best.val_accuracy if best else None),
                percent(fmean(tested) if tested else None),
                span(student(tested, 0, 1)),
                duration(sum(t.seconds for t in f.study.trials)),
            )
        )
        line = f.name if names.count(f.name) == 1 else f"{f.name}, {number}"
        courses[line] = [course(f.study, {trial: float(row["macs_train"] or 0) for trial, row in f.rows.items()})]
    page.table(("study", "method", "data", "searcher", "trials", "best val %", "test %", "95% interval", "time"), rows)
    page.chart(
        "anytime", lambda narrow: anytime(courses, narrow=narrow), "Best validation accuracy against what was spent"
    )
    page.say(
        "One run of each searcher is an anecdote, not a comparison: bo-distill compare repeats them at equal budget",
        "over paired seeds and gives a verdict. Accuracies are comparable only where method and data are the same.",
    )


def write(study: Study, draw: bool = True) -> str:
    """Write report.html and figures/*.png into the study's folder; returns the name of the page in the storage.

    Raises:
        UsageError: the storage cannot be written.
    """
    return keep(study.storage, f"{study.folder}/report.html", *page_of([study], draw))


def attempt(draw: Callable[[], object], name: str, storage: Storage) -> None:
    """Draw and write a page. One that fails costs the page only, whose name `search.report` takes."""
    try:
        draw()
    except Exception as error:  # what draws is a dozen libraries
        again = " ".join(filter(None, ("bo-distill report", shlex.quote(name), on_command_line(where(storage)))))
        words = f"the page was not drawn: {error}; {again} tries again"
        print(printable(words), file=sys.stderr)


def keep(storage: Storage, name: str, text: str, pictures: Mapping[str, bytes]) -> str:
    """Write a page, and its pictures into figures/ beside it; returns its name."""
    for picture, content in pictures.items():
        storage.write_bytes(str(PurePosixPath(name).parent / "figures" / picture), content)
    storage.write_bytes(name, text.encode())
    return name
