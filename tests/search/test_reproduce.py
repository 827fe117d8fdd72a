"""The papers' tables: what is run, that it goes on where it was stopped, and what is written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyarrow import parquet

from distributed.storage import Storage
from helpers.made_up import row as make
from methods import METHODS, get
from methods.data.dataset import DataSpec
from methods.fsp import published
from methods.published import Cell, PaperTable, Scale
from search import reproduce
from search.command.shell import SOME_FAILED
from search.execution.trial import attempt
from search.papers import page as results
from search.papers.lines import Reproduction
from search.rows.files import write_row
from search.rows.row import from_table
from search.rows.sql import read
from search.study.conductor import Conductor
from search.study.records import Job, Outcome, Task, Trial

ROOT = Path(__file__).resolve().parents[2]
ALONE = {"transfer.epochs": 0}
TABLES = (
    PaperTable(
        "Table 1: a comparison",
        (
            Cell("alone", ALONE, 90.0),
            Cell("taught", printed=91.0, against="alone"),
            Cell("taught, by macro F1", metric="macro_f1"),
            Cell("searched", printed=92.0, searcher="bo", against="taught", printed_seconds=100.0),
        ),
    ),
)
SCALE = Scale(
    "quick",
    {"main": DataSpec("digits", train_size=60, val_size=40)},
    {f"{stage}.epochs": 1 for stage in ("teacher", "transfer", "finetune")} | {"transfer.depth": 8},
    seeds=2,
    trials=2,
    shown=("taught",),
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "SCALES", {"small": SCALE, "paper": SCALE})
    monkeypatch.setattr(published, "tables", lambda scale: TABLES)


def command(folder: Path, *more: str) -> int:
    words = ["fsp", "--storage", str(folder / "storage"), "--out", str(folder / "out"), "--processes", "2", *more]
    return reproduce.main(words)


def test_a_table_is_made_and_goes_on_where_it_was_stopped(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, "--dry-run") == 0
    listed = capsys.readouterr().out
    assert "alone: 2 trainings" in listed and "search: 2 trainings" in listed and "final: 2 trainings" in listed
    assert not (tmp_path / "storage").exists()

    settle, settled = Conductor.settle, []

    def third_is_too_many(conductor: Conductor, trial: object, outcome: object) -> None:
        if len(settled) == 2:
            raise KeyboardInterrupt
        settle(conductor, trial, outcome)  # type: ignore[arg-type]
        settled.append(trial)

    with monkeypatch.context() as patch:
        patch.setattr(Conductor, "settle", third_is_too_many)
        assert command(tmp_path) == 130
    before = read(Storage(str(tmp_path / "storage")))
    assert len(before) == 2 and not (tmp_path / "out").exists()

    other = tmp_path / "elsewhere"  # the storage is carried along
    other.mkdir()
    shutil.move(tmp_path / "storage", other / "storage")
    assert command(other) == 0
    rows = from_table(read(Storage(str(other / "storage"))))
    assert sorted((row.phase, row.control or "") for row in rows) == [
        *[("control", "alone")] * 2,
        *[("control", "taught")] * 2,
        *[("final", "")] * 2,
        *[("search", "")] * 2,
    ]
    assert {row.id: row.finished for row in rows}.items() >= {
        row.id: row.finished for row in from_table(before)
    }.items()
    assert all((row.test_accuracy is None) == (row.phase == "search") for row in rows)

    kept = parquet.read_table(other / "out" / "fsp" / "rows.parquet")
    assert len(kept) == len(rows) and str(tmp_path) not in str(kept.to_pylist())
    page = (other / "out" / "fsp" / "README.md").read_text()
    taught = [100 * row.test_accuracy for row in rows if row.control == "taught" and row.test_accuracy is not None]
    assert f"| taught | 91.00 | {sum(taught) / 2:.2f} |" in page
    assert ("over alone" in page and "| searched | 2 |" in page and "teacher.epochs 1 (182)" in page) or "(1)" in page
    assert (other / "out" / "fsp" / "small_training.png").stat().st_size > 1000

    assert command(tmp_path / "at once") == 0
    at_once = from_table(read(Storage(str(tmp_path / "at once" / "storage"))))
    scores = [{(row.id, row.control, row.seed): row.test_accuracy for row in every} for every in (rows, at_once)]
    assert scores[0] == scores[1]

    capsys.readouterr()
    assert command(other, "--dry-run") == 0
    assert "nothing is missing" in capsys.readouterr().out
    assert command(other) == 0
    assert (other / "out" / "fsp" / "README.md").read_text() == page

    table = results.summary(other / "out")
    readme = f"before\n{results.MARKS[0]}\nold\n{results.MARKS[1]}\nafter\n"
    assert results.inserted(readme, table) == readme.replace("old\n", table)


def deadly(task: Task, job: Job) -> Outcome:
    """As a process of the pool trains, but one training takes its process with it."""
    if (job.control, job.seed) == ("taught", 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt(task, job, lambda row: None)


def test_a_killed_process_costs_no_more_than_its_own_training(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "tables", lambda scale: (PaperTable("Table 1", TABLES[0].cells[:2]),))
    monkeypatch.setattr("search.execution.processes.quiet_trial", deadly)
    assert command(tmp_path) == SOME_FAILED
    rows = {(row.control, row.seed): row for row in from_table(read(Storage(str(tmp_path / "storage"))))}
    assert len(rows) == 4 and [key for key, row in rows.items() if row.status != "done"] == [("taught", 2)]
    assert rows["taught", 2].reason == "its process died 3 times: killed, or out of memory"


def test_more_seeds_are_trained_of_a_winner_too(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = Reproduction.of("fsp", "small", 2, str(tmp_path))
    storage = Storage(str(tmp_path / "storage"))
    searched = next(study for study in one.studies(storage, "auto") if study.plan.searcher == "bo")
    settings = {"transfer.lr": 0.01, "transfer.weight": 1.0}
    for number, (phase, seed) in enumerate([("search", 0), ("search", 0), ("final", 1), ("final", 2)]):
        searched.trials.append(Trial(Job(number, phase, settings, seed), 0.0, "done", 0.5))  # type: ignore[arg-type]
    searched.save_plan()
    searched.save()
    assert command(tmp_path, "--seeds", "4", "--dry-run") == 0
    assert "reproduce-fsp-small-searched final: 2 trainings" in capsys.readouterr().out
    more = Reproduction.of("fsp", "small", 4, str(tmp_path))
    searched = next(study for study in more.studies(storage, "auto") if study.plan.searcher == "bo")
    assert [(t.job.phase, t.job.seed, t.job.settings) for t in searched.trials if not t.finished] == [
        ("final", 3, settings),
        ("final", 4, settings),
    ]


def test_what_a_storage_does_not_hold_stays_published(tiny: None, tmp_path: Path) -> None:
    for part in ("a", "b"):
        study = next(iter(Reproduction.of("fsp", "small", None, "").studies(Storage(tmp_path / part), "auto")))
        name = study.plan.task.study if part == "a" else "reproduce-fsp-small-searched"
        phase, control = ("control", "taught") if part == "a" else ("final", None)
        row = make(study=name, phase=phase, control=control, method="fsp", config={}, test_accuracy=0.5)
        write_row(Storage(tmp_path / part), row)
    one = Reproduction.of("fsp", "small", None, "")
    (tmp_path / "out" / "fsp").mkdir(parents=True)
    (tmp_path / "out" / "fsp" / "small_flow.png").write_bytes(b"drawn elsewhere")
    for part in ("a", "b"):
        page = Path(results.publish(one, Storage(tmp_path / part), tmp_path / "out"))
    rows = parquet.read_table(tmp_path / "out" / "fsp" / "rows.parquet").to_pylist()
    assert [row["study"] for row in rows] == ["reproduce-fsp-small", "reproduce-fsp-small-searched"]
    assert "| searched | 92.00 | 50.00 |" in page.read_text() and "small_flow.png" in page.read_text()


KILLED = """
import concurrent.futures, multiprocessing, os, signal
from search.execution.processes import end_with_parent
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(1, context, end_with_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_of_the_pool_ends_with_the_one_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, tmp_path / "killed.py"], env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE
    )
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while Path(f"/proc/{int(done.stdout)}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_study_of_other_settings_is_not_continued(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Reproduction.of("fsp", "small", None, str(tmp_path))
    for study in one.studies(Storage(str(tmp_path / "storage")), "auto"):
        study.save_plan()
    larger = Scale("quick", {"main": DataSpec("digits", train_size=70, val_size=40)}, SCALE.settings)
    monkeypatch.setattr(published, "SCALES", {"small": larger})
    assert command(tmp_path) == 2
    assert "with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["nothing"], ["fsp", "--scale", "huge"], ["fsp", "--seeds", "1"]])
def test_bad_words_are_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main([*words, "--storage", str(tmp_path / "s")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("word", ["small", "paper"])
def test_every_line_can_be_configured(name: str, word: str) -> None:
    one = Reproduction.of(name, word, None, "data")
    method = get(name)
    for table in one.tables:
        names = [cell.name for cell in table.cells]
        assert len(set(names)) == len(names)
        for cell in table.cells:
            method.configure(one.scale.recipe, {**one.scale.settings, **cell.settings})
            assert table.data in one.scale.data and cell.against in ("", *names) and cell.against != cell.name
    every = {cell.name for table in one.tables for cell in table.cells}
    assert one.scale.shown and every >= {*one.scale.shown, *one.scale.compared}


def test_readme_agrees_with_the_rows() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.inserted(readme, results.summary(ROOT / "docs" / "results")) == readme
