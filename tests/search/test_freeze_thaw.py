"""The search that reads learning curves: its model, what it proposes, and how it is simulated."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import check_grad

from bo_distill.methods.errors import UsageError
from bo_distill.methods.space import Choice, Integer, Real
from bo_distill.search.searchers import curve_model
from bo_distill.search.searchers.base import METRIC, Length, Step
from bo_distill.search.searchers.curve_model import NOBODY, CurveModel, Points
from bo_distill.search.searchers.freeze_thaw import FreezeThaw, pauses
from bo_distill.search.searchers.registry import make_searcher
from bo_distill.search.simulation.clock import course
from bo_distill.search.simulation.steps import grid_best, length_of, looked, simulate_steps
from bo_distill.search.simulation.surfaces import Curves

SPACE = {"x": Real(0, 1), "n": Integer(1, 5), "act": Choice(("a", "b", "c"))}
LENGTH = Length(0, 18)


def observed(count: int = 14, trials: int = 5) -> tuple[Points, Any]:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.random(trials), rng.random((trials, 2))])
    trial = np.arange(count) % trials
    t = (1 + np.arange(count) // trials) / 5
    return Points(x[trial], t, trial), x[trial, 0] * (1 - 0.3 / t) + 0.01 * rng.standard_normal(count)


def model() -> CurveModel:
    seen, values = observed()
    return CurveModel((1, 2), seen, values, len(values))


def test_a_fit_follows_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[Any] = []

    def keep(loss: Any, start: Any, **options: Any) -> Any:
        losses.append((loss, start))
        return type("Found", (), {"x": start})

    monkeypatch.setattr(curve_model, "minimize", keep)
    model()
    loss, start = losses[0]
    for shift in (0.0, 0.3, -0.4):
        place = start + shift
        error = check_grad(lambda theta: loss(theta)[0], lambda theta: loss(theta)[1], place)
        assert error < 1e-3 * np.linalg.norm(loss(place)[1])


def test_the_covariance_is_one_and_its_diagonal_agrees() -> None:
    fitted = model()
    points = Points(fitted.seen.x, fitted.seen.t, np.where(fitted.seen.trial == 0, NOBODY, fitted.seen.trial))
    whole = fitted.covariance(points, points)
    np.testing.assert_allclose(whole, whole.T)
    assert np.linalg.eigvalsh(whole).min() > -1e-9
    like, level, lone = fitted.terms(points.t, points.t)
    np.testing.assert_allclose(np.diag(whole), like + level + (points.trial != NOBODY) * lone)
    at = fitted.seen.t == 0.4
    some = Points(*(part[at] for part in fitted.seen))
    same = some.trial[:, None] == fitted.seen.trial
    across = fitted.to_seen(0.4, fitted.likeness(some.x, fitted.seen.x), same)
    np.testing.assert_allclose(across, fitted.covariance(some, fitted.seen))


def test_what_is_believed_changes_no_mean_and_leaves_less_to_learn() -> None:
    fitted = model()
    place = Points(fitted.seen.x[:1], np.ones(1), np.full(1, NOBODY))
    believing = fitted.believing(Points(fitted.seen.x[:1], np.ones(1), np.zeros(1, dtype=int)))
    (mean,), (deviation,) = fitted.predict(place)
    (after,), (left,) = believing.predict(place)
    assert after == pytest.approx(mean) and left < deviation


@pytest.mark.parametrize(("epochs", "expected"), [(1, [1]), (3, [1, 2, 3]), (18, [2, 3, 4, 5, 7, 9, 13, 18])])
def test_pauses_lie_ever_further_apart(epochs: int, expected: list[int]) -> None:
    assert pauses(epochs)[-len(expected) :] == expected
    assert pauses(epochs)[0] <= max(1, math.ceil(epochs / 10))


def told(search: FreezeThaw, step: Step) -> None:
    """What a training with a rising curve tells."""
    worth = step.settings["x"] + 0.1 * (step.settings["act"] == "b")
    curve = {epoch: worth * (1 - math.exp(-epoch / 5)) for epoch in range(1, step.epochs + 1)}
    if step.epochs < LENGTH.curve:
        search.on_trial_paused(step.trial_id, curve)
    else:
        search.on_trial_complete(step.trial_id, {METRIC: curve[step.epochs]})


def test_a_restored_search_goes_on_as_the_saved_one() -> None:
    whole, cut = (make_searcher("curves", SPACE, 1, None, [{"x": 0.5}], LENGTH) for _ in range(2))
    number, reached = 0, {}
    for turn in range(30):
        if turn in (3, 17, 18):
            state = json.loads(json.dumps(cut.save_state()))
            cut = make_searcher("curves", SPACE, 7, None, [], LENGTH)
            cut.restore_state(state)
        step = whole.suggest(str(number))
        assert isinstance(step, Step) and cut.suggest(str(number)) == step == whole.suggest(str(step.trial_id))
        number += step.trial_id == str(number)
        assert step.epochs > reached.get(step.trial_id, 0)
        reached[step.trial_id] = step.epochs
        told(whole, step)
        told(cut, step)
    assert whole.estimates() == cut.estimates() and len(reached) < 30  # some were taken up again
    other = make_searcher("curves", SPACE, 1, None, [], Length(0, 9))
    with pytest.raises(ValueError, match="18"):
        other.restore_state(state)


def test_the_first_is_what_was_asked_for_and_none_is_tried_twice() -> None:
    search = make_searcher("curves", {"n": Integer(1, 3)}, 0, None, [{"n": 2}], LENGTH)
    begun = []
    for _ in range(100):
        step = search.suggest(str(len(begun)))
        if step == search.FINISHED:
            break
        if step.trial_id == str(len(begun)):
            begun.append(step.settings["n"])
        if step.epochs < LENGTH.curve:
            search.on_trial_paused(step.trial_id, {step.epochs: float(step.settings["n"])})
        else:
            search.on_trial_complete(step.trial_id, None, error=step.settings["n"] == 1)
    assert begun[0] == 2 and sorted(begun) == [1, 2, 3] and search.reason == "every configuration was tried"


def test_steps_under_way_are_not_taken_twice() -> None:
    search = make_searcher("curves", SPACE, 0, None, [], LENGTH)
    under_way: dict[str, Step] = {}
    number = 0
    for turn in range(24):
        while len(under_way) < 3:
            step = search.suggest(str(number))
            assert step.trial_id not in under_way
            under_way[step.trial_id] = step
            number += step.trial_id == str(number)
        told(search, under_way.pop(list(under_way)[turn % 3]))
    assert number < 24


def test_a_simulated_study_spends_its_epochs_and_finds_what_is_good() -> None:
    problem = Curves("alike", 1)
    search = make_searcher("curves", problem.space, 1, 5, [], length_of(problem))
    trials, (early, truth) = simulate_steps(problem, search, trials=5, seed=1, looks=[18, math.inf], workers=2)
    assert 90 <= sum(trial.epochs for trial in trials) <= 90 + 2 * 18
    assert len(trials) > 8 and early < truth and truth > problem.best() - 0.05
    assert {trial.status for trial in trials} <= {"paused", "done"}
    values = course(trials).values
    assert all(value == trial.curve[18] for value, trial in zip(values, trials, strict=True) if trial.status == "done")
    assert all(math.isnan(value) == (trial.status == "paused") for value, trial in zip(values, trials, strict=True))
    assert any(trial.truth == truth and trial.status == "done" for trial in trials), "what it chooses is trained whole"
    with pytest.raises(UsageError, match="asha"):
        simulate_steps(problem, search, trials=5, asha=True)


def test_a_grid_s_best_and_what_a_search_would_have_chosen() -> None:
    problem = Curves("unlike", 2)
    goal = grid_best(problem, 27, 0)
    assert goal.epochs == 27 * 18 and goal.truth <= problem.best() and 0.003 < goal.noise < 0.008
    assert all(math.isnan(value) for value in looked([], [10]))
