"""A study's trials as TensorBoard and MLflow read them back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.search.execution.tracking import check, curves, track
from bo_distill.search.run import main
from bo_distill.search.study.conductor import Conductor
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Outcome
from helpers.made_up import made_up


def again(study: Study, name: str) -> Study:
    """The study as a later process sees it, tracked: one more trial ends, and those that ended are there already."""
    later = Study.open(study.storage, study.plan.task.study)
    track(later, name)
    trial, outcome = later.trials[0], later.outcome(0)
    other = dataclasses.replace(trial, job=dataclasses.replace(trial.job, number=99))
    later.trials.append(other)
    Conductor(later).settle(other, outcome)
    return later


def test_each_network_of_a_stage_has_a_curve_of_its_own() -> None:
    rows = [{"stage": "experts", "item": item, "epoch": 1, "loss": item + 0.5} for item in (0, 1)]
    found = list(curves(Outcome(history=[{"stage": "base", "epoch": 1, "loss": 0.1}, *rows])))
    assert found == [("base/loss", 0.1, 1), ("experts/0/loss", 0.5, 1), ("experts/1/loss", 1.5, 1)]


def test_tensorboard_reads_a_run_for_each_trial(storage: Storage) -> None:
    pytest.importorskip("tensorboardX", reason="the extra `track` is not installed")
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the extra `track` is not installed"
    )
    study = made_up(storage, trials=2)
    track(study, "tensorboard")
    folder = storage.local_path(f"{study.folder}/tensorboard")
    written = {run.name: run.stat().st_mtime_ns for run in folder.iterdir()}
    assert len(written) == len(study.trials) and "student_alone-5" in written

    def read(name: str) -> Any:
        found = events.EventAccumulator(str(folder / name))
        found.Reload()
        return found

    run, outcome = read("search-0"), study.outcome(0)
    assert [(e.step, e.value) for e in run.Scalars("finetune/val_accuracy")] == [
        (row["epoch"], pytest.approx(row["val_accuracy"])) for row in outcome.history if row["stage"] == "finetune"
    ]
    assert run.Scalars("trial/val_accuracy")[0].value == pytest.approx(outcome.val["accuracy"])
    assert "_hparams_/session_start_info" in run.summary_metadata
    assert read("final-4").Scalars("trial/test_accuracy")[0].value == pytest.approx(study.outcome(4).test["accuracy"])
    again(study, "tensorboard")
    after = {run.name: run.stat().st_mtime_ns for run in folder.iterdir()}
    assert after.keys() - written.keys() == {"search-99"}
    assert all(after[name] == time for name, time in written.items()), "what is there is not written again"


def test_mlflow_reads_a_run_for_each_trial(storage: Storage) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra `track` is not installed")
    study = made_up(storage, trials=2)
    track(study, "mlflow")
    again(study, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=storage.local_path("mlflow").as_uri())
    experiment = client.get_experiment_by_name(study.plan.task.study)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == len(study.trials) + 1 == len(client.search_runs([experiment.experiment_id]))
    run, outcome = runs["search-0"], study.outcome(0)
    assert run.data.params["transfer.lr"] == str(study.trials[0].job.settings["transfer.lr"])
    assert run.data.metrics["val_accuracy"] == outcome.val["accuracy"]
    curve = client.get_metric_history(run.info.run_id, "finetune/val_accuracy")
    assert [(m.step, m.value) for m in curve] == [
        (row["epoch"], row["val_accuracy"]) for row in outcome.history if row["stage"] == "finetune"
    ]
    assert runs["search-2"].info.status == "FAILED" and "diverged" in runs["search-2"].data.tags["reason"]
    assert runs["final-4"].data.metrics["test_accuracy"] == study.outcome(4).test["accuracy"]


def test_what_cannot_be_tracked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bo_distill.search.execution.tracking.find_spec", lambda name: None)
    for name in ("tensorboard", "mlflow"):
        assert main(["fsp", f"--{name}", f"--storage={tmp_path / 'results'}"]) == 2
        assert "pip install -e '.[track]'" in capsys.readouterr().err and not list(tmp_path.iterdir())
    storage = Storage(tmp_path)
    monkeypatch.setattr(Storage, "is_local", False)
    with pytest.raises(UsageError, match="leave it out"):
        check(storage, "mlflow")
