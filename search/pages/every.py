"""The page that says which methods helped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import fmean

from bo_distill.search.evidence.every import Held, few_seeds, verdict
from bo_distill.search.evidence.statistics import student
from bo_distill.search.evidence.words import percent, points, span
from bo_distill.search.pages.charts import look
from bo_distill.search.pages.charts.scores import differences, scores
from bo_distill.search.pages.page import Cell, Page


def every_page(name: str, every: Sequence[Held], missing: Mapping[str, str]) -> tuple[str, dict[str, bytes]]:
    """The page and its pictures by file name (PNG).

    Args:
        every: the methods that were carried through.
        missing: method -> why it was not.
    """
    page = Page()
    page.section("Which method helps")
    page.add("verdict", text=verdict(every))
    if every:
        tuned = all(one.study.plan.tune_controls for one in every)
        data = every[0].study.plan.task.data.name
        page.say(
            f"Every method that takes {data} was searched on it at equal budget, chosen on validation alone, and its",
            "winner retrained over fresh seeds. So was plain training: the same network for as many epochs on the",
            "labels, without what the method adds. Both were scored on test once.",
            *(() if tuned else ("Plain training has the winner's other settings; it was not searched by itself.",)),
        )
        _table(page, every)
        with look.style():
            _charts(page, every)
        if few := few_seeds(every):
            page.say(few)
        page.say(
            "Differences are paired by seed; intervals are Student's for each method by itself, p is Holm's over all",
            "methods. Networks differ between methods: a gain is over a method's own plain training, and says nothing",
            "of another's. All of it holds for fresh seeds on this test split, not for other data.",
        )
    if missing:
        page.section("Not carried through")
        page.table(("method", "why"), list(missing.items()))
    page.section("Each search")
    page.table(
        ("method", "study", "searched", "page"),
        [
            (
                one.method,
                one.study.plan.task.study,
                ", ".join(one.study.plan.space),
                Cell("open", None, f"../../{one.study.folder}/report.html"),
            )
            for one in every
        ],
    )
    page.say(f"Made {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}.")
    return page.html(f"Methods compared: {name}"), page.pictures


def _table(page: Page, every: Sequence[Held]) -> None:
    rows = []
    for one in every:
        found = one.difference
        rows.append(
            (
                one.method,
                percent(fmean(one.won.values()) if one.won else None),
                percent(fmean(one.plain.values()) if one.plain else None),
                points(found.mean if found else None),
                span(found.interval if found else None, signed=True),
                one.p,
                found.n if found else 0,
                one.trials,
                one.epochs,
            )
        )
    scored = ("winner, test %", "plain, test %", "difference, points", "95% interval", "p (Holm)")
    page.table(
        ("method", *scored, "seeds", "trials", "epochs"),
        rows,
        "The largest gain first; trials and epochs are the search's",
    )


def _charts(page: Page, every: Sequence[Held]) -> None:
    pairs = [
        {
            "a": one.method,
            "b": "plain training",
            "low": one.difference.interval[0],
            "high": one.difference.interval[1],
            "difference": one.difference.mean,
            "shown": one.shown,
        }
        for one in every
        if one.difference and one.difference.interval
    ]
    if pairs:
        page.chart(
            "gains",
            lambda narrow: differences(pairs, narrow, "points of test accuracy"),
            "Winner minus plain training",
            "Winner minus plain training on test: mean of the paired differences and its 95% interval. Filled: shown "
            "after Holm's correction. A difference that is the same on all seeds has no interval and is left out.",
        )
    groups = {}
    for one in every:
        if one.won and one.plain:
            groups[one.method] = [*one.won.values()]
            groups[f"{one.method}: plain"] = [*one.plain.values()]
    if groups:
        intervals = {name: student(values, 0, 1) for name, values in groups.items()}
        page.chart(
            "tests",
            lambda narrow: scores(groups, intervals, looks=2, narrow=narrow, turns=True),
            "Test accuracy of each method and of its plain training",
            "Test accuracy over fresh seeds: mean, 95% interval of the mean where there is one, and a tick for each "
            "seed.",
        )
