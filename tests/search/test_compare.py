"""The verdict's statistics against slow loops, and a comparison from end to end."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bo_distill.distributed.ray.cluster import Layout
from bo_distill.distributed.storage import Storage
from bo_distill.methods.data import load
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import Method, Recipe, Stage, State
from bo_distill.methods.space import Real, real
from bo_distill.methods.training import Training
from bo_distill.search import compare
from bo_distill.search.compare import main
from bo_distill.search.evidence.statistics import (
    ALPHA,
    Course,
    analyse,
    holm,
    interquartile_mean,
    interval,
    paired_test,
    power,
    repeats_needed,
    smallest_p,
    too_few,
)
from bo_distill.search.execution.comparison import Budget, check_question, course, opened, spend
from bo_distill.search.pages.charts.scores import anytime
from bo_distill.search.searchers.registry import make_searcher
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Outcome, Plan, Task, Trial
from helpers.tiny import tiny_images

ROOT = Path(__file__).resolve().parents[2]


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=6))
@settings(max_examples=30, deadline=None)
def test_the_paired_test_is_the_share_of_sign_flips_as_extreme(differences: list[int]) -> None:
    seen = sum(differences)
    flips = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    one_sided = min(sum(f >= seen for f in flips), sum(f <= seen for f in flips)) / len(flips)
    assert paired_test(np.array(differences, dtype=float)) == pytest.approx(min(1.0, 2 * one_sided))


def test_the_paired_test_takes_many_designs_and_many_pairs() -> None:
    rows = np.random.default_rng(0).normal(0.3, 1, (4, 7))
    assert paired_test(rows) == pytest.approx([float(paired_test(row)) for row in rows])
    assert paired_test(np.arange(1.0, 7.0)) == pytest.approx(smallest_p(6))
    assert paired_test(np.random.default_rng(0).normal(1, 1, 200)) < 1e-6
    assert paired_test(np.zeros(5)) == 1
    rare = np.concatenate([np.zeros(55), np.ones(5)])
    assert paired_test(rare) == pytest.approx(2**-4, rel=0.15), "five that differ show nothing, however many do not"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_what_its_step_down_procedure_rejects(p: list[float]) -> None:
    rejected = set()
    for step, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[index] > ALPHA / (len(p) - step):
            break
        rejected.add(index)
    adjusted = holm(np.array(p))
    near = any(math.isclose(v * k, ALPHA) for v in p for k in range(1, 7))
    assert near or rejected == set(np.flatnonzero(adjusted <= ALPHA))
    assert (adjusted >= np.array(p)).all() and (adjusted <= 1).all()


def test_the_interval_is_of_the_middle_half_and_resamples_each_stratum_by_itself() -> None:
    assert interquartile_mean(np.array([-100.0, 1, 2, 3, 4, 1000, 2, 3])) == pytest.approx(2.5)
    low, high = interval([np.full(8, 1.0), np.full(8, 3.0)])
    assert low == high == pytest.approx(2.0), "as a whole, they would differ from one resample to the next"
    numbers = np.random.default_rng(1).normal(0, 1, 40)
    low, high = interval([numbers])
    assert low < float(interquartile_mean(numbers)) < high and high - low < 1.2


def test_a_course_knows_the_best_so_far_and_where_a_budget_ends() -> None:
    run = Course((math.nan, 0.5, 0.4, 0.7), (1, 2, 3, 4), (10, 10, 10, 10))
    assert np.isnan(run.best[0]) and run.best[1:].tolist() == [0.5, 0.5, 0.7]
    assert run.within(seconds=6).values[1:] == (0.5, 0.4)
    assert len(run.within(macs=25).values) == 2 and run.within() == run
    assert Budget(trials=6).more(run) == 2 and Budget(seconds=21).more(run) == 4 and Budget(macs=40).more(run) == 0
    uncounted = dataclasses.replace(run, macs=(0.0,) * 4)
    with pytest.raises(UsageError, match="--budget-macs: 4 trials took none"):
        Budget(macs=1e9).more(uncounted)


def made_up(shift: float, repeats: int, seed: int) -> list[Course]:
    """Studies whose repeats share what their number brings, as a teacher would."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(99).normal(0, 0.01, repeats)
    values = 0.8 + shift + common[:, None] + rng.normal(0, 0.01, (repeats, 10))
    return [Course(tuple(row), (1.0,) * 10, (1e9,) * 10) for row in values]


