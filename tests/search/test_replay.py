"""The virtual clock, recorded tables and the winner's curse."""

from __future__ import annotations

import heapq
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from bo_distill.distributed.storage import Storage
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.space import Choice, Integer, Real
from bo_distill.search.replay import main
from bo_distill.search.searchers.grid import axis
from bo_distill.search.searchers.registry import SEARCHERS, make_searcher
from bo_distill.search.simulation.clock import Replayed, course, makespan, makespans, simulate, winner_of
from bo_distill.search.simulation.curse import winners_curse
from bo_distill.search.simulation.problems import function
from bo_distill.search.simulation.recorded import Table, domain_of
from bo_distill.search.simulation.steps import length_of, simulate_steps
from bo_distill.search.simulation.studies import Ended, simulated, truths
from bo_distill.search.simulation.surfaces import Curves
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Outcome, Plan, Task, Trial

ROOT = Path(__file__).resolve().parents[2]
SPACE = {"lr": Real(1e-3, 1e-1, True), "weight": Real(0.0, 1.0)}


def noisy_table(points: int = 6, seeds: int = 2, noise: float = 0.02) -> Table:
    """A hill of accuracy with three epochs on the way up."""
    axes = tuple(tuple(axis(domain, points)) for domain in SPACE.values())
    x, y = np.meshgrid(np.linspace(0, 1, points), np.linspace(0, 1, points), indexing="ij")
    top = 0.9 - 0.1 * ((x - 0.6) ** 2 + (y - 0.4) ** 2)
    rng = np.random.default_rng(5)
    final = top[..., None] + rng.normal(0, noise, (points, points, seeds))
    curves = np.stack([final - 0.2, final - 0.1, final], axis=-1)
    return Table(SPACE, axes, curves, np.full(curves.shape, 2.0), np.full((points, points), 30.0), shared=5.0)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=12), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_clock_is_that_of_list_scheduling(seconds: list[float], workers: int) -> None:
    known = Replayed(tuple(seconds))
    free = [0.0] * workers
    for duration in seconds:
        heapq.heappush(free, heapq.heappop(free) + duration)
    found = simulate(known, known, trials=len(seconds), workers=workers)
    assert makespan(found) == pytest.approx(max(free))
    assert [t.finished for t in found] == sorted(t.finished for t in found) and len(found) == len(seconds)


def test_workers_that_had_no_trial_get_one_once_there_is_one() -> None:
    class Shy(Replayed):
        asked = 0

        def suggest(self, trial_id: str) -> Any:
            Shy.asked += 1
            return None if Shy.asked == 2 else super().suggest(trial_id)

    known = Shy((1.0, 1.0, 1.0))
    assert makespan(simulate(known, known, trials=3, workers=2)) == 2.0


def test_what_a_trial_finds_does_not_hang_on_the_workers() -> None:
    def run(workers: int) -> dict[str, tuple[float, float]]:
        trials = simulate(noisy_table(), make_searcher("random", SPACE, 3, 12), trials=12, workers=workers, seed=3)
        return {json.dumps(t.settings): (t.value, t.truth) for t in trials}

    assert len(run(1)) == 12 and run(1) == run(5)


def test_the_shared_stage_is_waited_for_once() -> None:
    trials = simulate(noisy_table(), make_searcher("random", SPACE, 0, 4), trials=4, workers=2)
    assert [t.finished for t in trials] == pytest.approx([11, 11, 17, 17])
    assert [t.seconds for t in trials] == pytest.approx([11, 11, 6, 6])
    late = simulate(noisy_table(), make_searcher("random", SPACE, 0, 2), trials=2, overhead=3.0)
    assert late[1].started == pytest.approx(14)


def test_stragglers_and_failures_take_time() -> None:
    problem = function("hartmann6", 0.0)

    def run(**options: float) -> tuple[float, list[str]]:
        searcher = make_searcher("random", problem.space, 0, 60)
        trials = simulate(problem, searcher, trials=60, workers=4, **options)  # type: ignore[arg-type]
        return makespan(trials), [t.status for t in trials]

    plain, status = run()
    assert plain == pytest.approx(15 * 9) and set(status) == {"done"}
    slow, _ = run(stragglers=0.3)
    assert 1.5 * plain < slow < 4 * plain
    late, status = run(failures=0.4)
    assert plain < late and 0 < status.count("failed") < 20
    searcher = make_searcher("bo", problem.space, 0, 3)
    lost = simulate(problem, searcher, trials=3, failures=1 - 1e-12)
    assert winner_of(lost) is None and all(math.isnan(v) for v in course(lost).values)
    assert len(searcher.save_state()["observed"]) == 3, "a searcher is told of failures"


def test_what_befalls_a_trial_does_not_hang_on_its_settings() -> None:
    problem = function("hartmann6", 0.0)
    trials = simulate(problem, make_searcher("random", problem.space, 0, 2000), trials=2000, stragglers=0.1)
    slow = np.array([t.seconds > 9 for t in trials])
    assert 0.07 < slow.mean() < 0.13
    for name in problem.space:
        low = np.array([t.settings[name] < 0.1 for t in trials])
        assert slow[low].mean() < 0.2, name


