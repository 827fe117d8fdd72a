"""One HTML file that shows what a study did and found; it needs no network and no server.

    python -m search.report NAME                 studies/NAME/report.html, pictures beside it under figures/
    python -m search.report A B --out both.html  several studies, side by side
    python -m search.report COMPARISON           comparisons/NAME/report.html: the verdict of search.compare

Nothing here reads the test split: test scores are those that the study noted when it ended, and the method's own
figures are drawn on validation.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import html
import importlib
import json
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from distributed.storage import Storage
from methods import get
from methods.errors import UsageError
from methods.method import Method, Trained
from methods.space import Choice, Domain
from search import charts, importance
from search.command import OK, Parser, carry_out
from search.model import trained, winner
from search.rows import of_study
from search.statistics import Course
from search.study import Study, Trial
from search.trial import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIDENCE = 0.95


@dataclass
class Page:
    """The page so far.

    Attributes:
        body: HTML.
        pictures: file name -> PNG.
        contents: (anchor, title) of the sections.
    """

    body: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    contents: list[tuple[str, str]] = field(default_factory=list)
    prefix: str = ""

    def section(self, title: str, level: int = 2) -> None:
        anchor = self.prefix + re.sub(r"\W+", "-", title.lower()).strip("-")
        self.contents.append((anchor, title))
        self.body.append(f'<h{level} id="{escape(anchor)}">{escape(title)}</h{level}>')

    def say(self, *sentences: str) -> None:
        self.body.append(f"<p>{escape(' '.join(sentences))}</p>")

    def chart(self, name: str, figure: Figure, title: str, caption: str = "") -> None:
        """A chart of ours: SVG in the page's colours, PNG beside the page. Called inside `charts.style`."""
        name = self.prefix + name
        self.pictures[f"{name}.png"] = charts.png(figure)
        drawn = charts.svg(figure, name, title)
        self.body.append(f"<figure>{drawn}<figcaption>{escape(caption or title)}</figcaption></figure>")

    def picture(self, name: str, figure: Figure, caption: str) -> None:
        """A method's own figure, on the white that it was drawn for."""
        content = charts.png(figure)
        self.pictures[f"{self.prefix}{name}.png"] = content
        data = base64.b64encode(content).decode()
        width, words = int(figure.get_figwidth() * 96), escape(caption)
        self.body.append(
            f'<figure><img class="sheet" width="{width}" alt="{words}" src="data:image/png;base64,{data}">'
            f"<figcaption>{words}</figcaption></figure>"
        )

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", mark: int = -1) -> None:
        """`mark` is the row that stands out. Columns of numbers are set right."""
        right = [
            bool(rows) and all(isinstance(row[i], int | float) or re.match(r"[-+–\d.]|$", str(row[i])) for row in rows)
            for i in range(len(columns))
        ]
        side = [' class="n"' if is_right else "" for is_right in right]
        head = "".join(f'<th scope="col"{s}>{escape(c)}</th>' for c, s in zip(columns, side, strict=True))
        lines = "".join(
            f"<tr{' class=best' if number == mark else ''}>"
            + "".join(f"<td{s}>{escape(short(v))}</td>" for v, s in zip(row, side, strict=True))
            + "</tr>"
            for number, row in enumerate(rows)
        )
        words = f"<caption>{escape(caption)}</caption>" if caption else ""
        table = f"<table>{words}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
        self.body.append(f'<div class="scroll">{table}</div>')

    def folded(self, title: str, start: int) -> None:
        """Fold what was added since `start` behind a title."""
        inside = "".join(self.body[start:])
        self.body[start:] = [f"<details><summary>{escape(title)}</summary>{inside}</details>"]

    def html(self, title: str) -> str:
        variables = ["".join(f"--{name}: {pair[theme]};" for name, pair in charts.COLOURS.items()) for theme in (0, 1)]
        links = "".join(f'<a href="#{escape(a)}">{escape(t)}</a>' for a, t in self.contents)
        style = STYLE.replace("LIGHT", variables[0]).replace("DARK", variables[1])
        turn = f"<script>{TURN}</script>" if any("<canvas" in part for part in self.body) else ""
        # The policy is the proof: a browser refuses whatever this file does not hold.
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{escape(title)}</title><style>{style}</style></head>"
            f"<body><main><h1>{escape(title)}</h1><nav>{links}</nav>{''.join(self.body)}</main>{turn}</body></html>\n"
        )


def escape(text: str) -> str:
    return html.escape(str(text), quote=True)


