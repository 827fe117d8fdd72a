"""The result in words, and progress in a log."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bo_distill.distributed.cache import StageCache
from bo_distill.distributed.storage import Storage
from bo_distill.methods.space import Field, Integer, Real, ranged
from bo_distill.search.api.searching import keep
from bo_distill.search.api.view import StudyView
from bo_distill.search.command.summary import print_summary
from bo_distill.search.evidence.advice import advice, end_of, in_python, widened
from bo_distill.search.evidence.statistics import Paired, student
from bo_distill.search.evidence.summary import summarise
from bo_distill.search.execution.progress import ProgressLines
from bo_distill.search.execution.trainable import heard
from bo_distill.search.pages.study import page_of, write
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Outcome, Trial
from helpers.made_up import made_up


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return made_up(Storage(tmp_path_factory.mktemp("result")))


def test_the_winner_its_settings_and_verdicts_are_said(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    found = summarise(study, 90.0)
    print_summary(found)
    said = capsys.readouterr().out
    assert "The winner is trial 2, 94.55% on validation:" in said
    settings = study.trials[2].job.settings
    assert all(f"  {name} = {settings[name]}\n" in said for name in study.plan.space), "in full"
    assert "On test, scored once: 90.00% (mean of 3 seeds)." in said, "equal values have no interval"
    assert "\nIt was chosen among 8 by its figures on validation, which therefore flatter it.\n" in said
    assert "The winner is better than student alone (+7.00 points, 95% interval +4.52 to +9.48, 3 seeds)." in said
    assert found["verdicts"][1:] == [], "one verdict needs no correction, and nothing failed or was read before"
    assert "90 s" in said


def test_what_verdicts_do_not_say_by_themselves_is_said(tmp_path: Path) -> None:
    study = made_up(Storage(tmp_path))
    for seed, accuracy in ((1, 0.7), (2, 0.75), (3, 0.9), (4, None)):
        status = "failed" if accuracy is None else "done"
        trial = Trial(Job(len(study.trials), "control", {}, seed, "equal_epochs"), 0.0, status)  # type: ignore[arg-type]
        study.trials.append(trial)
        test = {} if accuracy is None else {"accuracy": accuracy}
        study.save_outcome(trial.job.number, Outcome(status, test=test))  # type: ignore[arg-type]
    won = study.of_phase("final")[0].job.number
    outcome = study.outcome(won)
    outcome.history.insert(0, {"stage": "teacher", "epoch": 1, "loss": 1.0})
    study.save_outcome(won, outcome)
    study.note_test("opened", "trial 2; seeds 1, 2, 3", earlier=2)
    said = summarise(study, 1.0)["verdicts"]
    assert [sentence.partition(" (")[0] for sentence in said] == [
        "The winner is better than student alone",
        "No difference between the winner and equal epochs is shown",
        "Each of these is by its own interval, not corrected for their number.",
        "1 of 4 retrainings of equal epochs failed, which its figures on test leave out.",
        "Stage teacher was trained once for all seeds: no interval covers what another training of it would change.",
        "The test split was read before by 2 other studies of this method and data.",
    ]
    html, _ = page_of([study], draw=False)
    assert all(sentence in html for sentence in said[3:])


def test_the_score_on_test_is_said_to_be_of_accuracy_where_another_metric_is_searched(tmp_path: Path) -> None:
    study, out = made_up(Storage(tmp_path)), io.StringIO()
    study.plan = replace(study.plan, metrics=("val_f1",))
    for trial in study.trials:
        trial.values = {"val_f1": 0.5} if trial.status == "done" else {}
    print_summary(summarise(study, 1.0), out)
    assert "\nAccuracy on test, scored once: 90.00% (" in out.getvalue()
    assert repr(StudyView(study)).endswith("10 trials, the best macro F1 on validation 50.00%>")
    html, _ = page_of([study], draw=False)
    assert "winner&#39;s accuracy on test" in html
    assert "macro F1 on validation 50.00% is the best of 8 and so flatters it: over fresh seeds it reached" in html


def test_paths_are_said_once_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made_up(Storage(tmp_path))
    assert summarise(study, 1.0)["report"] is None and summarise(study, 1.0)["model"] is None
    study.know_data()
    study.save_plan()
    write(study, draw=False)
    report = summarise(study, 1.0)["report"]
    assert report and "What was read of the data" in Path(report).read_text()


def test_text_of_others_is_text(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    found = summarise(study, 1.0)
    reason = "[/pytorch/third_party/gloo/pair.cc:534] closed [v2]\x1b[31m"
    found["trials"][8]["reason"] = reason
    print_summary(found)
    assert reason.replace("\x1b", "\\x1b") in capsys.readouterr().out


def test_nothing_is_cut_on_a_narrow_terminal(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", terminal)
    print_summary(summarise(study, 1.0))
    assert max(map(len, terminal.getvalue().split("Cost of")[0].splitlines())) <= 40
    said = " ".join(terminal.getvalue().split())
    assert "trial 2: transfer.lr 0.001738, transfer.weight 0.3, validation % 94.55, status done" in said
    assert "…" not in said and re.search(r"in every row: not counted aten::add.* model +[\d,]+ ", said)


def test_an_interval_ends_where_its_metric_does(storage: Storage) -> None:
    study = made_up(storage)
    study.plan = replace(study.plan, metrics=("val_loss",))
    for trial in study.of_phase("search"):
        trial.values = {"val_loss": 1.5 + trial.job.number}
    again = [1.4, 1.5, 1.9]
    for seed, value in enumerate(again, 4):
        job = replace(study.trials[0].job, number=len(study.trials), phase="confirm", seed=seed)
        study.trials.append(Trial(job, 0.0, "done", 0.9, values={"val_loss": value}))
    assert summarise(study, 0.0)["best"]["confirmed"]["interval"] == student(again)


def test_a_winner_at_the_end_of_its_range_is_told(study: Study) -> None:
    assert not any("end of its range" in sentence for sentence in advice(study))
    best = study.best()
    assert best is not None
    settings: dict[str, Any] = dict(best.job.settings)
    object.__setattr__(best.job, "settings", {**settings, "transfer.weight": 9.9})
    try:
        (sentence,) = [sentence for sentence in advice(study) if "end of its range" in sentence]
        assert sentence.startswith("transfer.weight = 9.9 lies at the upper end of its range, 0.01 to 10,")
        assert "(--range transfer.weight=0.01:100:log)" in sentence
        study.method.space(study.plan.space, {"transfer.weight": "0.01:100:log"})  # which a search takes
    finally:
        object.__setattr__(best.job, "settings", settings)


def test_a_whole_number_lies_at_the_end_that_it_is() -> None:
    for domain in (Integer(1, 30, log=True), Integer(4, 16, log=True), Integer(2, 7), Integer(1, 1000)):
        found = {value: end_of(domain, value) for value in range(domain.low, domain.high + 1)}
        assert {value: end for value, end in found.items() if end} == {domain.low: "lower", domain.high: "upper"}
    assert [end_of(Real(0, 1), value) for value in (0.01, 0.03, 0.97, 0.99)] == ["lower", "", "", "upper"]


def test_remedies_are_given_as_they_can_be_typed(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "best", lambda: study.trials[7])  # the last, whose accuracy is others' too
    monkeypatch.setattr(study, "plan", replace(study.plan, trials=8))
    late, where = "The winner came late, 8 of 10: more trials may find a better one", study.storage.uri
    assert f"{late} (--extend fsp-bo-made-up --storage {where} --trials +8)." in advice(study)
    call = f"bo_distill.run(extend='fsp-bo-made-up', storage='{where}', trials='+8')"
    assert f"{late} ({call})." in advice(study, in_python)
    monkeypatch.setattr(study, "plan", replace(study.plan, searcher="grid"))
    assert not any("came late" in sentence for sentence in advice(study)), "a grid cannot be extended"
    monkeypatch.setattr(study, "plan", replace(study.plan, seeds=0))
    unread = f"The test split is unread. --resume fsp-bo-made-up --storage {where} --seeds 3"
    assert any(sentence.startswith(unread) for sentence in advice(study))
    assert in_python({"range": "transfer.lr=1e-5:1:log"}) == "range={'transfer.lr': '1e-5:1:log'}"


def test_where_no_difference_is_shown_more_seeds_are_proposed(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("seeds show" in sentence for sentence in advice(study)), "the control's is shown"
    found = Paired.of({1: 0.90, 2: 0.92, 3: 0.88}, {1: 0.89, 2: 0.90, 3: 0.90})
    monkeypatch.setattr("bo_distill.search.evidence.advice.against_controls", lambda study: {"student_alone": found})
    (sentence,) = [sentence for sentence in advice(study) if "seeds show" in sentence]
    words = "3 that spread as these do would show one of 6.8 points from student alone in four of five cases, 10"
    assert f"{words} one of 2.1" in sentence
    assert "--seeds 10" in sentence


def test_a_difference_that_seeds_can_show_is_shown_in_four_of_five_cases() -> None:
    draws = np.random.default_rng(0).normal(0.0, 0.02, (4000, 5))
    pair = Paired.of(dict(enumerate([0.01, 0.03, 0.05])), dict.fromkeys(range(3), 0.0))
    assert pair
    gap = pair.visible(5)
    assert gap and np.std([0.01, 0.03, 0.05], ddof=1) == pytest.approx(0.02)
    shown = np.mean([(interval := student(row + gap)) is not None and interval[0] > 0 for row in draws])
    assert shown == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    ("domain", "limits", "upper", "words"),
    [
        (Real(1e-3, 0.3, True), Real(1e-7, 300.0, True), False, "0.0001:0.3:log"),
        (Real(1e-3, 0.3, True), Real(1e-3, 1.0, True), True, "0.001:1:log"),
        (Real(0.0, 1.0), Real(0.0, 1.0), True, ""),
        (Real(0.2, 0.6), Real(0.0, 1.0), True, "0.2:0.8:linear"),
        (Integer(2, 9, True), Integer(1, 30, True), False, "1:9:log"),
        (Integer(2, 9), Integer(1, 30), True, "2:13:linear"),
    ],
)
def test_a_wider_range_keeps_to_the_limits(domain: Any, limits: Any, upper: bool, words: str) -> None:
    assert widened(domain, limits, upper) == words
    if words:
        ranged("it", Field(domain, limits, domain.low, True, ""), words)


def left(progress: ProgressLines) -> str:
    return next(part for part in progress.parts() if "left" in part)


def test_what_is_left_is_priced_by_the_work_of_a_run_and_the_speed_of_the_last(storage: Storage) -> None:
    study = made_up(storage)
    ended, study.trials[8:] = study.trials[:8], []
    for trial in ended[3:]:
        trial.status = "running"
    study.plan = replace(study.plan, seeds=0)
    progress = ProgressLines(study, None, width=2)

    def row(stage: str, wall: float, cpu: float) -> dict[str, Any]:
        return {"stage": stage, "epoch": 1, "seconds": wall, "cpu_seconds": cpu}

    # The teacher, which all trials share, took minutes; other work took three quarters of the processor meanwhile.
    first = [row("teacher", 400.0, 100.0), row("finetune", 80.0, 20.0)]
    for trial, history in zip(ended[3:5], (first, [row("finetune", 20.0, 20.0)]), strict=True):
        trial.status = "done"
        progress.ended(trial, Outcome(history=history, seconds=sum(r["seconds"] for r in history)))
        text = left(progress)
    assert text == "about 63 s left", "21 s for each of the 5 that are left, two at a time"


def test_a_page_that_fails_costs_the_page_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(study: Study) -> str:
        raise RuntimeError("no font")

    study = made_up(Storage(tmp_path))
    monkeypatch.setattr("bo_distill.search.pages.study.write", fails)
    keep(study, quiet=False)
    assert study.storage.exists(f"{study.folder}/model/model.json")
    assert "the page was not drawn: no font; bo-distill report" in capsys.readouterr().err


def test_a_log_has_a_line_for_the_start_and_for_each_run(study: Study) -> None:
    log = io.StringIO()
    progress = ProgressLines(study, log, width=2)
    study.listeners[-1](study.trials[3], Outcome())
    progress.close()
    first, second = log.getvalue().splitlines()
    assert first == "fsp-bo-made-up: 10 trials, then 9 later runs; 2 at a time"
    assert second.startswith("trial 3, search: 90.71% on validation, 2.0 s | 10 of 10 trials | 6 of 9 later runs")
    assert study.listeners == []


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_trial_warns_of_is_said_where_the_search_speaks(terminal: bool, study: Study) -> None:
    """For whom it waits, or which stage was set aside: its own process prints into Ray's files."""

    class Shown(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    cache, rows, told = StageCache(study.storage), list[Any](), Shown()
    study.storage.write_bytes(cache.name("s", "key"), b"damaged")
    with heard(rows.append):
        assert cache.get("s", "key") is None
    assert [list(row) for row in rows] == [["said"]]
    progress = ProgressLines(study, told, width=2)
    progress.on_trial_result(1, [], SimpleNamespace(config={"job": {"number": 4}}, trial_id="x"), rows[0])
    progress.close()
    assert "trial 4: stages/s-key.pt is set aside (" in told.getvalue()


def test_quiet_says_nothing_and_a_log_that_is_gone_ends_no_search(study: Study) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    for terminal in (None, Gone()):
        progress = ProgressLines(study, terminal, width=2)
        study.listeners[-1](study.trials[3], Outcome())
        progress.close()
