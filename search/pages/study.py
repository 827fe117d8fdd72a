"""The page of a study."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from distributed.storage import Storage
from methods.errors import UsageError
from methods.method import Trained
from methods.space import Choice, Domain
from search.evidence import importance
from search.evidence.statistics import Course
from search.pages import charts
from search.rows.files import of_study
from search.study.ledger import Study
from search.study.records import Outcome, Trial
from search.study.winner import trained, winner

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from search.pages.html import Page, between, duration, escape, interval, percent, share, short


@dataclass
class Evidence:
    """All that a study left behind.

    Attributes:
        outcomes: trial's number -> what came of it, of finished trials.
        rows: trial's number -> its row of the leaderboard.
        fields: searched settings.
    """

    study: Study
    outcomes: dict[int, Outcome]
    rows: dict[int, dict[str, Any]]
    fields: dict[str, Domain]

    @staticmethod
    def of(study: Study) -> Evidence:
        outcomes = {t.job.number: study.outcome(t.job.number) for t in study.trials if t.finished}
        rows = {row["trial"]: row for row in of_study(study.storage, study.plan.task.study).to_pylist()}
        searched = study.of_phase("search")
        fields = {
            name: _covering(domain, [t.job.settings[name] for t in searched]) for name, domain in study.space.items()
        }
        return Evidence(study, outcomes, rows, fields)

    @property
    def name(self) -> str:
        return self.study.plan.task.study

    def done(self, phase: str, control: str | None = None) -> list[Trial]:
        return [t for t in self.study.of_phase(phase) if t.status == "done" and t.job.control == control]

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
    page.say(f"{e.study.method.paper}.")
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
    if not e.study.method.figures or not draw:
        page.say(
            "The method's own figures were not asked for." if e.study.method.figures else "The method has no figures."
        )
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
        module = importlib.import_module(study.method.figures)
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
        known = e.study.method.fields()
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
