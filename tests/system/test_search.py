"""The main command, as a person runs it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.search.rows.row import from_table
from bo_distill.search.rows.sql import read
from bo_distill.search.run import main
from bo_distill.search.study.ledger import Study
from helpers.running import TRIVIAL, start

ROOT = Path(__file__).resolve().parents[2]
# A teacher, a transfer and a fine-tuning of one epoch each: seconds, not accuracy.
SMALL = [
    f"--set={stage}.{name}={value}"
    for stage in ("teacher", "transfer", "finetune")
    for name, value in {"epochs": 1, "batch_size": 128}.items()
] + ["--set=transfer.depth=8"]


def command(*words: str, storage: Path) -> list[str]:
    return [sys.executable, "-m", "search.run", *words, f"--storage={storage}"]


def run(*words: str, storage: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words, storage=storage), cwd=ROOT, capture_output=True, text=True, timeout=560)


def rows_of(storage: Path) -> list[Any]:
    return from_table(read(Storage(storage)))


def test_a_bayesian_search_from_end_to_end(tmp_path: Path) -> None:
    done = run("fsp", "--bo", "--trials=4", "--seeds=2", "--json", *SMALL, storage=tmp_path)
    assert done.returncode == 0, done.stderr
    # On a busy machine a trial may also say that it waits for a stage that another one makes.
    lines = [line for line in done.stderr.splitlines() if ": waiting for stage" not in line]
    assert len(lines) == 1 + 4 + 2 * 3 + 1, "the start, a line for each run, the page"
    assert "4 trials, then 6 later runs" in lines[0] and "% on validation" in lines[1] and "left" in lines[1]
    found = json.loads(done.stdout)
    expected = {"study", "method", "searcher", "data", "best", "test", "trials", "macs", "params", "seconds"}
    assert expected | {"leaderboard", "report"} <= found.keys()
    search = [trial for trial in found["trials"] if trial["phase"] == "search"]
    assert len(search) == 4 and {trial["status"] for trial in found["trials"]} == {"done"}
    assert found["best"]["val_accuracy"] == max(trial["val_accuracy"] for trial in search)
    assert found["test"]["n"] == 2 and 0 <= found["test"]["mean"] <= 1 and found["test"]["sd"] >= 0
    assert {control["n"] for control in found["controls"].values()} == {2}

    rows = rows_of(tmp_path)
    assert len(rows) == len(found["trials"]) == 4 + 2 * 3
    assert all((row.test_accuracy is None) == (row.phase == "search") for row in rows)
    assert all(row.macs_forward == found["macs"]["model"] and row.macs_train > 0 for row in rows)
    assert all(row.memory is not None and row.memory < 1.5 * 2**30 for row in rows)
    # One teacher: whoever asked first trained it, everybody else found it.
    teachers = [name for name in Storage(tmp_path).list("stages") if "fsp.teacher" in name]
    assert len(teachers) == 1
    assert sum("teacher" not in json.loads((tmp_path / "studies" / found["study"] / "trials" / f"{t['trial']}.json")
               .read_text())["cached"] for t in found["trials"]) == 1  # fmt: skip

    words = ["--grid", "--trials=2", "--set=transfer.lr=0.01", "--seeds=1", "--no-controls", "--json"]
    again = run("fsp", *words, *SMALL, storage=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len([name for name in Storage(tmp_path).list("stages") if "fsp.teacher" in name]) == 1
    more = run(f"--resume={found['study']}", "--seeds=9", storage=tmp_path)
    assert more.returncode == 2 and "test split has been read" in more.stderr


@pytest.mark.parametrize(
    "sign",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_search_resumes_with_no_trial_lost_or_doubled(sign: signal.Signals, tmp_path: Path) -> None:
    words = ["fsp", "--random", "--trials=4", "--seeds=1", "--no-controls", "--concurrency=1", *SMALL]
    process = subprocess.Popen(
        command(*words, storage=tmp_path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not Storage(tmp_path).list("leaderboard/rows"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    # The row is written before the ledger: killed in between, the trial runs again.
    names = {file.split("/")[1] for file in Storage(tmp_path).list("studies")}
    while time.monotonic() < deadline and not any(
        trial.finished for name in names for trial in Study.open(Storage(tmp_path), name).trials
    ):
        time.sleep(0.05)
    process.send_signal(sign)
    process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if sign == signal.SIGKILL else 130)

    (name,) = {file.split("/")[1] for file in Storage(tmp_path).list("studies")}
    before = Study.open(Storage(tmp_path), name)
    finished = {t.job.number: t for t in before.trials if t.finished}
    assert finished and len(finished) < 5
    resumed = run(f"--resume={name}", "--json", storage=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    after = Study.open(Storage(tmp_path), name)
    assert [t.job.number for t in after.trials] == list(range(5))
    assert all(t.status == "done" for t in after.trials)
    for number, trial in finished.items():
        assert after.trials[number] == trial, "what was finished is not run again"
    assert sorted(row.trial for row in rows_of(tmp_path)) == list(range(5))
    # The suggestions are those of a search that was never interrupted.
    from bo_distill.methods import get
    from bo_distill.search.searchers.random import random_point

    fields = get("fsp").fields()
    space = {field: fields[field].domain for field in after.plan.space}
    for trial in after.of_phase("search"):
        expected = random_point(space, after.plan.task.seed, trial.job.number)
        assert {field: trial.job.settings[field] for field in space} == expected


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    shown, terminal = pty.openpty()
    process = start(TRIVIAL, "--random", "--trials=2", "--seeds=1", storage=tmp_path, stderr=terminal)
    os.close(terminal)
    said = b""
    with suppress(OSError):  # which is how a terminal ends
        while some := os.read(shown, 4096):
            said += some
    os.close(shown)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert b"digits: rows" in said, "what was read, before the search"
    assert b"2 of 2 trials | 1 of 1 later run | best 7" in said
    assert "leaderboard" in out


@pytest.mark.slow
def test_two_workers_and_a_scheduler(tmp_path: Path) -> None:
    done = run(
        "fsp", "--random", "--trials=2", "--seeds=1", "--no-controls", "--workers=2", "--asha", "--json", *SMALL,
        storage=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path)
    assert len(rows) == 3 and all(row.workers == 2 and len(row.nodes) == 2 for row in rows)
    assert all(row.status in ("done", "pruned") for row in rows)
    assert [row.status for row in rows if row.phase == "final"] == ["done"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense", "--bo"], "nonsense"),
        (["fsp", "--data=nonsense"], "nonsense"),
        (["fsp", "--recipe=nonsense"], "nonsense"),
        (["fsp", "--set=transfer.wieght=1"], "transfer.weight"),
        (["fsp", "--set=transfer.weight=1e9"], "transfer.weight=1e9"),
        (["fsp", "--set=transfer.weight=much"], "transfer.weight=much"),
        (["fsp", "--set=transfer.weight"], "give FIELD=VALUE"),
        (["fsp", "--set=teacher.epochs=1.5"], "teacher.epochs=1.5"),
        (["fsp", "--search=transfer.wieght"], "transfer.weight"),
        (["fsp", "--search=teacher.milestones"], "cannot be searched"),
        (["fsp", "--grid", "--bo"], "--grid"),
        (["fsp", "--trials=0"], "--trials 0"),
        (["fsp", "--trials=-3"], "--trials -3"),
        (["fsp", "--trials=+3"], "--resume"),
        (["fsp", "--grid", "--trials=3"], "error: 3 trials: a grid over transfer.lr, transfer.weight takes at least 4"),
        (["fsp", "--workers=0"], "--workers: 0"),
        (["fsp", "--seeds=-1"], "--seeds -1"),
        (["fsp", "--workers=999"], "--workers 999"),
        (
            ["fsp", "--workers=2", "--set=transfer.norm=group", "--set=transfer.group=64"],
            "--workers 2, stage transfer: 2 workers cannot share",
        ),
        (["fsp", "--concurrency=999"], "--concurrency 999"),
        (["fsp", "--data=cifar10", "--data-dir=/nowhere/at/all"], "/nowhere/at/all"),
        (["fsp", "--train-size=99999999"], "99999999"),
        (["fsp", "--resume=nonsense"], "nonsense"),
        (["--resume=nonsense"], "nonsense"),
        (["fsp", "--address=127.0.0.1:1"], "127.0.0.1:1"),
        ([], "METHOD"),
        (["fsp", "--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    words: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main([*words, f"--storage={tmp_path / 'results'}"])
    out, err = capfd.readouterr()
    assert code == 2, err
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ")
    assert said in err or said == "METHOD"
    assert not list(tmp_path.iterdir())


def test_a_dry_run_forecasts_and_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fsp", "--grid", "--trials=9", "--dry-run", *SMALL, f"--storage={tmp_path / 'results'}"]) == 0
    said = capfd.readouterr().out
    assert "9 of the search, then 9 retrainings" in said and "cached: none" in said and "each on 1 worker of " in said
    assert not (tmp_path / "results").exists()


def test_text_for_an_image_method_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = [f"sentence number {i} of its kind\t{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "few.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    assert main(["fsp", f"--data=text:{tmp_path / 'few.tsv'}", f"--storage={tmp_path / 'results'}"]) == 2
    assert "fsp takes image data" in capfd.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert main(["fsp", f"--storage={tmp_path / 'file' / 'results'}"]) == 2
    assert "cannot be" in capfd.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'pyarrow', 'numpy'}"
    code = f"import sys, bo_distill.search.run as run; run.parser().format_help(); print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"


def test_the_packages_are_ours() -> None:
    from bo_distill import distributed, methods, search

    for package in (distributed, methods, search):
        assert Path(package.__file__ or "").resolve().parent.parent == ROOT
