"""The section that says which settings mattered: importance, slices, contour, parallel coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search.evidence import importance
from search.pages.charts import settings as charts
from search.pages.findings import Findings
from search.pages.page import Page

Array = NDArray[np.float64]


def add_settings(page: Page, f: Findings) -> None:
    done = [t for t in f.done("search") if t.val_accuracy is not None]
    page.section("What mattered")
    winner = f.study.best()
    if len(done) < 2 or not f.fields or winner is None:
        page.say("Fewer than two trials were finished: there is nothing to compare.")
        return
    x = np.array([[domain.to_unit(t.job.settings[name]) for name, domain in f.fields.items()] for t in done])
    y = np.array([t.val_accuracy for t in done], dtype=float)
    best, found = done.index(winner), importance.anova(x, y)
    _importance(page, list(f.fields), found, len(done))
    page.chart(
        "slices",
        charts.slices(x, y, f.fields, found, best),
        "Accuracy along each setting",
        "Accuracy along each setting. The forest's mean is over all values of the other settings, so it can "
        "lie below the trials of a searcher that kept to the good ones.",
    )
    if len(f.fields) > 1:
        _contour(page, f, x, y, found, best)
        page.chart("parallel", charts.parallel(x, y, f.fields, best), "All finished trials, from settings to accuracy")


def _importance(page: Page, names: list[str], found: importance.Anova | None, trials: int) -> None:
    if found is None:
        page.say(f"{trials} finished trials are too few, or too much alike, to say what mattered.")
        return
    page.chart(
        "importance",
        charts.importance(names, found),
        "Importance of each setting",
        "Share of the variance over the whole searched space that each setting explains; lines are the middle 80% "
        "of the trees.",
    )
    page.say(
        "Functional analysis of variance of a random forest (Hutter et al. 2014), exact over the forest's boxes.",
        f"The forest was fitted to {trials} trials; on those that a tree had not seen it explains",
        f"{100 * max(found.r2, 0):.0f}% of the variance (R² {found.r2:.2f}).",
        "That is no better than guessing: read nothing into the shares."
        if found.r2 <= 0
        else "With so few trials, take the order for a hint."
        if trials < 30 or found.r2 < 0.5
        else "",
        "A searcher that gathers its trials where accuracy is high leaves the rest of the space to guesswork.",
    )


def _contour(page: Page, f: Findings, x: Array, y: Array, found: importance.Anova | None, best: int) -> None:
    if len(y) < importance.FEWEST or np.ptp(y) == 0:
        return
    names = list(f.fields)
    ranked = np.argsort(-found.main.mean(0), kind="stable") if found else np.arange(len(names))
    pair = (int(ranked[0]), int(ranked[1]))
    figure, spread = charts.contour(x, y, f.fields, pair, best)
    title = f"{names[pair[0]]} and {names[pair[1]]}"
    page.chart(
        "contour",
        figure,
        title,
        f"{title}, the two that matter most, as a Gaussian process sees them"
        f"{'; the other settings as in the best trial' if len(names) > 2 else ''}. Star: best trial."
        + (" Mind the scale: it takes nearly all differences for noise." if spread < 0.2 * np.ptp(y) else ""),
    )
