"""The page of a comparison of searchers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from search.evidence.statistics import Course, student
from search.evidence.words import duration, percent, points, short
from search.pages.charts.look import LINES, style
from search.pages.charts.scores import anytime, differences, scores
from search.pages.page import Page


def comparison_page(summary: Mapping[str, Any]) -> tuple[str, dict[str, bytes]]:
    """The page of a comparison and its pictures by file name (PNG).

    Args:
        summary: the content of compare.json.
    """
    page, repeats = Page(), summary["repeats"]
    units = {"trials": "trials", "seconds": "seconds of training", "macs": "MACs of training"}
    budget = ", ".join(f"{value:g} {units[name]}" for name, value in summary["budget"].items())
    page.section("Verdict")
    page.add("verdict", text=summary["verdict"])
    page.say(
        f"{repeats} paired repeats of {budget} for each searcher: in a repeat all start from the same seed, see the",
        "same data and are charged alike for stages that they share. Trials are compared on validation; no test split",
        "was read, and the best of many validation accuracies is higher than what the same settings reach again.",
    )
    reference = summary["reference"]
    rows = []
    for name, found in summary["searchers"].items():
        reached = [value for value in found["to_reference"]["trials"] if value is not None]
        seconds = [value for value in found["to_reference"]["seconds"] if value is not None]
        rows.append(
            (
                name, percent(found["mean"]), percent(found["sd"]), percent(float(np.mean(found["regret"]))),
                f"{np.mean(found['trials']):.4g}", f"{np.median(reached):g}" if reached else "–",
                duration(float(np.median(seconds))) if seconds else "–", f"{len(reached)} of {repeats}",
            )
        )  # fmt: skip
    columns = ("best val %", "sd", "regret", "trials", f"trials to {reference}'s best", "time to it", "reached in")
    page.table(("searcher", *columns), rows, "Means over repeats; trials and time to the reference's best are medians.")
    courses = {
        name: [
            Course(tuple(np.nan if v is None else v for v in run["value"]), tuple(run["seconds"]), tuple(run["macs"]))
            for run in runs
        ]
        for name, runs in summary["curves"].items()
    }
    with style():
        page.section("On the way")
        page.chart(
            "anytime", anytime(courses), "Best validation accuracy against what was spent",
            "Best validation accuracy so far: mean over repeats; the band reaches from the lowest to the highest one.",
        )  # fmt: skip
        page.section("Differences")
        if summary["pairs"]:
            page.chart(
                "differences", differences(summary["pairs"]), "Differences of the final best",
                "Interquartile mean of the paired differences and its 95% bootstrap interval. Filled: shown by the "
                "exact paired test after Holm's correction.",
            )  # fmt: skip
        page.table(
            ("", "points", "from", "to", "p", "p (Holm)"),
            [
                (
                    f"{pair['a']} minus {pair['b']}",
                    *(points(pair[name]) for name in ("difference", "low", "high")),
                    short(pair["p"]), short(pair["p_holm"]),
                )
                for pair in summary["pairs"]
            ],
        )  # fmt: skip
        finals = {name: found["final"] for name, found in summary["searchers"].items()}
        page.chart(
            "finals",
            scores(
                finals, {name: student(v, 0, 1) for name, v in finals.items()}, "validation accuracy (%)", len(LINES)
            ),
            "Best validation accuracy of each repeat",
            "Best validation accuracy: mean, 95% interval of the mean, and a tick for each repeat.",
        )  # fmt: skip
    page.section("Provenance")
    code = f"{summary['commit'] or '–'}{' and changes that were not committed' if summary['dirty'] else ''}"
    page.table(
        ("", ""),
        [
            ("comparison", summary["comparison"]),
            ("method", f"{summary['method']}, recipe {summary['recipe']}"),
            ("searched", ", ".join(summary["space"])),
            ("fixed", ", ".join(f"{name}={value}" for name, value in summary["settings"].items()) or "–"),
            ("data", f"{summary['data']['name']}, fingerprint {summary['data']['fingerprint']}"),
            ("seeds", ", ".join(map(str, summary["seeds"]))),
            ("commit", code),
            ("versions", f"Python {summary['python']}, torch {summary['torch']}, ray {summary['ray']}"),
            ("report made", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
        ],
    )
    with page.folded("The studies; search.report shows each"):
        page.table(("searcher", "studies"), [(name, ", ".join(names)) for name, names in summary["studies"].items()])
    return page.html(f"{summary['method']} on {summary['data']['name']}: searchers compared"), page.pictures
