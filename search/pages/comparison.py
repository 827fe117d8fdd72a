"""The page of a comparison of searchers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bo_distill.methods.data.account import Account
from bo_distill.methods.records import decoded
from bo_distill.search.evidence.statistics import Course, student
from bo_distill.search.evidence.words import NONE, duration, percent, points
from bo_distill.search.pages.charts import look
from bo_distill.search.pages.charts.scores import anytime, differences, scores
from bo_distill.search.pages.page import Page
from bo_distill.search.pages.sections.reading import add_reading
from bo_distill.search.searchers.registry import entry_of

UNITS = {"trials": "trials", "seconds": "seconds of training", "macs": "MACs of training"}


def comparison_page(summary: Mapping[str, Any]) -> tuple[str, dict[str, bytes]]:
    """The page of a comparison and its pictures by file name (PNG).

    Args:
        summary: the content of compare.json.
    """
    page = Page()
    _verdict(page, summary)
    with look.style():
        _on_the_way(page, summary)
        _differences(page, summary)
    _provenance(page, summary)
    if account := summary["data"].get("account"):
        with page.folded("What was read of the data"):
            add_reading(page, decoded(Account, account))
    with page.folded("The studies; bo-distill report shows each"):
        page.table(("searcher", "studies"), [(name, ", ".join(names)) for name, names in summary["studies"].items()])
    return page.html(f"{summary['method']} on {summary['data']['name']}: searchers compared"), page.pictures


def _verdict(page: Page, summary: Mapping[str, Any]) -> None:
    repeats, reference = summary["repeats"], summary["reference"]
    budget = ", ".join(f"{value:g} {UNITS[name]}" for name, value in summary["budget"].items())
    page.section("Verdict")
    page.add("verdict", text=summary["verdict"])
    page.say(
        f"{repeats} paired repeats of {budget} for each searcher: in a repeat all start from the same seed, see the",
        "same data and are charged alike for stages that they share.",
        _begun(summary["searchers"]),
        "Trials are compared on validation; no test split was read, and the best of many validation accuracies is",
        "higher than what the same settings reach again.",
    )
    rows = []
    for name, found in summary["searchers"].items():
        reached = [value for value in found["to_reference"]["trials"] if value is not None]
        seconds = [value for value in found["to_reference"]["seconds"] if value is not None]
        rows.append(
            (
                name,
                percent(found["mean"]),
                percent(found["sd"]),
                percent(float(np.mean(found["regret"]))),
                f"{np.mean(found['trials']):.4g}",
                f"{np.median(reached):g}" if reached else NONE,
                duration(float(np.median(seconds))) if seconds else NONE,
                f"{len(reached)} of {repeats}",
            )
        )
    columns = ("best val %", "sd", "regret", "trials", f"trials to {reference}'s best", "time to it", "reached in")
    page.table(
        ("searcher", *columns),
        rows,
        "Means over repeats; trials and time to the reference's best are medians over the repeats that reached it. "
        "Regret: how far the best lies below that of all searchers in the repeat.",
    )


def _begun(names: Iterable[str]) -> str:
    """Which of these searchers were told where the recipe stands."""
    first = [name for name in names if entry_of(name).from_defaults]
    if not first:
        return "No searcher begins with the recipe's own values."
    return f"The recipe's own values are the first trial of {' and '.join(first)}, and of no other searcher."


def _on_the_way(page: Page, summary: Mapping[str, Any]) -> None:
    courses = {
        name: [
            Course(tuple(np.nan if v is None else v for v in run["value"]), tuple(run["seconds"]), tuple(run["macs"]))
            for run in runs
        ]
        for name, runs in summary["curves"].items()
    }
    page.section("On the way")
    page.chart(
        "anytime",
        lambda narrow: anytime(courses, narrow=narrow),
        "Best validation accuracy against what was spent",
        "Best validation accuracy so far: mean over repeats; the band reaches from the lowest to the highest one.",
    )


def _differences(page: Page, summary: Mapping[str, Any]) -> None:
    pairs = summary["pairs"]
    page.section("Differences")
    if spans := [pair for pair in pairs if pair["low"] is not None]:
        page.chart(
            "differences",
            lambda narrow: differences(spans, narrow),
            "Differences of the final best",
            "Interquartile mean of the paired differences and its 95% bootstrap interval. Filled: shown by the "
            "exact paired test after Holm's correction.",
        )
    page.table(
        ("", "points", "from", "to", "p", "p (Holm)"),
        [
            (
                f"{pair['a']} minus {pair['b']}",
                *(points(pair[name]) for name in ("difference", "low", "high")),
                pair["p"],
                pair["p_holm"],
            )
            for pair in pairs
        ],
        "" if spans else "So few repeats have no interval: a bootstrap of them would claim more than it holds.",
    )
    finals = {name: found["final"] for name, found in summary["searchers"].items()}
    intervals = {name: student(values, 0, 1) for name, values in finals.items()}
    page.chart(
        "finals",
        lambda narrow: scores(finals, intervals, "validation accuracy (%)", len(look.LINES), narrow),
        "Best validation accuracy of each repeat",
        "Best validation accuracy: mean, 95% interval of the mean where there is one, and a tick for each repeat.",
    )


def _provenance(page: Page, summary: Mapping[str, Any]) -> None:
    code = f"{summary['commit'] or NONE}{' and changes that were not committed' if summary['dirty'] else ''}"
    page.section("Provenance")
    page.add(
        "facts",
        entries=[
            ("comparison", summary["comparison"]),
            ("method", f"{summary['method']}, recipe {summary['recipe']}"),
            ("searched", ", ".join(summary["space"])),
            ("fixed", ", ".join(f"{name}={value}" for name, value in summary["settings"].items()) or NONE),
            ("data", f"{summary['data']['name']}, fingerprint {summary['data']['fingerprint']}"),
            ("seeds", ", ".join(map(str, summary["seeds"]))),
            ("commit", code),
            ("versions", f"Python {summary['python']}, torch {summary['torch']}, ray {summary['ray']}"),
            ("report made", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
        ],
    )
