"""Decides what a study runs next and keeps what came of it, whether it runs on Ray or in this process."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from bo_distill.methods.cost import Cost, count
from bo_distill.methods.method import flatten
from bo_distill.methods.space import Real
from bo_distill.search.rows.files import write_row
from bo_distill.search.rows.provenance import provenance
from bo_distill.search.rows.row import Row
from bo_distill.search.searchers.curves import Curve, Reporter
from bo_distill.search.searchers.registry import entry_of
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import ATTEMPTS, Job, Outcome, Phase, Trial, failed
from bo_distill.search.study.searches import ControlSearches, searcher_of, tuned_controls


class Finished(Exception):
    """The study has nothing more to run."""


def curve_of(outcome: Outcome) -> Curve:
    """Accuracy on validation by stage and number of the epoch among those of the stage that have one."""
    curve: dict[tuple[str, int], float] = {}
    counts = Counter[str]()
    for row in outcome.history:
        if "val_accuracy" in row:
            curve[row["stage"], counts[row["stage"]]] = row["val_accuracy"]
            counts[row["stage"]] += 1
    return curve


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
        self.reporter = self._reporter() if self.inner else None
        self.waiting = [trial for trial in study.trials if not trial.finished]
        self.exhausted = False
        self.control_searches: ControlSearches | None = None
        self.costs: dict[str, Cost] = {}
        self.started = time.monotonic()

    def ask(self) -> Trial | None:
        """The next trial to run; None when there is none until another has ended.

        Raises:
            Finished: there are no more.
        """
        if not self.waiting and self.inner and not self._searched():
            settings = self.inner.suggest(str(len(self.study.trials)))
            if settings is None:
                return None
            if settings == self.inner.FINISHED:
                self.exhausted = True
            else:
                self._queue("search", settings, self.study.plan.task.seed)
        if not self.waiting:
            running = {trial.job.phase for trial in self.study.trials if not trial.finished}
            if running - {"tune"}:
                return None  # the winner is not known yet, or a trial may yet be lost
            confirming = not self.study.of_phase("confirm") and self._plan_confirm()
            if not confirming and not self._tune():
                if running:
                    return None
                if self.study.of_phase("final") or not self._plan_final():
                    raise Finished
        return self.take(self.waiting[0])

    def take(self, trial: Trial) -> Trial:
        """Hand out this one of the trials that wait."""
        self.waiting.remove(trial)
        self._save()
        return trial

    def _searched(self) -> bool:
        self._look_at_clock()
        plan, asked = self.study.plan, len(self.study.of_phase("search"))
        return (
            self.exhausted
            or plan.out_of_time
            or bool(self.study.of_phase("confirm") or self.study.of_phase("final"))
            or (plan.searched is not None and not entry_of(plan.searcher).sized and asked >= plan.searched)
            or (plan.patience is not None and self.study.stale() >= plan.patience)
        )

    def _look_at_clock(self) -> None:
        """Note in the plan that the time of the search is spent, so that going on with the study does not begin it."""
        plan = self.study.plan
        if plan.seconds is not None and not plan.out_of_time and time.monotonic() - self.started >= plan.seconds:
            self.study.plan = dataclasses.replace(plan, out_of_time=True)
            self.study.save_plan()

    def _queue(self, phase: Phase, settings: dict[str, Any], seed: int, control: str | None = None) -> None:
        settings = {**self.study.plan.task.settings, **settings}
        trial = Trial(Job(len(self.study.trials), phase, self.study.method.check(settings), seed, control), time.time())
        self.study.trials.append(trial)
        self.waiting.append(trial)

    def _plan_confirm(self) -> bool:
        """Put the best of the search, each over the same fresh seeds, in the queue."""
        plan = self.study.plan
        best = self.study.ranked()[: plan.confirm]
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
        winner, seeds = {**best.job.settings, **plan.retrained}, plan.final_seeds
        complete = flatten(method.configure(plan.task.recipe, winner))
        controls = method.controls if plan.controls else {}
        what = [f"trial {best.job.number}", *(name.replace("_", " ") for name in controls)]
        before = f"; extends {plan.extends}" if plan.extends else ""
        self.study.note_test("opened", f"{', '.join(what)}; seeds {', '.join(map(str, seeds))}{before}")
        # Seeds side by side: runs of one seed would wait for one another's stages.
        for seed in seeds:
            self._queue("final", winner, seed)
        for name, change in controls.items():
            tuned = self.study.tuned(name)
            own = {field: tuned.job.settings[field] for field in change.tunes} if tuned else {}
            for seed in seeds:
                self._queue("control", {**winner, **change(complete), **own}, seed, name)
        return True

    def lost(self, trial: Trial, error: Exception, *, blamed: bool = True, killed: bool = True) -> None:
        """A trial's process is gone. The trial runs again, next and from its last checkpoint, unless it died too often.

        Args:
            blamed: whether it may be the trial's own fault.
            killed: whether `error` says no more than that the process is gone.
        """
        trial.deaths += blamed
        if trial.deaths < ATTEMPTS:
            self.waiting.insert(0, trial)
            self._save()
            return
        outcome = failed(error, trial.asked)
        if killed:
            outcome.reason = f"its process died {trial.deaths} times: killed, or out of memory"
        self.settle(trial, outcome)

    def settle(self, trial: Trial, outcome: Outcome) -> None:
        """Keep what came of a trial: details, row, then ledger. Cut short in between, the trial simply runs again."""
        trial.status, trial.reason, trial.seconds = outcome.status, outcome.reason, outcome.seconds
        trial.val_accuracy = outcome.val.get("accuracy")
        number = trial.job.number
        self.study.save_outcome(number, outcome)
        write_row(self.study.storage, self.row(trial, outcome))
        if self.reporter and trial.job.phase == "search":
            self.reporter.report(*self._end(trial, outcome))
            for stopped, estimate in self.reporter.estimates.items():
                self.study.trials[int(stopped)].estimate = estimate and estimate.value
        if self.control_searches and trial.job.phase == "tune":
            self.control_searches.settle(trial)
        self._save()
        for tell in self.study.listeners:
            tell(trial, outcome)

    def _reporter(self) -> Reporter:
        """One that knows what has ended before; the searcher may be another than that which asked for it."""
        assert self.inner
        reporter = Reporter(self.inner)
        for trial in self.study.of_phase("search") if self.study.plan.asha else ():
            if trial.status in ("done", "pruned"):
                reporter.take(*self._end(trial, self.study.outcome(trial.job.number)))
        for stopped, estimate in reporter.estimates.items():
            self.inner.on_trial_stopped(stopped, estimate)
        return reporter

    @staticmethod
    def _end(trial: Trial, outcome: Outcome) -> tuple[str, str, float | None, Curve]:
        """What `Reporter` is told of a trial."""
        return str(trial.job.number), outcome.status, trial.val_accuracy, curve_of(outcome)

    def _save(self) -> None:
        if self.inner:
            self.study.searcher_state = self.inner.save_state()
        self.study.save()

    def row(self, trial: Trial, outcome: Outcome) -> Row:
        """The leaderboard's row of a trial."""
        plan, method, info, job = self.study.plan, self.study.method, self.study.info, trial.job
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
            macs_train=sum(stage.macs(configs, info) for stage in method.stages),
            params=cost.params,
            seconds=outcome.seconds,
            queue_seconds=max(0.0, outcome.started - trial.asked),
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

    def cost(self, settings: Any) -> Cost:
        """Of one inference by the deployed network. Counted once for all that differ in real-valued settings only."""
        method, info = self.study.method, self.study.info
        configs = method.configure(self.study.plan.task.recipe, settings)
        fields = method.fields()
        shape = json.dumps({k: v for k, v in flatten(configs).items() if not isinstance(fields[k].domain, Real)})
        if shape not in self.costs:
            self.costs[shape] = count(method.costs(configs, info)["model"], info)
        return self.costs[shape]