def test_a_difference_is_shown_where_there_is_one_and_only_there() -> None:
    found = analyse({"grid": made_up(0, 10, 1), "random": made_up(0, 10, 3), "bo": made_up(0.05, 10, 4)})
    pairs = {(pair["a"], pair["b"]): pair for pair in found["pairs"]}
    assert not pairs["grid", "random"]["shown"]
    assert pairs["grid", "bo"]["shown"] and pairs["grid", "bo"]["high"] < 0
    assert "bo is better than grid by" in found["verdict"]
    assert "no difference shown between grid and random" in found["verdict"] and found["verdict"].count(".") >= 1
    bo, grid = found["searchers"]["bo"], found["searchers"]["grid"]
    assert bo["regret"] == [0.0] * 10 and min(grid["regret"]) > 0
    assert bo["to_reference"]["trials"] == [1] * 10 and bo["to_reference"]["seconds"] == [1.0] * 10
    assert found["searchers"]["random"]["to_reference"]["macs"].count(None) > 0
    assert found == json.loads(json.dumps(found))


def test_direction_and_size_of_a_verdict_are_of_one_estimator() -> None:
    gaps = np.array([-0.002] * 18 + [0.1] * 6)
    runs = {"random": np.full(24, 0.5), "bo": 0.5 + gaps}
    found = analyse({name: [Course((float(v),), (1.0,), (1.0,)) for v in values] for name, values in runs.items()})
    assert "bo is better than random by 2.3 points on average" in found["verdict"]
    assert "interquartile mean -0.2, -0.2 to" in found["verdict"]
    alone = analyse({"bo": made_up(0, 5, 1)})
    assert alone["verdict"].startswith("No verdict")


def test_a_design_that_can_show_nothing_says_so() -> None:
    found = analyse({"grid": made_up(0, 5, 1), "bo": made_up(0.5, 5, 2)})
    assert not found["pairs"][0]["shown"] and found["power"] == 0
    assert found["pairs"][0]["low"] is None is found["pairs"][0]["high"], "95% of a bootstrap of five would be 90%"
    assert analyse({"grid": made_up(0, 6, 1), "bo": made_up(0.5, 6, 2)})["pairs"][0]["high"] < -0.4
    assert "5 repeats cannot show one" in found["verdict"] and "0.062" in found["verdict"]


def test_failed_studies_count_as_the_worst() -> None:
    nothing = [Course((math.nan,), (1.0,), (1.0,))] * 6
    found = analyse({"grid": made_up(0, 6, 1), "bo": nothing})
    assert "grid is better than bo" in found["verdict"]
    assert found["searchers"]["bo"]["to_reference"]["trials"] == [None] * 6


def test_power_grows_with_repeats_and_reaches_its_promise() -> None:
    assert power(5) == 0 < power(10) < power(20)
    for pairs in (1, 3):
        repeats = repeats_needed(pairs)
        assert power(repeats, pairs) >= 0.8 > power(repeats - 7, pairs)
    many = math.comb(8, 2)
    assert power(repeats_needed(many), many, designs=50) > 0.6


def test_the_curves_are_drawn() -> None:
    figure = anytime({"grid": made_up(0, 3, 1), "bo": made_up(0.05, 3, 2)})
    assert len(figure.axes) == 3 and "validation accuracy so far (%)" in figure.axes[0].get_ylabel()
    assert figure.axes[0].get_xlabel() == "trials ended"
    line = figure.axes[0].get_lines()[0]
    assert line.get_xdata()[-1] == 10 and 79 < line.get_ydata()[-1] < 85
    uncounted = {"own": [dataclasses.replace(run, macs=(0.0,) * len(run.macs)) for run in made_up(0, 3, 1)]}
    assert [axes.get_xlabel() for axes in anytime(uncounted).axes] == ["trials ended", "seconds of training"]


