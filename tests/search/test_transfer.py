"""What other searches found, as a prior: its weights, and studies that begin with it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ray import tune
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.methods.space import Real, Searched
from bo_distill.search.bayes import BayesSearch
from bo_distill.search.command.asking import asked_for
from bo_distill.search.command.config import command
from bo_distill.search.run import main, parser
from bo_distill.search.searchers.base import METRIC
from bo_distill.search.searchers.bayesian import Proposer, make
from bo_distill.search.searchers.process import fenced, fit
from bo_distill.search.searchers.transfer import Ensemble, misranked, weights, without_itself
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Outcome, Trial
from helpers.carrying import carried
from helpers.running import TRIVIAL
from helpers.trivial import accuracy

Array = NDArray[np.floating[Any]]
PLANE: dict[str, Searched] = {"x": Real(0, 1), "y": Real(0, 1)}


def hill(points: Array) -> Array:
    return np.asarray(-((points[:, 0] - 0.3) ** 2) - (points[:, 1] - 0.7) ** 2)


def process(points: Array, values: Array) -> GaussianProcessRegressor:
    gp = GaussianProcessRegressor(ConstantKernel() * Matern([0.5, 0.5], nu=2.5) + WhiteKernel(1e-4), optimizer=None)
    fit(gp, lambda seen: seen, points, (values - values.mean()) / values.std(), 0.0)
    return gp


def test_pairs_that_are_the_other_way_round_are_counted() -> None:
    rng = np.random.default_rng(0)
    targets, values = rng.standard_normal(7), rng.standard_normal((7, 3))
    for beside in (values, targets[:, None]):
        wrong = [0, 0, 0]
        for j in range(7):
            for k in range(7):
                for draw in range(3):
                    other = beside[k, min(draw, beside.shape[1] - 1)]
                    wrong[draw] += j != k and (values[j, draw] < other) != (targets[j] < targets[k])
        assert misranked(values, beside, targets).tolist() == wrong


def test_a_process_without_an_observation_is_one_that_was_not_told() -> None:
    rng = np.random.default_rng(1)
    points = rng.random((9, 2))
    gp = process(points, hill(points) + 0.01 * rng.standard_normal(9))
    mean, deviation = without_itself(gp)
    for left in range(9):
        kept = np.arange(9) != left
        less = GaussianProcessRegressor(gp.kernel, alpha=gp.alpha[kept], optimizer=None)
        less.fit(points[kept], gp.y_train_[kept])
        expected = less.predict(points[left : left + 1], return_std=True)
        assert (mean[left], deviation[left]) == pytest.approx((expected[0][0], expected[1][0]), rel=1e-6)


def test_a_search_alike_is_heeded_and_one_that_misleads_is_forgotten() -> None:
    rng = np.random.default_rng(2)
    points, theirs = rng.random((10, 2)), rng.random((20, 2))
    own, alike, reversed_ = process(points, hill(points)), process(theirs, hill(theirs)), process(theirs, -hill(theirs))
    found = weights(own, [alike, reversed_], np.random.RandomState(0))
    assert found.sum() == pytest.approx(1) and found[2] == 0 and found[1] > 0.2
    nothing = process(points[:1].repeat(2, axis=0), np.array([0.0, 1e-9]))
    assert (weights(nothing, [alike, reversed_], np.random.RandomState(0)) > 0.1).all(), "one point ranks nothing"


def test_an_ensemble_adds_predictions_with_their_weights() -> None:
    rng = np.random.default_rng(3)
    points, where = rng.random((6, 2)), rng.random((4, 2))
    one, two = process(points, hill(points)), process(points, points[:, 0])
    mean, deviation = Ensemble([one, two], np.array([0.25, 0.75])).predict(where, return_std=True)
    assert mean == pytest.approx(0.25 * one.predict(where) + 0.75 * two.predict(where))
    apart = [gp.predict(where, return_std=True)[1] for gp in (one, two)]
    assert deviation**2 == pytest.approx((0.25 * apart[0]) ** 2 + (0.75 * apart[1]) ** 2)


def test_nothing_is_left_to_learn_where_trials_are_under_way() -> None:
    """Of another search's process too, which predicts there as before."""
    rng = np.random.default_rng(4)
    points, pending, elsewhere = rng.random((6, 2)), rng.random((3, 2)), rng.random((50, 2))
    model = Ensemble([process(points, hill(points)), process(points, points[:, 0])], np.array([0.5, 0.5]))
    believing = model.believing(pending)
    assert (believing.predict(pending, return_std=True)[1] < 0.3 * model.predict(pending, return_std=True)[1]).all()
    assert believing.predict(elsewhere) == pytest.approx(model.predict(elsewhere), abs=0.02)


