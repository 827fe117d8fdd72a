"""Runs a study's trials on Ray Tune."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from distributed.cluster import Layout
from methods.cost import Cost, count
from methods.data.dataset import Info
from methods.method import Method, flatten
from methods.space import Real
from search.progress import Progress
from search.rows import Row, write_row
from search.searchers import make_searcher
from search.study import CONFIRM_SEEDS, Study, Trial
from search.trial import Job, Outcome, Phase, in_process, on_workers, stop_sign


class StudySearch(Searcher):
    """Hands a study's trials to Tune and keeps its ledger.

    First the trials that an interrupted run left unfinished, then the searcher's, then, chosen on validation alone,
    the winner and the controls over fresh seeds. The ledger is written before a trial starts and after it ends, the
    leaderboard's row before the ledger says that the trial is finished.
    """

    def __init__(self, study: Study, method: Method, info: Info) -> None:
        super().__init__(metric="val_accuracy", mode="max")
        self.study, self.method, self.info = study, method, info
        plan = study.plan
        space = {name: method.fields()[name][0] for name in plan.space}
        self.inner = make_searcher(plan.searcher, space, plan.task.seed, plan.searched)
        if study.searcher_state is not None:
            self.inner.restore_state(study.searcher_state)
        self.waiting = [trial for trial in study.trials if not trial.finished]
        self.exhausted = False
        self.numbers: dict[str, Trial] = {}
        self.costs: dict[str, Cost] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if not self.waiting and not self._searched():
            settings = self.inner.suggest(str(len(self.study.trials)))
            if settings is None:
                return None
            if settings == Searcher.FINISHED:
                self.exhausted = True
            else:
                self._ask("search", settings, self.study.plan.task.seed)
        if not self.waiting:
            if any(not trial.finished for phase in ("search", "confirm") for trial in self.study.of_phase(phase)):
                return None  # the winner is not known yet
            confirming = not self.study.of_phase("confirm") and self._plan_confirm()
            if not confirming and (self.study.of_phase("final") or not self._plan_final()):
                return Searcher.FINISHED
        trial = self.waiting.pop(0)
        self.study.searcher_state = self.inner.save_state()
        self.study.save()
        self.numbers[trial_id] = trial
        return {"job": dataclasses.asdict(trial.job)}

    def _searched(self) -> bool:
        plan, asked = self.study.plan, len(self.study.of_phase("search"))
        return (
            self.exhausted
            or bool(self.study.of_phase("confirm") or self.study.of_phase("final"))
            or (plan.searched is not None and plan.searcher != "grid" and asked >= plan.searched)
            or (plan.patience is not None and self.study.stale() >= plan.patience)
        )

    def _ask(self, phase: Phase, settings: dict[str, Any], seed: int, control: str | None = None) -> None:
        settings = {**self.study.plan.task.settings, **settings}
        trial = Trial(Job(len(self.study.trials), phase, self.method.check(settings), seed, control), time.time())
        self.study.trials.append(trial)
        self.waiting.append(trial)

    def _plan_confirm(self) -> bool:
        """Put the best of the search, each over the same fresh seeds, in the queue."""
        plan, best = self.study.plan, self.study.ranked()[: self.study.plan.confirm]
        # Not the seeds of the final runs: those are to be fresh too.
        first = plan.task.seed + 1 + plan.seeds
        for seed in range(first, first + CONFIRM_SEEDS):
            for trial in best:
                self._ask("confirm", dict(trial.job.settings), seed)
        return bool(best)

    def _plan_final(self) -> bool:
        """Put the winner and the controls, each over the same fresh seeds, in the queue."""
        plan, best = self.study.plan, self.study.best()
        if best is None or not plan.seeds:
            return False
        winner = dict(best.job.settings)
        complete = flatten(self.method.configure(plan.task.recipe, winner))
        controls = self.method.controls if plan.controls else {}
        for seed in range(plan.task.seed + 1, plan.task.seed + 1 + plan.seeds):
            self._ask("final", winner, seed)
            for name, change in controls.items():
                self._ask("control", {**winner, **change(complete)}, seed, name)
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self.numbers.pop(trial_id, None)
        if trial is None:
            return
        if error:
            outcome = Outcome(status="failed", reason="the trial's process died", started=time.time())
        elif result and "outcome" in result:
            outcome = Outcome(**json.loads(result["outcome"]))
        else:
            return  # interrupted: it stays in the ledger as running, and is run again by --resume
        self.settle(trial, outcome)

    def settle(self, trial: Trial, outcome: Outcome) -> None:
        """Keep what came of a trial: details, row, then ledger. Cut short in between, the trial simply runs again."""
        trial.status, trial.reason, trial.seconds = outcome.status, outcome.reason, outcome.seconds
        trial.val_accuracy = outcome.val.get("val_accuracy")
        number = trial.job.number
        self.study.save_outcome(number, outcome)
        write_row(self.study.storage, self.row(trial, outcome))
        if trial.job.phase == "search":
            self.inner.on_trial_complete(
                str(number),
                {"val_accuracy": trial.val_accuracy} if trial.val_accuracy is not None else None,
                error=trial.status == "failed",
            )
        self.study.searcher_state = self.inner.save_state()
        self.study.save()

    def row(self, trial: Trial, outcome: Outcome) -> Row:
        """The leaderboard's row of a trial."""
        plan, job = self.study.plan, trial.job
        configs = self.method.configure(plan.task.recipe, job.settings)
        cost = self.cost(job.settings)
        started = datetime.fromtimestamp(outcome.started, UTC)
        val = {name.removeprefix("val_"): value for name, value in outcome.val.items()}
        test = dict(outcome.test)
        return Row(
            study=plan.task.study,
            trial=job.number,
            phase=job.phase,
            control=job.control,
            method=self.method.name,
            searcher=plan.searcher,
            data=self.info.name,
            data_fingerprint=self.info.fingerprint,
            recipe=plan.task.recipe,
            seed=job.seed,
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
            macs_train=sum(stage.macs(configs, self.info) for stage in self.method.stages),
            params=cost.params,
            seconds=outcome.seconds,
            queue_seconds=max(0.0, outcome.started - trial.asked),
            cached_stages=len(outcome.cached),
            workers=plan.task.workers,
            device=outcome.device,
            precision=outcome.precision,
            nodes=tuple(outcome.nodes),
            started=started,
            finished=datetime.fromtimestamp(outcome.started + outcome.seconds, UTC),
            **provenance(),
        )

    def cost(self, settings: Any) -> Cost:
        """Of one inference by the deployed network. Counted once for all that differ in real-valued settings only."""
        configs = self.method.configure(self.study.plan.task.recipe, settings)
        fields = self.method.fields()
        shape = json.dumps({k: v for k, v in flatten(configs).items() if not isinstance(fields[k][0], Real)})
        if shape not in self.costs:
            self.costs[shape] = count(self.method.costs(configs, self.info)["model"], self.info)
        return self.costs[shape]

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is written after every event, and Tune's own copy would only grow old."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class GracefulStop(ASHAScheduler):
    """ASHA whose verdict reaches a trial as a sign that it reads after its next epoch.

    Tune would kill the trial. Ray Train's workers, nested in it, would then keep their placement group for ever and the
    next trial would wait for it; and a trial that ends by itself can say what it had reached.
    """

    def __init__(self, study: Study, **options: Any) -> None:
        super().__init__(**options)
        self.study = study

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == self.STOP and "outcome" not in result:
            self.study.storage.write_bytes(stop_sign(self.study.plan.task, trial.config["job"]["number"]), b"")
            return str(self.CONTINUE)
        return str(decision)


