"""The Bayesian searcher: its coordinates, its contract with Tune, its state and the quality of what it proposes."""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import tune
from ray.tune.search import Searcher

from bo_distill.search.bayes import BayesSearch, _TuneCube
from bo_distill.search.searchers.process import Matern52

ROOT = Path(__file__).resolve().parents[2]
PLANE = {"x": tune.uniform(0, 1), "y": tune.uniform(0, 1)}


def searcher(space: dict[str, Any], mode: str = "max", **options: Any) -> BayesSearch:
    return BayesSearch("score", mode, space=space, **options)


def play(search: BayesSearch, score: Any, trials: int, start: int = 0) -> list[dict[str, Any]]:
    """Sequential trials; a score of None is a failure."""
    configs = []
    for number in range(start, start + trials):
        config = search.suggest(str(number))
        if config == BayesSearch.FINISHED:
            assert search.reason
            break
        assert isinstance(config, dict)
        value = score(config)
        search.on_trial_complete(str(number), None if value is None else {"score": value}, error=value is None)
        configs.append(config)
    return configs


def hill(config: dict[str, Any]) -> float:
    return -((config["x"] - 0.3) ** 2) - (config["y"] - 0.7) ** 2


DOMAINS = {
    "uniform": (tune.uniform(-3, 2), lambda v: isinstance(v, float) and -3 <= v <= 2),
    "loguniform": (tune.loguniform(1e-5, 0.1), lambda v: isinstance(v, float) and 1e-5 <= v <= 0.1),
    "quniform": (tune.quniform(0, 1, 0.1), lambda v: v in [round(0.1 * k, 1) for k in range(11)]),
    "qloguniform": (tune.qloguniform(0.5, 8, 0.5), lambda v: v in [k / 2 for k in range(1, 17)]),
    "randint": (tune.randint(-2, 4), lambda v: type(v) is int and -2 <= v < 4),
    "qrandint": (tune.qrandint(8, 64, 8), lambda v: type(v) is int and v in range(8, 65, 8)),
    "lograndint": (tune.lograndint(1, 1000), lambda v: type(v) is int and 1 <= v < 1000),
    "qlograndint": (tune.qlograndint(10, 90, 10), lambda v: type(v) is int and v in range(10, 91, 10)),
    "words": (tune.choice(["sgd", "adam", None, True, 1]), lambda v: v in ["sgd", "adam", None, True, 1]),
    "numbers": (tune.choice([128, 16, 0.5]), lambda v: v in [128, 16, 0.5]),
    "single": (tune.choice([["a"]]), lambda v: v == ["a"]),
}


@pytest.mark.parametrize("kind", DOMAINS)
def test_domain(kind: str) -> None:
    domain, valid = DOMAINS[kind]
    configs = play(searcher({"p": domain, "x": tune.uniform(0, 1)}), lambda c: c["x"], 14)
    assert all(valid(config["p"]) for config in configs)
    if kind != "single":
        assert len({repr(config["p"]) for config in configs}) > 1


def test_every_value_of_a_discrete_domain_is_reached_and_comes_back() -> None:
    sizes = {"quniform": 11, "qloguniform": 16, "randint": 6, "qrandint": 8, "lograndint": 999, "words": 5}
    for kind, size in sizes.items():
        cube = _TuneCube({"p": DOMAINS[kind][0]})
        values = [cube.decode(point)["p"] for point in cube.draw(np.random.RandomState(0), set())]
        assert len(values) == size == len({repr(value) for value in values})
        back = [cube.decode(np.array(cube.encode({"p": value})))["p"] for value in values]
        assert list(map(repr, back)) == list(map(repr, values))


@given(st.tuples(*[st.floats(0, 1)] * 5))
@settings(max_examples=200, deadline=None)
def test_coordinates_round_trip(units: tuple[float, ...]) -> None:
    cube = _TuneCube(
        {
            "a": tune.uniform(-5, 10),
            "b": tune.loguniform(1e-6, 1),
            "c": tune.lograndint(1, 300),
            "d": tune.quniform(-1, 1, 0.05),
            "e": tune.choice("uvw"),
        }
    )
    point = np.array([units])
    config = cube.decode(point[0])
    row = np.array(cube.encode(config))
    snapped = cube.unseen(point, set())
    assert np.allclose(snapped[0], row, atol=1e-9)
    assert np.allclose(cube.unseen(snapped, set()), snapped)
    assert cube.decode(row) == config


