"""The searchers of a study: its own, and one for each control that has hyperparameters of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from statistics import median
from typing import Any, cast

from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import Method, flatten
from bo_distill.search.searchers.base import METRIC, LearningSearcher, Length, Searcher, Settings, Space, StageCost
from bo_distill.search.searchers.registry import DEFAULT, beginning, entry_of, foreseen, holds, make_searcher, pauses
from bo_distill.search.study.curve import length_of
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.metrics import ACCURACY
from bo_distill.search.study.records import Outcome, Plan, Trial, running_controls

MOST = 10  # studies that --warm all names


def searcher_of(study: Study) -> Searcher | None:
    """The study's searcher as it was left, or another one that is told what the earlier one's trials found; None for a
    study that searches nothing.

    Raises:
        UsageError: it cannot be made, or cannot go on.
    """
    plan, space = study.plan, study.space
    if plan.searched == 0:
        return None
    if study.searcher_state is None:
        defaults = flatten(study.method.configure(plan.task.recipe, plan.task.settings))
        names = plan.warm if entry_of(plan.searcher).warms else ()
        others = [found_by(Study.open(study.storage, name), study) for name in names]
        return told(study, plan.searcher, space, study.of_phase("search"), defaults, plan.searched, others)
    length, metrics = _length(study, plan.searcher), len(plan.metrics)
    searcher = make_searcher(plan.searcher, space, plan.task.seed, plan.searched, length=length, metrics=metrics)
    try:
        searcher.restore_state(study.searcher_state)
    except ValueError as error:
        raise UsageError(f"study {plan.task.study}: {error}; start a new study") from None
    return searcher


def _length(study: Study, word: str) -> Length | None:
    """Of a training, where the searcher pauses trials."""
    configs = study.method.configure(study.plan.task.recipe, study.plan.task.settings)
    return length_of(study.method, configs)[1] if pauses(word) else None


def found_by(other: Study, study: Study) -> list[tuple[Settings, float | None]]:
    """What the search of another study found: its configurations that lie in a study's ranges, with their scores, None
    where one failed.

    Raises:
        UsageError: it is of another method, was no search by the metric, or fewer than two trials with a score lie
            there.
    """
    task, metric, space = other.plan.task, study.metric, study.space
    name = task.study
    if task.method != study.plan.task.method:
        raise UsageError(f"--warm {name}: a study of {task.method}; give one of {study.plan.task.method}")
    if metric.word not in (ACCURACY, *other.plan.metrics):
        raise UsageError(f"--warm {name}: was no search by {metric.word}; give a study that was, or leave it out")
    found = []
    for trial in other.of_phase("search"):
        value = other.value(trial, metric.word) if trial.status == "done" else None
        if value is None and trial.status != "failed":
            continue
        settings = flatten(other.method.configure(task.recipe, trial.job.settings))
        if all(holds(domain, settings[field]) for field, domain in space.items()):
            score = None if value is None else metric.score(value)
            found.append(({field: settings[field] for field in space}, score))
    scored = sum(score is not None for _, score in found)
    if scored < 2:
        raise UsageError(
            f"--warm {name}: {scored} of its trials ended well in these ranges, and it takes two; leave it out, or "
            "give a wider --range"
        )
    return found


def others_of(study: Study) -> tuple[str, ...]:
    """The studies in the storage that this one can learn from, the newest first, ten at most.

    Raises:
        UsageError: there is none.
    """
    found: list[tuple[float, str]] = []
    for name in {entry.split("/")[1] for entry in study.storage.list("studies")}:
        with suppress(UsageError):
            other = Study.open(study.storage, name)
            found_by(other, study)
            found.append((other.trials[0].asked, name))
    if not found:
        raise UsageError(
            f"--warm all: no study of {study.method.name} to learn from in {study.storage.uri}; leave it out"
        )
    return tuple(name for _, name in sorted(found, reverse=True)[:MOST])


def readers(study: Study) -> int:
    """How many other studies in the storage, of the same method and data, have opened the test split.

    One that cannot be opened counts for none.
    """
    plan, found = study.plan, 0
    files = [entry.split("/") for entry in study.storage.list("studies")]
    for name in {name for _, name, *rest in files if rest[:1] == ["test"]} - {plan.task.study}:
        with suppress(UsageError):
            other = Study.open(study.storage, name)
            alike = other.plan.task.method == plan.task.method and other.plan.fingerprint == plan.fingerprint
            found += alike and any(note.event == "opened" for note in other.test_notes())
    return found


def told(
    study: Study,
    word: str,
    space: Space,
    asked: Sequence[Trial],
    defaults: dict[str, Any],
    trials: int | None,
    others: Sequence[Sequence[tuple[Settings, float | None]]] = (),
) -> Searcher:
    """A searcher that knows what trials found that another one asked for.

    Args:
        defaults: where a search that was asked for nothing yet begins; all settings.
        trials: as many as it will be asked for, or None for its natural size.
        others: what other searches found. A search that was asked for nothing yet tries the best of the first, too.

    Raises:
        UsageError: it cannot be made.
    """

    def point(trial: Trial) -> dict[str, Any]:
        """The searched settings of a trial."""
        return {name: trial.job.settings[name] for name in space}

    plan = study.plan
    taken_over = [trial for trial in asked if not trial.finished or trial.status == "pruned"]
    first = [*map(point, taken_over)] if asked else beginning(word, space, defaults)
    if others and not asked:
        best = max(others[0], key=lambda one: -math.inf if one[1] is None else one[1])[0]
        first += [best] if best not in first else []
    searcher = make_searcher(word, space, plan.task.seed, trials, first, _length(study, word), len(plan.metrics))
    for trial in taken_over:  # before any is added, since `first` is tried in its order from the first on
        searcher.suggest(str(trial.job.number))
    for trial in asked:
        if trial.finished and trial.status != "pruned":
            searcher.add_evaluated_point(point(trial), heard(study, trial), error=trial.status == "failed")
    for found in others:
        cast(LearningSearcher, searcher).learn_from(found)
    return searcher


class StageCosts:
    """What the stages of a study's trials were seen to take: the median over the trials that trained them."""

    def __init__(self, study: Study) -> None:
        self.space, self.stages = tuple(study.space), study.method.stages
        self.seconds: dict[str, list[float]] = {stage.name: [] for stage in self.stages}
        self.beside: list[float] = []  # seconds that a trial took beside its stages
        for trial in study.of_phase("search"):
            if trial.finished:
                self.note(study.outcome(trial.job.number))

    def note(self, outcome: Outcome) -> None:
        """Take what a trial took; one that has not ended by itself tells nothing."""
        if outcome.status != "done":
            return
        for name, seconds in outcome.stage_seconds.items():
            if name not in outcome.cached:
                self.seconds[name].append(seconds)
        self.beside.append(max(0.0, outcome.seconds - sum(outcome.stage_seconds.values())))

    def known(self) -> list[StageCost]:
        """Of the stages that were trained, and of what every trial takes beside them."""
        follows: dict[str, set[str]] = {}
        for stage in self.stages:
            own = {name for name in self.space if name.split(".")[0] == stage.name}
            follows[stage.name] = own.union(*(follows[need] for need in stage.needs))
        costs = [
            StageCost(tuple(name for name in self.space if name in follows[stage]), median(seconds))
            for stage, seconds in self.seconds.items()
            if seconds
        ]
        return [*costs, StageCost(self.space, median(self.beside))] if self.beside else []


