"""What a page's script shows of a trial: its settings, its figures, its training curves, as plain JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bo_distill.search.evidence.words import percent, short
from bo_distill.search.pages.findings import Findings
from bo_distill.search.study.metrics import ACCURACY, METRICS
from bo_distill.search.study.records import Trial

CURVES = {"val_accuracy": "validation accuracy", "val_loss": "validation loss", "loss": "training loss"}
POINTS = 80  # of a curve


def details(f: Findings) -> dict[str, Any]:
    """The study's trials for `page.js`.

    Returns:
        "fixed": settings that all trials share, name -> text; "winner": a trial's number or None; "trials": number ->
        "title", "facts" ([name, text] pairs), "settings" (those of its own, name -> text) and "curves" (stage -> name
        of the curve -> [[epoch, value], ...] for each item that was trained).
    """
    settings = {t.job.number: _settings(f, t) for t in f.study.trials}
    first = next(iter(settings.values()), {})
    fixed = {name: text for name, text in first.items() if all(s.get(name) == text for s in settings.values())}
    best = f.study.best()
    return {
        "fixed": fixed,
        "winner": best and best.job.number,
        "trials": {
            t.job.number: {
                "title": f"Trial {t.job.number}" + (", the winner" if t == best else ""),
                "facts": _facts(f, t),
                "settings": {n: text for n, text in settings[t.job.number].items() if n not in fixed},
                "curves": _curves(f.outcomes[t.job.number].history) if t.finished else {},
            }
            for t in f.study.trials
        },
    }


def _settings(f: Findings, trial: Trial) -> dict[str, str]:
    row = f.rows.get(trial.job.number)
    config: Mapping[str, Any] = json.loads(row["config"]) if row and row["config"] else trial.job.settings
    return {name: short(value) for name, value in config.items()}


def _facts(f: Findings, trial: Trial) -> list[tuple[str, str]]:
    job = trial.job
    kind = {
        "search": "search",
        "confirm": "one of the best, run again over a fresh seed",
        "tune": f"of the search of control: {job.control}".replace("_", " "),
        "final": "the winner, retrained over a fresh seed",
        "control": f"control: {job.control}".replace("_", " "),
    }[job.phase]
    facts = [("run", kind), ("status", trial.status), ("seed", str(job.seed))]
    if trial.val_accuracy is not None:
        facts.insert(1, ("validation accuracy", f"{percent(trial.val_accuracy)}%"))
    others = [METRICS[word] for word in f.study.plan.metrics if word != ACCURACY]
    facts[1:1] = [(m.title, m.text(value)) for m in others if (value := f.study.value(trial, m.word)) is not None]
    if trial.finished:
        test = f.outcomes[job.number].test.get("accuracy")
        facts += [("test accuracy", f"{percent(test)}%")] if test is not None else []
        facts.append(("time", f"{trial.seconds:.1f} s"))
    return facts + ([("reason", trial.reason)] if trial.reason else [])


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[list[tuple[int, float]]]]]:
    stages: dict[str, dict[str, dict[Any, list[tuple[int, float]]]]] = {}
    for row in history:
        for key, name in CURVES.items():
            value = row.get(key)
            if isinstance(value, int | float) and math.isfinite(value):
                lines = stages.setdefault(row["stage"], {}).setdefault(name, {})
                lines.setdefault(row.get("item"), []).append((row["epoch"], float(f"{value:.4g}")))
    return {
        stage: {name: [_thinned(line) for line in lines.values()] for name, lines in curves.items()}
        for stage, curves in stages.items()
    }


def _thinned(line: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about `POINTS` of a curve, both ends among them."""
    step = -(-len(line) // POINTS)
    return line[::step] + ([line[-1]] if (len(line) - 1) % step else [])
