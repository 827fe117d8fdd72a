"""What a dry run counts and forecasts."""

from __future__ import annotations

import dataclasses
import io
from types import SimpleNamespace

import pytest
import torch

from bo_distill.distributed.ray.cluster import Layout
from bo_distill.distributed.storage import Storage
from bo_distill.methods import METHODS, get
from bo_distill.methods.data import load
from bo_distill.methods.data.account import Account, LeftOut
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError
from bo_distill.search.execution import forecast as planning
from bo_distill.search.execution import layouts as comparing
from bo_distill.search.execution.forecast import (
    PAGE,
    RAY,
    TRIAL,
    Rehearsal,
    Speed,
    describe,
    few,
    forecast,
    makespan,
    rehearse,
)
from bo_distill.search.execution.place import place_of
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Plan, Task, Trial
from helpers.tiny import TINY_SETTINGS

ALONE = Layout(workers=1, cpus=1, gpus=0.0, concurrency=1)
SPEEDS = {"teacher": Speed(1.0, 1e-9), "transfer": Speed(2.0, 0.5e-9), "finetune": Speed(0.5, 0.25e-9)}


def test_each_is_taken_by_the_first_that_is_free() -> None:
    assert makespan([], 2) == 0 and makespan([3, 1, 1, 1], 2) == 3 and makespan([1, 1, 3], 2) == 4
    assert makespan([1.0] * 9, 2) == 5 and makespan([1.0] * 9, 1) == 9


@pytest.fixture
def study(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(planning, "rehearsals", lambda task, place: Rehearsal(3.0, SPEEDS, 2**30))
    task = Task("s", "fsp", "quick", DataSpec("digits", train_size=600), {"transfer.depth": 8}, storage.uri, 0)
    return Study(storage, Plan(task, "random", ("transfer.lr",), 11, seeds=2, controls=True, confirm=2))


def test_the_runs_that_are_left_and_their_time(study: Study) -> None:
    method, info = study.method, study.info
    configs = method.configure("quick", study.plan.task.settings)
    macs = {stage.name: stage.macs(configs, info) for stage in method.stages}
    once = 1.0 + macs["teacher"] / 1e9
    trial = 2.5 + macs["transfer"] / 2e9 + macs["finetune"] / 4e9
    seen = forecast(dataclasses.replace(study, plan=dataclasses.replace(study.plan, controls=False)), ALONE)
    assert (seen.trials, seen.confirm, seen.final) == (5, 6, 2)
    assert seen.seconds == pytest.approx(RAY + 3 + once + (5 + 6 + 2) * (TRIAL + trial) + PAGE)
    assert seen.macs == macs["teacher"] + 13 * (macs["transfer"] + macs["finetune"])
    # A control that trains as many epochs on labels alone costs what the method says it does.
    longer = forecast(study, ALONE)
    assert longer.final == 2 * (1 + len(method.controls))
    study.info = dataclasses.replace(study.info, account=Account(left_out=(LeftOut("empty", 3),)))
    words = describe(study, ALONE, [])
    assert ", log scale" in words and "3 rows left out: without text or label" in words
    assert "5 of the search, 6 runs of the best 2 over fresh seeds, then 6 retrainings" in words
    # What is finished is not run again.
    study.trials = [Trial(Job(n, "search", {}, 0), 0.0, "done", 0.5) for n in range(3)]
    assert forecast(study, ALONE).trials == 2
    study.plan = dataclasses.replace(study.plan, searcher="grid", trials=4, confirm=0)
    assert forecast(study, ALONE).trials == 1


def test_a_time_limit_ends_the_search_and_not_what_follows(study: Study) -> None:
    study.plan = dataclasses.replace(study.plan, confirm=0)
    whole = forecast(study, ALONE).seconds
    study.plan = dataclasses.replace(study.plan, seconds=1e6)
    assert forecast(study, ALONE).seconds == whole
    study.plan = dataclasses.replace(study.plan, seconds=1.0)
    short = forecast(study, ALONE).seconds
    assert short < whole and "11 of the search, or as many as begin within 1.0 s, then 6" in describe(study, ALONE, [])
    study.plan = dataclasses.replace(study.plan, trials=None, seconds=3600.0)
    assert forecast(study, ALONE).seconds > 3600
    assert "as many of the search as begin within 60 min, then 6 retrainings" in describe(study, ALONE, [])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_rehearsed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "REHEARSAL", 1.0)
    method = get(name)
    data = DataSpec("digits" if method.kind == "image" else "docstrings", train_size=200)
    threads = torch.get_num_threads()
    found = rehearse(Task("s", name, "quick", data, TINY_SETTINGS[name], "/nowhere", 0, "float32"), 0.0)
    torch.set_num_threads(threads)
    configs, info = method.configure("quick", TINY_SETTINGS[name]), load(data).info
    assert list(found.stages) == [stage.name for stage in method.stages] and found.memory > 2**20
    for stage in method.stages:
        trains = stage.macs(configs, info) > 0
        assert (found.stages[stage.name].pace > 0) == trains and found.stages[stage.name].fixed >= 0