@dataclass(frozen=True)
class Base(Training):
    width: float = real(1.0, 0.1, 10.0)


@dataclass(frozen=True)
class Head(Training):
    weight: float = real(1.0, 0.1, 10.0, search=True)


STAGES = (
    Stage("base", Base, lambda worker, config, needs: State({}), macs=lambda configs, info: 100, shared=True),
    Stage("head", Head, lambda worker, config, needs: State({}), macs=lambda configs, info: 7),
)
TWO = Method("two", "none", "image", STAGES, {"quick": Recipe("digits")}, model=None, costs=None)  # type: ignore[arg-type]


def test_what_was_cached_is_charged_all_the_same(storage: Storage) -> None:
    task = Task("cmp-random-0", "two", "quick", DataSpec("digits"), {}, storage.uri, 0)
    plan = Plan(task, "random", ("head.weight",), 3, seeds=0, controls=False)
    study = Study(storage, plan)
    base = [{"stage": "base", "epoch": 1, "seconds": 20.0}]
    head = [{"stage": "head", "epoch": 2, "seconds": 3.0}]
    outcomes = [
        Outcome(history=base + head, seconds=25, started=0, val={"accuracy": 0.5}),
        Outcome(history=base + head, seconds=4, started=25, val={"accuracy": 0.6}, cached=["base"]),
        Outcome(history=head, seconds=1, started=26, status="failed"),
    ]
    for number, outcome in enumerate(outcomes):
        accuracy = outcome.val.get("accuracy")
        study.trials.append(Trial(Job(number, "search", {"head.weight": 1.0}, 0), 0.0, outcome.status, accuracy))
        study.save_outcome(number, outcome)
    study.save_plan()
    study.save()
    study.method, study.info = TWO, tiny_images().info
    run = course(study)
    assert run.seconds == (23.0,) * 3 and run.macs == (107.0,) * 3
    study.save_outcome(2, Outcome(history=[], seconds=40, started=26, status="failed"))
    assert course(study).seconds == (23.0, 23.0, 40.0), "out of memory after 40 seconds"
    assert run.values[0] == 0.5 and math.isnan(run.values[1]) and run.values[2] == 0.6, "in the order of their ends"
    again = opened(storage, Plan(task, "random", ("head.weight",), None, seeds=0, controls=False))
    assert again.trials == study.trials and again.plan.trials == 3