def test_asha_saves_work_and_keeps_a_good_winner() -> None:
    problem = function("branin", 0.0)

    def run(asha: bool) -> tuple[float, float]:
        trials = simulate(problem, make_searcher("random", problem.space, 1, 60), trials=60, workers=4, asha=asha)
        winner = winner_of(trials)
        assert winner is not None and len(trials) == 60
        assert asha == ("pruned" in {t.status for t in trials})
        return sum(t.macs for t in trials), winner.truth

    (work, best), (less, nearly) = run(False), run(True)
    assert less < 0.9 * work and nearly > best - 5


@pytest.mark.parametrize("name", [word for word, entry in SEARCHERS.items() if not entry.lacking])
def test_every_searcher_runs_on_a_table(name: str) -> None:
    table = noisy_table(noise=0.0)
    searcher: Any = make_searcher(name, SPACE, 0, 9, length=length_of(table))
    if SEARCHERS[name].pauses:
        trials, (truth,) = simulate_steps(table, searcher, trials=9, workers=2, looks=[math.inf])
        assert 4 <= len(trials) <= 9 * 3 and truth > 0.87
    else:
        trials = simulate(table, searcher, trials=9, workers=2)
        assert 4 <= len(trials) <= 9 and all(t.truth == pytest.approx(t.value) for t in trials)
        assert max(t.value for t in trials) > 0.87


def test_searches_in_which_nothing_was_finished_have_no_true_value_to_tell_apart() -> None:
    nothing = [Ended(course([]), math.nan, 0.0, 0.0, [])] * 3
    found = truths({"grid": nothing, "bo": nothing}, "grid")
    assert found["mean"] == {"grid": 0.0, "bo": 0.0} and found["interval"] == {"bo": None}


def test_a_thousand_workers() -> None:
    problem = function("hartmann6", 0.0)
    trials = simulate(problem, make_searcher("random", problem.space, 0, 3000), trials=3000, workers=1000)
    assert makespan(trials) == pytest.approx(27)


def test_a_table_is_met_at_its_points_and_interpolated_between() -> None:
    table = noisy_table()
    points = [
        {"lr": table.axes[0][2], "weight": table.axes[1][3]},
        {"lr": table.axes[0][3], "weight": table.axes[1][3]},
    ]
    curves, seconds, macs = table.expected(points)
    assert curves[0] == pytest.approx(table.curves[2, 3].mean(axis=0)) and seconds[0] == pytest.approx([2, 2, 2])
    assert macs[0] == 30
    between = {"lr": math.sqrt(points[0]["lr"] * points[1]["lr"]), "weight": points[0]["weight"]}
    assert table.expected([between])[0][0] == pytest.approx(curves.mean(axis=0), rel=1e-5)
    assert float(table.residuals[:, -1].std()) == pytest.approx(0.02, rel=0.25), "of one trial, not of a mean of two"


def test_trainings_of_different_lengths_make_one_table(tmp_path: Path) -> None:
    about = {
        "space": {"epochs": {"kind": "Integer", "low": 1, "high": 3, "log": False}},
        "axes": {"epochs": [1, 3]},
        "seeds": [0],
        "shared_seconds": 0.0,
    }
    rows = [
        {"epochs": n, "seed": 0, "val_accuracy": [0.1 * e for e in range(1, n + 1)], "seconds": [2.0] * n, "macs": n}
        for n in (1, 3)
    ]
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"table": json.dumps(about)})
    parquet.write_table(table, tmp_path / "t.parquet")
    found = Table.read(tmp_path / "t.parquet")
    assert found.curves[:, 0] == pytest.approx(np.array([[0.1, 0.1, 0.1], [0.1, 0.2, 0.3]]))
    assert found.seconds[:, 0].tolist() == [[2, 0, 0], [2, 2, 2]]


@pytest.mark.parametrize("domain", [Real(0.1, 10, True), Integer(1, 9), Choice(("a", "b"))])
def test_a_domain_comes_back_from_its_words(domain: Real | Integer | Choice) -> None:
    from benchmarks.table import words_of

    assert domain_of(json.loads(json.dumps(words_of(domain)))) == domain


def test_confirming_removes_the_optimism_at_no_worse_result() -> None:
    found = winners_curse(noisy_table(), budget=20, keep=3, seeds=3, studies=200)
    assert found["optimism"] > 0.01
    assert found["removed"] >= 0.7
    assert found["truth_confirmed"] >= found["truth"] - 2 * found["truth_se"]