def short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95% interval of the mean; None for one value."""
    from scipy import stats

    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, mean, error)
    return float(low), float(high)


def share(values: Sequence[float]) -> tuple[float, float] | None:
    """The interval of a mean accuracy, which ends at 0 and 1 whatever Student says."""
    pair = interval(values)
    return pair and (max(pair[0], 0.0), min(pair[1], 1.0))


def between(pair: tuple[float, float] | None) -> str:
    return "–" if pair is None else f"{percent(pair[0])} to {percent(pair[1])}"


@dataclass
class Evidence:
    """All that a study left behind.

    Attributes:
        outcomes: trial's number -> what came of it, of finished trials.
        rows: trial's number -> its row of the leaderboard.
        fields: searched settings.
    """

    study: Study
    method: Method
    outcomes: dict[int, Outcome]
    rows: dict[int, dict[str, Any]]
    fields: dict[str, Domain]

    @staticmethod
    def of(study: Study) -> Evidence:
        task = study.plan.task
        method = get(task.method)
        outcomes = {t.job.number: study.outcome(t.job.number) for t in study.trials if t.finished}
        rows = {row["trial"]: row for row in of_study(study.storage, task.study).to_pylist()}
        known, fields = method.fields(), {}
        for name in study.plan.space:
            if name not in known:
                raise UsageError(f"study {task.study}: {method.name} has no {name} any more; use the study's commit")
            tried = [t.job.settings[name] for t in study.of_phase("search")]
            fields[name] = _covering(known[name][0], tried)
        return Evidence(study, method, outcomes, rows, fields)

    @property
    def name(self) -> str:
        return self.study.plan.task.study

    def done(self, phase: str, control: str | None = None) -> list[Trial]:
        return [t for t in self.study.of_phase(phase) if t.status == "done" and t.job.control == control]

    def setting(self, trial: Trial, name: str) -> Any:
        return trial.job.settings[name]

    def tests(self, phase: str, control: str | None = None) -> dict[int, float]:
        """Seed -> test accuracy."""
        return {
            t.job.seed: self.outcomes[t.job.number].test["accuracy"]
            for t in self.done(phase, control)
            if "accuracy" in self.outcomes[t.job.number].test
        }


def _covering(domain: Domain, values: Sequence[Any]) -> Domain:
    """The domain, widened to all values that were tried: a study may be older than today's range."""
    if isinstance(domain, Choice):
        return Choice((*domain.options, *(v for v in dict.fromkeys(values) if v not in domain.options)))
    return dataclasses.replace(domain, low=min([domain.low, *values]), high=max([domain.high, *values]))


def add_study(page: Page, evidence: Evidence, draw: bool) -> None:
    with charts.style():
        _summary(page, evidence)
        _history(page, evidence)
        _settings(page, evidence)
        _costs(page, evidence)
        _training(page, evidence)
        _paper(page, evidence, draw)
        _provenance(page, evidence)