@cache
def provenance() -> dict[str, Any]:
    """Commit and versions, as the leaderboard's columns name them."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str | None:
        try:
            return subprocess.run(
                ["git", "-C", root, *words], capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    def release(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            return "0"

    status = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "torch": release("torch"),
        "ray": release("ray"),
        "version": release("bo-distill-search"),
    }


def run_study(study: Study, method: Method, info: Info, layout: Layout, terminal: TextIO) -> None:
    """Run a study to its end, or until it is interrupted. What is finished is in its folder and on the leaderboard.

    Ray must be up.
    """
    task = study.plan.task
    search = StudySearch(study, method, info)
    if layout.workers == 1:
        trainable = tune.with_resources(
            tune.with_parameters(in_process, task=task),
            {"CPU": layout.cpus, **({"GPU": layout.gpus} if layout.gpus else {})},
        )
    else:
        # The trial itself only waits for its workers. A sliver of the head costs no CPU that they would need.
        trainable = tune.with_resources(
            tune.with_parameters(on_workers, task=task),
            tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}]),
        )
    scheduler = None
    if study.plan.asha:
        longest = sum(getattr(config, "epochs", 0) for config in method.configure(task.recipe, task.settings).values())
        scheduler = GracefulStop(
            study, time_attr="epoch", max_t=max(longest, 2) + 1, grace_period=1, reduction_factor=3
        )
    progress = Progress(study, terminal, study.plan.trials)
    with tempfile.TemporaryDirectory(prefix="search-") as scratch:
        try:
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    metric="val_accuracy",
                    mode="max",
                    search_alg=search,
                    scheduler=scheduler,
                    num_samples=-1,
                    max_concurrent_trials=layout.concurrency,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    name=task.study,
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[progress],
                    failure_config=tune.FailureConfig(max_failures=2),
                ),
            ).fit()
        finally:
            progress.close()
    for name in study.storage.list(f"{study.folder}/stop"):
        study.storage.delete(name)