def test_a_real_makespan_is_met(storage: Storage) -> None:
    task = Task("s", "fsp", "quick", DataSpec("digits"), {}, storage.uri, 0)
    study = Study(storage, Plan(task, "random", ("transfer.weight",), 9))
    free, rng = [1000.0, 1000.4], np.random.default_rng(0)
    for number in range(9):
        start, seconds = heapq.heappop(free), float(rng.uniform(3, 9))
        outcome = Outcome(started=start, seconds=seconds)
        study.trials.append(Trial(Job(number, "search", {}, 0), start, "done"))
        study.save_outcome(number, outcome)
        heapq.heappush(free, start + seconds + 0.3)  # what Ray takes between two trials
    simulated, measured = makespans(study)
    assert simulated == pytest.approx(measured, rel=0.15) and simulated < measured
    assert makespans(study, overhead=0.3)[0] == pytest.approx(measured, rel=0.03)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["branin", "--searchers=grid,random", "--studies=10", "--trials=9", "--jobs=1", "--json"]
    assert main([*words, "--noise=1", "--confirm=2", "--confirm-seeds=2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] and found["makespan"]["random"] == 81 and "removed" in found["confirm"]
    assert main([*words[:-1], "--trials=1", "--searchers=random,bo"]) == 0
    assert ": 20 studies of 1 trial, 1 at once" in (said := capsys.readouterr().out) and "1 trials" not in said
    assert main(words[:-1]) == 0
    assert "No difference shown" in (said := capsys.readouterr().out) or "is better than" in said


def test_trials_that_are_stopped_early_have_the_epochs_of_whole_ones(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["alike", "--searchers=random,random+asha", "--studies=3", "--trials=12", "--jobs=1"]
    assert main([*words, "--seed=5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["searchers"]["random"]["trials"] == [12] * 3
    assert 36 < sum(found["searchers"]["random+asha"]["trials"]) < 36 * 2
    true = found["truth"]
    assert true["above"]["random+asha"] == pytest.approx(true["mean"]["random+asha"] - true["mean"]["random"])
    assert true["above"]["random+asha"] == 0 and true["p_no_worse"]["random+asha"] is None, "equal ones have no test"
    again = simulated(Curves("alike"), ["random"], {"trials": 12, "asha": False}, range(5, 8), 1)
    assert again["truth"]["mean"]["random"] == true["mean"]["random"], "--seed is the first study's"
    assert main([*words, "--against-grid=8"]) == 0
    said = capsys.readouterr().out
    assert "random+asha less random" in said and "5%" in said and "under other seeds" in said
    assert main(["alike", "--searchers=random,curves", "--studies=3", "--trials=6", "--jobs=1"]) == 0
    assert re.search(r"curves less random \S+, 95% interval .* no worse has p = 0\.\d+ \(", capsys.readouterr().out)


def test_an_epoch_budget_starts_no_trial_beyond_it() -> None:
    problem = Curves("alike")
    trials = simulate(problem, make_searcher("random", problem.space, 0, 99), trials=99, epochs=60, workers=2)
    assert sum(trial.epochs for trial in trials) == 5 * 18  # four within the budget, and the one beside them


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which table"),
        (["branin", "--searchers=curves+asha"], "asha"),
        (["branin", "--seed=-1"], "--seed -1"),
        (["nowhere.parquet"], "nowhere.parquet"),
        ([str(Path(__file__))], "not a table"),
        (["branin", "--searchers=nonsense"], "nonsense"),
        (["branin", "--failures=1"], "--failures 1"),
        (["branin", "--noise=nan"], "--noise nan"),
        (["branin", "--studies=1"], "--studies 1"),
        (["hartmann6", "--trials=20"], "error: 20 trials: a grid over x1, x2, x3, x4, x5, x6 takes at least 64"),
        (["branin", "--confirm=9"], "--confirm 9"),
        (["--makespan=nothing"], "nothing"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, f"--storage={tmp_path}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err


def test_a_table_of_real_trials_is_recorded_and_replayed(tmp_path: Path) -> None:
    small = [f"--set={stage}.epochs=1" for stage in ("teacher", "transfer", "finetune")]
    small += [f"--set={stage}.batch_size=256" for stage in ("teacher", "transfer", "finetune")]
    file = tmp_path / "table.parquet"
    words = [sys.executable, "-m", "benchmarks.table", "fsp", "--points=2", "--seeds=2", f"--out={file}", *small]
    words += ["--set=transfer.depth=8", f"--storage={tmp_path / 'store'}"]
    seen = []
    for _ in range(2):  # the second time from the cache, with the same seconds
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        table = Table.read(file)
        assert table.curves.shape == (2, 2, 2, 2) and table.shared > 0 and table.about["method"] == "fsp"
        seen.append(json.dumps([table.curves.tolist(), table.seconds.tolist()]))
    assert seen[0] == seen[1]
    assert np.isnan(table.curves[..., 0]).all(), "the transfer sees no labels"
    trials = simulate(table, make_searcher("random", table.space, 0, 5), trials=5, workers=2, asha=True)
    assert len(trials) == 5 and all(0 < t.truth < 1 for t in trials)