def _summary(page: Page, e: Evidence) -> None:
    from scipy import stats

    plan, best = e.study.plan, e.study.best()
    searched = e.study.of_phase("search")
    page.section("Summary")
    page.say(f"{e.method.paper}.")
    how = {"bo": "Bayesian optimisation", "grid": "a grid", "random": "independent draws"}.get(
        plan.searcher, plan.searcher
    )
    page.say(
        f"{how[0].upper()}{how[1:]} over {', '.join(plan.space)}: {len(searched)} trials on {plan.task.data.name},",
        f"recipe {plan.task.recipe}. Trials were compared on validation only.",
        "" if e.study.complete else "The study is not complete: what follows is what there is so far.",
    )
    if best is None:
        page.say("No trial was finished, so there is no winner.")
        return
    won = e.tests("final")
    scores = list(won.values())
    tiles = [("winner on validation", f"{percent(best.val_accuracy)}%", f"trial {best.job.number}")]
    if scores:
        note = f"mean of {len(scores)} seeds" if len(scores) > 1 else "one seed"
        tiles.append(
            ("winner on test", f"{percent(float(np.mean(scores)))}%", f"{note}, 95%: {between(share(scores))}")
        )
    tiles.append(
        ("time of all trials", duration(sum(t.seconds for t in e.study.trials)), f"{len(e.study.trials)} trials")
    )
    failed = sum(t.status == "failed" for t in e.study.trials)
    if failed:
        tiles.append(("failed", str(failed), "trials"))
    cells = "".join(
        f"<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd><small>{escape(c)}</small></div>" for a, b, c in tiles
    )
    page.body.append(f'<dl class="tiles">{cells}</dl>')
    page.table(
        ("setting", "winner's value", "searched in"),
        [(name, short(best.job.settings[name]), _range(domain)) for name, domain in e.fields.items()],
    )
    if not scores:
        page.say("The winner was not retrained, and the test split was not read.")
        return
    again = [t.val_accuracy for t in e.done("final") if t.val_accuracy is not None]
    if again and best.val_accuracy is not None:
        confirmed = e.study.confirmed(best)
        told = float(np.mean(confirmed)) if confirmed else best.val_accuracy
        how = (
            f"mean over {len(confirmed)} fresh seeds, {percent(told)}% on validation, is the highest of the best"
            f" {plan.confirm}"
            if confirmed
            else f"{percent(told)}% on validation is the highest of {len(e.done('search'))}"
        )
        flattery = told - float(np.mean(again))
        page.say(
            f"The winner's {how} and so flatters it: over {'further' if confirmed else 'fresh'} seeds it reached",
            f"{percent(float(np.mean(again)))}% there, {abs(100 * flattery):.2f} points",
            f"{'less' if flattery >= 0 else 'more'}.",
        )
    groups = {"winner": scores}
    rows: list[tuple[Any, ...]] = [
        ("winner", len(scores), percent(float(np.mean(scores))), between(share(scores)), "", "", "")
    ]
    verdicts = []
    for control in dict.fromkeys(t.job.control for t in e.study.of_phase("control")):
        other = e.tests("control", control)
        pairs = sorted(won.keys() & other.keys())
        if control is None or not other:
            continue
        word = control.replace("_", " ")
        groups[word] = list(other.values())
        mean, own = float(np.mean(groups[word])), between(share(groups[word]))
        differences = [won[seed] - other[seed] for seed in pairs]
        gap = float(np.mean(differences)) if pairs else None
        span, p = interval(differences), None
        if span and span[0] != span[1]:
            p = float(stats.ttest_rel([won[s] for s in pairs], [other[s] for s in pairs]).pvalue)
        rows.append(
            (word, len(other), percent(mean), own, "–" if gap is None else f"{100 * gap:+.2f}", between(span), short(p))
        )
        if span and gap is not None and p is not None:
            if span[0] <= 0 <= span[1]:
                verdicts.append(f"No difference from {word} is shown with {len(pairs)} pairs.")
            else:
                verdicts.append(
                    f"The winner is {'better' if gap > 0 else 'worse'} than {word} by {abs(100 * gap):.2f} points."
                )
    columns = ("", "seeds", "test %", "95% interval", "winner minus this", "95% interval", "p")
    page.table(columns, rows, mark=0)
    page.chart(
        "test",
        charts.scores(groups, {name: share(v) for name, v in groups.items()}),
        "Test accuracy over fresh seeds",
        "Test accuracy over fresh seeds: mean, 95% interval of the mean, and a tick for each seed.",
    )  # fmt: skip
    page.say(
        *verdicts,
        "Differences are paired by seed; intervals and p are Student's t for each control by itself, not corrected for",
        "their number, and hold for fresh seeds on this test split, not for other data.",
    )


def _range(domain: Domain) -> str:
    if isinstance(domain, Choice):
        return ", ".join(map(str, domain.options))
    return f"{domain.low:g} to {domain.high:g}{', by ratio' if getattr(domain, 'log', False) else ''}"


def _history(page: Page, e: Evidence) -> None:
    page.section("Search history")
    trials = [t for t in e.study.of_phase("search") if t.finished]
    if not trials:
        page.say("No trial was finished.")
        return
    points = [(t.job.number, t.val_accuracy, t.status) for t in trials]
    page.chart("history", charts.history(points), "Validation accuracy of each trial and the best so far")
    start, best = len(page.body), e.study.best()
    page.table(
        ("trial", *e.fields, "validation %", "seconds", "status"),
        [
            (
                t.job.number,
                *(short(t.job.settings[name]) for name in e.fields),
                percent(t.val_accuracy),
                f"{t.seconds:.1f}",
                t.status + (f": {t.reason}" if t.reason else ""),
            )
            for t in trials
        ],
        mark=trials.index(best) if best else -1,
    )
    page.folded(f"All {len(trials)} trials of the search", start)


