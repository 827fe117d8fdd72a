"""The papers' tables: what is run, that it goes on where it was stopped, and what is written."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet
from scipy import stats

from bo_distill.distributed.storage import Storage
from bo_distill.methods import METHODS, get
from bo_distill.methods.data import load
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.fsp import published
from bo_distill.methods.method import flatten
from bo_distill.methods.published import Cell, Claim, PaperTable, Scale
from bo_distill.search import reproduce
from bo_distill.search.command.options import seconds_of
from bo_distill.search.command.shell import SOME_FAILED
from bo_distill.search.execution import trial as trials
from bo_distill.search.execution.processes import Pool, quiet_trial
from bo_distill.search.execution.trial import attempt
from bo_distill.search.papers import publish as results
from bo_distill.search.papers.lines import Reproduction
from bo_distill.search.papers.page import departures, paper_table, search_cost, winners
from bo_distill.search.papers.scores import Line, corrected, findings, judged, lines_of
from bo_distill.search.papers.training import lacking
from bo_distill.search.rows.files import write_row
from bo_distill.search.rows.row import Row, from_table
from bo_distill.search.rows.sql import read
from bo_distill.search.searchers.registry import NONE
from bo_distill.search.study.conductor import Conductor
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Outcome, Task, Trial
from helpers.made_up import row as make

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
    monkeypatch.setattr(published, "SCALES", {"small": SCALE, "full": SCALE, "paper": SCALE})
    monkeypatch.setattr(published, "tables", lambda scale: TABLES)
    monkeypatch.setattr(published, "CLAIMS", (Claim("Does it help?", "better", "Table 1", "taught", "alone"),))


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
    assert len(before) == 2
    kept = results.published(tmp_path / "out", "fsp")
    assert {row.id for row in kept} == {row.id for row in from_table(before)}, "published as each came"

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
    page = (other / "out" / "fsp" / "small.md").read_text()
    taught = [100 * row.test_accuracy for row in rows if row.control == "taught" and row.test_accuracy is not None]
    assert f"| taught | 91.00 | {sum(taught) / 2:.2f} |" in page
    assert "over alone" in page and "| searched | 2 |" in page and "`teacher`: epochs 1 (182)" in page
    assert "**Does it help?** The paper: better." in page and all(
        row.processor and row.cpu_seconds is not None for row in rows
    )
    assert (other / "out" / "fsp" / "small_training.png").stat().st_size > 1000

    for study in ("reproduce-fsp-small", "reproduce-fsp-small-searched"):
        kept_study = Study.open(Storage(str(other / "storage")), study)
        assert kept_study.account == load(SCALE.data["main"]).info.account
        assert [note.event for note in kept_study.test_notes()] == ["opened"], "a later search is told of it"
    teachers = {row.shared_stages["teacher"] for row in rows}
    assert len(teachers) == 1 and len(teachers.pop()) == 16

    assert command(tmp_path / "at once") == 0
    at_once = from_table(read(Storage(str(tmp_path / "at once" / "storage"))))
    scores = [{(row.id, row.control, row.seed): row.test_accuracy for row in every} for every in (rows, at_once)]
    assert scores[0] == scores[1]

    capsys.readouterr()
    assert command(other, "--dry-run") == 0
    assert "nothing is missing" in capsys.readouterr().out
    assert command(other) == 0
    assert (other / "out" / "fsp" / "small.md").read_text() == page


LINES = (PaperTable("Table 1", (replace(TABLES[0].cells[0], headline=True), TABLES[0].cells[1])),)


def test_a_sitting_ends_in_time_and_an_empty_storage_goes_on_from_what_is_published(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(published, "tables", lambda scale: LINES)
    longer = replace(SCALE, settings={**SCALE.settings, "finetune.epochs": 3})
    monkeypatch.setattr(published, "SCALES", {"small": longer, "full": longer, "paper": longer})
    asked: list[Job] = []
    submit = Pool.submit

    def late(pool: Pool, task: Task, job: Job, until: float | None = None) -> Future[Outcome]:
        asked.append(job)
        return submit(pool, task, job, None if len(asked) == 1 else 0.0)

    with monkeypatch.context() as patch:
        patch.setattr(Pool, "submit", late)
        assert command(tmp_path, "--processes", "1", "--for", "1h") == 0
    assert [(job.control, job.seed) for job in asked] == [("alone", 1), ("alone", 2)]  # a headline first, then no more
    said = capsys.readouterr().out
    assert "alone: 1 training\n" in said and "taught: 2 trainings\n" in said and "3 trainings are missing" in said
    assert [(row.control, row.seed) for row in results.published(tmp_path / "out", "fsp")] == [("alone", 1)]
    assert any(".progress/" in name for name in Storage(str(tmp_path / "storage")).list("stages"))

    kept, moved = tmp_path / "kept", tmp_path / "moved"
    kept.mkdir()
    shutil.copytree(tmp_path / "out", kept / "out")
    shutil.move(tmp_path / "storage", kept / "storage")  # the next sitting of the same machine
    moved.mkdir()
    shutil.copytree(tmp_path / "out", moved / "out")  # another machine, with the repository alone
    scores = []
    for folder in (kept, moved):
        assert command(folder, "--dry-run") == 0
        said = capsys.readouterr().out
        assert "CPU hours" in said and "alone: 1 training," in said
        assert command(folder) == 0
        rows = results.published(folder / "out", "fsp")
        assert len(rows) == 4 and {row.epochs for row in rows} == {1 + 3, 1 + 1 + 3}
        scores.append({(row.control, row.seed): row.test_accuracy for row in rows})
    assert scores[0] == scores[1]  # what went on from a checkpoint is what was trained at once
    assert len(read(Storage(str(moved / "storage")))) == 3


def test_lines_that_are_asked_for_are_trained_alone(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed(*words: str) -> list[str]:
        assert command(tmp_path, "--dry-run", *words) == 0
        return [line.split(":")[0].removeprefix("reproduce-fsp-small") for line in capsys.readouterr().out.splitlines()]

    end = "fsp, scale small"
    assert listed("--only", "ALONE") == [" alone", end]
    assert listed("--only", "searched") == ["-searched search", "-searched final", end]
    assert listed("--only", "table 1") == listed(), "a table's title is of all of its lines"
    assert command(tmp_path, "--only", "nobody") == 2
    assert "--only nobody: no line has these words" in capsys.readouterr().err
    assert command(tmp_path, "--only", "macro F1", "--seeds", "2") == 0
    rows = results.published(tmp_path / "out", "fsp")
    assert [(row.control, row.seed) for row in rows] == [("taught, by macro F1", 1), ("taught, by macro F1", 2)]
    assert command(tmp_path, "--dry-run") == 0
    assert " taught" not in capsys.readouterr().out, "lines of equal settings share their trainings"


def test_the_first_training_of_a_seed_counts_and_another_machines_stays_beside_it(tiny: None, tmp_path: Path) -> None:
    one = Reproduction.of("fsp", "small", None, "")
    table = one.tables[0]
    run, cell = one.run_of(table, table.cells[1]), table.cells[1]
    rows = [
        make(
            study=run.study,
            phase="control",
            control="taught",
            seed=1,
            config=run.settings,
            test_accuracy=0.1 * day,
            started=datetime(2026, 1, day, tzinfo=UTC),
            finished=datetime(2026, 1, day, 1, tzinfo=UTC),
            processor=f"processor {day}",
        )
        for day in (2, 1)
    ]
    for row in rows:
        write_row(Storage(tmp_path / str(row.started.day)), row)
        results.publish(one, Storage(tmp_path / str(row.started.day)), tmp_path / "out")
    kept = results.published(tmp_path / "out", "fsp")
    assert [row.processor for row in kept] == ["processor 1", "processor 2"]
    assert [row.test_accuracy for row in one.rows_of(table, cell, kept)] == [0.1]
    page = (tmp_path / "out" / "fsp" / "small.md").read_text()
    assert "| processor 1 |" in page and "| processor 2 |" in page


def test_a_teacher_that_seeds_share_counts_once() -> None:
    cells = (
        Cell("student"),
        Cell("teacher", metric="teacher_accuracy", shared=True),
    )
    one = replace(Reproduction.of("fsp", "small", None, ""), tables=(PaperTable("Table 1", cells),))
    run = one.run_of(one.tables[0], cells[0])
    rows = [
        make(
            study=run.study,
            phase="control",
            control="student",
            seed=seed,
            config=run.settings,
            test_accuracy=0.8,
            test_metrics={"teacher_accuracy": teacher},
        )
        for seed, teacher in ((1, 0.7), (2, 0.9), (3, 0.9))
    ]
    student, teacher = lines_of(one, one.tables[0], rows)
    assert student.scores == pytest.approx({1: 80, 2: 80, 3: 80}) and teacher.scores == pytest.approx({1: 70, 2: 90})


def test_a_search_trains_in_short_and_its_winner_in_full(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = replace(SCALE, settings={**SCALE.settings, "finetune.epochs": 2}, searching={"finetune.epochs": 1})
    monkeypatch.setattr(published, "SCALES", {"small": scale, "full": scale, "paper": scale})
    monkeypatch.setattr(published, "tables", lambda scale: (PaperTable("Table 2", (Cell("bo", searcher="bo"),)),))
    monkeypatch.setattr(published, "CLAIMS", ())
    assert command(tmp_path) == 0
    rows = results.published(tmp_path / "out", "fsp")
    assert [(row.phase, row.config["finetune.epochs"]) for row in rows] == [("final", 2)] * 2 + [("search", 1)] * 2
    # Elsewhere a third seed of the winner needs no search.
    shutil.rmtree(tmp_path / "storage")
    assert command(tmp_path, "--seeds", "3") == 0
    more = results.published(tmp_path / "out", "fsp")
    assert sorted(row.seed for row in more if row.phase == "final") == [1, 2, 3]
    assert len([row for row in more if row.phase == "search"]) == 2
    assert len({row.config_hash for row in more if row.phase == "final"}) == 1


@pytest.mark.parametrize("word", ["small", "full", "paper"])
def test_a_searched_line_is_held_against_a_control_that_is_searched_alike(word: str, tmp_path: Path) -> None:
    one = Reproduction.of("fsp", word, None, str(tmp_path))
    plans = {study.plan.task.study: study.plan for study in one.studies(Storage(tmp_path), "float32")}
    mine, control = (plans[f"reproduce-fsp-{word}-bayesian-{name}"] for name in NAMES)
    assert mine.space == ("transfer.lr", "transfer.weight") and control.space == ("finetune.lr",)
    assert (mine.trials, mine.patience, mine.seeds) == (control.trials, control.patience, control.seeds)
    method, trained = get("fsp"), []
    for plan in (mine, control):
        for more in ({}, plan.retrained):  # while searching, and the winner
            trained.append(method.configure(plan.task.recipe, {**plan.task.settings, **more}))
    epochs = [configs["transfer"].epochs + configs["finetune"].epochs for configs in trained]
    assert epochs[:2] == epochs[2:] and not any(configs["transfer"].epochs for configs in trained[2:])
    for configs, other in zip(trained[:2], trained[2:], strict=True):
        early, late = (
            [c["finetune"].learning_rate(share * c["finetune"].epochs) for c in (configs, other)]
            for share in (0.1, 0.9)
        )
        assert early[0] == pytest.approx(early[1]) and late[0] == pytest.approx(late[1])
    rate = method.space(control.space, control.ranges)["finetune.lr"]
    assert rate.to_unit(trained[3]["finetune"].lr) == pytest.approx(0.5)


NAMES = ("homogeneous", "student-alone-for-equal-epochs")


def test_a_winner_at_the_end_of_its_range_is_told_on_the_page() -> None:
    one = Reproduction.of("fsp", "small", None, "")
    (table,) = (table for table in one.tables if table.title.startswith("Table 2 and"))
    cell = next(cell for cell in table.cells if cell.name == "Bayesian, homogeneous")
    study = one.run_of(table, cell).study
    row = make(study=study, phase="final", config={"transfer.lr": 0.05, "transfer.weight": 0.01})
    said = winners(one, [row])
    assert said.startswith("## What the searches chose\n\n- Bayesian, homogeneous: validation chose transfer.lr 0.05, ")
    assert said.endswith(
        "; transfer.weight lies at the lower end of its range, 0.01 to 10, beyond which a better value may lie.\n"
    )
    assert said.count("lies at") == 1
    assert winners(one, []) == ""


def test_a_table_shows_what_is_trained_and_names_the_rest() -> None:
    cells = (Cell("whole", printed=90.0), Cell("early", {"transfer.weight": 2.0}, macs="share", against="whole"))
    table = PaperTable("Table 1: exits", (*cells, Cell("late", {"transfer.weight": 3.0}, 80.0)))
    one = replace(Reproduction.of("fsp", "small", None, ""), tables=(table,))
    assert paper_table(one, table, []).endswith(
        "\n\nNot trained yet: whole (paper 90.00); early; late (paper 80.00).\n"
    )
    rows = [
        make(
            study=one.run_of(table, cell).study,
            phase="control",
            control=cell.name,
            config=one.settings_of(table, cell),
            test_accuracy=accuracy,
            test_metrics={"share": 0.25} if cell.macs else {},
        )
        for cell, accuracy in zip(cells, (0.5, 0.625), strict=True)
    ]
    text = paper_table(one, table, rows)
    assert text.count("| MACs % |") == 1 and text.endswith("\n\nNot trained yet: late (paper 80.00).\n")
    assert "| early | – | 62.50 | – | 1 | – | +12.50 over whole |  | 25.00 |" in text
    ratio = Cell("", metric="ratio")
    assert Line(ratio, {1: 0.934, 2: 0.9341}).over(Line(ratio, {1: 0.93, 2: 0.9313}), "").startswith("+0.0034 (")
    assert "MACs" not in paper_table(one, table, rows[:1])


def test_a_dry_run_prices_each_search_for_itself(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = (Cell("bo", searcher="bo"), Cell("random", searcher="random"))
    monkeypatch.setattr(published, "tables", lambda scale: (PaperTable("Table 2", cells),))
    assert command(tmp_path, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    priced = {line.split(":")[0]: line.split(", ")[1] for line in lines if " trainings, " in line and "search:" in line}
    assert len(priced) == 2 and "0 MACs" not in priced.values()


def test_what_waits_for_a_stage_under_way_is_passed_over(tiny: None, tmp_path: Path) -> None:
    one = Reproduction.of("fsp", "small", None, "")
    study = next(iter(one.studies(Storage(tmp_path), "float32")))
    alone, taught = (next(t for t in study.trials if t.job.control == name).job for name in ("alone", "taught"))
    assert len(lacking(study, alone)) == 3
    assert lacking(study, alone) & lacking(study, taught) == lacking(study, taught, shared=True)


@pytest.mark.parametrize(
    ("line", "control", "verdict"),
    [
        ({}, {1: 80.0}, "not trained yet"),
        ({1: 81.0}, {1: 80.0}, "one seed"),
        ({1: 81.0, 2: 81.1, 3: 81.2}, {1: 80.0, 2: 80.0, 3: 80.1}, "better"),
        ({1: 79.0, 2: 79.1, 3: 79.2}, {1: 80.0, 2: 80.0, 3: 80.1}, "worse"),
        ({1: 81.0, 2: 79.0, 3: 80.5}, {1: 80.0, 2: 80.0, 3: 80.0}, "no difference shown"),
        ({1: 80.0, 2: 81.0}, {1: 75.0, 2: 76.0}, "no interval"),
        ({1: 80.0}, {2: 80.0}, "nothing to compare"),
    ],
)
def test_a_claim_is_judged_by_the_paired_interval(
    line: dict[int, float], control: dict[int, float], verdict: str
) -> None:
    found, sentence = judged(Line(Cell("a"), line), Line(Cell("b"), control))
    assert found == verdict and sentence.endswith(".")


def test_a_claim_says_what_the_trainings_cost() -> None:
    line, half = (
        Line(Cell(name), {1: 80.0}, rows=(make(macs_train=macs), make(macs_train=macs)))
        for name, macs in (("a", 200), ("b", 100))
    )
    assert judged(line, half)[1].endswith("The control's training costs 50% of the line's multiply-adds.")
    assert judged(line, line)[1].endswith("Their trainings cost the same multiply-adds.")
    assert judged(line, Line(Cell("b"), {1: 80.0}))[1].endswith("What their trainings cost is not known.")


def test_lines_are_held_against_each_other_where_what_they_share_was_trained_once() -> None:
    cells = (
        Cell("plain"),
        Cell("more", {"transfer.weight": 2.0}, against="plain"),
        Cell("later", {"finetune.lr": 0.02}, against="plain"),
        Cell("untaught", {"teacher.epochs": 0}, against="plain"),
    )
    table = PaperTable("Table 1", cells)
    one = replace(Reproduction.of("fsp", "small", None, ""), tables=(table,))

    def trained(number: int, seed: int, accuracy: float, digest: str, device: str = "cpu") -> Row:
        return make(
            study=one.run_of(table, cells[number]).study,
            phase="control",
            control=cells[number].name,
            seed=seed,
            config=flatten(one.method.configure("quick", one.settings_of(table, cells[number]))),
            test_accuracy=accuracy,
            shared_stages={"teacher": digest} if digest else {},
            device=device,
        )

    def pair(number: int, *more: Row) -> tuple[Line, Line]:
        plain = [trained(0, 1, 0.5, "a"), trained(0, 2, 0.5, "b"), trained(0, 3, 0.5, "", "a GPU")]
        lines = lines_of(one, table, [*plain, *more])
        return lines[number], lines[0]

    def differences(number: int, *more: Row) -> list[float]:
        line, other = pair(number, *more)
        return line.minus(other)

    teachers = trained(1, 1, 0.6, "a"), trained(1, 2, 0.9, "c")
    assert differences(1, *teachers) == pytest.approx([10]), "of seed 2 the teacher is another"
    line, other = pair(1, *teachers)
    assert line.over(other).endswith("1 seed of both")
    assert differences(1, *teachers, trained(1, 3, 0.7, "", "a GPU")) == pytest.approx([10, 20])
    assert differences(1, *teachers, trained(1, 3, 0.7, "")) == pytest.approx([10])
    assert differences(1, trained(1, 2, 0.7, "")) == pytest.approx([20]), "of the older row the machine is known alone"
    transfers = trained(2, 1, 0.6, "a"), trained(2, 2, 0.7, "b", "a GPU")
    assert differences(2, *transfers) == pytest.approx([10]), "of seed 2 the transfer was made anew elsewhere"
    assert differences(3, trained(3, 1, 0.4, "x", "a GPU")) == pytest.approx([-10]), "they share nothing"


def test_what_differs_from_the_paper_is_said_of_each_data_set_and_not_of_what_lines_set() -> None:
    one = Reproduction.of("fsp", "small", None, "")
    tables = tuple(
        PaperTable(
            data,
            tuple(Cell(f"{weight}", {"transfer.weight": weight, "transfer.epochs": 9}) for weight in (2.0, 3.0)),
            data,
        )
        for data in ("first", "second", "third")
    )
    each = {"second": {"finetune.epochs": 7}, "third": {"transfer.weight": 5.0}}
    spec = one.scale.data["main"]
    scale = replace(
        one.scale,
        recipe="paper",
        settings={"teacher.epochs": 3},
        words="",
        each=each,
        data=dict.fromkeys(("first", "second", "third"), replace(spec, train_size=None)),
    )
    said = departures(replace(one, scale=scale, tables=tables))
    assert said.split("\n\n", 1)[1] == (
        "first, third:\n\n- `teacher`: epochs 3 (182)\n- `transfer`: epochs 9 (60)\n\n"
        "second:\n\n- `teacher`: epochs 3 (182)\n- `transfer`: epochs 9 (60)\n- `finetune`: epochs 7 (182)"
    )


def test_a_search_is_held_against_a_grid_that_has_ended() -> None:
    searched = tuple(make(trial, val_accuracy=0.5 + trial / 10, macs_train=100) for trial in range(3))
    grid = Line(Cell("grid", searcher="grid"), {}, searched=searched[:1])
    bayes = Line(Cell("bo", searcher="bo", against="grid"), {}, searched=searched)
    assert search_cost([grid, bayes]).count("| bo | 3 | 70.00 | 300 | – | – |  |") == 1
    ended = replace(grid, searched=searched, rows=(make(phase="final"),))
    assert "| bo | 3 | 70.00 | 300 | 300 |" in search_cost([ended, bayes])
    worse = replace(bayes, searched=searched[:2])
    assert "| bo | 2 | 60.00 | 200 | – |" in search_cost([ended, worse]), "it may reach it yet"
    assert "| bo | 2 | 60.00 | 200 | never |" in search_cost([ended, replace(worse, rows=(make(phase="final"),))])


@pytest.mark.parametrize(
    ("words", "seconds"),
    [("2h", 7200.0), ("90min", 5400.0), ("90m", 5400.0), ("1.5 min", 90.0), ("30s", 30.0), ("1d", 86_400.0)],
)
def test_times_are_read(words: str, seconds: float) -> None:
    assert seconds_of("--for", words) == seconds


def deadly(task: Task, job: Job, until: float | None) -> Outcome:
    """As a process of the pool trains, but one training takes its process with it."""
    if (job.control, job.seed) == ("taught", 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt(task, job, lambda row: None)


def test_a_killed_process_costs_no_more_than_its_own_training(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(published, "tables", lambda scale: (PaperTable("Table 1", TABLES[0].cells[:2]),))
    monkeypatch.setattr("bo_distill.search.execution.processes.quiet_trial", deadly)
    assert command(tmp_path) == SOME_FAILED
    rows = {(row.control, row.seed): row for row in from_table(read(Storage(str(tmp_path / "storage"))))}
    assert len(rows) == 4 and [key for key, row in rows.items() if row.status != "done"] == [("taught", 2)]
    assert rows["taught", 2].reason == "its process died 3 times: killed, or out of memory"
    capsys.readouterr()
    assert command(tmp_path, "--dry-run") == 0
    assert "taught, seed 2: failed here (its process died 3 times" in capsys.readouterr().out


def at_once(task: Task, job: Job, until: float | None) -> Outcome:
    """A training that takes no time; where its seed is odd the GPU's memory was full."""

    def perform(*_: Any, **__: Any) -> Outcome:
        if job.seed % 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Outcome()

    trials.perform = perform  # in a process of its own
    return quiet_trial(task, job, until)


