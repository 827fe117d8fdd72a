"""What a person may do after a search, in words: why it ended early, and what to try next."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bo_distill.distributed.storage import DEFAULT, Storage
from bo_distill.methods.errors import counted
from bo_distill.methods.space import Choice, Domain, Integer, Real, Searched
from bo_distill.search.evidence.verdicts import against_controls
from bo_distill.search.evidence.words import duration, short
from bo_distill.search.searchers.registry import NONE, entry_of
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import CONFIRM_SEEDS

EDGE = 0.02  # of a range's width on its own scale: a real number so near its end lies at it
SEEDS = 10  # what is proposed where fewer show no difference

Words = Callable[[Mapping[str, Any]], str]
"""Options by their names ("trials" -> "+12") as they are given: `on_command_line` or `in_python`."""


def on_command_line(options: Mapping[str, Any]) -> str:
    """As options of `bo-distill run`."""
    each = [(name, one) for name, value in options.items() for one in (value if isinstance(value, list) else [value])]
    return " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in each)


def in_python(options: Mapping[str, Any]) -> str:
    """As arguments of `bo_distill.run`; the whole call where they say which study it is about."""
    given = {name: dict([value.split("=")]) if name == "range" else value for name, value in options.items()}
    words = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return f"bo_distill.run({words})" if given.keys() & {"resume", "extend"} else words


def ended(study: Study, words: Words = on_command_line) -> str | None:
    """Why a search proposed fewer trials than it was given, and what else they can be spent on; None if it did not."""
    plan, asked = study.plan, len(study.of_phase("search"))
    if plan.out_of_time and plan.seconds:
        spent = f"the search ended after {counted(asked, 'trial')}: its time, {duration(plan.seconds)}, was spent"
        return f"{spent}; {words(further(study, 'N'))} goes on" if grows(study) else spent
    reason = (study.searcher_state or {}).get("reason")
    if not reason or not plan.searched or asked >= plan.searched:
        return None
    said = f"the search ended after {asked} of {counted(plan.searched, 'trial')}: {reason}"
    return said if plan.confirm else f"{said}; {words({'confirm': 'K'})} spends trials on running the K best again"


def grows(study: Study) -> bool:
    """Whether its searcher can be asked for more trials than it was; a grid has those that it has."""
    return study.plan.searcher != NONE and not entry_of(study.plan.searcher).sized


def further(study: Study, trials: int | str) -> dict[str, Any]:
    """The options that add so many trials to a study; a search whose best were run again goes on in a new one only."""
    over = study.of_phase("final") or study.of_phase("confirm")
    return {"extend" if over else "resume": study.plan.task.study, **_found(study), "trials": f"+{trials}"}


def where(storage: Storage) -> dict[str, Any]:
    """The option that names a storage, where it is not the one that nobody names."""
    return {} if storage.uri == Storage(DEFAULT).uri else {"storage": storage.uri}


def resuming(study: Study) -> dict[str, Any]:
    """The options that go on with a study."""
    return {"resume": study.plan.task.study, **_found(study)}


def _found(study: Study) -> dict[str, Any]:
    """The options without which a study is not found, or may not run its code from outside the project."""
    return where(study.storage) | ({"trust": study.plan.outside} if study.plan.outside else {})


def end_of(domain: Searched, value: Any) -> str:
    """ "upper" or "lower" where a value lies at that end of its range; else, and for one of a few options, empty."""
    if isinstance(domain, Choice):
        return ""
    if isinstance(domain, Integer):
        return "lower" if value <= domain.low else "upper" if value >= domain.high else ""
    share = domain.to_unit(value)
    return "" if EDGE < share < 1 - EDGE else "upper" if share > 0.5 else "lower"


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


def advice(study: Study, words: Words = on_command_line) -> list[str]:
    """What a person may do next, a sentence for each.

    Args:
        words: how options are given where the sentences are read.
    """
    if study.best() is None:
        if not study.complete:
            return [f"No trial has ended well yet; {words(resuming(study))} goes on."]
        return ["No trial was finished: mend what the trials' reasons say, then search again."]
    parts = (_wider(study, words), _later(study, words), _unread(study, words), _seeds(study, words))
    return [sentence for part in (*parts, _confirmed(study, words)) for sentence in part]


def _wider(study: Study, words: Words) -> Iterator[str]:
    """Of settings at the end of their range."""
    best = study.best()
    assert best is not None
    for name, domain in study.space.items():
        value = best.job.settings.get(name)
        if isinstance(domain, Choice) or value is None or not (end := end_of(domain, value)):
            continue
        wider = widened(domain, study.method.fields()[name].limits, end == "upper")
        lies = f"{name} = {short(value)} lies at the {end} end of its range, {domain.low:g} to {domain.high:g}"
        yield (
            f"{lies}, and a better value may lie beyond: search a wider one ({words({'range': f'{name}={wider}'})})."
            if wider
            else f"{lies}, beyond which it cannot be set."
        )


def _later(study: Study, words: Words) -> Iterator[str]:
    """Of a winner that came late."""
    plan, best = study.plan, study.best()
    numbers = [trial.job.number for trial in study.of_phase("search")]
    if best and plan.trials and grows(study) and best.job.number in numbers[len(numbers) * 3 // 4 :]:
        yield (
            f"The winner came late, {numbers.index(best.job.number) + 1} of {len(numbers)}: more trials may find a "
            f"better one ({words(further(study, plan.trials))})."
        )


def _unread(study: Study, words: Words) -> Iterator[str]:
    """Of a search that has not read the test split."""
    plan = study.plan
    if plan.seeds:
        return
    more = f"{words(further(study, 'N'))} searches on; " if grows(study) else ""
    end = words({**resuming(study), "seeds": 3})
    yield f"The test split is unread. {more}{end} retrains the winner and scores it on test, which ends the search."


def _seeds(study: Study, words: Words) -> Iterator[str]:
    """Of a control from which no difference is shown, over few seeds."""
    for control, pair in against_controls(study).items():
        now, then = pair.visible(pair.n), pair.visible(SEEDS)
        if now is None or then is None or pair.n >= SEEDS or not pair.open:
            continue
        yield (
            f"So few seeds show large differences only: {pair.n} that spread as these do would show one of "
            f"{100 * now:.1f} points from {control.replace('_', ' ')} in four of five cases, {SEEDS} one of "
            f"{100 * then:.1f} (the same search with {words({'seeds': SEEDS})}; what is trained already comes from the "
            "cache). "
            "That reads the test split again, after this look, which its interval does not know."
        )
        return


def _confirmed(study: Study, words: Words) -> Iterator[str]:
    """Of trials that chance may have put in the wrong order."""
    again = [value for value in map(study.value, study.of_phase("final")) if value is not None]
    best = study.best()
    if best is None or len(again) < 2 or study.plan.confirm or study.metric.unit != "share":
        return
    noise, top = statistics.stdev(again), study.value(best) or 0.0
    near = [trial for trial in study.ranked() if abs(top - (study.value(trial) or 0.0)) <= noise]
    if len(near) > 1:
        more: dict[str, Any] = {"confirm": min(len(near), 5)}
        if study.plan.trials:  # which its runs are taken from
            more["trials"] = study.plan.trials + more["confirm"] * CONFIRM_SEEDS
        yield (
            f"{len(near)} trials lie within one seed's noise of the winner ({100 * noise:.2f} points): the same search "
            f"with {words(more)} runs the best again over fresh seeds before it chooses."
        )