def test_one_divergence_drowns_no_difference() -> None:
    assert fenced([0.5, None, 0.7, -1e9, 0.6, 0.65]).tolist() == pytest.approx([0.5, 0.05, 0.7, 0.05, 0.6, 0.65])
    assert fenced([0.5, None, 0.7]).tolist() == [0.5, 0.5, 0.7]


def value(settings: dict[str, float]) -> float:
    return float(hill(np.array([[settings["x"], settings["y"]]]))[0])


def warm(others: list[Callable[[dict[str, float]], float]], seed: int = 0) -> Proposer:
    searcher = make("bo", PLANE, seed, None, [{"x": 0.9, "y": 0.1}])
    rng = np.random.default_rng(seed)
    for other in others:
        found = [dict(zip(PLANE, point, strict=True)) for point in rng.random((20, 2)).tolist()]
        searcher.learn_from([(settings, other(settings)) for settings in found])
    return searcher


def go_on(searcher: Proposer, trials: range) -> list[float]:
    found = []
    for number in trials:
        settings = searcher.suggest(str(number))
        found.append(value(settings))
        searcher.on_trial_complete(str(number), {METRIC: found[-1]})
    return found


def test_a_search_on_other_data_leads_to_the_best_at_once() -> None:
    """At another level and of another height: only ranks count."""
    assert max(go_on(warm([lambda at: 50 + 7 * value(at)]), range(3))) > -0.01
    assert max(go_on(warm([]), range(3))) < -0.01
    misled = go_on(warm([lambda at: -value(at)]), range(12))
    assert max(misled) > -0.01, "what is wrong is forgotten"


def test_another_search_s_divergence_and_failures_do_no_harm() -> None:
    searcher = make("bo", PLANE, 0, None, [{"x": 0.9, "y": 0.1}])
    found = [dict(zip(PLANE, point, strict=True)) for point in np.random.default_rng(0).random((20, 2)).tolist()]
    found.sort(key=value)
    searcher.learn_from([(at, -1e6 if n == 0 else None if n == 1 else value(at)) for n, at in enumerate(found)])
    assert max(go_on(searcher, range(3))) > -0.01
    for few in ([], [(found[0], 1.0)], [(found[0], 1.0), (found[1], float("nan"))]):
        with pytest.raises(ValueError, match="give at least two that have a value"):
            searcher.learn_from(few)


def test_what_is_small_is_good_where_tune_says_so_later() -> None:
    searcher = BayesSearch(space={"x": tune.uniform(0, 1), "y": tune.uniform(0, 1)}, points_to_evaluate=[{"x": 1.0}])
    found = [dict(zip(PLANE, point, strict=True)) for point in np.random.default_rng(0).random((20, 2)).tolist()]
    searcher.learn_from([(at, -value(at)) for at in found])
    searcher.set_search_properties("regret", "min", {})
    best = math.inf
    for number in range(3):
        settings = searcher.suggest(str(number))
        best = min(best, -value(settings))
        searcher.on_trial_complete(str(number), {"regret": -value(settings)})
    assert best < 0.01


def test_a_restored_search_has_not_forgotten_the_others() -> None:
    left, taken = warm([value, lambda at: -value(at)]), make("bo", PLANE, 0, None, [])
    go_on(left, range(4))
    taken.restore_state(left.save_state())
    assert go_on(taken, range(4, 7)) == go_on(left, range(4, 7))


def carry_on(study: Study) -> Study:
    def outcome(trial: Trial) -> Outcome:
        found = accuracy({"only.x": 0.5, "only.y": 0.5, **trial.job.settings})
        test = {"accuracy": found} if trial.job.phase == "final" else {}
        return Outcome(val={"accuracy": found}, test=test, started=time.time(), seconds=1.0)

    study.save_plan()
    carried(study, outcome)
    return Study.open(study.storage, study.plan.task.study)


def ask(storage: Storage, *words: str) -> Study:
    args = parser().parse_args([TRIVIAL, "--data=digits", *words, f"--storage={storage.uri}"])
    return asked_for(args, storage)


