"""A row of the leaderboard, trained again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from bo_distill.distributed.cache import StageCache, encode
from bo_distill.distributed.storage import Storage
from bo_distill.methods import get, outside
from bo_distill.methods.data import load
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.method import State
from bo_distill.search import leaderboard
from bo_distill.search.execution import trial
from bo_distill.search.execution.rerun import judge
from bo_distill.search.execution.trial import perform
from bo_distill.search.rows.files import write_row
from bo_distill.search.rows.row import Row, from_table
from bo_distill.search.rows.sql import read
from bo_distill.search.study.conductor import Conductor
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Plan, Task

SMALL = {"joint.epochs": 3, "joint.width": 8, "joint.batch_size": 32, "joint.term": "none", "joint.lr": 0.01}


def test_noise_is_what_other_seeds_show() -> None:
    assert judge(0.9, 0.9, True, []).verdict == "it comes back to the last bit"
    assert "rounding" in judge(0.9, 0.9, False, []).verdict
    assert not judge(0.9, 0.901, False, []).same and judge(0.9, 0.901, False, [0.9]).noise is None
    # t of 3 degrees of freedom is 3.182, the seeds' sd 0.01, and two draws differ by the root of 2 of it.
    seeds = [0.89, 0.90, 0.90, 0.91]
    noise = judge(0.9, 0.91, False, seeds).noise
    assert noise == pytest.approx(3.1824 * 2**0.5 * 0.00816497, rel=1e-4)
    assert judge(0.9, 0.9 + noise * 0.99, False, seeds).same and judge(0.9, 0.9 - noise * 0.99, False, seeds).same
    assert not judge(0.9, 0.9 + noise * 1.01, False, seeds).same


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """One trial of a search and two retrainings of it, scored on test, as a study leaves them; without Ray."""
    storage = Storage(tmp_path_factory.mktemp("rerun") / "results")
    spec, method = DataSpec("digits", train_size=800), get("center_loss")
    task = Task("s", "center_loss", "quick", spec, SMALL, storage.uri, 5, "float32")
    study = Study(storage, Plan(task, "random", ("joint.margin",), 1, seeds=2, controls=False))
    study.save_plan()
    conductor = Conductor(study)
    for _ in range(3):
        asked = conductor.ask()
        assert asked
        conductor.settle(asked, perform(task, asked.job, lambda row: None))
    # Whoever looked into the cache would find something else than what was trained.
    configs = method.configure("quick", study.trials[0].job.settings)
    net = State(method.costs(configs, load(spec).info)["model"].state_dict(), {}, {"val_accuracy": 0.0625})
    for number in range(3):
        StageCache(storage).put("center_loss.joint", study.outcome(number).stage_keys["joint"], encode(net))
    return storage


def again(storage: Storage, row: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = leaderboard.main(["reproduce", row, "--storage", storage.uri])
    return code, capsys.readouterr().out


def rows_of(storage: Storage) -> list[Row]:
    return from_table(read(storage))


def test_a_row_comes_back_from_itself_alone(
    finished: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shut(*words: object) -> None:
        raise AssertionError("the test split was read again")

    monkeypatch.setattr(trial, "score", shut)
    before = finished.list()
    assert [row.phase for row in rows_of(finished)] == ["final", "final", "search"]
    assert all(row.test_accuracy is not None for row in rows_of(finished)[:2])
    for row in ("s/search/0", "s/final/1"):
        code, out = again(finished, row, capsys)
        assert code == 0 and out.endswith(f"{row}: it comes back to the last bit\n"), out
    assert leaderboard.main(["reproduce", "s/final/2", "--json", "--storage", finished.uri]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["row"] == summary["again"] and summary["noise"] == 0 and len(summary["others"]) == 2
    assert finished.list() == before, "nothing is written"


def test_a_row_that_says_otherwise_is_found_out(finished: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    row = next(row for row in rows_of(finished) if row.trial == 0)
    assert row.val_accuracy is not None
    seeds = [other.val_accuracy or 0.0 for other in rows_of(finished) if other.trial]
    noise = judge(0.0, 1.0, False, seeds).noise or 0.0
    changed = dataclasses.replace(row, study="t", torch="1.0", data_fingerprint="00ff", commit="ab" * 20, dirty=False)
    write_row(finished, dataclasses.replace(changed, val_accuracy=row.val_accuracy - 0.01))
    code, out = again(finished, "t/search/0", capsys)
    assert code == 1 and "no other seeds tell how much is noise" in out
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["data", "commit", "torch"], "what differs comes first"
    assert lines[0].startswith("data was 00ff, is ") and lines[2].startswith("torch was 1.0, is ")
    for gap, expected in ((0.9 * noise, 0), (1.1 * noise, 1)):
        write_row(finished, dataclasses.replace(row, study=f"u{expected}", val_accuracy=row.val_accuracy - gap))
        code, out = again(finished, f"u{expected}/search/0", capsys)
        assert code == expected and ("within noise" in out) == (expected == 0)


def test_a_row_of_a_method_from_outside_comes_back_on_a_person_s_word(
    storage: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    word = "tests.helpers.trivial:METHOD"
    monkeypatch.setattr(outside, "_trusted", {"tests.helpers.trivial"})
    task = Task("s", word, "quick", DataSpec("digits", train_size=100), {"only.epochs": 1}, storage.uri, 5, "float32")
    study = Study(storage, Plan(task, "random", ("only.x",), 1, seeds=0))
    study.save_plan()
    conductor = Conductor(study)
    asked = conductor.ask()
    assert asked
    conductor.settle(asked, perform(task, asked.job, lambda row: None))
    assert rows_of(storage)[0].method == word
    monkeypatch.setattr(outside, "_trusted", set())
    words = ["reproduce", "s/search/0", f"--storage={storage.uri}"]
    assert leaderboard.main(words) == 2 and "--trust tests.helpers.trivial" in capsys.readouterr().err
    assert leaderboard.main([*words, "--trust=tests.helpers.trivial"]) == 0
    assert "it comes back to the last bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "changes", "said"),
    [
        ("s/search/9", {}, "s/search/9: no such trial"),
        ("s", {}, "s: no such trial"),
        ("v/search/0", {"study": "v", "status": "failed"}, "its status is failed"),
        ("w/search/0", {"study": "w", "data_spec": {}}, "does not say what its data was read by"),
        ("x/search/0", {"study": "x", "method": "none"}, "none"),
        ("y/search/0", {"study": "y", "config": {"joint.gone": 1}}, "joint.gone"),
    ],
)
def test_what_cannot_be_run_again_is_one_line(
    row: str, changes: dict[str, object], said: str, finished: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    if changes:
        write_row(finished, dataclasses.replace(next(r for r in rows_of(finished) if r.study == "s"), trial=0,
                                                phase="search", **changes))  # fmt: skip
    assert leaderboard.main(["reproduce", row, "--storage", finished.uri]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err


def test_data_that_is_elsewhere_now(finished: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = rows_of(finished)[0]
    spec = {**row.data_spec, "name": "cifar10", "directory": "/nowhere"}
    write_row(finished, dataclasses.replace(row, study="z", data_spec=spec))
    words = ["reproduce", row.id.replace("s/", "z/"), "--data-dir", str(tmp_path / "here"), "--storage", finished.uri]
    assert leaderboard.main(words) == 2
    assert str(tmp_path / "here") in capsys.readouterr().err
