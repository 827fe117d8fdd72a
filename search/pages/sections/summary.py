"""The first section of a study's page: who won, by how much, and over what."""

from __future__ import annotations

from collections import Counter
from statistics import fmean

from bo_distill.methods.errors import counted
from bo_distill.methods.space import Choice, Domain
from bo_distill.search.evidence.advice import advice
from bo_distill.search.evidence.statistics import Paired, student
from bo_distill.search.evidence.summary import tuned
from bo_distill.search.evidence.verdicts import cautions
from bo_distill.search.evidence.words import duration, percent, points, short, span
from bo_distill.search.pages.charts.scores import scores
from bo_distill.search.pages.findings import Findings
from bo_distill.search.pages.page import Page
from bo_distill.search.searchers.registry import NONE, entry_of
from bo_distill.search.study.metrics import ACCURACY, METRICS
from bo_distill.search.study.records import Trial


def add_summary(page: Page, f: Findings) -> None:
    plan, best = f.study.plan, f.study.best()
    searched = f.study.of_phase("search")
    page.section("Summary")
    page.say(f"{f.study.method.paper}.")
    how = "No search" if plan.searcher == NONE else entry_of(plan.searcher).title
    page.say(
        f"{how} over {', '.join(plan.space)}: {counted(len(searched), 'trial')} on",
        f"{plan.task.data.name}, recipe {plan.task.recipe}. Trials were compared on validation only.",
        f"The search began with what {', '.join(plan.warm)} found." if plan.warm else "",
        "" if f.study.complete else "The study is not complete: what follows is what there is so far.",
    )
    if best is None:
        page.say("No trial has finished, so there is no winner.")
        return
    won = f.tests("final")
    _tiles(page, f, best, list(won.values()))
    page.table(
        ("setting", "winner's value", "searched in"),
        [(name, best.job.settings[name], _range(domain)) for name, domain in f.fields.items()],
    )
    if won:
        _flattery(page, f, best)
        _controls(page, f, won)
    else:
        page.say("The winner has not been retrained, and the test split has not been read.")
    if f.study.complete and plan.searcher != NONE and (said := advice(f.study)):
        page.add("listed", title="What to do next", entries=said)


def _tiles(page: Page, f: Findings, best: Trial, tested: list[float]) -> None:
    who = "winner" if f.study.metric.word == ACCURACY else "winner's accuracy"
    tiles = [(f"{who} on validation", f"{percent(best.val_accuracy)}%", f"trial {best.job.number}")]
    others = [METRICS[word] for word in f.study.plan.metrics if word != ACCURACY]
    tiles += [(f"its {metric.title}", metric.text(f.study.value(best, metric.word)), "") for metric in others]
    if tested:
        note = f"mean of {len(tested)} seeds" if len(tested) > 1 else "one seed"
        interval = student(tested, 0, 1)
        note += f", 95%: {span(interval)}" if interval else ""
        tiles.append((f"{who} on test", f"{percent(fmean(tested))}%", note))
    spent = duration(sum(t.seconds for t in f.study.trials))
    tiles.append(("time of all trials", spent, counted(len(f.study.trials), "trial")))
    if failed := sum(t.status == "failed" for t in f.study.trials):
        tiles.append(("failed", str(failed), f"of {counted(len(f.study.trials), 'trial')}"))
    page.add("tiles", entries=tiles)


def _flattery(page: Page, f: Findings, best: Trial) -> None:
    """By how much the value that chose the winner was too good; a count is what it is."""
    metric = f.study.metric
    again = [value for value in map(f.study.value, f.done("final")) if value is not None]
    told = f.study.value(best)
    if not again or told is None or metric.unit == "count":
        return
    if confirmed := f.study.confirmed(best):
        told = fmean(confirmed)
        how = (
            f"mean over {counted(len(confirmed), 'fresh seed')}, {metric.told(told)}, is that of the best of "
            f"{f.study.plan.confirm} and so flatters it"
        )
    elif best.estimate is not None:
        how = (
            f"expected end, {percent(best.estimate)}% by the model of all learning curves, is the highest. It reached "
            f"{metric.told(told)}"
        )
    else:
        how = f"{metric.told(told)} is the best of {len(f.done('search'))} and so flatters it"
    gap = told - fmean(again)
    apart = f"{abs(100 * gap):.2f} points" if metric.unit == "share" else f"{abs(gap):.4g}"
    page.say(
        f"The winner's {how}: over {'further' if confirmed else 'fresh'} seeds it reached",
        f"{metric.text(fmean(again))} there, {apart} {'less' if gap >= 0 else 'more'}.",
    )


def _controls(page: Page, f: Findings, won: dict[int, float]) -> None:
    """Winner and controls on test over the same fresh seeds."""
    groups, verdicts = {"winner": list(won.values())}, []
    rows = [("winner", percent(fmean(groups["winner"])), "", "", "", span(student(groups["winner"], 0, 1)), len(won))]
    for control in dict.fromkeys(t.job.control for t in f.study.of_phase("control")):
        other = f.tests("control", control)
        if control is None or not other:
            continue
        word = control.replace("_", " ")
        groups[word] = list(other.values())
        difference = Paired.of(won, other)
        apart = (points(None), span(None), short(None))
        if difference:
            apart = (points(difference.mean), span(difference.interval, signed=True), short(difference.p))
            verdicts.append(difference.sentence("the winner", word))
        own = span(student(groups[word], 0, 1))
        rows.append((word, percent(fmean(groups[word])), *apart, own, len(other)))
    heads = ("", "test %", "winner minus this, points", "its 95% interval", "p", "95% interval of test %", "seeds")
    page.table(heads, rows, mark=0)
    page.chart(
        "test",
        lambda narrow: scores(groups, {name: student(v, 0, 1) for name, v in groups.items()}, narrow=narrow),
        "Test accuracy over fresh seeds",
        "Test accuracy over fresh seeds: mean, 95% interval of the mean where there is one, and a tick for each seed.",
    )
    trials = Counter(trial.job.control for trial in f.study.of_phase("tune"))
    searched = [f"{name.replace('_', ' ')} ({counted(trials[name], 'trial')})" for name, _ in tuned(f.study)]
    if searched:
        had = counted(len(f.study.of_phase("search") + f.study.of_phase("confirm")), "trial")
        page.say(f"By a search of its own, on validation alone: {', '.join(searched)}; the winner's had {had}.")
    page.say(
        *verdicts,
        "Differences are paired by seed; intervals and p are Student's t for each control by itself, not corrected for",
        "their number, and hold for fresh seeds on this test split, not for other data.",
        *cautions(f.study),
    )


def _range(domain: Domain) -> str:
    if isinstance(domain, Choice):
        return ", ".join(map(str, domain.options))
    return f"{domain.low:g} to {domain.high:g}{', log scale' if getattr(domain, 'log', False) else ''}"