@given(st.floats(1e-5, 1))
@settings(max_examples=200, deadline=None)
def test_a_value_of_twelve_digits_comes_back_as_it_was_given(value: float) -> None:
    value = max(float(f"{value:.12g}"), 1e-5)
    for domain in (tune.loguniform(1e-5, 1), tune.uniform(0, 1)):
        assert searcher({"p": domain}, points_to_evaluate=[{"p": value}]).suggest("0") == {"p": value}


def test_the_kernel_sees_one_point_per_value() -> None:
    axes = _TuneCube({"n": tune.randint(0, 4), "c": tune.choice("abc"), "k": tune.choice([1, 4, 2])}).axes
    cell = np.array([[0.26], [0.3], [0.49]])
    assert len(np.unique(axes["n"].kernel_transform(cell))) == 1
    options = axes["c"].kernel_transform(np.array([[0.1], [0.5], [0.9]]))
    gaps = [np.linalg.norm(options[i] - options[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert np.allclose(gaps, 1)  # no order among words
    assert axes["k"].kernel_transform(cell).shape == (3, 1)  # numbers have one
    assert axes["k"].to_float(1) < axes["k"].to_float(2) < axes["k"].to_float(4)


def test_kernel_gradient() -> None:
    points = np.random.default_rng(0).random((6, 4))
    kernel = Matern52(np.array([0.4, 1.3]), columns=(1, 3))
    gradient = kernel(points, eval_gradient=True)[1]
    assert kernel.theta.shape == (2,)
    for i, step in enumerate(np.eye(2) * 1e-6):
        above, below = (kernel.clone_with_theta(kernel.theta + sign * step)(points) for sign in (1, -1))
        assert np.allclose(gradient[:, :, i], (above - below) / 2e-6, atol=1e-7)


def test_nested_space_comes_back_nested() -> None:
    space = {"net": {"depth": tune.randint(1, 9), "act": "relu"}, "lrs": [0.1, tune.loguniform(1e-3, 1)], "epochs": 3}
    for config in play(searcher(space), lambda c: c["net"]["depth"] - c["lrs"][1], 9):
        assert config["net"].keys() == {"depth", "act"} and config["net"]["act"] == "relu" and config["epochs"] == 3
        assert config["net"]["depth"] in range(1, 9) and config["lrs"][0] == 0.1 and 1e-3 <= config["lrs"][1] <= 1
    assert isinstance(space["net"]["depth"], tune.search.sample.Integer)  # ours to read, not to write


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        (tune.randn(0, 1), "randn"),
        (tune.qrandn(0, 1, 0.1), "randn"),
        (tune.sample_from(lambda: 1), "sample_from"),
        (tune.grid_search([1, 2]), "grid_search"),
        (tune.choice([1, tune.uniform(0, 1)]), "choice between search spaces"),
        (tune.search.sample.Domain(), "Domain"),
        (tune.uniform(1, 1), "no range"),
        (tune.randint(3, 3), "no range"),
        (tune.choice([]), "no range"),
    ],
)
def test_domain_refused_by_name(domain: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"^net/width: .*{words}"):
        searcher({"x": tune.uniform(0, 1), "net": {"width": domain}})


def test_space_without_domains_refused() -> None:
    for space in ({}, {"lr": 0.1}):
        with pytest.raises(ValueError, match="empty"):
            searcher(space)
    with pytest.raises(ValueError, match="a/b"):
        searcher({"a/b": tune.uniform(0, 1), "a": {"b": tune.uniform(0, 1)}})


def test_points_to_evaluate_come_first() -> None:
    space = {"net": {"lr": tune.loguniform(1e-4, 1), "depth": tune.randint(1, 9)}, "x": tune.uniform(0, 1), "epochs": 3}
    points = [{"net": {"lr": 0.1, "depth": 4}, "x": 0.7}, {"net": {"depth": 2}, "epochs": 3}, {}]
    first, second, third, *_ = play(searcher(space, points_to_evaluate=points), lambda c: c["x"], 8)
    assert first == {"net": {"lr": 0.1, "depth": 4}, "x": 0.7, "epochs": 3}
    assert second["net"]["depth"] == 2 and 1e-4 <= second["net"]["lr"] <= 1
    assert third not in (first, second)


@pytest.mark.parametrize(
    ("point", "name"),
    [
        ({"x": 2.0}, "x"),
        ({"x": math.nan}, "x"),
        ({"x": "0.5"}, "x"),
        ({"n": 2.5}, "n"),
        ({"n": 4}, "n"),
        ({"n": True}, "n"),
        ({"c": "d"}, "c"),
        ({"flag": 1}, "flag"),
        ({"z": 1}, "z"),
        ({"k": 8}, "k"),
    ],
)
def test_point_outside_the_space_refused(point: dict[str, Any], name: str) -> None:
    choices = {"c": tune.choice("abc"), "flag": tune.choice([True, False])}
    space = {"x": tune.uniform(0, 1), "n": tune.randint(0, 4), **choices, "k": 7}
    with pytest.raises(ValueError, match=f"^{name}: "):
        searcher(space, points_to_evaluate=[point])


def test_min_and_max_mirror_each_other() -> None:
    up, down = searcher(PLANE, "max", seed=3), searcher(PLANE, "min", seed=3)
    assert play(up, hill, 12) == play(down, lambda c: -hill(c), 12)


def test_proposals_repeat_by_seed_also_in_another_process() -> None:
    configs = play(searcher(PLANE, seed=5), hill, 10)
    assert configs != play(searcher(PLANE, seed=6), hill, 10)
    code = """
import json
from ray import tune
from bo_distill.search.bayes import BayesSearch
search = BayesSearch("score", "max", space={"x": tune.uniform(0, 1), "y": tune.uniform(0, 1)}, seed=5)
configs = []
for number in range(10):
    configs.append(search.suggest(str(number)))
    x, y = configs[-1].values()
    search.on_trial_complete(str(number), {"score": -((x - 0.3) ** 2) - (y - 0.7) ** 2})
print(json.dumps(configs))
"""
    there = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(there.stdout.splitlines()[-1]) == configs


def test_a_batch_spreads_and_what_was_believed_of_it_expires() -> None:
    search = searcher(PLANE)
    play(search, hill, 5)
    alone = searcher(PLANE)
    alone.restore_state(search.save_state())
    batch = [search.suggest(f"b{i}") for i in range(4)]
    apart = [math.dist(a.values(), b.values()) for i, a in enumerate(batch) for b in batch[:i]]
    assert min(apart) > 0.01

    lied = search.save_state()
    for i in range(4):
        search.on_trial_complete(f"b{i}")  # without a word: what was believed goes and nothing takes its place
    assert set(lied["pending"]) == {"b0", "b1", "b2", "b3"}  # a state saved stays as it was
    alone.restore_state({**lied, "pending": {}, "silent": list(lied["pending"].values())})
    told = alone.suggest("next")
    assert search.suggest("next") == told
    alone.restore_state(lied)
    assert alone.suggest("next") != told


def test_trials_that_fail_are_the_worst_seen() -> None:
    def cliff(config: dict[str, Any]) -> float | None:
        return None if config["x"] > 0.6 else config["x"] - (config["y"] - 0.5) ** 2

    for lost in (None, math.nan, math.inf, -math.inf, 1e300):
        configs = play(searcher(PLANE), lambda c, lost=lost: lost if cliff(c) is None else cliff(c), 22)
        assert sum(config["x"] <= 0.6 for config in configs[-10:]) >= 6
        assert max(config["x"] for config in configs if config["x"] <= 0.6) > 0.5

    search = searcher(PLANE)
    assert len({c["x"] for c in play(search, lambda c: None, 12)}) == 12  # and if all fail, it goes on looking


def test_a_finite_divergence_does_not_drown_the_rest() -> None:
    def loss(config: dict[str, Any]) -> float:
        return 1e30 if config["x"] > 0.8 else -hill(config)

    assert min(map(loss, play(searcher(PLANE, "min"), loss, 20))) < 0.002


def test_completions_that_say_nothing() -> None:
    search = searcher(PLANE)
    search.on_trial_complete("never proposed", {"score": 1.0})
    search.suggest("a")
    search.on_trial_complete("a", {"other": 1.0})
    search.on_trial_complete("a", {"score": 1.0})  # too late: it was closed
    state = search.save_state()
    assert state["observed"] == [] and state["pending"] == {} and len(state["silent"]) == 1
    search.suggest("b")
    search.on_trial_complete("b", {"score": np.float32(0.5)})
    assert search.save_state()["observed"][0][1] == 0.5


MIXED = {"x": tune.loguniform(1e-3, 1), "n": {"d": tune.randint(1, 7), "c": tune.choice(["a", "b", "c"])}}


def mixed(config: dict[str, Any]) -> float:
    return -((math.log10(config["x"]) + 1) ** 2) - 0.1 * (config["n"]["d"] - 3) ** 2 + (config["n"]["c"] == "b")


def test_a_restored_search_goes_on_as_the_saved_one(tmp_path: Path) -> None:
    for done in (0, 3, 11):  # before, during and after the initial design, with trials pending
        search = searcher(MIXED, seed=2, points_to_evaluate=[{"n": {"c": "b"}}, {"x": 0.1}])
        play(search, mixed, done)
        search.suggest("p"), search.suggest("q")
        search.save(str(tmp_path / "state"))
        assert [path.name for path in tmp_path.iterdir()] == ["state"]
        from_file = searcher(MIXED)
        from_file.restore(str(tmp_path / "state"))
        from_state = BayesSearch("score", "max")  # the space comes later, as from Tune
        from_state.restore_state(json.loads(json.dumps(search.save_state(), allow_nan=False)))
        assert from_state.set_search_properties(None, None, MIXED)
        for other in (search, from_file, from_state):
            other.on_trial_complete("p", {"score": math.nan})
        proposals = [[other.suggest(f"r{i}") for i in range(3)] for other in (search, from_file, from_state)]
        assert proposals[0] == proposals[1] == proposals[2]


def test_state_of_another_space_refused() -> None:
    state = searcher(MIXED).save_state()
    with pytest.raises(ValueError, match="another space"):
        searcher(PLANE).restore_state(state)
    unset = BayesSearch("score", "max")
    unset.restore_state(state)
    with pytest.raises(ValueError, match="another space"):
        unset.set_search_properties(None, None, PLANE)


def test_a_finite_space_is_exhausted_without_repeats() -> None:
    space = {"a": tune.choice(["x", "y", "z"]), "b": tune.randint(0, 3), "c": tune.choice([True, False])}
    search = searcher(space)
    search.add_evaluated_point({"a": "x", "b": 0, "c": True}, 0.0)
    configs = [config for config in play(search, lambda c: c["b"] - (c["a"] == "x"), 15)]
    configs += [search.suggest("p"), search.suggest("q")]  # type: ignore[list-item]
    assert len({tuple(config.values()) for config in configs} | {("x", 0, True)}) == 18
    assert search.suggest("r") == Searcher.FINISHED
    search.on_trial_complete("p", error=True)
    search.on_trial_complete("q")
    assert search.suggest("r") == Searcher.FINISHED

    large = searcher({"a": tune.randint(0, 100), "b": tune.randint(0, 60)})  # more than are drawn at once
    assert len({tuple(config.values()) for config in play(large, lambda c: c["a"] - c["b"], 25)}) == 25


def test_earlier_results_replace_the_initial_design() -> None:
    search = searcher(PLANE, "max")
    grid = [{"x": x, "y": y, "unused": 1} for x in (0.1, 0.5, 0.9) for y in (0.1, 0.5, 0.9)]
    for config in grid:
        search.add_evaluated_point(config, hill(config))
        search.add_evaluated_point(config, hill(config) - 0.01)  # another seed of it
    search.add_evaluated_point({"x": 1.0, "y": 0.0}, math.nan, error=True)
    assert max(map(hill, play(search, hill, 3))) > -0.005
    with pytest.raises(ValueError, match="y: missing"):
        search.add_evaluated_point({"x": 0.5}, 1.0)
    early = BayesSearch("score", "max")
    early.add_evaluated_point({"x": 0.5}, 1.0)
    with pytest.raises(ValueError, match="y: missing"):
        early.set_search_properties(None, None, PLANE)


def test_properties_come_from_tune_or_from_the_constructor() -> None:
    search = BayesSearch()
    with pytest.raises(RuntimeError, match="search space"):
        search.suggest("0")
    assert search.set_search_properties(None, None, PLANE)
    with pytest.raises(RuntimeError, match="metric"):
        search.suggest("0")
    assert not search.set_search_properties("score", "min", {"epochs": 3})  # constants alone: nothing to take
    assert not search.set_search_properties(None, None, MIXED)
    assert search.set_search_properties(None, None, {**PLANE, "epochs": 3})
    assert (search.metric, search.mode) == ("score", "min")
    config = search.suggest("0")
    assert config is not None and config["epochs"] == 3
    for wrong in ("best", ["min"]):
        with pytest.raises(ValueError, match="mode"):
            BayesSearch("score", wrong)  # type: ignore[arg-type]


NESTED = {
    "net": {"depth": tune.qrandint(2, 8, 2), "act": tune.choice(["relu", ["a", 1], None])},
    "lrs": [tune.loguniform(1e-4, 1), tune.quniform(0, 1, 0.1)],
    "n": tune.lograndint(1, 31),
    "epochs": 3,
}


def test_a_blank_searcher_restores_all_that_was_saved(tmp_path: Path) -> None:
    """Metric, mode and space too, and a trial that was under way is still awaited (Ray's SaveRestoreCheckpointTest)."""
    saved = searcher(NESTED, "min", seed=4)
    play(saved, lambda c: c["lrs"][0], 2)
    saved.suggest("not_completed")
    saved.save(str(tmp_path / "state"))
    blank = BayesSearch()
    blank.restore(str(tmp_path / "state"))
    assert (blank.metric, blank.mode) == ("score", "min") and "not_completed" in blank.save_state()["pending"]
    for other in (saved, blank):
        other.on_trial_complete("not_completed", {"score": 0.2})
    assert [blank.suggest(str(n)) for n in range(3, 9)] == [saved.suggest(str(n)) for n in range(3, 9)]
    assert blank.set_search_properties("score", "min", NESTED)
    empty = BayesSearch(points_to_evaluate=[{"x": 0.25}])
    empty.save(str(tmp_path / "empty"))
    blank = BayesSearch("score", "max")
    blank.restore(str(tmp_path / "empty"))
    blank.set_search_properties(None, None, PLANE)
    config = blank.suggest("0")
    assert config and config["x"] == 0.25


def test_one_trial_has_one_configuration() -> None:
    search = searcher(PLANE)
    first = search.suggest("a")
    assert search.suggest("a") == first != search.suggest("b")
    search.on_pause("a"), search.on_unpause("a")
    search.on_trial_complete("a", {"score": 1.0})
    assert len(search.save_state()["observed"]) == 1


def test_rewards_that_are_known_are_not_tried_again() -> None:
    """Ray's AddEvaluatedPointTest and the warm start of its Optuna and HEBO searchers."""
    points = [{"x": 0.2, "y": 0.4}, {"x": 0.9, "y": 0.1}]
    search = BayesSearch("score", "max", points_to_evaluate=points, evaluated_rewards=[0.5, 0.1])
    search.add_evaluated_point({"x": 0.3, "y": 0.3}, 0.7)  # the space comes later
    search.set_search_properties(None, None, PLANE)
    assert sorted(value for _, value in search.save_state()["observed"]) == [0.1, 0.5, 0.7]
    assert search.suggest("0") not in points
    with pytest.raises(ValueError, match="1 values for 2 points_to_evaluate"):
        BayesSearch(points_to_evaluate=points, evaluated_rewards=[0.5])


def test_options_that_equal_nothing_are_told_apart_or_refused_by_name() -> None:
    search = searcher({"p": tune.choice([math.nan, 0.1])}, points_to_evaluate=[{"p": math.nan}])
    first = search.suggest("0")
    assert first and math.isnan(first["p"])
    assert search.suggest("1") == {"p": 0.1} and search.suggest("2") == BayesSearch.FINISHED
    with pytest.raises(ValueError, match=r"^net/w: "):
        searcher({"net": {"w": tune.choice([np.zeros(2), np.ones(2)])}})


def test_without_a_seed_each_search_is_another() -> None:
    assert searcher(PLANE, seed=None).suggest("0") != searcher(PLANE, seed=None).suggest("0")


def steps(value: float) -> float:
    return round(value * 359) / 359  # as accuracy on 359 rows


TRAPS = {
    "the best at an edge": (14, lambda x, y: steps(0.97 - 0.2 * x - 0.1 * y)),
    "flat": (16, lambda x, y: 0.9),
    "a lower best in a corner": (
        24,
        lambda x, y: steps(max(0.919 - 0.3 * math.hypot(x, y), 0.96 - 2 * ((x - 0.7) ** 2 + (y - 0.6) ** 2))),
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_no_configuration_comes_twice_nor_a_hair_away(trap: str) -> None:
    trials, score = TRAPS[trap]
    for seed in (0, 1):
        configs = play(searcher(PLANE, seed=seed), lambda c: score(c["x"], c["y"]), trials)
        points = [tuple(config.values()) for config in configs]
        gaps = [max(abs(a - b) for a, b in zip(p, q, strict=True)) for i, p in enumerate(points) for q in points[:i]]
        assert min(gaps) > 1e-3
        if trap == "the best at an edge":
            assert (0.0, 0.0) in points, "an edge is reached"
        if trap == "a lower best in a corner":
            assert max(score(*point) for point in points) > 0.94


def test_a_search_that_has_nothing_new_to_try_says_so() -> None:
    search = searcher(PLANE, seed=0)
    configs = play(search, lambda c: 0.97 - 0.2 * c["x"] - 0.1 * c["y"], 60)
    assert len(configs) < 40 and search.reason == "nothing new is worth a trial"
    assert {"x": 0.0, "y": 0.0} in configs
    again = searcher(PLANE)
    again.restore_state(json.loads(json.dumps(search.save_state())))
    assert again.suggest("one more") == BayesSearch.FINISHED


def test_so_does_one_with_trials_in_flight_once_they_have_ended() -> None:
    search, flight, asked = searcher(PLANE, seed=0), dict[str, dict[str, Any]](), 0
    while (config := search.suggest(str(asked))) != BayesSearch.FINISHED:
        if config is not None:
            flight[str(asked)] = config
            asked += 1
        if config is None or len(flight) == 3:
            ended = next(iter(flight))
            config = flight.pop(ended)
            search.on_trial_complete(ended, {"score": 0.97 - 0.2 * config["x"] - 0.1 * config["y"]})
        assert asked < 40
    assert not flight and search.reason == "nothing new is worth a trial"


def branin(config: dict[str, Any]) -> float:
    x, y = 15 * config["x"] - 5, 15 * config["y"]
    valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10 - 0.397887


def test_branin_after_25_trials() -> None:
    regrets = [min(map(branin, play(searcher(PLANE, "min", seed=seed), branin, 25))) for seed in range(5)]
    assert statistics.median(regrets) <= 0.05


def test_a_suggestion_at_1000_observations_takes_under_a_second_of_one_core() -> None:
    search = searcher({f"x{i}": tune.uniform(0, 1) for i in range(6)})
    for point in np.random.default_rng(0).random((1000, 6)):
        config = {f"x{i}": value for i, value in enumerate(point)}
        search.add_evaluated_point(config, -float(((point - 0.4) ** 2).sum()))
    search.suggest("warm")
    started = time.process_time()
    search.suggest("timed")
    assert time.process_time() - started < 1


@pytest.fixture
def small_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init("local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("small_ray")
def test_in_a_tuner(tmp_path: Path) -> None:
    search = BayesSearch(points_to_evaluate=[{"net": {"lr": 0.1}}, {"net": {"lr": 0.5}}])

    def train(config: dict[str, Any]) -> None:
        if config["net"]["lr"] == 0.5:
            raise RuntimeError("diverged")
        lr = math.log10(config["net"]["lr"])
        tune.report({"score": math.nan if lr > -0.2 else -((lr + 2) ** 2), "epochs": config["epochs"]})

    results = tune.Tuner(
        train,
        param_space={"net": {"lr": tune.loguniform(1e-4, 1), "depth": tune.randint(1, 6)}, "epochs": 3},
        tune_config=tune.TuneConfig(metric="score", mode="max", num_samples=7, search_alg=search, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(tmp_path), name="run", verbose=0),
    ).fit()
    assert len(results) == 7 and results[0].config["net"]["lr"] == 0.1 and results.num_errors == 1
    state = search.save_state()
    assert len(state["observed"]) == 7 and state["pending"] == {}
    failed = sum(value is None for _, value in state["observed"])
    assert failed == 1 + sum(math.isnan(r.metrics["score"]) for r in results if not r.error)
    kept = BayesSearch("score", "max")
    kept.restore_from_dir(str(tmp_path / "run"))  # what Tune itself wrote
    assert sorted(kept._observed, key=str) == sorted(search._observed, key=str)
