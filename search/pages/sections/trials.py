"""The sections that show a search's trials: their history, and what they cost."""

from __future__ import annotations

from bo_distill.search.evidence.pareto import Front
from bo_distill.search.pages.charts import trials as charts
from bo_distill.search.pages.findings import Findings
from bo_distill.search.pages.page import Cell, Page
from bo_distill.search.study.metrics import METRICS, Metric

UNFOLDED = 25  # trials whose table is shown at once


def add_history(page: Page, f: Findings) -> None:
    page.section("Search history")
    trials = [t for t in f.study.of_phase("search") if t.finished]
    if not trials:
        page.say("No trial has finished.")
        return
    best = f.study.best()
    metric, value = f.study.metric, f.study.value
    points = [(t.job.number, value(t), t.status) for t in trials]
    page.chart(
        "history",
        lambda narrow: charts.history(points, metric, best.job.number if best else None, narrow),
        f"{metric.title[0].upper()}{metric.title[1:]} of each trial and the best so far",
    )
    metrics = [METRICS[word] for word in f.study.plan.metrics]
    with page.folded(f"All trials of the search: {len(trials)}", open=len(trials) <= UNFOLDED):
        page.table(
            ("trial", *f.fields, *(m.head for m in metrics), "seconds", "status"),
            [
                (
                    t.job.number,
                    *(t.job.settings[name] for name in f.fields),
                    *(_cell(m, value(t, m.word)) for m in metrics),
                    Cell(f"{t.seconds:.1f}", t.seconds),
                    t.status + (f": {t.reason}" if t.reason else ""),
                )
                for t in trials
            ],
            mark=trials.index(best) if best else -1,
            trials=[t.job.number for t in trials],
        )


def _cell(metric: Metric, value: float | None) -> Cell:
    return Cell(metric.text(value).rstrip("%"), None if value is None else metric.shown(value))


def add_front(page: Page, f: Findings) -> None:
    """The section of a search of two metrics."""
    if len(f.study.plan.metrics) != 2:
        return
    page.section("Pareto front")
    found = Front.of(f.study)
    if found is None:
        page.say("No trial has finished.")
        return
    page.say(found.sentence(), f"The winner is the one of them that is best in {found.metrics[0].title}.")
    value = f.study.value
    first, second = found.metrics
    done = [(t.job.number, value(t, first.word) or 0.0, value(t, second.word) or 0.0) for t in f.study.ranked()]
    kept = [t.job.number for t in found.trials]
    page.chart(
        "front",
        lambda narrow: charts.pareto(done, kept, found.metrics, narrow),
        f"{found.metrics[0].title} against {found.metrics[1].title}",
        "All finished trials of the search; the line is the Pareto front, the star the winner.",
    )
    page.table(
        ("trial", *(m.head for m in found.metrics), *f.fields),
        [
            (
                t.job.number,
                *(_cell(m, value(t, m.word)) for m in found.metrics),
                *(t.job.settings[name] for name in f.fields),
            )
            for t in found.trials
        ],
        "The front, the best in the first metric first",
        mark=0,
    )


def add_costs(page: Page, f: Findings) -> None:
    page.section("Accuracy against cost")
    groups: dict[str, list[charts.Spent]] = {}
    for t in f.study.trials:
        row = f.rows.get(t.job.number, {})
        if t.status == "done" and t.val_accuracy is not None and row.get("macs_train") and row.get("macs_forward"):
            control = f"{t.job.control}".replace("_", " ")
            name = {
                "search": "trial",
                "confirm": "best trials, fresh seeds",
                "tune": f"search of {control}",
                "final": "winner, fresh seeds",
            }.get(t.job.phase, control)
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
