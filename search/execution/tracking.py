"""A study's trials for TensorBoard and MLflow, written by their own libraries when the trials end.

    studies/NAME/tensorboard/PHASE-N/   a run for each trial:  tensorboard --logdir studies/NAME/tensorboard
    mlflow/                             a file store; an experiment for each study, a run for each trial

What is written comes from what the study kept: curves are whole, also of stages that were found in the cache, and a
search that goes on adds what is not there yet.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import flatten
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Outcome, Trial

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow"}


def check(storage: Storage, name: str) -> None:
    """Find out whether "tensorboard" or "mlflow" can be written.

    Raises:
        UsageError: its package is not installed, or the storage is no folder.
    """
    if not storage.is_local:
        raise UsageError(f"--{name}: it writes to a folder, and --storage {storage.uri} is none; leave it out")
    if find_spec(PACKAGES[name]) is None:
        raise UsageError(f"--{name}: {PACKAGES[name]} is not installed; pip install -e '.[track]'")


def track(study: Study, name: str) -> None:
    """Have "tensorboard" or "mlflow" told of the trials that have ended and of each one that will."""
    tell = TensorBoard(study) if name == "tensorboard" else MLflow(study)
    for trial in study.trials:
        if trial.finished:
            tell(trial, study.outcome(trial.job.number))
    study.listeners.append(tell)


def name_of(trial: Trial) -> str:
    """The trial's run, by what it is for and its number."""
    return f"{trial.job.control or trial.job.phase}-{trial.job.number}"


def settings_of(study: Study, trial: Trial) -> dict[str, Any]:
    """All hyperparameters, and the seed; what is neither number nor truth value as text."""
    configs = flatten(study.method.configure(study.plan.task.recipe, trial.job.settings))
    return {k: v if isinstance(v, int | float) else str(v) for k, v in {**configs, "seed": trial.job.seed}.items()}


def curves(outcome: Outcome) -> Iterator[tuple[str, float, int]]:
    """("stage/metric" or "stage/item/metric", value, epoch) of every epoch."""
    for row in outcome.history:
        # Of several networks of a stage, such as one for each cluster, each has a curve of its own.
        where = f"{row['stage']}/{row['item']}" if "item" in row else row["stage"]
        for name, value in row.items():
            if name not in ("stage", "epoch", "item"):
                yield f"{where}/{name}", float(value), int(row["epoch"])


def results(outcome: Outcome) -> dict[str, float]:
    """All scores by name, prefixed with their split, and the seconds."""
    splits = {"val": outcome.val, "test": outcome.test}
    scalars = {f"{split}_{name}": value for split, found in splits.items() for name, value in found.items()}
    return {**scalars, "seconds": outcome.seconds}


class TensorBoard:
    def __init__(self, study: Study) -> None:
        self.study = study
        self.folder = study.storage.local_path(f"{study.folder}/tensorboard")

    def __call__(self, trial: Trial, outcome: Outcome) -> None:
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        run = self.folder / name_of(trial)
        if run.exists():
            return
        # Written aside: a process that dies here leaves no half of a run.
        aside = run.with_name(f".{run.name}")
        shutil.rmtree(aside, ignore_errors=True)
        with SummaryWriter(str(aside)) as writer:
            for tag, value, epoch in curves(outcome):
                writer.add_scalar(tag, value, epoch)
            found = results(outcome)
            for tag, value in found.items():
                writer.add_scalar(f"trial/{tag}", value)
            settings = settings_of(self.study, trial)
            for part in hparams(settings, {f"trial/{tag}": value for tag, value in found.items()}):
                writer.file_writer.add_summary(part)
        os.replace(aside, run)


class MLflow:
    """One experiment of a file store."""

    def __init__(self, study: Study) -> None:
        # MLflow 3 asks for leave: it would rather have a database, which its light package has none for.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self.study = study
        self.client = MlflowClient(tracking_uri=study.storage.local_path("mlflow").as_uri())
        name = study.plan.task.study
        experiment = self.client.get_experiment_by_name(name)
        self.experiment = experiment.experiment_id if experiment else self.client.create_experiment(name)
        self.known = set()
        token: str | None = None
        while token != "":
            page = self.client.search_runs([self.experiment], page_token=token)
            self.known |= {run.info.run_name for run in page if run.info.status != "RUNNING"}
            token = page.token or ""

    def __call__(self, trial: Trial, outcome: Outcome) -> None:
        from mlflow.entities import Metric, Param

        if name_of(trial) in self.known:
            return
        self.known.add(name_of(trial))
        ended = outcome.started + outcome.seconds
        tags: Mapping[str, str] = {
            "phase": trial.job.phase,
            "trial": str(trial.job.number),
            "status": outcome.status,
            **({"reason": outcome.reason} if outcome.reason else {}),
        }
        run = self.client.create_run(
            self.experiment, int(1000 * outcome.started), dict(tags), run_name=name_of(trial)
        ).info.run_id
        metrics = [Metric(tag, value, int(1000 * ended), epoch) for tag, value, epoch in curves(outcome)]
        metrics += [Metric(tag, value, int(1000 * ended), 0) for tag, value in results(outcome).items()]
        settings = [Param(k, str(v)) for k, v in settings_of(self.study, trial).items()]
        # No more at once than its interface takes.
        for start in range(0, len(settings), 100):
            self.client.log_batch(run, params=settings[start : start + 100])
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(run, metrics=metrics[start : start + 1000])
        status = "FAILED" if outcome.status == "failed" else "FINISHED"
        self.client.set_terminated(run, status, int(1000 * ended))