def test_few_rows_are_of_all_classes() -> None:
    data = load(DataSpec("docstrings"))
    part = few(data, 120)
    assert len(part.train) == 120 == part.info.train_size == len(part.train.texts) and len(part.val) < len(data.val)
    assert set(part.train.y[:, 0].tolist()) == set(range(len(data.info.classes)))
    assert few(data, 10**9).train is data.train


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "machine", lambda: [{"CPU": 4.0, "GPU": 0.0}])


def test_layouts_of_a_machine(study: Study, four_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(place.workers, place.concurrency, place.cpus) for place in comparing.layouts(study, None)]
    assert found == [(1, 4, 1), (2, 2, 1), (4, 1, 1)]
    assert [(place.concurrency, place.cpus) for place in comparing.layouts(study, 2)] == [(2, 2), (2, 1), (1, 1)]
    with_gpus = [{"CPU": 16.0, "GPU": 4.0}]
    monkeypatch.setattr(comparing, "machine", lambda: with_gpus)
    chosen, given = (SimpleNamespace(workers=workers, concurrency=3) for workers in ("auto", 2))
    for place in (found := list(comparing.layouts(study, 3))):
        assert place_of(chosen, place.workers, with_gpus) == place  # type: ignore[arg-type]
    assert [(place.workers, place.concurrency) for place in found] == [(1, 3), (2, 2), (4, 1)]
    with pytest.raises(UsageError, match="give at most 2"):
        place_of(given, 2, with_gpus)  # type: ignore[arg-type]
    odd = dataclasses.replace(study.plan.task, settings={"teacher.norm": "group", "teacher.batch_size": 9})
    study.plan = dataclasses.replace(study.plan, task=odd)
    assert [place.workers for place in comparing.layouts(study, None)] == [1], "which cannot share batches of 9"


@pytest.mark.parametrize(("seconds", "workers"), [((9.0, 5.0, 7.0), 2), ((5.0, 5.0, 5.0), 1)])
def test_the_fastest_layout_is_taken(
    study: Study, four_cores: None, seconds: tuple[float, ...], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = dict(zip((1, 2, 4), seconds, strict=True))
    monkeypatch.setattr(comparing, "forecast", lambda study, place: SimpleNamespace(seconds=known[place.workers]))
    said, args = io.StringIO(), SimpleNamespace(address=None, concurrency=None)
    assert comparing.fastest(study, args, said).workers == workers  # type: ignore[arg-type]
    assert "2 trials at once, each on 2 workers of 1 CPU: about 5 s" in said.getvalue()
    with pytest.raises(UsageError, match="not at --address"):
        comparing.fastest(study, SimpleNamespace(address="auto"), said)  # type: ignore[arg-type]