def _settings(page: Page, e: Evidence) -> None:
    """Importance, slices, contour and parallel coordinates."""
    done = [t for t in e.done("search") if t.val_accuracy is not None]
    page.section("What mattered")
    if len(done) < 2 or not e.fields:
        page.say("Fewer than two trials were finished: there is nothing to compare.")
        return
    names = list(e.fields)
    x = np.array([[importance.unit(domain, t.job.settings[name]) for name, domain in e.fields.items()] for t in done])
    y = np.array([t.val_accuracy for t in done], dtype=float)
    best = int(np.argmax(y))
    found = importance.anova(x, y)
    if found is None:
        page.say(f"{len(done)} finished trials are too few, or too much alike, to say what mattered.")
    else:
        page.chart(
            "importance", charts.importance(names, found), "Importance of each setting",
            "Share of the variance over the whole searched space that each setting explains; lines are the middle 80% "
            "of the trees.",
        )  # fmt: skip
        trust = (
            "That is no better than guessing: read nothing into the shares."
            if found.r2 <= 0
            else "With so few trials, take the order for a hint."
            if len(done) < 30 or found.r2 < 0.5
            else ""
        )
        page.say(
            "Functional analysis of variance of a random forest (Hutter et al. 2014), exact over the forest's boxes.",
            f"The forest was fitted to {len(done)} trials; on those that a tree had not seen it explains",
            f"{100 * max(found.r2, 0):.0f}% of the variance (R² {found.r2:.2f}).",
            trust,
            "A searcher that gathers its trials where accuracy is high leaves the rest of the space to guesswork.",
        )
    page.chart(
        "slices", charts.slices(x, y, e.fields, found, best), "Accuracy along each setting",
        "Accuracy along each setting. The forest's mean is over all values of the other settings, so it can "
        "lie below the trials of a searcher that kept to the good ones.",
    )  # fmt: skip
    if len(names) > 1:
        ranked = np.argsort(-found.main.mean(0), kind="stable") if found else np.arange(len(names))
        pair = (int(ranked[0]), int(ranked[1]))
        if len(done) >= importance.FEWEST and np.ptp(y) > 0:
            figure, spread = charts.contour(x, y, e.fields, pair, best)
            page.chart(
                "contour",
                figure,
                f"{names[pair[0]]} and {names[pair[1]]}",
                f"{names[pair[0]]} and {names[pair[1]]}, the two that matter most, as a Gaussian process sees them"
                f"{'; the other settings as in the best trial' if len(names) > 2 else ''}. Star: best trial."
                + (" Mind the scale: it takes nearly all differences for noise." if spread < 0.2 * np.ptp(y) else ""),
            )
        page.chart("parallel", charts.parallel(x, y, e.fields), "All finished trials, from settings to accuracy")


def _costs(page: Page, e: Evidence) -> None:
    page.section("Accuracy against cost")
    groups: dict[str, list[tuple[float, float, float]]] = {}
    for t in e.study.trials:
        row = e.rows.get(t.job.number, {})
        if t.status == "done" and t.val_accuracy is not None and row.get("macs_train") and row.get("macs_forward"):
            words = {"search": "trial", "confirm": "best trials, fresh seeds", "final": "winner, fresh seeds"}
            name = words.get(t.job.phase, f"{t.job.control}".replace("_", " "))
            groups.setdefault(name, []).append((row["macs_train"], row["macs_forward"], t.val_accuracy))
    if not groups:
        page.say("The leaderboard holds no finished trial of this study with its cost.")
        return
    page.chart(
        "macs", charts.macs(groups), "Validation accuracy against multiply-adds",
        "Validation accuracy against multiply-adds, counted by fvcore. Training counts all stages, also those that "
        "were found in the cache.",
    )  # fmt: skip
    if all(len({p[i] for points in groups.values() for p in points}) == 1 for i in (0, 1)):
        page.say("No searched setting changes the cost.")


def _training(page: Page, e: Evidence) -> None:
    page.section("Training")
    chosen = winner(e.study)
    if chosen is None:
        page.say("No trial was finished.")
        return
    stages: dict[str, list[tuple[bool, list[dict[str, Any]]]]] = {}
    seen = set()
    for t in sorted([t for t in e.done("search") if t != chosen] + [chosen], key=lambda t: t != chosen):
        outcome = e.outcomes[t.job.number]
        for stage in dict.fromkeys(row["stage"] for row in outcome.history):
            key = (stage, outcome.stage_keys.get(stage, str(t.job.number)))
            if key not in seen:  # a stage that trials share is drawn once
                seen.add(key)
                rows = [row for row in outcome.history if row["stage"] == stage]
                stages.setdefault(stage, []).append((t == chosen, rows))
    if not stages:
        page.say("No epoch was recorded.")
        return
    what = "the winner, retrained with a fresh seed" if chosen.job.phase == "final" else "the best trial"
    page.chart(
        "training", charts.training(stages), "Training curves of each stage",
        f"Training curves of each stage: thick, {what} (trial {chosen.job.number}); thin, the search's trials. Loss: "
        "solid on validation, dashed in training.",
    )  # fmt: skip