def test_a_training_that_is_handed_to_a_killed_process_is_lost_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bo_distill.search.execution.processes.quiet_trial", at_once)
    task = Task("s", "fsp", "quick", DataSpec("digits"), {}, str(tmp_path), 0)
    others = multiprocessing.active_children()
    pool = Pool(1)
    try:
        assert {one.result().status for one in pool.ended([pool.submit(task, Job(0, "search", {}, 0))])} == {"done"}
        for process in set(multiprocessing.active_children()) - set(others):
            process.kill()
        pool.executor._executor_manager_thread.join()  # type: ignore[attr-defined]  # it has seen that
        (lost,) = pool.ended([pool.submit(task, Job(1, "search", {}, 0))])
        assert isinstance(lost.exception(), BrokenProcessPool)
        (again,) = pool.ended([pool.submit(task, Job(1, "search", {}, 0))])
        assert again.result().status == "done"
        (full,) = pool.ended([pool.submit(task, Job(2, "search", {}, 1))])
        assert isinstance(full.exception(), BrokenProcessPool), "it is to run again in another process"
    finally:
        pool.close()


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


def test_only_seed_1_of_the_line_s_own_settings_is_shown(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "_figures", lambda *_: {})
    storage, one, out = Storage(tmp_path / "s"), Reproduction.of("fsp", "small", None, ""), tmp_path / "out"
    study = next(study for study in one.studies(storage, "float32") if study.plan.searcher == NONE)
    study.save_plan()
    tables = out / "fsp" / "small_tables.json"
    other: dict[str, float] = {"finetune.epochs": 2}
    config = flatten(get("fsp").configure("quick"))
    for moment, (seed, changes, shown) in enumerate(((2, {}, False), (1, other, False), (1, {}, True), (1, {}, True))):
        (trial,) = [t for t in study.trials if (t.job.control, t.job.seed) == ("taught", seed)]
        job = replace(trial.job, settings={**trial.job.settings, **changes})
        made = Study(storage, study.plan, [replace(trial, job=job, status="done")])
        table = {"caption": "T", "columns": ["c"], "rows": [[f"a|{moment}"]]}
        made.save_outcome(job.number, Outcome("done", tables={"t": table}, started=float(moment)))
        made.save()
        started = datetime.fromtimestamp(moment, UTC)
        row = make(
            job.number, study=study.plan.task.study, phase="control", control="taught", seed=seed, method="fsp",
            config={**config, **job.settings}, started=started, finished=started + timedelta(seconds=1),
        )  # fmt: skip
        write_row(storage, row)
        results.publish(one, storage, out)
        assert tables.exists() == shown
    page = (out / "fsp" / "small.md").read_text()
    assert r"| a\|2 |" in page and r"a\|3" not in page, "that which was finished first is the line's"
    assert "taught, first seed, on test unless the table says validation" in page
    (out / "fsp" / "rows.parquet").write_bytes(b"junk")
    assert command(tmp_path, "--dry-run") == 2
    assert "rows.parquet cannot be read (" in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_what_a_storage_does_not_hold_stays_published(tiny: None, tmp_path: Path) -> None:
    config = flatten(get("fsp").configure("quick", SCALE.settings))
    for part in ("a", "b"):
        study = next(iter(Reproduction.of("fsp", "small", None, "").studies(Storage(tmp_path / part), "auto")))
        name = study.plan.task.study if part == "a" else "reproduce-fsp-small-searched"
        phase, control = ("control", "taught") if part == "a" else ("final", None)
        row = make(study=name, phase=phase, control=control, method="fsp", config=config, test_accuracy=0.5, seed=1)
        write_row(Storage(tmp_path / part), row)
    one, folder = Reproduction.of("fsp", "small", None, ""), tmp_path / "out" / "fsp"
    folder.mkdir(parents=True)
    picture = folder / "small_flow.png"

    def drawn_elsewhere(started: datetime) -> None:
        picture.write_bytes(b"drawn elsewhere")
        kept = {"tables": {}, "figures": {picture.name: [row.started.isoformat(), started.isoformat()]}}
        (folder / "small_tables.json").write_text(json.dumps(kept))

    drawn_elsewhere(row.started)
    for part in ("a", "b"):
        page = Path(results.publish(one, Storage(tmp_path / part), tmp_path / "out"))
    rows = parquet.read_table(folder / "rows.parquet").to_pylist()
    assert [row["study"] for row in rows] == ["reproduce-fsp-small", "reproduce-fsp-small-searched"]
    assert "| searched | 92.00 | 50.00 |" in page.read_text() and "small_flow.png" in page.read_text()
    drawn_elsewhere(row.started + timedelta(days=1))
    results.publish(one, Storage(tmp_path / "a"), tmp_path / "out")
    assert not picture.exists() and "small_flow.png" not in page.read_text(), "one of its trainings is in no line"
    (folder / "small_tables.json").write_text('{"taught": {"cost": {}}}')
    assert results.Own.of(one, results.published(tmp_path / "out", "fsp"), folder) == results.Own(), (
        "version 0.1 wrote it"
    )


