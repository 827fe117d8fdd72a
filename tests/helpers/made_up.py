"""A study that nobody ran: what report and predict read, made in a second."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import torch

from bo_distill.distributed.cache import StageCache, encode
from bo_distill.distributed.storage import Storage
from bo_distill.methods import get
from bo_distill.methods.data import load
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.fsp.method import networks
from bo_distill.methods.fsp.nets import teacher_net
from bo_distill.methods.method import State, flatten
from bo_distill.search.rows.files import write_row
from bo_distill.search.rows.row import Row
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Outcome, Plan, Task, Trial

SETTINGS = {"transfer.depth": 8, "teacher.arch": "resnet26"}


def states(storage: Storage, seed: int) -> dict[str, str]:
    """Untrained networks in the cache, as if the stages of `fsp` had left them; returns their keys."""
    torch.manual_seed(seed)
    info = load(DataSpec("digits")).info
    configs = get("fsp").configure("quick", SETTINGS)
    teacher, student = teacher_net("resnet26", info), networks(configs, info)["model"]
    spec = {"arch": "resnet26", "depth": 8}
    left = {
        "teacher": State(teacher.state_dict(), spec),
        "transfer": State(student.state_dict(), spec, {}, ({"epoch": 1, "fsp": 0.5}, {"epoch": 2, "fsp": 0.25})),
        "finetune": State(
            student.state_dict(),
            spec,
            {"val_accuracy": 0.9},
            ({"epoch": 1, "val_accuracy": 0.8}, {"epoch": 2, "val_accuracy": 0.9}),
        ),
    }
    keys = {stage: f"{seed:02d}{stage}" for stage in left}
    for stage, state in left.items():
        StageCache(storage).put(f"fsp.{stage}", keys[stage], encode(state))
    return keys


def history(level: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for epoch in (1, 2, 3):
        accuracy = level - 0.3 / epoch
        rows.append(
            {"stage": "finetune", "epoch": epoch, "loss": 1 / epoch, "val_accuracy": accuracy, "val_loss": 99.0}
        )
    return [{"stage": "transfer", "epoch": 1, "fsp": 0.3, "loss": 0.3}, *rows]


def made_up(storage: Storage, name: str = "fsp-bo-made-up", trials: int = 8) -> Study:
    """Eight finished trials, one that failed, one that was pruned; winner and one control over three seeds."""
    task = Task(name, "fsp", "quick", DataSpec("digits"), SETTINGS, storage.uri, 0, "float32")
    study = Study(storage, Plan(task, "bo", ("transfer.lr", "transfer.weight"), trials + 2))
    jobs: list[tuple[str, int, str | None, float | None, str]] = []
    for n in range(trials):
        jobs.append(("search", 0, None, 0.9 + 0.05 * math.sin(n), "done"))
    jobs += [("search", 0, None, None, "failed"), ("search", 0, None, 0.4, "pruned")]
    for seed in (1, 2, 3):
        jobs += [("final", seed, None, 0.9 + seed / 100, "done"), ("control", seed, "student_alone", 0.85, "done")]
    for number, (phase, seed, control, accuracy, status) in enumerate(jobs):
        settings = {**SETTINGS, "transfer.lr": 10 ** (-3 + 0.12 * number), "transfer.weight": 0.1 * (1 + number)}
        trial = Trial(Job(number, phase, settings, seed, control), 0.0, status, accuracy, seconds=2.0)
        outcome = Outcome(status, 'diverged: <loss> & "all"' if status == "failed" else None, seconds=2.0)
        if accuracy is not None:
            outcome.val = {"accuracy": accuracy}
        if status == "done":
            outcome.history = history(accuracy or 0.0)
        if phase != "search":
            outcome.test = {"accuracy": (accuracy or 0.0) - 0.01 * seed}
            outcome.tables = {"cost": {"caption": "Cost", "columns": ["net", "MACs"], "rows": [["student", 1234567]]}}
        if phase == "final" or number == 2:
            outcome.stage_keys = states(storage, seed)
        study.trials.append(trial)
        study.save_outcome(number, outcome)
        now = datetime(2026, 1, 1, tzinfo=UTC)
        row = Row(
            study=name, trial=number, phase=phase, control=control, method="fsp", searcher="bo", data="digits",
            data_fingerprint="0123", recipe="quick", seed=seed, status=status, seconds=2.0, val_accuracy=accuracy,
            config=flatten(get("fsp").configure("quick", settings)), macs_forward=10**6, macs_train=10**9 + number,
            device="cpu", precision="float32", python="3", torch="2", version="0", started=now, finished=now,
        )  # type: ignore[arg-type]  # fmt: skip
        write_row(storage, row)
    study.save_plan()  # and its trials
    return study


START = datetime(2026, 1, 1, tzinfo=UTC)


def row(trial: int = 0, **changes: Any) -> Row:
    """A row of the leaderboard."""
    values: dict[str, Any] = {
        "study": "alpha",
        "trial": trial,
        "phase": "search",
        "method": "fsp",
        "searcher": "bayes",
        "data": "cifar10",
        "data_fingerprint": "ab12",
        "recipe": "quick",
        "seed": 0,
        "config": {"transfer.lr": 0.1 + trial, "transfer.milestones": (1.0, 2.0)},
        "val_accuracy": trial / 10_000,
        "status": "done",
        "macs_forward": 41_000_000,
        "seconds": 12.5,
        "device": "cpu",
        "precision": "float32",
        "nodes": ("a", "b"),
        "python": "3.11",
        "torch": "2",
        "started": START,
        "finished": START + timedelta(seconds=10),
        "version": "0.1",
    }
    return Row(**values | changes)


def changed(storage: Storage, name: str, **fields: Any) -> None:
    """Change fields of a kept JSON file as its writer would: with a digest that fits."""
    content = json.loads(storage.read_bytes(name))
    number = fields.pop("format", content.pop("format", 1))
    content.pop("sha256", None)
    body = json.dumps(content | fields, indent=1)[1:]
    digest = hashlib.sha256(f"{number}\n{body}".encode()).hexdigest()
    storage.write_bytes(name, f'{{"format": {number}, "sha256": "{digest}",\n{body}'.encode())