def heard(study: Study, trial: Trial) -> Any:
    """What a searcher hears of a trial: the score, a list of them where there are several metrics, None without one."""
    scores = study.scores(trial)
    return scores[0] if scores and len(scores) == 1 else scores


def tuned_controls(plan: Plan, method: Method) -> list[str]:
    """The controls that have a search of their own."""
    if not (plan.controls and plan.tune_controls and plan.seeds):
        return []
    return [name for name, control in running_controls(plan, method).items() if control.tunes]


def own_trials(study: Study) -> int:
    """Trials of each control's own search: as many as the winner's search had, or will have where it is a grid, of
    which a part is none; where it paused its trials, as many as it paid for."""
    plan, searched = study.plan, study.of_phase("search")
    if entry_of(plan.searcher).sized:
        return len(foreseen(plan.searcher, study.space, plan.task.seed, plan.searched))
    if pauses(plan.searcher):
        return plan.searched or sum(trial.status == "done" for trial in searched)
    return len(searched)


def later_runs(study: Study) -> int:
    """Runs that follow the search, as far as is known by now: the best again, the controls' own searches, and the
    retrainings of the winner and the controls."""
    plan, searching = study.plan, all(trial.job.phase == "search" for trial in study.trials)
    runs = plan.confirmations if searching else len(study.of_phase("confirm"))
    if tuned := tuned_controls(plan, study.method):
        planned = plan.searched if searching and not entry_of(plan.searcher).sized else None
        runs += len(tuned) * max(own_trials(study), planned or 0)
    return runs + plan.seeds * (1 + len(study.controls))


class ControlSearches:
    """A search for each control that has hyperparameters of its own (`Control.tunes`), around the study's winner.

    By the same kind of searcher, over as many trials as the winner's search had, judged on validation alone. Where that
    one paused its trials, by Bayesian optimisation over as many whole trainings as it paid for.

    Args:
        winner: the winner's settings.

    Raises:
        UsageError: a searcher cannot be made.
    """

    def __init__(self, study: Study, winner: Mapping[str, Any]) -> None:
        plan, method = study.plan, study.method
        self.study, self.trials = study, own_trials(study)
        word = DEFAULT if pauses(plan.searcher) else plan.searcher
        complete = flatten(method.configure(plan.task.recipe, winner))
        self.bases = {name: {**winner, **control(complete)} for name, control in method.controls.items()}
        self.searchers: dict[str, Searcher] = {}
        for name in tuned_controls(plan, method):
            tunes = method.controls[name].tunes
            space = method.space(tunes, {field: text for field, text in plan.ranges.items() if field in tunes})
            self.searchers[name] = told(
                study, word, space, self._asked(name), {**complete, **self.bases[name]}, self.trials
            )

    def _asked(self, control: str) -> list[Trial]:
        return [trial for trial in self.study.of_phase("tune") if trial.job.control == control]

    def suggest(self, number: int) -> tuple[str, dict[str, Any]] | None:
        """The control and the settings of the trial to run next; None where there is none, or none until others end."""
        for name, searcher in self.searchers.items():
            if len(self._asked(name)) < self.trials:
                settings = searcher.suggest(str(number))
                if settings is not None and settings != searcher.FINISHED:
                    return name, {**self.bases[name], **settings}
        return None

    def settle(self, trial: Trial) -> None:
        """Hear what came of a trial of one of these searches."""
        assert trial.job.control
        result = None if trial.val_accuracy is None else {METRIC: trial.val_accuracy}
        searcher = self.searchers[trial.job.control]
        searcher.on_trial_complete(str(trial.job.number), result, error=trial.status == "failed")
