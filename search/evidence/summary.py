"""What a search found, as one object: figures, verdicts in words, and what may be done next."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

from bo_distill.methods.cost import count
from bo_distill.methods.method import flatten
from bo_distill.search.evidence.advice import Words, advice, ended, on_command_line
from bo_distill.search.evidence.pareto import Front
from bo_distill.search.evidence.statistics import student
from bo_distill.search.evidence.verdicts import scores, verdicts
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Trial


def summary_of(values: list[float], highest: float = 1.0) -> dict[str, Any] | None:
    """Mean, standard deviation, number and 95% interval of the mean.

    Args:
        values: not negative.
        highest: that one can be; 1 for accuracies.
    """
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {
        "mean": statistics.fmean(values),
        "sd": spread,
        "n": len(values),
        "interval": student(values, 0, highest),
    }


def line(study: Study, trial: Trial) -> dict[str, Any]:
    """One trial as the summary shows it, with its searched settings alone."""
    return {
        "trial": trial.job.number,
        "phase": trial.job.phase,
        "control": trial.job.control,
        "config": {name: trial.job.settings[name] for name in study.plan.space if name in trial.job.settings},
        "val_accuracy": trial.val_accuracy,
        "metrics": {word: study.value(trial, word) for word in study.plan.metrics},
        "status": trial.status,
        "reason": trial.reason,
        "seconds": trial.seconds,
    }


def summarise(study: Study, seconds: float, words: Words = on_command_line) -> dict[str, Any]:
    """The object that `--json` prints; accuracies are shares from 0 to 1, times seconds.

    Args:
        seconds: that it took.
        words: how options are given where it is read.
    """
    plan, method, info, best = study.plan, study.method, study.info, study.best()

    def scored(phase: str, control: str | None) -> dict[str, Any] | None:
        """Scores of a phase, or of one control, in short; None if there are none."""
        return summary_of([*scores(study, phase, control).values()])

    def path(name: str) -> str | None:
        """Where a file of the study is; None as long as it is not."""
        return f"{study.storage.uri}/{study.folder}/{name}" if study.storage.exists(f"{study.folder}/{name}") else None

    front = Front.of(study)
    configs = method.configure(plan.task.recipe, best.job.settings if best else plan.task.settings)
    costs = {name: count(net, info) for name, net in method.costs(configs, info).items()}
    return {
        "study": plan.task.study,
        "method": method.name,
        "searcher": plan.searcher,
        "data": {
            "name": info.name,
            "fingerprint": info.fingerprint,
            "train": info.train_size,
            "val": info.val_size,
            "test": info.test_size,
            "account": dataclasses.asdict(info.account),
        },
        "best": best
        and {
            "config": flatten(configs),
            "val_accuracy": best.val_accuracy,
            "metrics": {word: study.value(best, word) for word in plan.metrics},
            "confirmed": summary_of(study.confirmed(best), 1.0 if study.metric.unit == "share" else math.inf),
            "trial": best.job.number,
        },
        "searched": list(plan.space),
        "warm": list(plan.warm),
        "metrics": list(plan.metrics),
        "front": front and {"trials": [t.job.number for t in front.trials], "words": front.sentence()},
        "test": scored("final", None),
        "controls": {name: scored("control", name) for name in study.controls},
        "tuned": {name: {f: best.job.settings[f] for f in method.controls[name].tunes} for name, best in tuned(study)},
        "trials": [line(study, trial) for trial in study.trials],
        "macs": {name: cost.macs for name, cost in costs.items()},
        "params": {name: cost.params for name, cost in costs.items()},
        "uncounted": {name: dict(cost.uncounted) for name, cost in costs.items()},
        "seconds": seconds,
        "ended": ended(study, words),
        "leaderboard": f"{study.storage.uri}/leaderboard",
        "verdicts": verdicts(study),
        "advice": advice(study, words),
        "report": path("report.html"),
        "model": path("model"),
    }


def tuned(study: Study) -> list[tuple[str, Trial]]:
    """The controls that had a search of their own, each with the best trial of it."""
    found = ((name, study.tuned(name)) for name in study.method.controls)
    return [(name, best) for name, best in found if best]
