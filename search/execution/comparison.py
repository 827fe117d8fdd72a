"""Searchers at equal budget: studies that share what they charge."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from bo_distill.methods.errors import UsageError
from bo_distill.search.execution.place import on_ray, settled
from bo_distill.search.searchers.registry import entry_of
from bo_distill.search.study.kept import packed, read

if TYPE_CHECKING:
    from bo_distill.distributed.ray.cluster import Layout
    from bo_distill.distributed.storage import Storage
    from bo_distill.search.evidence.statistics import Course
    from bo_distill.search.study.ledger import Study
    from bo_distill.search.study.records import Plan, Trial

QUESTION = "question.json"
FIRST = 3  # trials of a study whose budget is time or work, before it is known what a trial costs


@dataclasses.dataclass(frozen=True)
class Budget:
    """What each study may spend; two of the three are infinite."""

    trials: float = math.inf
    seconds: float = math.inf
    macs: float = math.inf

    def more(self, course: Course) -> int:
        """How many more trials the rest of the budget allows, at the mean cost so far.

        Raises:
            UsageError: trials cost nothing of what it counts.
        """
        left = self.trials - len(course.values)
        for word, limit, spent in (("seconds", self.seconds, course.seconds), ("macs", self.macs, course.macs)):
            if limit == math.inf:
                continue
            if spent and not sum(spent):
                raise UsageError(
                    f"--budget-{word}: {len(spent)} trials took none, so no number spends it; give --budget"
                )
            left = min(left, (limit - sum(spent)) // (sum(spent) / len(spent)) if spent else FIRST)
        return max(0, int(left))


def course(study: Study, macs: Mapping[int, float] | None = None) -> Course:
    """What a study's search had spent and seen after each of its trials, in the order in which they ended.

    Args:
        macs: multiply-adds of the training of each trial, by number, where they are known: the data is not read then.

    The seconds are those that its epochs took when they were trained, found or not. A trial that failed is charged
    what it took from start to finish, or the shared stages of the others where that is more.
    """
    from bo_distill.search.evidence.statistics import Course

    ended = [(trial, study.outcome(trial.job.number)) for trial in study.of_phase("search") if trial.finished]
    ended.sort(key=lambda pair: pair[1].started + pair[1].seconds)
    method = study.method
    shared = {stage.name for stage in method.stages if stage.shared}
    found = max((sum(r.get("seconds", 0.0) for r in o.history if r["stage"] in shared) for _, o in ended), default=0.0)
    seconds = [found + sum(r.get("seconds", 0.0) for r in o.history if r["stage"] not in shared) for _, o in ended]
    # What a failed trial trained is not known; its time is.
    seconds = [max(s, o.seconds) if o.status == "failed" else s for s, (_, o) in zip(seconds, ended, strict=True)]

    def counted(trial: Trial) -> float:
        """Multiply-adds as if it had trained all stages."""
        configs = method.configure(study.plan.task.recipe, trial.job.settings)
        return float(method.macs(configs, study.info))

    values, spent = [], []
    for trial, _ in ended:
        chosen = trial.status == "done" and trial.val_accuracy is not None
        values.append(float(trial.val_accuracy or 0.0) if chosen else math.nan)
        spent.append(counted(trial) if macs is None else macs.get(trial.job.number, 0.0))
    return Course(tuple(values), tuple(seconds), tuple(spent))


def opened(storage: Storage, plan: Plan) -> Study:
    """The study of this plan, from where it was left. Its number of trials, storage, workers and cores may differ.

    Raises:
        UsageError: the study was begun by another plan.
    """
    from bo_distill.search.study.ledger import Study

    if not storage.exists(f"studies/{plan.task.study}/study.json"):
        return Study(storage, plan)
    study = Study.open(storage, plan.task.study)
    plan = dataclasses.replace(plan, fingerprint=study.plan.fingerprint)
    if plan.task.precision == "auto":  # it was decided when the study was begun
        plan = dataclasses.replace(plan, task=dataclasses.replace(plan.task, precision=study.plan.task.precision))
    same = dataclasses.replace(
        study.plan,
        trials=plan.trials,
        over=plan.over,
        task=dataclasses.replace(
            study.plan.task,
            storage=plan.task.storage,
            workers=plan.task.workers,
            cpus=plan.task.cpus,
            gpus=plan.task.gpus,
        ),
    )
    if json.dumps(dataclasses.asdict(same)) != json.dumps(dataclasses.asdict(plan)):
        raise UsageError(f"--name: study {plan.task.study} was another comparison's; give another --name")
    study.plan = dataclasses.replace(plan, trials=study.plan.trials)
    return study


def spend(
    study: Study, budget: Budget, trials: int, place: Layout, terminal: TextIO, address: str | None = None
) -> Course | None:
    """Run a study until its budget is spent or its searcher has no more; None when it was interrupted.

    Args:
        trials: to begin with.
        address: of the Ray that they run on, if not this machine's.

    Raises:
        UsageError: the data is not that of the study's trials.
    """
    from bo_distill.search.execution.tune import run_study

    sized = entry_of(study.plan.searcher).sized
    # A grid's points hang on their number, so a grid that was begun keeps its own.
    goal = study.plan.trials or trials if sized else trials
    study.know_data()
    exhausted = False
    with study.locked():
        while True:
            complete, asked = study.complete, len(study.of_phase("search"))
            if not complete or asked < goal:
                study.plan = dataclasses.replace(settled(study.plan, place, address), trials=goal, over=False)
                study.save_plan()
                run_study(study, place, terminal)
                if not study.complete:
                    return None
                exhausted = complete and len(study.of_phase("search")) == asked
            done = course(study)
            more = budget.more(done)
            tried = done.values[asked:]
            futile = bool(tried) and all(value != value for value in tried)  # a round in which nothing was finished
            if sized or exhausted or futile or not more:
                return done.within(budget.seconds, budget.macs)
            goal = len(done.values) + more


def check_question(storage: Storage, folder: str, what: Mapping[str, Any]) -> None:
    """See that a comparison which was begun still asks the same: only then are its studies comparable.

    Raises:
        UsageError: a comparison of this name asks something else.
    """
    file = f"{folder}/{QUESTION}"
    kept = read(storage, file)[1] if storage.exists(file) else None
    for name, value in json.loads(json.dumps(what)).items():
        if kept is not None and kept.get(name) != value:
            raise UsageError(f"--name: that comparison's {name} is {kept.get(name)}, not {value}; give another --name")


def run_all(
    args: argparse.Namespace,
    storage: Storage,
    names: Sequence[str],
    planned: Callable[[str, int], Plan],
    budget: Budget,
    folder: str,
    what: Mapping[str, Any],
) -> dict[str, list[Course]] | None:
    """All studies, repeat by repeat, so that what is there when time runs out is paired. None when interrupted.

    Args:
        what: is asked, kept in the comparison's folder once there is a Ray to run on.
    """
    from bo_distill.search.evidence.statistics import too_few

    courses: dict[str, list[Course]] = {name: [] for name in names}
    with on_ray(args, args.workers or 1, storage, f"{folder}/ray.log") as (place, terminal):
        if said := too_few(args.repeats, len(names)):
            print(said, file=terminal)
        if not storage.exists(f"{folder}/{QUESTION}"):
            storage.write_bytes(f"{folder}/{QUESTION}", packed(what))
        for repeat in range(args.repeats):
            # Grids last: where the budget is time or work, the others tell how many trials it pays for.
            for name in sorted(names, key=lambda name: entry_of(name).sized):
                if budget.trials < math.inf:
                    trials = int(budget.trials)
                elif entry_of(name).sized:
                    trials = max(len(runs[repeat].values) for runs in courses.values() if len(runs) > repeat)
                else:
                    trials = FIRST
                study = opened(storage, planned(name, repeat))
                done = spend(study, budget, trials, place, terminal, args.address)
                if done is None:
                    return None
                courses[name].append(done)
    return courses