def test_a_study_begins_with_what_others_found(storage: Storage) -> None:
    first = carry_on(ask(storage, "--random", "--trials=8", "--seeds=0"))
    second = carry_on(ask(storage, "--random", "--trials=12", "--seeds=0", "--seed=1"))
    names = [study.plan.task.study for study in (first, second)]
    study = ask(storage, f"--warm={','.join(names)}", "--trials=6", "--seeds=1", "--range=only.x=0.1:0.6")
    assert study.plan.warm == tuple(names) and f"--warm {','.join(names)}" in command(study.plan)
    study = carry_on(study)
    tried = [{name: trial.job.settings[name] for name in study.space} for trial in study.of_phase("search")]
    assert study.searcher_state
    for number, other in enumerate((first, second)):
        inside = [trial for trial in other.trials if 0.1 <= trial.job.settings["only.x"] <= 0.6]
        assert 2 <= len(study.searcher_state["learned"][number][0]) == len(inside) < len(other.trials)
    best = max(
        (trial for trial in first.trials if 0.1 <= trial.job.settings["only.x"] <= 0.6),
        key=lambda t: t.val_accuracy or 0.0,
    )
    assert tried[1] == {name: best.job.settings[name] for name in study.space}, "after the defaults"
    assert f"learned from {', '.join(names)}" in study.test_notes()[0].what
    assert [trial.job.seed for trial in study.of_phase("final")] == [2], "1 is the seed of trials that it learned from"


def test_every_study_that_can_be_learned_from_the_newest_first(storage: Storage) -> None:
    with pytest.raises(UsageError, match=r"--warm all: no study of .* to learn from"):
        ask(storage, "--warm=all")
    first, second = (carry_on(ask(storage, "--random", "--trials=4", "--seeds=0", f"--seed={n}")) for n in (0, 1))
    carry_on(ask(storage, "--random", "--trials=1", "--seeds=0"))  # which is too few
    assert ask(storage, "--warm=all").plan.warm == (second.plan.task.study, first.plan.task.study)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--warm=absent",), "study absent: none of this name"),
        (("--warm={}", "--range=only.x=0.9999:1"), "0 of its trials ended well in these ranges"),
        (("--warm={}", "--metric=val_loss"), "was no search by val_loss"),
        (("--warm={0},{0}",), "name each study once"),
        (("--warm={}", "--random"), "--warm: not with --random, which learns from no other study"),
        (("--warm={}", "--curves"), "--warm: not with --searcher curves"),
        (("--warm={}", "--metric=val_accuracy,macs"), "--warm: learns of one metric"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    storage: Storage, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = carry_on(ask(storage, "--random", "--trials=4", "--seeds=0"))
    given = [word.format(study.plan.task.study) for word in words]
    assert main([TRIVIAL, "--data=digits", *given, f"--storage={storage.uri}"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_study_of_another_method_is_refused(storage: Storage) -> None:
    study = carry_on(ask(storage, "--random", "--trials=4", "--seeds=0"))
    task = dataclasses.replace(study.plan.task, method="fsp", study="other")
    Study(storage, dataclasses.replace(study.plan, task=task)).save_plan()
    with pytest.raises(UsageError, match=r"--warm other: a study of fsp; give one of tests\.helpers\.trivial"):
        carry_on(ask(storage, "--warm=other"))


def test_going_on_keeps_what_was_learned_from(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    other = carry_on(ask(storage, "--random", "--trials=4", "--seeds=0")).plan.task.study
    study = carry_on(ask(storage, f"--warm={other}", "--trials=4", "--seeds=0"))
    words = [f"--resume={study.plan.task.study}", "--trials=+2", f"--storage={storage.uri}"]
    longer = carry_on(asked_for(parser().parse_args(words), storage))
    assert longer.plan.warm == (other,) and longer.searcher_state and len(longer.searcher_state["learned"]) == 1
    with pytest.raises(UsageError, match=r"--warm"):
        asked_for(parser().parse_args([*words, "--warm=absent"]), storage)
    storage.delete_folder(f"studies/{other}")
    words = [f"--extend={study.plan.task.study}", "--trials=+2", "--seeds=0", f"--storage={storage.uri}"]
    extended = carry_on(asked_for(parser().parse_args(words), storage))
    assert f"goes on without what {other} found, which is gone" in capsys.readouterr().err
    assert extended.plan.warm == () and len(extended.trials) == 8
