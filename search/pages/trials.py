"""The sections that show a search's trials: their history, and what they cost."""

from __future__ import annotations

from bo_distill.search.evidence.words import percent
from bo_distill.search.pages.charts import trials as charts
from bo_distill.search.pages.findings import Findings
from bo_distill.search.pages.page import Cell, Page

UNFOLDED = 25  # trials whose table is shown at once


def add_history(page: Page, f: Findings) -> None:
    page.section("Search history")
    trials = [t for t in f.study.of_phase("search") if t.finished]
    if not trials:
        page.say("No trial was finished.")
        return
    best = f.study.best()
    points = [(t.job.number, t.val_accuracy, t.status) for t in trials]
    page.chart(
        "history",
        lambda narrow: charts.history(points, best.job.number if best else None, narrow),
        "Validation accuracy of each trial and the best so far",
    )
    with page.folded(f"All {len(trials)} trials of the search", open=len(trials) <= UNFOLDED):
        page.table(
            ("trial", *f.fields, "validation %", "seconds", "status"),
            [
                (
                    t.job.number,
                    *(t.job.settings[name] for name in f.fields),
                    Cell(percent(t.val_accuracy), t.val_accuracy and 100 * t.val_accuracy),
                    Cell(f"{t.seconds:.1f}", t.seconds),
                    t.status + (f": {t.reason}" if t.reason else ""),
                )
                for t in trials
            ],
            mark=trials.index(best) if best else -1,
            trials=[t.job.number for t in trials],
        )


def add_costs(page: Page, f: Findings) -> None:
    page.section("Accuracy against cost")
    groups: dict[str, list[charts.Spent]] = {}
    for t in f.study.trials:
        row = f.rows.get(t.job.number, {})
        if t.status == "done" and t.val_accuracy is not None and row.get("macs_train") and row.get("macs_forward"):
            words = {"search": "trial", "confirm": "best trials, fresh seeds", "final": "winner, fresh seeds"}
            name = words.get(t.job.phase, f"{t.job.control}".replace("_", " "))
            spent = charts.Spent(t.job.number, row["macs_train"], row["macs_forward"], t.val_accuracy)
            groups.setdefault(name, []).append(spent)
    if not groups:
        page.say("The leaderboard holds no finished trial of this study with its cost.")
        return
    page.chart(
        "macs",
        lambda narrow: charts.macs(groups, narrow),
        "Validation accuracy against multiply-adds",
        "Validation accuracy against multiply-adds, counted by fvcore. Training counts all stages, also those that "
        "were found in the cache.",
    )
    if all(len({p[i] for points in groups.values() for p in points}) == 1 for i in (1, 2)):
        page.say("No searched setting changes the cost.")
