"""Ray Train's workers stay from trial to trial, and a trial ends as it would on one worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.running import TRIVIAL, rows_of, run, study_of
from helpers.trivial import accuracy


def test_workers_stay_from_trial_to_trial(tmp_path: Path) -> None:
    code, said = run(TRIVIAL, "--random", "--trials=2", "--seeds=1", "--workers=2", storage=tmp_path)
    assert code == 0, said
    study = study_of(tmp_path)
    epochs = [epoch for trial in study.trials for epoch in study.outcome(trial.job.number).history]
    assert len(epochs) == 9 and len({epoch["process"] for epoch in epochs}) == 1, "one process was rank 0 of all"
    for trial, row in zip(study.trials, rows_of(tmp_path), strict=True):
        assert (row.workers, len(row.nodes), row.status) == (2, 2, "done")
        assert row.val_accuracy == pytest.approx(accuracy(trial.job.settings))