def _paper(page: Page, e: Evidence, draw: bool) -> None:
    """The method's own tables and figures."""
    page.section("The paper's tables and figures")
    chosen = winner(e.study)
    if chosen is None:
        page.say("No trial was finished.")
        return
    tables = e.outcomes[chosen.job.number].tables
    for table in tables.values():
        page.table(table["columns"], table["rows"], table["caption"])
    if tables:
        page.say(
            f"Tables are of trial {chosen.job.number} (seed {chosen.job.seed}), on test, as noted when it was scored."
        )
    if not e.method.figures or not draw:
        page.say("The method's own figures were not asked for." if e.method.figures else "The method has no figures.")
        return
    try:
        figures, turnables = drawn(e.study, chosen)
    except UsageError as error:
        page.say(f"The method's figures cannot be drawn: {error}.")
        return
    for name, figure in figures.items():
        page.picture(f"method-{name}", figure, f"{name.replace('_', ' ')}, on validation")
    for name, points in turnables.items():
        content = json.dumps(points, separators=(",", ":")).replace("<", "\\u003c")
        words = escape(
            f"{name}: {len(points['points'])} rows in three dimensions. Drag or use the arrow keys to turn it."
        )
        page.body.append(
            f'<figure class="turn"><canvas tabindex="0" role="img" aria-label="{words}"></canvas>'
            '<div class="key"></div>'
            f'<script type="application/json">{content}</script><figcaption>{words}</figcaption></figure>'
        )


def rebuilt(study: Study, trial: Trial) -> Trained:
    """A finished trial on validation, from its stages' states.

    Raises:
        UsageError: the data or a stage's state is no longer there.
    """
    from distributed.worker import LocalWorker, best_runtime
    from methods.data import load

    configs, states = trained(study, trial)
    data = load(study.plan.task.data)
    worker = LocalWorker(data, seed=trial.job.seed, runtime=best_runtime(study.plan.task.precision))
    return Trained(worker, configs, states, data.val)


def drawn(study: Study, trial: Trial) -> tuple[dict[str, Figure], dict[str, Any]]:
    """The method's figures of a trial on validation, and its points to be turned. The test split is locked.

    Raises:
        UsageError: as `rebuilt`.
    """
    import matplotlib

    from methods.data import stage_running

    with stage_running(), matplotlib.rc_context(matplotlib.rcParamsDefault):
        run = rebuilt(study, trial)
        module = importlib.import_module(get(study.plan.task.method).figures)
        turnables = module.turnables(run) if hasattr(module, "turnables") else {}
        return dict(module.figures(run)), dict(turnables)


def command(study: Study) -> str:
    """The words that ask for the same search."""
    plan, data = study.plan, study.plan.task.data
    words = ["python", "-m", "search.run", plan.task.method, f"--{plan.searcher}", "--data", data.name]
    plain = type(data)(data.name)
    for name in ("train_size", "val_size", "image_size", "text_column", "max_length", "split_column"):
        if getattr(data, name) != getattr(plain, name):
            words += [f"--{name.replace('_', '-')}", str(getattr(data, name))]
    if data.label_columns != plain.label_columns:
        words += [word for column in data.label_columns for word in ("--label-column", column)]
    if data.directory:
        words += ["--data-dir", data.directory]
    words += ["--recipe", plan.task.recipe]
    for name, value in plan.task.settings.items():
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        words += ["--set", f"{name}={text}"]
    words += ["--search", ",".join(plan.space)]
    words += ["--trials", str(plan.trials)] if plan.trials is not None else []
    words += ["--patience", str(plan.patience)] if plan.patience is not None else []
    words += ["--asha"] if plan.asha else []
    words += ["--confirm", str(plan.confirm)] if plan.confirm else []
    words += [] if plan.controls else ["--no-controls"]
    words += ["--seed", str(plan.task.seed), "--seeds", str(plan.seeds), "--precision", plan.task.precision]
    words += ["--workers", str(plan.task.workers)] if plan.task.workers != 1 else []
    return shlex.join(words)