def test_who_publishes_waits_for_another_who_does(tiny: None, tmp_path: Path) -> None:
    one, out = Reproduction.of("fsp", "small", None, ""), tmp_path / "out"
    for part in ("a", "b"):
        row = make(study="reproduce-fsp-small", phase="control", control="taught", method="fsp", trial=ord(part))
        write_row(Storage(tmp_path / part), row)
    with ThreadPoolExecutor(1) as threads:
        with results._alone(one, out):
            other = threads.submit(results.publish, one, Storage(tmp_path / "b"), out)
            with pytest.raises(TimeoutError):
                other.result(0.5)
            results._added(one, Storage(tmp_path / "a"), out)
        other.result(60)
    assert [row.trial for row in results.published(out, "fsp")] == [ord("a"), ord("b")]


def test_a_search_that_was_begun_elsewhere_takes_no_place_of_one_whose_winner_is_published(
    tiny: None, tmp_path: Path
) -> None:
    name, one = "reproduce-fsp-small-searched", Reproduction.of("fsp", "small", None, "")

    def ran(part: str, phases: list[str]) -> list[str]:
        for trial, phase in enumerate(phases):
            seconds = ("whole", "begun").index(part)
            row = make(
                trial, study=name, phase=phase, method="fsp", started=datetime(2026, 1, 1, 0, 0, seconds, tzinfo=UTC)
            )
            write_row(Storage(tmp_path / part), row)
        results.add_rows(one, Storage(tmp_path / part), tmp_path / "out")
        return [row.phase for row in results.published(tmp_path / "out", "fsp")]

    assert ran("begun", ["search"]) == ["search"]
    assert ran("whole", ["search"] * 3 + ["final"]) == ["final", *["search"] * 3]
    assert ran("begun", ["search"] * 2) == ["final", *["search"] * 3]


