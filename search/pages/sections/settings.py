"""The section that says which settings mattered: importance, slices, contour, parallel coordinates."""

from __future__ import annotations

import numpy as np

from bo_distill.methods.errors import counted
from bo_distill.search.evidence import importance
from bo_distill.search.pages.charts import settings as charts
from bo_distill.search.pages.findings import Findings
from bo_distill.search.pages.page import Page


def add_settings(page: Page, f: Findings) -> None:
    metric = f.study.metric
    done = [t for t in f.done("search") if f.study.value(t) is not None]
    page.section("What mattered")
    winner = f.study.best()
    if len(done) < 2 or not f.fields or winner is None:
        page.say("Fewer than two trials were finished: there is nothing to compare.")
        return
    x = np.array([[domain.to_unit(t.job.settings[name]) for name, domain in f.fields.items()] for t in done])
    y = np.array([metric.shown(f.study.value(t) or 0.0) for t in done], dtype=float)
    tried = charts.Tried([t.job.number for t in done], x, y, f.fields, done.index(winner), metric)
    found = _importance(page, tried)
    page.chart(
        "slices",
        lambda narrow: charts.slices(tried, found, narrow),
        f"{metric.title[0].upper()}{metric.title[1:]} along each setting",
        f"{metric.title[0].upper()}{metric.title[1:]} along each setting."
        + (
            " The forest's mean is over all values of the other settings, so it can lie below the trials of a "
            "searcher that kept to the good ones."
            if found
            else ""
        ),
    )
    if len(f.fields) > 1:
        _contour(page, tried, found)
        page.chart(
            "parallel",
            lambda narrow: charts.parallel(tried, narrow),
            f"All finished trials, from settings to {metric.title}",
        )


def _importance(page: Page, tried: charts.Tried) -> importance.Anova | None:
    """The forest, where it says anything about trials that it has not seen."""
    found, trials = importance.anova(tried.x, tried.y), len(tried.y)
    if found is None:
        page.say(f"{counted(trials, 'finished trial')}: too few, or too much alike, to say what mattered.")
        return None
    if found.r2 <= 0:
        page.say(
            f"{trials} trials do not say which settings matter: a random forest that was fitted to them guesses trials",
            f"that it has not seen no better than their mean does (R² {found.r2:.2f}), so no importance is shown.",
        )
        return None
    page.chart(
        "importance",
        lambda narrow: charts.importance(list(tried.fields), found, narrow),
        "Importance of each setting",
        "Share of the variance over the whole searched space that each setting explains; lines are the middle 80% "
        "of the trees.",
    )
    page.say(
        "Functional analysis of variance of a random forest (Hutter et al. 2014), exact over the forest's boxes.",
        f"The forest was fitted to {trials} trials; on those that a tree had not seen it explains",
        f"{100 * found.r2:.0f}% of the variance (R² {found.r2:.2f}).",
        "With so few trials, take the order for a hint." if trials < 30 or found.r2 < 0.5 else "",
        "A searcher that gathers its trials where accuracy is high leaves the rest of the space to guesswork.",
    )
    return found


def _contour(page: Page, tried: charts.Tried, found: importance.Anova | None) -> None:
    if len(tried.y) < importance.FEWEST or np.ptp(tried.y) == 0:
        return
    names = list(tried.fields)
    ranked = np.argsort(-found.main.mean(0), kind="stable") if found else np.arange(len(names))
    pair = (int(ranked[0]), int(ranked[1]))
    mean = charts.expected(tried, pair)
    title = f"{names[pair[0]]} and {names[pair[1]]}"
    page.chart(
        "contour",
        lambda narrow: charts.contour(tried, pair, mean, narrow),
        title,
        f"{title}{', the two that matter most,' if found and len(names) > 2 else ''} as a Gaussian process sees them"
        f"{'; the other settings as in the best trial' if len(names) > 2 else ''}. Star: the winner."
        + (
            " Mind the scale: it takes nearly all differences for noise."
            if np.ptp(mean) < 0.2 * np.ptp(tried.y)
            else ""
        ),
    )
