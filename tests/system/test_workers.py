"""Ray Train's workers stay from trial to trial, and a trial ends as it would on one worker."""

from __future__ import annotations

import socket
from contextlib import suppress
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any, cast

import pytest

from bo_distill.search.execution import trainable
from bo_distill.search.study.records import Outcome, Task
from helpers.running import TRIVIAL, rows_of, run, study_of
from helpers.trivial import accuracy


def test_a_stray_connection_costs_nothing_and_workers_that_died_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scanned(trainable.Crew):
        def _train(self) -> None:
            """A scan of ports, then rank 0 with an answer; the second time rank 0 dies before it calls."""
            socket.create_connection(self.listener.address).close()
            if self.task is None:
                with Client(self.listener.address, authkey=self.key) as line:
                    assert line.recv() == "job"
                    line.send(Outcome("done"))
                    return
            self.error, self.over = RuntimeError("no memory"), True
            with suppress(EOFError, OSError):
                Client(self.listener.address, authkey=self.key).close()

    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    job: Any = "job"
    crew = Scanned(cast(Task, None))
    assert crew.perform(job, print).status == "done"
    crew.end()
    with pytest.raises(RuntimeError, match="no memory"):
        Scanned(cast(Task, "other")).perform(job, print)


def test_workers_stay_from_trial_to_trial(tmp_path: Path) -> None:
    code, said = run(TRIVIAL, "--random", "--trials=2", "--seeds=1", "--workers=2", storage=tmp_path)
    assert code == 0, said
    study = study_of(tmp_path)
    epochs = [epoch for trial in study.trials for epoch in study.outcome(trial.job.number).history]
    assert len(epochs) == 9 and len({epoch["process"] for epoch in epochs}) == 1, "one process was rank 0 of all"
    for trial, row in zip(study.trials, rows_of(tmp_path), strict=True):
        assert (row.workers, len(row.nodes), row.status) == (2, 2, "done")
        assert row.val_accuracy == pytest.approx(accuracy(trial.job.settings))