def test_a_line_has_the_trainings_of_one_winner(tiny: None, tmp_path: Path) -> None:
    name, one = "reproduce-fsp-small-searched", Reproduction.of("fsp", "small", None, "")
    for part, seeds, rate in (("first", [1], 0.1), ("same", [2], 0.1), ("other", [1, 2, 3], 0.5)):
        for seed in seeds:
            config = {"transfer.lr": rate, "transfer.weight": 1.0}
            write_row(Storage(tmp_path / part), make(seed, study=name, phase="final", seed=seed, config=config))
        results.add_rows(one, Storage(tmp_path / part), tmp_path / "out")
    rows = results.published(tmp_path / "out", "fsp")
    assert [(row.seed, row.config["transfer.lr"]) for row in rows] == [(1, 0.1), (2, 0.1)]


KILLED = """
import os, signal
from bo_distill.search.execution.processes import pool_of
if __name__ == "__main__":
    pool = pool_of(1)
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


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["fsp", "--scale", "huge"],
        ["fsp", "--seeds", "1"],
        ["fsp", "--for", "soon"],
        ["all", "--readme", "nowhere.md"],
        ["fsp", "--out", "/dev/null/x"],
    ],
)
def test_bad_words_are_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main([*words, "--storage", str(tmp_path / "s")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("word", ["small", "full", "paper"])
def test_every_line_can_be_configured(name: str, word: str) -> None:
    one = Reproduction.of(name, word, None, "data")
    method = get(name)
    for table in one.tables:
        names = [cell.name for cell in table.cells]
        assert len(set(names)) == len(names)
        for cell in table.cells:
            method.configure(one.scale.recipe, {**one.scale.settings, **cell.settings})
            assert table.data in one.scale.data and cell.against in ("", *names) and cell.against != cell.name
            assert table.unit != "%" or "accuracy" in cell.metric, "an interval in % ends at 0 and at 100"
    every = {cell.name for table in one.tables for cell in table.cells}
    assert one.scale.shown and every >= {*one.scale.shown, *one.scale.compared}
    for claim in results.claims_of(one):
        assert len(findings(one, [claim], [])) == 1


def test_readme_and_pages_agree_with_the_rows(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "results")
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    assert reproduce.main(["all", "--out", str(tmp_path / "results"), "--readme", str(tmp_path / "README.md")]) == 0
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text()
    for page in (tmp_path / "results").rglob("*.md"):
        assert page.read_text() == (ROOT / "docs" / "results" / page.relative_to(tmp_path / "results")).read_text()


def test_a_file_without_marks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.md").write_text("nothing\n")
    assert reproduce.main(["all", "--out", str(tmp_path / "out"), "--readme", str(tmp_path / "notes.md")]) == 2
    assert "no place for the table" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_differences_are_corrected_for_their_number() -> None:
    base = Line(Cell("base"), {1: 50.0, 2: 51.0, 3: 52.0})
    better = Line(Cell("better", against="base"), {1: 52.0, 2: 53.1, 3: 53.9})
    same = Line(Cell("same", against="base"), {1: 50.0, 2: 51.0, 3: 52.0})
    once = Line(Cell("once", against="base"), {1: 90.0})
    level = Line(Cell("level", against="base"), {1: 50.2, 2: 51.2, 3: 52.2})  # 0.2 more on each seed, but for rounding
    p = corrected([base, better, same, level, once])
    own = pytest.approx(3 * float(stats.ttest_1samp([2.0, 2.1, 1.9], 0).pvalue))
    assert p == {"better": own, "same": 1.0, "level": 1.0}
    assert judged(level, base)[0] == judged(same, base)[0] == "no interval" and "to" not in level.over(base)


@pytest.mark.parametrize("name", METHODS)
def test_a_cards_means_are_of_all_published_seeds(name: str) -> None:
    seeds: dict[tuple[object, ...], dict[int, Row]] = {}
    for row in sorted(results.published(ROOT / "docs" / "results", name), key=lambda row: row.finished):
        if row.phase in ("final", "control") and row.status == "done":
            seeds.setdefault((row.study, row.control, row.config_hash), {}).setdefault(row.seed, row)
    known = set()
    for own in seeds.values():
        scores = [{**row.test_metrics, "accuracy": row.test_accuracy} for row in own.values()]
        for metric in scores[0] if len(scores) > 1 else ():
            values = [score[metric] for score in scores if score.get(metric) is not None]
            mean, sd = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
            known |= {f"{unit * mean:.2f} ± {unit * sd:.2f}" for unit in (1, 100)}
    quoted = set(QUOTED.findall((ROOT / "methods" / name / "README.md").read_text()))
    assert quoted and quoted <= known


QUOTED = re.compile(r"\d+\.\d\d ± \d+\.\d\d")