@pytest.mark.parametrize("name", ["random", "grid"])
@pytest.mark.parametrize("budget", [Budget(trials=5), Budget(macs=5.5 * 107), Budget(seconds=23.0 * 6 - 1)])
def test_a_budget_is_spent_and_not_overdrawn(
    name: str, budget: Budget, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []

    def run_study(study: Study, *_: object) -> None:
        """As the driver does, trial by trial, with made-up outcomes."""
        runs.append(study.plan.trials)
        searcher = make_searcher(name, {"head.weight": Real(0.1, 10.0)}, 0, study.plan.trials)
        searcher.restore_state(study.searcher_state or searcher.save_state())
        while len(study.trials) < (study.plan.trials or 0):
            number, point = len(study.trials), searcher.suggest(str(len(study.trials)))
            if not isinstance(point, dict):
                break
            rows = [{"stage": "base", "epoch": 1, "seconds": 20.0}, {"stage": "head", "epoch": 2, "seconds": 3.0}]
            outcome = Outcome(history=rows, started=number, val={"accuracy": point["head.weight"] / 10})
            study.trials.append(Trial(Job(number, "search", point, 0), 0.0, "done", outcome.val["accuracy"]))
            study.save_outcome(number, outcome)
        study.searcher_state = searcher.save_state()
        study.save()

    monkeypatch.setattr("bo_distill.search.execution.tune.run_study", run_study)
    task = Task("cmp", "two", "quick", DataSpec("digits"), {}, storage.uri, 0)
    plan = Plan(task, name, ("head.weight",), None, seeds=0, controls=False)
    place = Layout(1, 1, 0.0, 1)

    def study() -> Study:
        one = opened(storage, plan)
        one.method, one.info = TWO, tiny_images().info
        return one

    first = 5 if name == "grid" or budget.trials < math.inf else 3
    found = spend(study(), budget, first, place, sys.stderr)
    assert found is not None and len(found.values) == 5
    assert runs == ([5] if first == 5 else [3, 5])
    again = spend(study(), budget, first, place, sys.stderr)
    assert again == found and len(runs) == (1 if first == 5 else 2), "what is done is not run again"


def test_a_budget_of_time_ends_where_every_trial_fails(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_study(study: Study, *_: object) -> None:
        while len(study.trials) < (study.plan.trials or 0):
            number = len(study.trials)
            study.trials.append(Trial(Job(number, "search", {"head.weight": 1.0}, 0), 0.0, "failed"))
            study.save_outcome(number, Outcome(status="failed", started=number, seconds=0.001))
        study.save()

    monkeypatch.setattr("bo_distill.search.execution.tune.run_study", run_study)
    task = Task("cmp", "two", "quick", DataSpec("digits"), {}, storage.uri, 0)
    study = opened(storage, Plan(task, "random", ("head.weight",), None, seeds=0, controls=False))
    study.method, study.info = TWO, tiny_images().info
    spend(study, Budget(seconds=3600), 3, Layout(1, 1, 0.0, 1), sys.stderr)
    assert len(study.trials) == 3


def test_a_comparison_asks_one_thing(storage: Storage) -> None:
    check_question(storage, "comparisons/one", {"space": ("a", "b"), "budget": {"trials": 20}})
    storage.write_bytes("comparisons/one/question.json", b'{"space": ["a", "b"], "budget": {"trials": 20}}')
    check_question(storage, "comparisons/one", {"space": ("a", "b"), "budget": {"trials": 20}})
    with pytest.raises(UsageError, match=r"budget is .*20.*, not .*10"):
        check_question(storage, "comparisons/one", {"space": ("a", "b"), "budget": {"trials": 10}})


def test_repeats_that_cannot_show_a_difference_are_said_before_they_are_paid_for() -> None:
    assert too_few(5, 3) and "smallest possible p is 0.19; --repeats 7 can" in str(too_few(5, 3))
    assert too_few(5, 2) and not too_few(6, 2) and not too_few(7, 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fsp", "--searchers=grid,nonsense"], "nonsense"),
        (["fsp", "--searchers=grid,grid"], "grid,grid"),
        (["fsp", "--searchers=random"], "nothing to compare it with; name at least two"),
        (["fsp", "--searchers="], "--searchers"),
        (["fsp", "--budget=0"], "--budget 0"),
        (["fsp", "--budget-seconds=-1"], "--budget-seconds -1"),
        (["fsp", "--budget=3", "--budget-macs=1e9"], "--budget"),
        (["fsp", "--searchers=grid", "--budget-macs=1e9"], "grid alone"),
        (["fsp", "--budget=3"], "error: 3 trials: a grid over transfer.lr, transfer.weight takes at least 4"),
        (["fsp", "--repeats=1"], "--repeats 1"),
        (["fsp", "--bo"], "--bo"),
        (["fsp", "--trials=4"], "--trials"),
        (["fsp", "--resume=x"], "--resume"),
        (["nonsense"], "nonsense"),
        ([], "METHOD"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    words: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, f"--storage={tmp_path / 'results'}"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ")
    assert said in err or said == "METHOD"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_comparison_from_end_to_end(tmp_path: Path) -> None:
    small = [
        f"--set={stage}.{name}={value}"
        for stage in ("teacher", "transfer", "finetune")
        for name, value in {"epochs": 1, "batch_size": 256}.items()
    ]
    words = [sys.executable, "-m", "search.compare", "fsp", "--searchers=random,grid", "--budget=4", "--repeats=2"]
    words += [*small, "--set=transfer.depth=8", "--json", f"--storage={tmp_path}"]

    def run() -> dict[str, object]:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        few, *lines = done.stderr.splitlines()
        assert few.startswith("2 repeats of 2 searchers cannot show a difference")
        assert all(line.endswith(" trials; 2 at a time") or line.startswith("trial ") for line in lines)
        return dict(json.loads(done.stdout))

    found = run()
    storage = Storage(tmp_path)
    info = load(DataSpec("digits")).info
    assert found["data"] == {
        "name": "digits",
        "fingerprint": info.fingerprint,
        "account": json.loads(json.dumps(dataclasses.asdict(info.account))),
    }
    assert found["verdict"] and found["searchers"]["grid"]["trials"] == [4, 4]  # type: ignore[index]
    names = [name for studies in found["studies"].values() for name in studies]  # type: ignore[attr-defined]
    studies = [Study.open(storage, name) for name in names]
    assert all(study.plan.fingerprint == info.fingerprint and study.account == info.account for study in studies)
    assert [study.plan.task.seed for study in studies] == [0, 1, 0, 1]
    assert all(len(study.trials) == 4 and study.complete for study in studies), "and no winner is run on test"
    assert all(not study.outcome(t.job.number).test for study in studies for t in study.trials)
    teachers = [name for name in storage.list("stages") if "fsp.teacher" in name]
    assert len(teachers) == 2, "one for each seed, whoever searches"
    charged = [run["macs"] for runs in found["curves"].values() for run in runs]  # type: ignore[attr-defined]
    assert charged == [charged[0]] * 4
    assert {f"comparisons/{found['comparison']}/{name}" for name in ("compare.json", "report.html", "ray.log")} <= set(
        storage.list("comparisons")
    )
    again = run()
    assert {k: v for k, v in again.items() if k != "dirty"} == {k: v for k, v in found.items() if k != "dirty"}


def test_a_page_that_fails_hides_no_result_and_names_are_no_markup(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no \x1b[1mfonts")

    monkeypatch.setattr("bo_distill.search.pages.comparison.comparison_page", fails)
    courses = {name: [Course((0.5, 0.6), (1.0, 1.0), (2.0, 2.0))] * 2 for name in ("random", "bo")}
    title = "fsp on imagefolder:/data/[new]/cats[/b]"
    compare.conclude(storage, "comparisons/[v2]", {"comparison": "[v2]"}, courses, title, as_json=False)
    said = capsys.readouterr()
    again = f"bo-distill report '[v2]' --storage {storage.uri}"
    assert said.err == f"the page was not drawn: no \\x1b[1mfonts; {again} tries again\n"
    assert f"{title}: best" in said.out and f"report       {storage.uri}/comparisons/[v2]/report.html" in said.out


def test_few_repeats_have_no_interval(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {
        "comparison": "c", "method": "fsp", "recipe": "quick", "data": {"name": "digits", "fingerprint": "0"},
        "budget": {"trials": 10}, "space": ["lr"], "settings": {}, "seeds": [0, 1, 2], "studies": {},
    }  # fmt: skip
    courses = {"random": made_up(0, 3, 1), "bo": made_up(0.05, 3, 2)}
    compare.conclude(storage, "comparisons/c", asked, courses, "made up", as_json=False)
    said = capsys.readouterr()
    assert said.err == "" and "bootstrap interval; 3 repeats are too few for one)" in said.out
    assert re.search(r"random - bo +-\d\.\d\d +– +– +0\.25", said.out)
    assert "So few repeats have no interval" in storage.read_bytes("comparisons/c/report.html").decode()


def test_a_comparison_is_kept_before_it_is_printed(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no terminal")

    monkeypatch.setattr("bo_distill.search.pages.comparison.comparison_page", lambda summary: ("page", {}))
    monkeypatch.setattr(compare, "show", fails)
    courses = {name: [Course((0.5, 0.6), (1.0, 1.0), (2.0, 2.0))] * 2 for name in ("random", "bo")}
    with pytest.raises(RuntimeError, match="no terminal"):
        compare.conclude(storage, "comparisons/c", {"comparison": "c"}, courses, "made up", as_json=False)
    assert {"comparisons/c/compare.json", "comparisons/c/report.html"} <= set(storage.list())
