"""A search under a budget of time seeks what promises most per second: stages that were trained cost nothing again."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.space import Integer, Real
from bo_distill.search.searchers.acquisition import Bill
from bo_distill.search.searchers.base import METRIC, StageCost
from bo_distill.search.searchers.registry import make_searcher
from bo_distill.search.study.conductor import Conductor
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Outcome, Plan, Task
from bo_distill.search.study.searches import StageCosts

SPACE = {"count": Integer(1, 30, log=True), "threshold": Real(0, 1)}
COSTS = [StageCost((), 50.0), StageCost(("count",), 9.0), StageCost(("count", "threshold"), 0.1)]


def test_a_bill_has_the_stages_that_nobody_trained() -> None:
    trained = np.array([[0.1, 0.5], [0.7, 0.2]])
    bill = Bill([([], 50.0), ([0], 9.0), ([0, 1], 0.1)], trained)
    points = np.array([[0.1, 0.5], [0.1, 0.6], [0.7, 0.5], [0.2, 0.5]])
    np.testing.assert_allclose(bill.of(points), [1e-3, 0.1, 0.1, 9.1])
    rng = np.random.RandomState(0)
    drawn = rng.random_sample((400, 2))
    taken = bill.shared(drawn, trained[rng.randint(2, size=400)], rng)
    kept, cheap = (taken == drawn).all(axis=1), bill.of(taken) < 1
    assert (kept ^ cheap).all() and 60 < cheap.sum() < 140
    np.testing.assert_array_equal(taken[:, 1], drawn[:, 1])
    nothing = Bill([([], 50.0)], trained)  # all of it was trained
    assert nothing.shared(drawn, drawn, rng) is drawn and (nothing.of(drawn) == 1e-3).all()


def searched(weighed: bool, seed: int = 4) -> tuple[int, float, list[Any]]:
    """(configurations, the best value, counts) of a search with 90 seconds."""
    searcher: Any = make_searcher("bo", SPACE, seed, None)
    trained, spent, values = list[int](), 0.0, list[float]()
    while True:
        settings = searcher.suggest(str(len(values)))
        if weighed and len(values) % 5 == 4:
            again: Any = make_searcher("bo", SPACE, 9, None)
            again.restore_state(json.loads(json.dumps(searcher.save_state())))
            assert again.suggest(str(len(values))) == settings
            searcher = again
        if settings != searcher.FINISHED:
            spent += 0.1 + 9 * (settings["count"] not in trained)
        if settings == searcher.FINISHED or spent > 90:
            return len(values), max(values), trained
        trained.append(settings["count"])
        apart = SPACE["count"].to_unit(settings["count"]) - 0.6
        luck = 0.01 * math.sin(37 * settings["count"])  # of a count's training, the same for all thresholds
        values.append(1 - apart**2 - (settings["threshold"] - 0.3) ** 2 + luck)
        if weighed:
            searcher.weigh(COSTS)
        searcher.on_trial_complete(str(len(values) - 1), {METRIC: values[-1]})


def test_more_configurations_in_the_same_time_and_none_worse_for_it() -> None:
    plain, weighed = searched(False), searched(True)
    assert weighed[0] >= 2 * plain[0] and weighed[1] > plain[1] - 0.01
    assert len(set(weighed[2])) >= 3, "it does not stay with what is cheap"


@pytest.mark.parametrize(("trials", "timed"), [(None, True), (9, False)])
def test_a_study_tells_its_search_what_stages_took_where_time_is_the_budget(
    storage: Storage, trials: int | None, timed: bool
) -> None:
    names = ("cluster.count", "route.threshold")
    task = Task("s", "label_embedding", "quick", DataSpec("glyphs"), {}, storage.uri, 0, "float32")
    study = Study(storage, Plan(task, "bo", names, trials, seconds=600.0, seeds=0))
    study.save_plan()
    costs = StageCosts(study)
    assert costs.known() == []
    seconds = {"base": 30.0, "cluster": 1.0, "experts": 9.0, "route": 0.1}
    first = Outcome(stage_seconds=seconds, seconds=41.1)
    later = Outcome(stage_seconds={**seconds, "base": 0.0, "experts": 11.0}, cached=["base"], seconds=22.1)
    for outcome in (first, later, replace(later, status="failed")):
        costs.note(outcome)
    assert costs.known() == [
        StageCost((), 30.0),
        StageCost(names[:1], 1.0),
        StageCost(names[:1], 10.0),
        StageCost(names, 0.1),
        StageCost(names, pytest.approx(5.5)),  # beside its stages
    ]
    conductor = Conductor(study)
    trial = conductor.ask()
    assert trial
    conductor.settle(trial, replace(first, val={"accuracy": 0.5}))
    told = study.searcher_state["costs"] if study.searcher_state else []
    assert (len(told) == 5) == timed
