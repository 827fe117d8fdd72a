"""What a search found, as one object: figures, verdicts in words, and what may be done next."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

from bo_distill.methods.cost import count
from bo_distill.methods.method import flatten
from bo_distill.methods.space import Choice, Domain, Integer, Real, Searched
from bo_distill.search.evidence.pareto import Front
from bo_distill.search.evidence.statistics import Paired, student
from bo_distill.search.evidence.words import duration, short
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Trial

EDGE = 0.02  # of a range's width on its own scale: a value so near its end lies at it


def summary_of(accuracies: list[float]) -> dict[str, Any] | None:
    """Mean, standard deviation, number and 95% interval of the mean of accuracies."""
    if not accuracies:
        return None
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    return {
        "mean": statistics.fmean(accuracies),
        "sd": spread,
        "n": len(accuracies),
        "interval": student(accuracies, 0, 1),
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


def summarise(study: Study, seconds: float) -> dict[str, Any]:
    """The object that `--json` prints; accuracies are shares from 0 to 1, times seconds."""
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
            "confirmed": summary_of(study.confirmed(best)),
            "trial": best.job.number,
        },
        "searched": list(plan.space),
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
        "ended": ended(study),
        "leaderboard": f"{study.storage.uri}/leaderboard",
        "verdicts": verdicts(study),
        "advice": advice(study),
        "report": path("report.html"),
        "model": path("model"),
    }


def tuned(study: Study) -> list[tuple[str, Trial]]:
    """The controls that had a search of their own, each with the best trial of it."""
    found = ((name, study.tuned(name)) for name in study.method.controls)
    return [(name, best) for name, best in found if best]


def ended(study: Study) -> str | None:
    """Why a search proposed fewer trials than it was given, and what else they can be spent on; None if it did not."""
    plan, asked = study.plan, len(study.of_phase("search"))
    if plan.out_of_time and plan.seconds:
        option = "--extend" if study.of_phase("final") else "--resume"
        return (
            f"the search ended after {asked} trial{'s' * (asked != 1)}: its time, {duration(plan.seconds)}, was spent; "
            f"{option} {plan.task.study} --trials +N goes on"
        )
    reason = (study.searcher_state or {}).get("reason")
    if not reason or not plan.searched or asked >= plan.searched:
        return None
    words = f"the search ended after {asked} of {plan.searched} trials: {reason}"
    return words if plan.confirm else f"{words}; --confirm K spends trials on running the K best again"


def scores(study: Study, phase: str, control: str | None) -> dict[int, float]:
    """Seed -> test accuracy of the finished runs of a phase."""
    done = [t for t in study.of_phase(phase) if t.job.control == control and t.status == "done"]
    return {t.job.seed: study.outcome(t.job.number).test["accuracy"] for t in done}


def verdicts(study: Study) -> list[str]:
    """The winner against each control on test, a sentence for each."""
    won, said = scores(study, "final", None), []
    for control in dict.fromkeys(t.job.control for t in study.of_phase("control")):
        found = Paired.of(won, scores(study, "control", control))
        if control and found:
            said.append(found.sentence("the winner", control.replace("_", " ")))
    return said


def end_of(domain: Searched, value: Any) -> str:
    """ "upper" or "lower" where a value lies at that end of its range; else, and for one of a few options, empty."""
    if isinstance(domain, Choice):
        return ""
    share, near = domain.to_unit(value), max(EDGE, 0.75 / domain.levels)
    return "" if near < share < 1 - near else "upper" if share > 0.5 else "lower"


def widened(domain: Real | Integer, limits: Domain, upper: bool) -> str:
    """The words of --range for a range that reaches beyond one of its ends: ten times as far on a log scale, else by
    half its width; not beyond the field's limits. Empty where these leave nothing."""
    assert isinstance(limits, Real | Integer)
    low, high = domain.low, domain.high
    step = (high - low) / 2
    if upper:
        high = min(limits.high, high * 10 if domain.log else high + step)
    else:
        low = max(limits.low, low / 10 if domain.log else low - step)
    if isinstance(domain, Integer):
        low, high = max(math.floor(low), limits.low, 1 if domain.log else limits.low), math.ceil(high)
    if (low, high) == (domain.low, domain.high):
        return ""
    return f"{low:.6g}:{high:.6g}:{'log' if domain.log else 'linear'}"


def advice(study: Study) -> list[str]:
    """What a person may do next, a sentence for each."""
    plan, best = study.plan, study.best()
    if best is None:
        return ["No trial was finished: mend what the trials' reasons say, then search again."]
    said = []
    for name, domain in study.space.items():
        value = best.job.settings.get(name)
        if not isinstance(domain, Choice) and value is not None and (end := end_of(domain, value)):
            wider = widened(domain, study.method.fields()[name].limits, end == "upper")
            lies = f"{name} = {short(value)} lies at the {end} end of its range, {domain.low:g} to {domain.high:g}"
            said.append(
                f"{lies}, and a better value may lie beyond: search a wider one (--range {name}={wider})."
                if wider
                else f"{lies}, beyond which it cannot be set."
            )
    searched = study.of_phase("search")
    numbers = [t.job.number for t in searched]
    if plan.trials and best.job.number in numbers[len(numbers) * 3 // 4 :]:
        said.append(
            f"The winner came late, {numbers.index(best.job.number) + 1} of {len(numbers)}: more trials may find a "
            f"better one (--trials {2 * plan.trials})."
        )
    if not plan.seeds:
        name = plan.task.study
        said.append(
            f"The test split is unread. --resume {name} --trials +N searches on; --resume {name} --seeds 3 retrains "
            "the winner and scores it on test, which ends the search."
        )
    again = [value for value in map(study.value, study.of_phase("final")) if value is not None]
    if len(again) > 1 and not plan.confirm and study.metric.unit == "share":
        noise, top = statistics.stdev(again), study.value(best) or 0.0
        near = [t for t in study.ranked() if abs(top - (study.value(t) or 0.0)) <= noise]
        if len(near) > 1:
            said.append(
                f"{len(near)} trials lie within one seed's noise of the winner ({100 * noise:.2f} points): "
                f"--confirm {min(len(near), 5)} runs the best again over fresh seeds before it chooses."
            )
    return said
