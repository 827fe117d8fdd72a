"""Grid and random search over typed ranges."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, qmc

from bo_distill.methods.errors import UsageError
from bo_distill.methods.space import Choice, Domain, Integer, Numbers, Real, Searched, checked
from bo_distill.search.searchers.cube import Cube, axes_of
from bo_distill.search.searchers.grid import axis, grid
from bo_distill.search.searchers.random import random_point
from bo_distill.search.searchers.registry import make_searcher

FSP = {"transfer.lr": Real(1e-3, 0.3, True), "transfer.weight": Real(1e-2, 10.0, True)}

reals = st.builds(
    lambda low, ratio, log: Real(low, low * ratio, log), st.floats(1e-6, 1), st.floats(2, 1e6), st.booleans()
)
integers = st.builds(
    lambda low, more, log: Integer(low, low + more, log), st.integers(1, 50), st.integers(1, 200), st.booleans()
)
choices = st.builds(lambda n: Choice(tuple(range(n))), st.integers(1, 6))
domains = st.one_of(reals, integers, choices)


@given(domains, st.floats(0, 1))
def test_every_coordinate_is_a_value_of_the_domain_and_values_come_back(domain: Searched, unit: float) -> None:
    value = domain.check(domain.from_unit(unit))
    assert domain.from_unit(domain.to_unit(value)) == value
    assert domain.to_unit(value) == pytest.approx(float(domain.middle(domain.cell(unit))), abs=1e-9)
    assert domain.check(domain.from_unit(unit, digits=3)) is not None


KINDS: dict[str, Searched] = {
    "real": Real(-2.0, 3.0),
    "log real": Real(1e-4, 0.3, True),
    "integer": Integer(-1, 6),
    "log integer": Integer(1, 30, True),
    "words": Choice(("sgd", "adam", True)),
    "numbers": Choice((128, 16, 64, 0.5)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_random_search_and_the_bayesian_start_draw_from_one_distribution(kind: str) -> None:
    """Chi-square over cells of equal probability (real) or over the values (discrete), each against the other."""
    space = {"p": KINDS[kind]}
    cube = Cube(axes_of(space))
    sobol = qmc.Sobol(1, rng=np.random.default_rng(1)).random(2**12)
    bayesian = [cube.decode(point)["p"] for point in sobol]
    random = [random_point(space, 0, number)["p"] for number in range(4000)]

    def counts(values: list[Any]) -> list[int]:
        cells = 20 if kind.endswith("real") else int(KINDS[kind].levels)
        places = [KINDS[kind].to_unit(value) for value in values]
        middles = [(cell + 0.5) / cells for cell in range(cells)]
        if not kind.endswith("real"):
            middles = [float(KINDS[kind].middle(cell)) for cell in range(cells)]
        nearest = np.abs(np.subtract.outer(places, middles)).argmin(axis=1)
        return np.bincount(nearest, minlength=cells).tolist()

    table = np.array([counts(bayesian), counts(random)])
    assert (table > 0).all()
    assert chi2_contingency(table).pvalue > 0.01


def test_whole_numbers_on_a_log_scale_are_drawn_as_tune_draws_them() -> None:
    count = Integer(1, 30, True)
    drawn = [random_point({"p": count}, 0, number)["p"] for number in range(4000)]
    tune = np.floor(np.exp(np.random.default_rng(0).uniform(0, math.log(31), 4000)))
    assert np.mean(np.array(drawn) == 1) == pytest.approx(math.log(2) / math.log(31), abs=0.02)
    table = [[np.sum(np.array(values) == k) for k in range(1, 31)] for values in (drawn, tune)]
    assert chi2_contingency(np.array(table)).pvalue > 0.01


def test_a_grid_of_whole_numbers_is_even_between_the_numbers_at_its_ends() -> None:
    assert axis(Integer(1, 30, True), 6) == [1, 2, 4, 8, 16, 30]
    assert axis(Integer(1, 9), 5) == [1, 3, 5, 7, 9]
    assert axis(Choice((128, 16)), 2) == [128, 16]


@given(st.one_of(reals, integers), st.integers(2, 9))
def test_an_axis_spans_the_range_in_even_steps_of_its_scale(domain: Real | Integer, points: int) -> None:
    values = axis(domain, points)
    assert values == sorted(set(values)) and len(values) <= points
    if isinstance(domain, Real):
        assert values[0] == pytest.approx(domain.low) and values[-1] == pytest.approx(domain.high)
        scale = math.log if domain.log else float
        steps = [scale(b) - scale(a) for a, b in itertools.pairwise(values)]
        assert max(steps) == pytest.approx(min(steps), rel=1e-3, abs=1e-9)
    else:
        assert values[0] == domain.low and values[-1] == domain.high


@given(st.integers(4, 200))
def test_a_grid_never_exceeds_its_budget_and_could_not_take_another_point(trials: int) -> None:
    points = grid(FSP, trials)
    assert len(points) <= trials and len({tuple(p.values()) for p in points}) == len(points)
    sides = [len({p[name] for p in points}) for name in FSP]
    assert math.prod(sides) == len(points)
    assert all(len(points) // side * (side + 1) > trials for side in sides)


def test_the_natural_grid_has_a_point_a_decade_in_a_declared_order() -> None:
    points = grid(FSP, None)
    assert len(points) == 3 * 4 or len(points) == 4 * 4
    assert points[0] == {"transfer.lr": 1e-3, "transfer.weight": 0.01}
    assert points[1]["transfer.lr"] == 1e-3 and points[1]["transfer.weight"] == pytest.approx(0.1)
    assert points[-1] == {"transfer.lr": 0.3, "transfer.weight": 10.0}
    narrow = {"rate": Real(0.01, 0.02, True), "width": Integer(100, 120, True)}
    assert [[*point.values()] for point in grid(narrow, None)] == [[0.01, 100], [0.01, 120], [0.02, 100], [0.02, 120]]


def test_a_budget_too_small_for_two_points_each_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 4"):
        grid(FSP, 3)


def test_random_points_follow_from_their_number() -> None:
    assert random_point(FSP, 0, 5) == random_point(FSP, 0, 5) != random_point(FSP, 1, 5)
    rates = sorted(random_point(FSP, 0, n)["transfer.lr"] for n in range(2000))
    assert rates[1000] == pytest.approx(math.sqrt(1e-3 * 0.3), rel=0.15), "half of them below the geometric middle"


@pytest.mark.parametrize("name", ["grid", "random", "bo"])
def test_a_restored_searcher_goes_on_as_if_nothing_had_happened(name: str) -> None:
    whole, cut = make_searcher(name, FSP, 3, 9), make_searcher(name, FSP, 3, 9)
    seen = []
    for number in range(6):
        if number == 3:
            state, cut = cut.save_state(), make_searcher(name, FSP, 3, 9)
            cut.restore_state(state)
        a, b = whole.suggest(str(number)), cut.suggest(str(number))
        assert a == b
        seen.append(a)
        for searcher in (whole, cut):
            searcher.on_trial_complete(str(number), {"val_accuracy": 0.5 + 0.01 * number})
    assert len({tuple(point.values()) for point in seen}) == 6


@pytest.mark.parametrize(
    ("domain", "text", "value"),
    [
        (Real(0, 1), "0.5", 0.5),
        (Real(1e-5, 1, True), "1e-3", 1e-3),
        (Integer(1, 9), "9", 9),
        (Choice(("a", "b")), "B", "b"),
        (Choice((True, False)), "true", True),
        (Numbers(0, 10), "1,2.5", (1.0, 2.5)),
    ],
)
def test_words_become_values(domain: Domain, text: str, value: object) -> None:
    assert checked("field", domain, text) == value


@pytest.mark.parametrize(
    ("domain", "value"),
    [
        (Real(0, 1), 1.5), (Real(0, 1), float("nan")), (Real(0, 1), True), (Real(0, 1), "much"), (Integer(1, 9), 2.0),
        (Integer(1, 9), 0), (Choice(("a",)), "c"), (Choice((True, False)), 1), (Numbers(0, 1), "2"),
        (Numbers(0, 1), 0.5),
    ],
)  # fmt: skip
def test_what_is_no_value_is_refused_by_name(domain: Domain, value: object) -> None:
    with pytest.raises(UsageError, match=r"stage\.field"):
        checked("stage.field", domain, value)
