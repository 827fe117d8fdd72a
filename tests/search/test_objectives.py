"""Searches for another metric than accuracy, and for two at once."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bo_distill.distributed.storage import Storage
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import Table
from bo_distill.methods.space import Real
from bo_distill.search.command.asking import make_plan
from bo_distill.search.command.config import command, toml_of
from bo_distill.search.command.summary import print_summary
from bo_distill.search.evidence.advice import advice, in_python
from bo_distill.search.evidence.pareto import Front, front, hypervolume
from bo_distill.search.evidence.summary import summarise
from bo_distill.search.execution import trial
from bo_distill.search.execution.trial import attempt
from bo_distill.search.pages.study import page_of
from bo_distill.search.run import main, parser
from bo_distill.search.searchers.base import METRIC, Settings
from bo_distill.search.searchers.registry import make_searcher
from bo_distill.search.searchers.scalarised import RHO, normalised, tchebycheff
from bo_distill.search.study.conductor import Conductor, Finished
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.metrics import METRICS
from bo_distill.search.study.records import Job, Outcome, Plan, Task
from helpers.made_up import row
from helpers.running import TRIVIAL
from helpers.trivial import METHOD, accuracy

SPACE = {f"x{i}": Real(0, 1) for i in range(4)}


def two(point: Settings) -> list[float]:
    """Two bowls with their tops in different corners; both to be made large."""
    x = np.array([point[name] for name in SPACE])
    return [float(-((x - 0.2) ** 2).sum()), float(-((x - 0.7) ** 2).sum())]


def searched(
    word: str, seed: int, trials: int, after: Callable[[Any], Any] = lambda searcher: searcher
) -> list[Settings]:
    """What a searcher proposes, told of each trial; `after` replaces it after each."""
    searcher, points = make_searcher(word, SPACE, seed, trials, metrics=2), []
    for number in range(trials):
        points.append(searcher.suggest(str(number)))
        searcher.on_trial_complete(str(number), {METRIC: two(points[-1])}, error=number == 3)
        searcher = after(searcher)
    return points


def test_tchebycheff_is_the_papers_and_no_dominated_trial_is_best() -> None:
    rng = np.random.default_rng(0)
    costs = rng.random((40, 3))
    for _ in range(50):
        weights = rng.dirichlet(np.ones(3))
        found = tchebycheff(costs, weights)
        for line, value in zip(costs, found, strict=True):
            each = [w * f for w, f in zip(weights, line, strict=True)]
            assert value == pytest.approx(max(each) + RHO * sum(each))
        best = costs[found.argmin()]
        assert not any((other <= best).all() and (other < best).any() for other in costs)
    assert normalised(np.array([[3.0, 5.0], [1.0, 5.0], [2.0, 5.0]])).tolist() == [[0, 0], [1, 0], [0.5, 0]]


def test_front_and_hypervolume_are_those_of_counting() -> None:
    rng = np.random.default_rng(1)
    for trials in (1, 2, 7, 20):
        pairs = [(float(a), float(b)) for a, b in rng.integers(0, 12, (trials, 2))]
        kept = front(pairs)
        beaten = [any(o != p and o[0] >= p[0] and o[1] >= p[1] for o in pairs) for p in pairs]
        assert {pairs[i] for i in kept} == {p for p, lost in zip(pairs, beaten, strict=True) if not lost}
        assert len({pairs[i] for i in kept}) == len(kept) and [pairs[i][0] for i in kept] == sorted(
            (pairs[i][0] for i in kept), reverse=True
        )
        cells = itertools.product(range(2, 12), range(3, 12))  # unit squares above the reference (2, 3)
        count = sum(any(a >= x + 1 and b >= y + 1 for a, b in pairs) for x, y in cells)
        assert hypervolume(pairs, (2, 3)) == count
    assert hypervolume([(1, 9)], (2, 3)) == 0 and hypervolume([], (0, 0)) == 0
    flat = Front((METRICS["val_accuracy"], METRICS["params"]), [], 0.0, (0.8, 500.0), (0.9, 500.0))
    assert flat.sentence().endswith("All trials have the same parameters (500), so the front covers no area.")


def test_bayesian_search_covers_more_of_the_front_than_random_search() -> None:
    def volume(word: str, seed: int) -> float:
        return hypervolume([(a, b) for a, b in map(two, searched(word, seed, 20))], (-1.0, -1.0))

    assert (
        np.mean([volume("bo", seed) for seed in (0, 1)]) > np.mean([volume("random", seed) for seed in range(9)]) + 0.02
    )


def test_a_search_of_two_metrics_goes_on_from_its_state_as_if_it_had_not_stopped() -> None:
    def again(searcher: Any) -> Any:
        fresh = make_searcher("bo", SPACE, 0, 11, metrics=2)
        fresh.restore_state(json.loads(json.dumps(searcher.save_state())))
        return fresh

    points = searched("bo", 0, 11)
    assert searched("bo", 0, 11, again) == points
    one = make_searcher("bo", SPACE, 0, 11)
    with pytest.raises(ValueError, match="is of one metric"):
        make_searcher("bo", SPACE, 0, 11, metrics=2).restore_state(one.save_state())
    with pytest.raises(UsageError, match="--searcher optuna: makes one metric large; give one to --metric, or --bo"):
        make_searcher("optuna", SPACE, 0, 11, metrics=2)


def begin(storage: Storage, metrics: tuple[str, ...], searcher: str = "bo", trials: int = 9, **how: Any) -> Study:
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 0, "float32")
    study = Study(storage, Plan(task, searcher, ("only.x", "only.y"), trials, seeds=0, metrics=metrics, **how))
    study.save_plan()
    return study


def step(study: Study) -> bool:
    """Run one trial, whose loss is least where its accuracy is not; False when there is none left."""
    conductor = Conductor(study)
    try:
        trial = conductor.ask()
    except Finished:
        return False
    assert trial
    x, y = (trial.job.settings[f"only.{name}"] for name in "xy")
    val = {"accuracy": accuracy(trial.job.settings), "loss": 0.1 + (x - 0.8) ** 2 + (y - 0.6) ** 2}
    conductor.settle(trial, Outcome(val=val, started=time.time(), seconds=1.0))
    return True


def test_what_goes_on_finds_the_study_and_lets_code_from_outside_run(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, module = begin(storage, ("val_accuracy",)), TRIVIAL.partition(":")[0]
    assert study.resume_words.endswith(f" --trust {module}")
    assert toml_of(study.plan).startswith(
        f"# The same search again: bo-distill run --config THIS_FILE --trust {module}\n"
    )
    assert dataclasses.replace(study.plan, searcher="own:Search").outside == [module, "own"]
    where = storage.uri
    assert advice(study) == [f"No trial has ended well yet; --resume s --storage {where} --trust {module} goes on."]
    assert advice(study, in_python) == [
        f"No trial has ended well yet; bo_distill.run(resume='s', storage='{where}', trust=['{module}']) goes on."
    ]
    monkeypatch.chdir(tmp_path)
    study = begin(Storage("results"), ("val_accuracy",))
    assert advice(study) == [f"No trial has ended well yet; --resume s --trust {module} goes on."], (
        "where it looks itself"
    )


def test_a_trial_without_the_metric_that_is_searched_says_so(storage: Storage) -> None:
    study = begin(storage, ("val_accuracy", "val_loss"))
    conductor = Conductor(study)
    for val in ({"accuracy": 0.9}, {"accuracy": 0.9, "loss": math.inf}):
        trial = conductor.ask()
        assert trial
        conductor.settle(trial, Outcome(val=val, started=time.time(), seconds=1.0))
        assert trial.status == "failed" and trial.reason.startswith("no validation loss: its last stage returned none")
        assert study.outcome(trial.job.number).status == "failed"


def test_a_study_of_two_metrics_names_its_front_and_goes_on(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    study = begin(storage, ("val_accuracy", "val_loss"))
    while step(study):
        study = Study.open(storage, "s")  # a fresh one each time, as after an interruption
    points = [[trial.job.settings[f"only.{name}"] for name in "xy"] for trial in study.trials]
    whole = begin(Storage(Path(storage.uri) / "whole"), ("val_accuracy", "val_loss"))
    while step(whole):
        pass
    assert [[t.job.settings[f"only.{n}"] for n in "xy"] for t in whole.trials] == points and len(points) == 9
    found = Front.of(study)
    assert found and found.trials[0] == study.best() == max(study.trials, key=lambda t: t.val_accuracy or 0)
    losses = [study.value(t, "val_loss") or 0 for t in found.trials]
    assert losses == sorted(losses, reverse=True) and losses[-1] == min(t.values["val_loss"] for t in study.trials)
    assert 0 < found.volume < 1 and found.reference[0] == min(t.val_accuracy or 0 for t in study.trials)
    print_summary(summarise(study, 1.0))
    said = capsys.readouterr().out
    assert f"The winner is trial {found.trials[0].job.number}, the best in validation accuracy, " in said
    assert "make the Pareto front of validation accuracy and validation loss" in said and "reference point" in said
    html, _ = page_of([study], draw=False)
    assert "Each is one training, and chance helps to make a front" in found.sentence()
    assert 'id="pareto-front"' in html and found.sentence().split(":")[0] in html and "val_loss" in html


@pytest.mark.parametrize("searcher", ["random", "grid"])
def test_other_searchers_take_two_metrics_too(searcher: str, storage: Storage) -> None:
    study = begin(storage, ("val_accuracy", "val_loss"), searcher)
    while step(study):
        pass
    assert Front.of(study) and len(study.trials) == 9


def test_a_metric_that_is_to_be_small_chooses_the_smallest(storage: Storage) -> None:
    study = begin(storage, ("val_loss",), patience=6, trials=30)
    while step(study):
        pass
    assert study.best() == min(study.trials, key=lambda t: t.values["val_loss"]) and Front.of(study) is None
    assert len(study.trials) < 30 and study.stale() == 6
    values = [t.values["val_loss"] for t in study.trials]
    assert min(values) < 0.11, "the model went where the loss is small"
    html, _ = page_of([study], draw=False)
    assert "Validation loss of each trial and the best so far" in html


def test_a_trial_measures_what_a_metric_needs(storage: Storage) -> None:
    settings = METHOD.check({"only.epochs": 1})
    for measured in (False, True):
        task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 0, "float32", measured=measured)
        outcome = attempt(task, Job(0, "search", settings, 0), lambda row: None)
        assert outcome.status == "done" and ("macro_f1" in outcome.val) == measured and not outcome.test
        assert outcome.val["accuracy"] == accuracy({"only.x": 0.5, "only.y": 0.5}), "the last stage's own"


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_trial_that_the_gpu_refused_is_to_run_again_in_another_process(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, error: Exception, again: bool
) -> None:
    def fails(*_: Any, **__: Any) -> Outcome:
        raise error

    monkeypatch.setattr(trial, "perform", fails)
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 0, "bfloat16")
    if again:
        with pytest.raises(type(error)):
            attempt(task, Job(0, "search", {}, 0), lambda row: None)
    else:
        outcome = attempt(task, Job(0, "search", {}, 0), lambda row: None)
        assert (outcome.status, outcome.precision) == ("failed", "bfloat16") and outcome.processor


def test_tables_are_made_of_winners_and_of_the_first_seed_of_all_else(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table("T", ("c",), ((1,),))
    monkeypatch.setattr(trial, "load_test", lambda spec: None)
    monkeypatch.setattr(trial, "measured", lambda trained, method: {})
    monkeypatch.setattr(trial.importlib, "import_module", lambda _: SimpleNamespace(tables=lambda _: {"t": table}))
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 4, "float32")
    worker, method = SimpleNamespace(world_size=1), SimpleNamespace(figures="of.a.method")
    shown = set()
    for job in (Job(0, phase, {}, seed) for phase in ("final", "control") for seed in (5, 6)):
        trial.score(outcome := Outcome(), task, job, worker, method, {}, {})  # type: ignore[arg-type]
        shown |= {(job.phase, job.seed)} if outcome.tables else set()
    assert shown == {("final", 5), ("final", 6), ("control", 5)}


def test_every_metric_is_found_in_a_row() -> None:
    own = {"macro_f1": 0.5, "top3": 0.9, "ece": 0.1}
    found = row(3, val_loss=0.2, macs_train=10**9, params=7, val_metrics=own)
    values = {word: metric.of(found) for word, metric in METRICS.items()}
    assert values == {
        "val_accuracy": 0.0003, "val_loss": 0.2, "val_f1": 0.5, "val_top3": 0.9, "val_ece": 0.1, "macs": 41_000_000,
        "macs_train": 10**9, "params": 7,
    }  # fmt: skip
    routed = row(val_metrics={"macs": 1.5e6})
    assert METRICS["macs"].of(routed) == 1.5e6, "what its answers cost in the mean, where the method says so"


def test_metrics_are_asked_for_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(parser().parse(["fsp", "--metric", "val_f1, macs"]))
    assert plan.metrics == ("val_f1", "macs") and plan.task.measured
    assert "--metric val_f1,macs" in command(plan) and 'metric = "val_f1,macs"' in toml_of(plan)
    assert not make_plan(parser().parse(["fsp", "--metric", "val_loss"])).task.measured
    for words, said in (
        (["--metric", "f1"], "--metric f1: no such metric; there are val_accuracy, "),
        (["--metric", "macs,macs"], "--metric macs,macs: give one metric, or two by a comma"),
        (["--metric", "macs,params,val_f1"], "give one metric, or two"),
        (["--metric", "val_loss", "--asha"], "--asha: stops trials by their accuracy"),
    ):
        assert main(["fsp", *words]) == 2
        assert said in capsys.readouterr().err
