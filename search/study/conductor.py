"""Decides what a study runs next and keeps what came of it, whether it runs on Ray or in this process."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, cast

from bo_distill.distributed.worker import best_runtime
from bo_distill.methods.cost import Cost, count
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import flatten
from bo_distill.methods.space import Real
from bo_distill.search.rows.files import write_row
from bo_distill.search.rows.provenance import provenance
from bo_distill.search.rows.row import Row
from bo_distill.search.searchers.base import METRIC, Length, PausingSearcher, Step, WeighingSearcher
from bo_distill.search.searchers.curves import Curve, Reporter
from bo_distill.search.searchers.registry import entry_of, pauses
from bo_distill.search.study.curve import curve_of, length_of, reached, spent, trained_macs
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.metrics import ACCURACY, METRICS
from bo_distill.search.study.records import ATTEMPTS, Job, Outcome, Phase, Trial, failed
from bo_distill.search.study.searches import ControlSearches, StageCosts, heard, readers, searcher_of, tuned_controls


class Finished(Exception):
    """The study has nothing more to run."""


class Conductor:
    """Hands out a study's trials and keeps its ledger.

    First the trials that an interrupted run left unfinished, then the searcher's, then those of the controls' own
    searches where they have them, then, chosen on validation alone, the winner and the controls over fresh seeds. The
    ledger is written before a trial starts and after it ends, the leaderboard's row before the ledger says that the
    trial is finished.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.inner = searcher_of(study)
        self.pausing = cast(PausingSearcher, self.inner) if self.inner and pauses(study.plan.searcher) else None
        if self.inner and not study.plan.over and all(trial.job.phase == "search" for trial in study.trials):
            self.inner.reason = ""  # it is asked again
        one = len(study.plan.metrics) == 1
        self.reporter = self._reporter() if self.inner and one and not self.pausing else None
        # Where time is the budget, the search is for what promises most per second.
        weighs = entry_of(study.plan.searcher).weighs if self.inner else False
        timed = study.plan.seconds is not None and study.plan.trials is None
        self.stage_costs = StageCosts(study) if weighs and timed and one else None
        self.waiting = [trial for trial in study.trials if trial.status == "running"]
        self.exhausted = study.plan.over
        self.control_searches: ControlSearches | None = None
        self.costs: dict[str, Cost] = {}
        self.taken: dict[int, float] = {}  # number -> when the trial was handed out first, since it last waited
        self.crowded: set[int] = set()  # trials that found a GPU full, which others may share
        self.started = time.monotonic()

    def ask(self) -> Trial | None:
        """The next trial to run; None when there is none until another has ended.

        Raises:
            Finished: there are no more.
        """
        if not self._ready() and self.inner and not self._searched():
            settings = self.inner.suggest(str(len(self.study.trials)))
            if settings is None:
                return None
            if settings == self.inner.FINISHED:
                self.exhausted = True
                self._save()  # why there are no more
            elif isinstance(settings, Step):
                self._train(settings)
            else:
                self._queue("search", settings, self.study.plan.task.seed)
        if not self._ready() and self.pausing:
            self._wind_up()
        if not self._ready():
            running = {trial.job.phase for trial in self.study.trials if not trial.finished}
            if running - {"tune"}:
                return None  # the winner is not known yet, or a trial may yet be lost
            confirming = not self.study.of_phase("confirm") and self._plan_confirm()
            if not confirming and not self._tune():
                if running:
                    return None
                if self.study.of_phase("final") or not self._plan_final():
                    self._note(over=True)
                    raise Finished
        return self.take(self._ready()[0])

    def _ready(self) -> list[Trial]:
        """The trials that can run now: one that found a GPU full waits until nothing else runs."""
        under_way = {trial.job.number for trial in self.study.trials if trial.status == "running"}
        alone = under_way <= {trial.job.number for trial in self.waiting}
        return [trial for trial in self.waiting if alone or trial.job.number not in self.crowded]

    def take(self, trial: Trial) -> Trial:
        """Hand out this one of the trials that wait."""
        self.waiting.remove(trial)
        self.taken.setdefault(trial.job.number, time.time())
        self._save()
        return trial

    def _searched(self) -> bool:
        self._look_at_clock()
        plan = self.study.plan
        return (
            self.exhausted
            or plan.out_of_time
            or bool(self.study.of_phase("confirm") or self.study.of_phase("final"))
            or (plan.searched is not None and not entry_of(plan.searcher).sized and self._spent() >= plan.searched)
            or (plan.patience is not None and self.study.stale() >= plan.patience)
        )

    def _look_at_clock(self) -> None:
        """Note in the plan that the time of the search is spent, so that going on with the study does not begin it."""
        plan = self.study.plan
        if plan.seconds is not None and time.monotonic() - self.started >= plan.seconds:
            self._note(out_of_time=True)

    def _note(self, **changes: bool) -> None:
        """Keep in the plan what a process that goes on with the study has to know."""
        changed = dataclasses.replace(self.study.plan, **changes)  # type: ignore[arg-type]
        if changed != self.study.plan:
            self.study.plan = changed
            self.study.save_plan()

    def _queue(self, phase: Phase, settings: dict[str, Any], seed: int, control: str | None = None) -> Trial:
        settings = {**self.study.plan.task.settings, **settings}
        trial = Trial(Job(len(self.study.trials), phase, self.study.method.check(settings), seed, control), time.time())
        self.study.trials.append(trial)
        self.waiting.append(trial)
        return trial

    @cached_property
    def curve(self) -> tuple[str, Length]:
        """The stage whose epochs are a trial's curve, and the length of a training."""
        plan, method = self.study.plan, self.study.method
        return length_of(method, method.configure(plan.task.recipe, plan.task.settings))

    def _train(self, step: Step) -> None:
        """Put a new trial, or a paused one, in the queue, to be trained as far as the step says."""
        number, length = int(step.trial_id), self.curve[1]
        if number == len(self.study.trials):
            trial = self._queue("search", step.settings, self.study.plan.task.seed)
        else:
            trial = self.study.trials[number]
            trial.status = "running"
            self.waiting.append(trial)
        until = None if step.epochs >= length.curve else step.epochs
        trial.job = dataclasses.replace(trial.job, until=until)

    def _spent(self) -> float:
        """What the search was asked to train, in whole trainings; where trials are not paused, its trials."""
        trials = self.study.of_phase("search")
        return spent(trials, self.curve[1]) if self.pausing else len(trials)

    def _wind_up(self) -> None:
        """The search is over: train what is expected to be best to its end, then end all that is paused."""
        trials = self.study.of_phase("search")
        paused = [trial for trial in trials if trial.status == "paused"]
        if not paused or any(trial.status == "running" for trial in trials):
            return
        searched = self.study.plan.searched
        alive = [trial for trial in trials if trial.status in ("paused", "done")]
        best = max(alive, key=lambda trial: -math.inf if trial.estimate is None else trial.estimate)
        # Its end may show another one to be better; that one is trained on for one more training's epochs at most.
        if best.status == "paused" and (searched is None or self._spent() < searched + 1):
            best.status, best.job = "running", dataclasses.replace(best.job, until=None)
            self.waiting.append(best)
            return
        for trial in paused:
            outcome = self.study.outcome(trial.job.number)
            self._end(trial, dataclasses.replace(outcome, status="pruned", reason="paused when the search ended"))

    def _plan_confirm(self) -> bool:
        """Put the best configurations of the search, each over the same fresh seeds, in the queue."""
        plan = self.study.plan
        distinct: dict[str, Trial] = {}
        for trial in self.study.ranked():
            distinct.setdefault(trial.job.words, trial)
        best = [*distinct.values()][: plan.confirm]
        for seed in plan.confirm_seeds:
            for trial in best:
                self._queue("confirm", dict(trial.job.settings), seed)
        return bool(best)

    def _tune(self) -> bool:
        """Put the next trial of a control's own search in the queue."""
        best, plan = self.study.best(), self.study.plan
        if best is None or self.study.of_phase("final") or not tuned_controls(plan, self.study.method):
            return False
        if self.control_searches is None:
            self.control_searches = ControlSearches(self.study, best.job.settings)
        found = self.control_searches.suggest(len(self.study.trials))
        if found:
            self._queue("tune", found[1], plan.task.seed, found[0])
        return found is not None

    def _plan_final(self) -> bool:
        """Put the winner and the controls, each over the same fresh seeds, in the queue."""
        plan, method, best = self.study.plan, self.study.method, self.study.best()
        if best is None or not plan.seeds:
            return False
        chose = self.study.of_phase("confirm")
        # Trainings that a warm start learned from, found again in the cache, would bring the luck they were chosen for.
        for name in plan.warm:
            with suppress(UsageError):
                chose += Study.open(self.study.storage, name).of_phase("search")
        seeds = plan.final_seeds({trial.job.seed for trial in chose})
        winner = {**best.job.settings, **plan.retrained}
        complete = flatten(method.configure(plan.task.recipe, winner))
        controls = self.study.controls
        what = [f"trial {best.job.number}", *(name.replace("_", " ") for name in controls)]
        # Seeds side by side: runs of one seed would wait for one another's stages.
        runs: list[tuple[Phase, dict[str, Any], int, str | None]] = [("final", winner, seed, None) for seed in seeds]
        for name, change in controls.items():
            tuned = self.study.tuned(name)
            own = {field: tuned.job.settings[field] for field in change.tunes} if tuned else {}
            settings = method.check({**winner, **change(complete), **own})
            runs += [("control", settings, seed, name) for seed in seeds]
        before = f"; extends {plan.extends}" if plan.extends else ""
        before += f"; learned from {', '.join(plan.warm)}" if plan.warm else ""
        what_for = f"{', '.join(what)}; seeds {', '.join(map(str, seeds))}{before}"
        self.study.note_test("opened", what_for, readers(self.study))
        for run in runs:
            self._queue(*run)
        return True

    def lost(
        self, trial: Trial, error: Exception, *, blamed: bool = True, killed: bool = True, crowded: bool = False
    ) -> None:
        """A trial's process is gone, or the GPU refused it. The trial runs again, from its last checkpoint and before
        any new one, unless it died too often.

        Args:
            blamed: whether it may be the trial's own fault.
            killed: whether `error` says no more than that the process is gone.
            crowded: it is to run again when it has the GPU alone.
        """
        trial.deaths += blamed
        if crowded:
            self.crowded.add(trial.job.number)
        if trial.deaths < ATTEMPTS:
            self.waiting.insert(0, trial)
            self._save()
            return
        outcome = failed(error, self.taken.get(trial.job.number, trial.asked))
        task = self.study.plan.task
        outcome.device, outcome.precision = "GPU" if task.gpus else "cpu", best_runtime(task.precision).precision
        if killed:
            outcome.reason = f"its process died {trial.deaths} times: killed, or out of memory"
        self.settle(trial, outcome)

    def settle(self, trial: Trial, outcome: Outcome) -> None:
        """Keep what came of a trial: details, row, then ledger. Cut short in between, the trial simply runs again."""
        self.taken.pop(trial.job.number, None)
        if self.pausing and trial.job.phase == "search":
            # It may have been trained in several sittings.
            seconds = trial.seconds + outcome.seconds
            ended = outcome.started + outcome.seconds
            outcome = dataclasses.replace(outcome, seconds=seconds, started=ended - seconds)
            self._tell(self.pausing, trial, outcome)
        if outcome.status == "paused":
            trial.status, trial.seconds, trial.val_accuracy = "paused", outcome.seconds, outcome.val.get("accuracy")
            self.study.save_outcome(trial.job.number, outcome)
            self._save()
        else:
            self._end(trial, outcome)

    def _tell(self, searcher: PausingSearcher, trial: Trial, outcome: Outcome) -> None:
        """Let the searcher hear of a trial that has paused or ended, and note what it makes of all."""
        name, value = str(trial.job.number), outcome.val.get("accuracy")
        if outcome.status == "paused":
            searcher.on_trial_paused(name, reached(outcome.history, self.curve[0]))
        else:
            result = None if value is None else {METRIC: value}
            searcher.on_trial_complete(name, result, error=outcome.status == "failed")
        for number, estimate in searcher.estimates().items():
            if number.isdigit():
                self.study.trials[int(number)].estimate = estimate.value

    def _end(self, trial: Trial, outcome: Outcome) -> None:
        """Keep what came of a trial that is over."""
        trial.status, trial.reason, trial.seconds = outcome.status, outcome.reason, outcome.seconds
        trial.val_accuracy = outcome.val.get("accuracy")
        number, row = trial.job.number, self.row(trial, outcome)
        found = {word: METRICS[word].of(row) for word in self.study.plan.metrics if word != ACCURACY}
        trial.values = {word: value for word, value in found.items() if value is not None}
        lacking = [word for word in self.study.plan.metrics if self.study.value(trial, word) is None]
        if lacking and outcome.status == "done" and trial.job.phase in ("search", "confirm"):
            # It can be compared with no other, and nobody would hear why.
            reason = f"no {METRICS[lacking[0]].title}: its last stage returned none, or none that is finite"
            outcome = dataclasses.replace(outcome, status="failed", reason=reason)
            trial.status, trial.reason, row = outcome.status, outcome.reason, self.row(trial, outcome)
        self.study.save_outcome(number, outcome)
        write_row(self.study.storage, row)
        if trial.job.phase == "search":
            self._report(trial, outcome)
        if self.control_searches and trial.job.phase == "tune":
            self.control_searches.settle(trial)
        self._save()
        for tell in self.study.listeners:
            tell(trial, outcome)

    def _report(self, trial: Trial, outcome: Outcome) -> None:
        """Tell the searcher what came of a trial."""
        if self.stage_costs:
            self.stage_costs.note(outcome)
            cast(WeighingSearcher, self.inner).weigh(self.stage_costs.known())
        if self.reporter:
            self.reporter.report(*self._ended(trial, outcome))
            for stopped, estimate in self.reporter.estimates.items():
                self.study.trials[int(stopped)].estimate = estimate and estimate.value
        elif self.inner and not self.pausing:
            scores = heard(self.study, trial)
            result = None if scores is None else {METRIC: scores}
            self.inner.on_trial_complete(str(trial.job.number), result, error=outcome.status == "failed")

    def _reporter(self) -> Reporter:
        """One that knows what has ended before; the searcher may be another than that which asked for it."""
        assert self.inner
        reporter = Reporter(self.inner)
        for trial in self.study.of_phase("search") if self.study.plan.asha else ():
            if trial.status in ("done", "pruned"):
                reporter.take(*self._ended(trial, self.study.outcome(trial.job.number)))
        for stopped, estimate in reporter.estimates.items():
            self.inner.on_trial_stopped(stopped, estimate)
        return reporter

    def _ended(self, trial: Trial, outcome: Outcome) -> tuple[str, str, Any, Curve]:
        """What `Reporter` is told of a trial."""
        return str(trial.job.number), outcome.status, heard(self.study, trial), curve_of(outcome)

    def _save(self) -> None:
        if self.inner:
            self.study.searcher_state = self.inner.save_state()
        self.study.save()

    def row(self, trial: Trial, outcome: Outcome) -> Row:
        """The leaderboard's row of a trial."""
        plan, method, info, job = self.study.plan, self.study.method, self.study.info, trial.job
        assert outcome.status != "paused"  # what may go on has no row
        configs = method.configure(plan.task.recipe, job.settings)
        cost = self.cost(job.settings)
        started = datetime.fromtimestamp(outcome.started, UTC)
        val, test = dict(outcome.val), dict(outcome.test)
        return Row(
            study=plan.task.study,
            trial=job.number,
            phase=job.phase,
            control=job.control,
            method=plan.task.method,
            searcher=plan.searcher,
            data=info.name,
            data_fingerprint=info.fingerprint,
            data_spec=dataclasses.asdict(plan.task.data),
            recipe=plan.task.recipe,
            seed=job.seed,
            shared_seed=plan.task.seed,
            config=flatten(configs),
            stage_seconds=outcome.stage_seconds,
            val_accuracy=val.pop("accuracy", None),
            val_loss=val.pop("loss", None),
            val_metrics=val,
            test_accuracy=test.pop("accuracy", None),
            test_loss=test.pop("loss", None),
            test_metrics=test,
            status=outcome.status,
            reason=outcome.reason,
            epochs=outcome.epochs,
            macs_forward=cost.macs,
            macs_train=trained_macs(method, info, configs, outcome),
            params=cost.params,
            seconds=outcome.seconds,
            queue_seconds=max(0.0, outcome.started - trial.asked),
            shared_stages=outcome.shared_stages,
            cached_stages=len(outcome.cached),
            workers=plan.task.workers,
            threads=plan.task.cpus,
            memory=outcome.memory,
            cpu_seconds=outcome.cpu_seconds,
            device=outcome.device,
            processor=outcome.processor,
            precision=outcome.precision,
            nodes=tuple(outcome.nodes),
            started=started,
            finished=datetime.fromtimestamp(outcome.started + outcome.seconds, UTC),
            **provenance(),
        )

    def cost(self, settings: Mapping[str, Any]) -> Cost:
        """Of one inference by the deployed network. Counted once for all that differ in real-valued settings only."""
        method, info = self.study.method, self.study.info
        configs = method.configure(self.study.plan.task.recipe, settings)
        fields = method.fields()
        shape = json.dumps({k: v for k, v in flatten(configs).items() if not isinstance(fields[k].domain, Real)})
        if shape not in self.costs:
            self.costs[shape] = count(method.costs(configs, info)["model"], info)
        return self.costs[shape]