def _provenance(page: Page, e: Evidence) -> None:
    plan, rows = e.study.plan, list(e.rows.values())
    page.section("Provenance")

    def all_of(column: str) -> str:
        return ", ".join(dict.fromkeys(str(row[column]) for row in rows if row[column] is not None)) or "–"

    dirty = any(row["dirty"] for row in rows)
    started = min((row["started"] for row in rows), default=None)
    seeds = sorted({t.job.seed for t in e.done("final")})
    nodes = dict.fromkeys(node for row in rows for node in row["nodes"] or ())
    page.table(
        ("", ""),
        [
            ("study", e.name),
            ("commit", all_of("commit") + (" and changes that were not committed" if dirty else "")),
            (
                "versions",
                f"Python {all_of('python')}, torch {all_of('torch')}, ray {all_of('ray')}, ours {all_of('version')}",
            ),
            ("data", f"{plan.task.data.name}, fingerprint {all_of('data_fingerprint')}"),
            ("seeds", f"search {plan.task.seed}; retraining {', '.join(map(str, seeds)) or 'none'}"),
            (
                "machine",
                f"{all_of('device')}, {all_of('precision')}; workers a trial: {plan.task.workers}, nodes: {len(nodes)}",
            ),
            *(
                (f"test split {note['event']}", f"{note['time'][:16].replace('T', ' ')} UTC, {note['what']}")
                for note in e.study.test_notes()
            ),
            ("started", f"{started:%Y-%m-%d %H:%M} UTC" if started else "–"),
            ("report made", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
        ],
    )
    if e.study.plan.searcher in ("bo", "grid", "random"):  # not a part of a comparison or of a paper's tables
        page.body.append(f"<p>The same search:</p><pre>{escape(command(e.study))}</pre>")
    best, start = e.study.best(), len(page.body)
    if best:
        config = json.loads(e.rows[best.job.number]["config"]) if best.job.number in e.rows else best.job.settings
        known = e.method.fields()
        page.table(
            ("setting", "winner's value", "allowed", "searched"),
            [
                (name, short(value), str(known[name][0]) if name in known else "–", "yes" if name in e.fields else "")
                for name, value in config.items()
            ],
        )
        page.folded("All settings of the winner", start)
    start = len(page.body)
    page.body.append(f"<pre>{escape(json.dumps(dataclasses.asdict(plan), indent=1))}</pre>")
    page.folded("study.json", start)


def _side_by_side(page: Page, every: Sequence[Evidence]) -> None:
    page.section("Side by side")
    rows: list[tuple[Any, ...]] = []
    courses = {}
    for e in every:
        best, scores = e.study.best(), list(e.tests("final").values())
        plan, ended = e.study.plan, [t for t in e.study.of_phase("search") if t.finished]
        rows.append(
            (
                e.name, plan.task.method, plan.task.data.name, plan.searcher, len(e.study.of_phase("search")),
                percent(best.val_accuracy if best else None), percent(float(np.mean(scores))) if scores else "–",
                between(share(scores)), duration(sum(t.seconds for t in e.study.trials)),
            )
        )  # fmt: skip
        courses[e.name] = [
            Course(
                tuple(t.val_accuracy if t.status == "done" and t.val_accuracy is not None else np.nan for t in ended),
                tuple(t.seconds for t in ended),
                tuple(float(e.rows.get(t.job.number, {}).get("macs_train") or 0) for t in ended),
            )
        ]
    page.table(("study", "method", "data", "searcher", "trials", "best val %", "test %", "95% interval", "time"), rows)
    with charts.style():
        page.chart("anytime", charts.anytime(courses), "Best validation accuracy against what was spent")
    page.say(
        "One run of each searcher is an anecdote, not a comparison: search.compare repeats them at equal budget over",
        "paired seeds and gives a verdict. Accuracies are comparable only where method and data are the same.",
    )


def comparison_page(summary: Mapping[str, Any]) -> tuple[str, dict[str, bytes]]:
    """The page of a comparison and its pictures by file name (PNG).

    Args:
        summary: the content of compare.json.
    """
    page, repeats = Page(), summary["repeats"]
    units = {"trials": "trials", "seconds": "seconds of training", "macs": "MACs of training"}
    budget = ", ".join(f"{value:g} {units[name]}" for name, value in summary["budget"].items())
    page.section("Verdict")
    page.body.append(f'<p class="verdict">{escape(summary["verdict"])}</p>')
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
    with charts.style():
        page.section("On the way")
        page.chart(
            "anytime", charts.anytime(courses), "Best validation accuracy against what was spent",
            "Best validation accuracy so far: mean over repeats; the band reaches from the lowest to the highest one.",
        )  # fmt: skip
        page.section("Differences")
        if summary["pairs"]:
            page.chart(
                "differences", charts.differences(summary["pairs"]), "Differences of the final best",
                "Interquartile mean of the paired differences and its 95% bootstrap interval. Filled: shown by the "
                "exact paired test after Holm's correction.",
            )  # fmt: skip
        page.table(
            ("", "points", "from", "to", "p", "p (Holm)"),
            [
                (
                    f"{pair['a']} minus {pair['b']}",
                    *(f"{100 * pair[name]:+.2f}" for name in ("difference", "low", "high")),
                    short(pair["p"]), short(pair["p_holm"]),
                )
                for pair in summary["pairs"]
            ],
        )  # fmt: skip
        finals = {name: found["final"] for name, found in summary["searchers"].items()}
        page.chart(
            "finals",
            charts.scores(
                finals, {name: share(v) for name, v in finals.items()}, "validation accuracy (%)", len(charts.LINES)
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
    start = len(page.body)
    page.table(("searcher", "studies"), [(name, ", ".join(names)) for name, names in summary["studies"].items()])
    page.folded("The studies; search.report shows each", start)
    return page.html(f"{summary['method']} on {summary['data']['name']}: searchers compared"), page.pictures


def page_of(studies: Sequence[Study], draw: bool = True) -> tuple[str, dict[str, bytes]]:
    """The page of one or several studies, and its pictures by file name (PNG).

    Args:
        studies: finished or not.
        draw: also draw the methods' own figures, which runs the winner's network on validation.
    """
    every = [Evidence.of(study) for study in studies]
    page = Page()
    if len(every) == 1:
        add_study(page, every[0], draw)
        task = studies[0].plan.task
        return page.html(f"{task.method} on {task.data.name}: {task.study}"), page.pictures
    _side_by_side(page, every)
    for number, evidence in enumerate(every, 1):
        page.prefix = ""
        page.section(evidence.name, level=1)
        kept = list(page.contents)
        page.prefix = f"s{number}-"
        add_study(page, evidence, draw)
        page.contents = kept
    return page.html(f"{len(every)} studies"), page.pictures


def write(study: Study, draw: bool = True) -> str:
    """Write report.html and figures/*.png into the study's folder; returns the name of the page in the storage.

    Raises:
        UsageError: the storage cannot be written.
    """
    return keep(study.storage, f"{study.folder}/report.html", *page_of([study], draw))


def keep(storage: Storage, name: str, text: str, pictures: Mapping[str, bytes]) -> str:
    """Write a page, and its pictures into figures/ beside it; returns its name."""
    for picture, content in pictures.items():
        storage.write_bytes(str(PurePosixPath(name).parent / "figures" / picture), content)
    storage.write_bytes(name, text.encode())
    return name


STYLE = """
:root { color-scheme: light dark; LIGHT --sans: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) { :root { DARK } }
* { box-sizing: border-box; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--sans); }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--grid); }
p { max-width: 46rem; margin: .75rem 0; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; font-size: .9rem; }
a { color: var(--c1); text-underline-offset: .2em; }
figure { margin: 1.5rem 0; }
figure > svg { display: block; width: 100%; height: auto; }
figcaption, caption { color: var(--muted); font-size: .875rem; text-align: left; max-width: 46rem; padding: .4rem 0; }
img.sheet { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; padding: 8px;
  border: 1px solid var(--grid); }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1.1rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid); }
th { font-weight: 600; border-bottom-color: var(--muted); }
.n { text-align: right; }
tr.best td { font-weight: 650; }
.verdict { font-size: 1.15rem; line-height: 1.45; padding: .8rem 1rem; border-left: 4px solid var(--c1); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tiles div { border: 1px solid var(--grid); border-radius: 8px; padding: .7rem .9rem; }
dt, small { color: var(--muted); font-size: .85rem; }
dd { margin: .1rem 0; font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--c1); }
pre { overflow-x: auto; padding: .75rem 1rem; border: 1px solid var(--grid); border-radius: 8px; font-size: .82rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
canvas { width: 100%; max-width: 34rem; height: 26rem; touch-action: none; cursor: grab; border-radius: 8px;
  border: 1px solid var(--grid); }
.key { display: flex; flex-wrap: wrap; gap: .2rem .5rem; margin-top: .5rem; }
.key button { font: inherit; font-size: .85rem; color: var(--ink); background: none; border: 1px solid var(--grid);
  border-radius: 6px; padding: .1rem .6rem; cursor: pointer; }
.key button[aria-pressed="true"] { border-color: var(--ink); font-weight: 650; }
@media print { nav { display: none; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""

TURN = """
'use strict';
for (const figure of document.querySelectorAll('figure.turn')) {
  const canvas = figure.querySelector('canvas'), key = figure.querySelector('.key');
  const data = JSON.parse(figure.querySelector('script').textContent);
  const marks = [...'\\u25cf\\u25a0\\u25b2\\u25c6\\u2716\\u25bc\\u271a\\u25cb\\u25a1\\u25b3'];
  const names = ['c1', 'c2', 'c3', 'c4', 'c5', 'ink', 'muted'];
  let yaw = 0.6, pitch = 0.4, only = -1, held = null;
  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    return names.map(name => style.getPropertyValue('--' + name).trim());
  };
  const draw = () => {
    const scale = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
    canvas.width = box.width * scale; canvas.height = box.height * scale;
    const pen = canvas.getContext('2d'), paint = colours(), half = Math.min(box.width, box.height) / 2;
    pen.scale(scale, scale); pen.translate(box.width / 2, box.height / 2);
    pen.textAlign = 'center'; pen.textBaseline = 'middle';
    const cy = Math.cos(yaw), sy = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch);
    const turned = ([x, y, z]) => {
      const u = cy * x + sy * z, w = cy * z - sy * x, v = cp * y - sp * w, d = sp * y + cp * w;
      const near = 6 / (6 + d);
      return [half * 0.52 * u * near, -half * 0.52 * v * near, d, near];
    };
    pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue('--grid');
    const corner = i => [(i & 1) * 2 - 1, (i >> 1 & 1) * 2 - 1, (i >> 2 & 1) * 2 - 1];
    for (let i = 0; i < 8; i++) for (const bit of [1, 2, 4]) if (!(i & bit)) {
      const a = turned(corner(i)), b = turned(corner(i | bit));
      pen.beginPath(); pen.moveTo(a[0], a[1]); pen.lineTo(b[0], b[1]); pen.stroke();
    }
    const all = data.points.map((point, i) => [...turned(point), data.labels[i]]).sort((a, b) => b[2] - a[2]);
    for (const [x, y, , near, label] of all) {
      pen.globalAlpha = only < 0 || only === label ? Math.min(1, 0.35 + 0.5 * near) : 0.08;
      pen.fillStyle = paint[label % paint.length];
      pen.font = `${(9 * near).toFixed(1)}px sans-serif`;
      pen.fillText(marks[label % marks.length], x, y);
    }
  };
  data.classes.forEach((name, label) => {
    const button = document.createElement('button');
    button.type = 'button';
    const mark = document.createElement('span');
    mark.textContent = marks[label % marks.length];
    mark.style.color = `var(--${names[label % names.length]})`;
    button.append(mark, ' ' + name);
    button.setAttribute('aria-pressed', 'false');
    button.onclick = () => {
      only = only === label ? -1 : label;
      [...key.children].forEach((other, i) => other.setAttribute('aria-pressed', String(i === only)));
      draw();
    };
    key.append(button);
  });
  canvas.onpointerdown = event => { held = event; canvas.setPointerCapture(event.pointerId); };
  canvas.onpointerup = canvas.onpointercancel = () => { held = null; };
  canvas.onpointermove = event => {
    if (!held) return;
    yaw += (event.clientX - held.clientX) * 0.01; pitch += (event.clientY - held.clientY) * 0.01;
    held = event; draw();
  };
  canvas.onkeydown = event => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (!step) return;
    yaw += step[0]; pitch += step[1]; event.preventDefault(); draw();
  };
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  addEventListener('resize', draw);
  draw();
}
"""


def parser() -> Parser:
    p = Parser(prog="python -m search.report", description="Studies as one HTML file.", allow_abbrev=False)
    p.add_argument("studies", nargs="+", metavar="STUDY", help="a study's name or folder, or a comparison's name")
    p.add_argument("--storage", default="results", metavar="DIR", help="where studies lie (default results)")
    p.add_argument("--out", metavar="FILE", help="default: report.html in the study's folder; of several, here")
    p.add_argument("--no-figures", action="store_true", help="leave out the method's own figures, which take a while")
    return p


def open_study(name: str, storage: Storage) -> Study:
    """A study by its name, or by its folder.

    Raises:
        UsageError: there is none.
    """
    folder = Path(name).expanduser().absolute()
    if (folder / "study.json").is_file() and folder.parent.name == "studies":
        return Study.open(Storage(folder.parent.parent), folder.name)
    return Study.open(storage, name.strip("/"))


def run(args: argparse.Namespace) -> int:
    storage = Storage(args.storage)
    names = list(dict.fromkeys(args.studies))
    summaries = [name for name in names if storage.exists(f"comparisons/{name.strip('/')}/compare.json")]
    if summaries and len(names) > 1:
        raise UsageError(f"{summaries[0]} is a comparison and has a page of its own; give it alone")
    draw = not args.no_figures
    if summaries:
        folder = f"comparisons/{summaries[0].strip('/')}"
        page = comparison_page(json.loads(storage.read_bytes(f"{folder}/compare.json")))
    else:
        studies = [open_study(name, storage) for name in names]
        folder, storage = studies[0].folder, studies[0].storage
        page = page_of(studies, draw)
    if len(names) == 1 and not args.out:
        print(storage.path(keep(storage, f"{folder}/report.html", *page)))
        return OK
    out = Path(args.out or "report.html").expanduser().absolute()
    if out.is_dir():
        raise UsageError(f"--out {args.out}: this is a folder; give a file")
    print(Path(out.parent, keep(Storage(out.parent), out.name, *page)))
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
