"""The report: what it holds, that it needs nothing else, and that it leaves the test split alone."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from bo_distill.distributed.storage import Storage
from bo_distill.methods.data.dataset import Split
from bo_distill.methods.errors import TestSplitLocked
from bo_distill.search import report
from bo_distill.search.evidence import importance
from bo_distill.search.evidence.advice import advice
from bo_distill.search.evidence.statistics import Course, Paired, analyse, student
from bo_distill.search.pages.page import Page
from bo_distill.search.pages.sections.paper import drawn
from bo_distill.search.pages.sections.predictions import add_errors
from bo_distill.search.pages.study import live_page, page_of, write
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Job, Outcome, Trial
from helpers.made_up import made_up

VOID = {"meta", "link", "img", "br", "input", "path", "use"}


class Reader(HTMLParser):
    """Checks nesting, collects ids, text and whatever a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.targets: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._note(tag, attributes)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._note(tag, attributes)

    def _note(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            value = value or ""
            if name == "id":
                self.ids.append(value)
            if name in ("src", "srcset", "action", "data") or (name == "href" and tag != "a"):
                self.fetched.append(value)
            if name in ("href", "xlink:href") and value.startswith("#"):
                self.targets.append(value[1:])

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = made_up(Storage(tmp_path_factory.mktemp("report")))
    study.note_test("opened", "trial 2, student alone; seeds 1, 2, 3")
    study.note_test("refused", "--trials +5")
    return study


@pytest.fixture(scope="module")
def page(study: Study) -> str:
    name = write(Study.open(study.storage, study.plan.task.study))
    assert name == f"{study.folder}/report.html"
    return study.storage.read_bytes(name).decode()


def test_page_is_whole_and_needs_nothing_else(page: str) -> None:
    read = Reader(page)
    assert len(read.ids) == len(set(read.ids))
    assert set(read.targets) <= set(read.ids)
    assert all(address.startswith(("data:", "#")) for address in read.fetched)
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_a_wheel_holds_template_style_and_scripts() -> None:
    root = Path(report.__file__).resolve().parents[1]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    pages = root / "search" / "pages"
    packed = {path for pattern in patterns["bo_distill.search.pages"] for path in pages.glob(pattern)}
    kept = {path for path in pages.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert kept and packed == kept


def test_page_says_what_was_found(page: str, study: Study) -> None:
    text = Reader(page).text
    best = study.best()
    assert best and f"{100 * (best.val_accuracy or 0):.2f}%" in text
    scores = [0.9 + s / 100 - 0.01 * s for s in (1, 2, 3)]
    assert f"{100 * np.mean(scores):.2f}%" in text
    assert "student alone" in text
    for title in ("Summary", "Search history", "What mattered", "Accuracy against cost", "Training", "Provenance"):
        assert title in text
    assert 'diverged: <loss> & "all"' not in page, "text from a trial must be escaped"
    assert "1,234,567" in text
    assert "bo-distill run fsp --bo --data digits" in " ".join(text.split())
    assert "What to do next" in text and "--confirm 2 --trials 16 runs the best again" in text
    assert "trial 2, student alone; seeds 1, 2, 3" in text and "test split refused" in text and "--trials +5" in text


def test_charts_follow_the_theme_and_have_pngs(page: str, study: Study) -> None:
    drawn = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert len(drawn) >= 2 * 9, "each for a wide page and for a phone"
    for svg in drawn:
        assert "var(--ink)" in svg and "<text" in svg
        assert "width=" not in svg[: svg.index(">")]
    assert "prefers-color-scheme: dark" in page
    pictures = [name for name in study.storage.list(f"{study.folder}/figures") if name.endswith(".png")]
    assert len(pictures) == len(drawn) // 2 + page.count('class="sheet"')
    assert page.count('class="sheet"') == 2  # fsp's own
    assert study.storage.read_bytes(pictures[0]).startswith(b"\x89PNG")


def test_drawing_cannot_read_the_test_split(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from bo_distill.methods.data import load_test
    from bo_distill.methods.fsp import figures

    monkeypatch.setattr(figures, "figures", lambda trained: load_test(study.plan.task.data))
    trial = study.best()
    assert trial is not None
    with pytest.raises(TestSplitLocked):
        drawn(study, trial)


def test_points_can_be_turned(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from bo_distill.methods.fsp import figures

    points = {"points": [[0, 0, 1]], "labels": [0], "classes": ["</script><i>"]}
    monkeypatch.setattr(figures, "figures", lambda trained: {})
    monkeypatch.setattr(figures, "turnables", lambda trained: {"last layer": points}, raising=False)
    text, _ = page_of([study])
    Reader(text)
    assert "<canvas" in text and "<i>" not in text


def marked(text: str) -> set[str]:
    """The trials that a page marks as the winner: in its table, and by lines and stars of the winner's colour."""
    stars = re.findall(r'<g class="trials" data-trials="(\d+)">((?:(?!<g class).)*?)</g>\s*</g>', text, flags=re.S)
    drawn = {number for number, inside in stars if "var(--c2)" in inside and "stroke-width: 2.8" in inside}
    return drawn | set(re.findall(r'<tr class="best" data-trial="(\d+)"', text))


def test_the_winner_is_the_ledgers(tmp_path: Path) -> None:
    tied = made_up(Storage(tmp_path), "tied")
    tied.trials[7].val_accuracy = tied.trials[2].val_accuracy
    assert marked(page_of([tied], False)[0]) == {"2"}, "of two equal ones the earlier wins"
    tied.plan = dataclasses.replace(tied.plan, confirm=2)
    for number, accuracy in ((2, 0.90), (7, 0.94)):
        again = Trial(dataclasses.replace(tied.trials[number].job, number=99 + number, phase="confirm", seed=9), 0.0)
        again.status, again.val_accuracy = "done", accuracy
        tied.trials.append(again)
        tied.save_outcome(again.job.number, Outcome())
    best = tied.best()
    assert best and best.job.number == 7
    assert marked(page_of([tied], False)[0]) == {"7"}, "fresh seeds chose it"


def test_a_forest_that_guesses_is_not_drawn(study: Study) -> None:
    other = dataclasses.replace(study, trials=[dataclasses.replace(trial) for trial in study.trials])
    for trial in other.of_phase("search"):
        trial.val_accuracy = trial.val_accuracy and 0.9 + 0.05 * (trial.job.number % 2)
    text = page_of([other], False)[0]
    assert "so no importance is shown" in text and "Importance of each setting" not in text


def test_answers_are_shown_with_their_inputs(page: str) -> None:
    read = Reader(page)
    assert "Confusion matrix" in read.text and "Reliability diagram" in page and "most frequent confusions" in read.text
    assert "The most confident errors, 12 of" in read.text
    errors = page[page.index('<ul class="errors">') :]
    assert errors.count('<img alt="" src="data:image/png;base64,') == 12


def test_sentences_are_shown_as_they_are() -> None:
    split = Split(torch.zeros(3, 4, dtype=torch.int32), torch.tensor([0, 1, 1]), ("<b>one</b>", "two", "three"))
    page = Page()
    confidence = torch.tensor([0.6, 0.9, 0.8])
    add_errors(page, split, split.y, torch.tensor([1, 0, 1]), confidence, ("yes", "no"))
    text = page.html("errors")
    Reader(text)
    assert re.findall("<q>(.*?)</q>", text) == ["two", "&lt;b&gt;one&lt;/b&gt;"], "the most confident first"


def test_states_that_are_gone_cost_the_figures_only(tmp_path: Any, study: Study) -> None:
    other = made_up(Storage(tmp_path), "gone")
    for name in other.storage.list("stages"):
        other.storage.delete(name)
    text, _ = page_of([other])
    assert "is no longer under" in text and "Provenance" in text


def test_study_without_a_finished_trial(tmp_path: Any, study: Study) -> None:
    other = Study(Storage(tmp_path), study.plan)
    Reader(page_of([other])[0])
    other.trials.append(Trial(Job(0, "search", {"transfer.lr": 0.1, "transfer.weight": 1.0}, 0), 0.0))
    other.save_plan()
    other.save()
    assert "no winner" in page_of([other])[0]
    words = f"--resume {other.plan.task.study} --storage {other.storage.uri}"
    assert advice(other) == [f"No trial has ended well yet; {words} goes on."]


def test_several_studies_on_one_page(tmp_path: Any, study: Study) -> None:
    plan = dataclasses.replace(study.plan, searcher="random", task=dataclasses.replace(study.plan.task, study="other"))
    other = Study(study.storage, plan, study.trials)
    other.save_plan()
    other.save()
    for trial in study.trials:
        other.save_outcome(trial.job.number, study.outcome(trial.job.number))
    out = tmp_path / "both.html"
    words = [study.plan.task.study, "other", "--storage", study.storage.uri, "--out", str(out), "--no-figures"]
    assert report.main(words) == 0
    read = Reader(out.read_text(encoding="utf-8"))
    assert len(read.ids) == len(set(read.ids))
    assert "Side by side" in read.text and read.text.count("Provenance") == 2
    assert (tmp_path / "figures" / "anytime.png").exists()


def test_studies_of_one_name_are_told_apart(study: Study) -> None:
    page = page_of([study, study], draw=False)[0]
    assert page.count('data-key="s1-"') == page.count('data-key="s2-"') == 1
    assert all(f"{study.plan.task.study}, {number}<" in page for number in (1, 2))


def test_what_pauses_and_what_a_model_chose_is_said_so(study: Study) -> None:
    trials = [dataclasses.replace(trial, estimate=0.9 + trial.job.number / 1000) for trial in study.trials]
    trials[9] = dataclasses.replace(trials[9], status="paused")
    text = " ".join(Reader(live_page(Study(study.storage, study.plan, trials), 1)).text.split())
    assert "of 10 trials have ended; 6 of 6 later runs; 1 paused." in text and "under way" not in text
    assert "expected end, 90.70% by the model of all learning curves, is the highest" in text
    assert "is the best of 8" not in text


def test_bad_words_are_one_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["nothing", "--storage", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: study nothing: none of this name")
    study = made_up(Storage(tmp_path))
    study.save_plan()
    study.save()
    (tmp_path / study.folder / "report.html").mkdir()  # what cannot be written, for root too
    assert report.main([study.plan.task.study, "--storage", str(tmp_path), "--no-figures"]) == 2
    assert capsys.readouterr().err.endswith("or write the page elsewhere by --out FILE\n")
    assert report.main(["nothing", "--storage", str(tmp_path), "--out", "/dev/null/x.html"]) == 2
    assert capsys.readouterr().err.startswith("error: --out /dev/null/x.html: there is no such folder")


def test_a_page_that_cannot_be_written_leaves_nothing(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = made_up(Storage(tmp_path / "results"))
    study.save_plan()
    study.save()
    words = [study.plan.task.study, "--storage", study.storage.uri, "--no-figures", "--out", str(tmp_path / "x.html")]
    room = iter((0,))

    def full(descriptor: int) -> None:
        if not next(room, 1):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert report.main(words) == 2
    assert capsys.readouterr().err.endswith("x.html cannot be written: No space left on device; give another file\n")
    assert os.listdir(tmp_path) == ["results"]
    room = iter((1, 1, 0))  # a file and its folder, each flushed
    assert report.main(words) == 2
    assert "x.html is written, but not all its pictures" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["results", "x.html"]


def test_interval_is_students() -> None:
    from scipy import stats

    values = [0.91, 0.94, 0.9, 0.95]
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert student(values) == pytest.approx((theirs.low, theirs.high))
    assert student([0.98, 1.0, 0.99], 0, 1)[1] == 1, "no accuracy is above 1"  # type: ignore[index]


def test_equal_values_make_no_interval() -> None:
    assert student([0.9]) is None and student([0.9, 0.9, 0.9]) is None


def test_differences_that_are_equal_but_for_rounding_show_nothing() -> None:
    right = {1: 347, 2: 344, 3: 350}  # of 360; four fewer differ by 4 / 360 only in exact arithmetic
    won, other = ({seed: (count - less) / 360 for seed, count in right.items()} for less in (0, 4))
    found = Paired.of(won, other)
    assert found and found.interval is None and found.p is None
    assert found.sentence("the winner", "plain").endswith("the same on all 3 seeds, so there is no interval.")


def test_a_paired_difference_is_said_in_one_sentence() -> None:
    from scipy import stats

    won, other = {1: 0.93, 2: 0.95, 3: 0.94, 9: 0.1}, {1: 0.90, 2: 0.93, 3: 0.91, 8: 0.9}
    found = Paired.of(won, other)
    assert found and found.n == 3 and found.mean == pytest.approx(0.08 / 3)
    assert found.p == pytest.approx(float(stats.ttest_rel([0.93, 0.95, 0.94], [0.90, 0.93, 0.91]).pvalue))
    assert found.sentence("the winner", "plain").startswith("The winner is better than plain (+2.67 points, 95% inter")
    turned = Paired.of(other, won)
    assert turned and turned.sentence("the winner", "plain").startswith("The winner is worse than plain (-2.67 points")
    unclear = Paired.of({1: 0.9, 2: 0.8}, {1: 0.8, 2: 0.9})
    assert unclear and unclear.sentence("a", "b").startswith("No difference between a and b is shown")
    same = Paired.of({1: 0.9, 2: 0.8}, {1: 0.9, 2: 0.8})
    assert same and same.interval is None and "no interval" in same.sentence("a", "b")
    assert Paired.of({1: 0.9}, {2: 0.9}) is None


def test_anova_finds_the_shares_of_a_known_function() -> None:
    """f = 3a + b + 2(a - 1/2)(b - 1/2): variances 9/12, 1/12 and 4/144, and nothing from c."""
    x = np.random.default_rng(0).random((400, 3))
    found = importance.anova(x, 3 * x[:, 0] + x[:, 1] + 2 * (x[:, 0] - 0.5) * (x[:, 1] - 0.5))
    assert found is not None and found.r2 > 0.9
    total = 9 / 12 + 1 / 12 + 4 / 144
    assert found.main.mean(0) == pytest.approx(np.array([9 / 12, 1 / 12, 0]) / total, abs=0.03)
    assert found.pairs[0, 1].mean() == pytest.approx(4 / 144 / total, abs=0.03)


def test_a_tree_s_shares_are_sums_over_its_boxes() -> None:
    """One tree: marginals against a plain average of its prediction over a fine grid; shares add up to one."""
    from sklearn.tree import DecisionTreeRegressor

    x = np.random.default_rng(1).random((60, 2)).astype(np.float32)
    tree = DecisionTreeRegressor(max_leaf_nodes=12, random_state=0).fit(x, np.sin(5 * x[:, 0]) * x[:, 1])
    boxes = importance.Boxes.of(tree.tree_, 2)
    assert boxes.volume.sum() == pytest.approx(1)
    span = (np.arange(400) + 0.5) / 400
    across, up = np.meshgrid(span, span, indexing="ij")
    told = tree.predict(np.stack([across.ravel(), up.ravel()], 1)).reshape(400, 400)
    assert boxes.marginal([0], [span]) == pytest.approx(told.mean(1), abs=0.01)
    assert boxes.marginal([0, 1], [span, span]) == pytest.approx(told)
    assert boxes.explained([0, 1]) == pytest.approx(boxes.variance)


def test_a_comparison_has_a_page_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, rng = Storage(tmp_path), np.random.default_rng(0)
    courses = {
        name: [Course(tuple(rng.normal(level, 0.01, 6)), (2.0,) * 6, (1e9,) * 6) for _ in range(8)]
        for name, level in (("random", 0.8), ("grid", 0.7))
    }
    courses["grid"][0] = Course((float("nan"),) * 6, (2.0,) * 6, (1e9,) * 6)
    summary = {
        "comparison": "versus", "method": "fsp", "recipe": "quick", "settings": {"transfer.depth": 8},
        "space": ["transfer.lr"], "budget": {"trials": 6.0}, "seeds": list(range(8)), "commit": None, "dirty": None,
        "data": {"name": "<digits>", "fingerprint": "ab12"}, "python": "3", "torch": "2", "ray": "2",
        "studies": {name: [f"versus-{name}-{seed}" for seed in range(8)] for name in courses}, **analyse(courses),
        "curves": {
            name: [{"value": [None if v != v else v for v in r.values], "seconds": r.seconds, "macs": r.macs}
                   for r in runs] for name, runs in courses.items()
        },
    }  # fmt: skip
    storage.write_bytes("comparisons/versus/compare.json", json.dumps(summary).encode())
    assert report.main(["versus", f"--storage={tmp_path}"]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == tmp_path / "comparisons/versus/report.html"
    read = Reader(page.read_text())
    assert summary["verdict"] in read.text and "versus-random-7" in read.text and "6 trials" in read.text
    assert len(read.ids) == len(set(read.ids)) and set(read.targets) <= set(read.ids) and "<digits>" in read.text
    assert all(address.startswith(("data:", "#")) for address in read.fetched)
    pictures = {path.stem for path in (page.parent / "figures").iterdir()}
    assert pictures == {"anytime", "differences", "finals"}
    assert report.main(["versus", "other", f"--storage={tmp_path}"]) == 2
    assert "give it alone" in capsys.readouterr().err


def test_trials_of_a_control_s_search_are_told_from_its_retrainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = made_up(Storage(tmp_path), "tuned")
    for trial in study.of_phase("control")[:1]:
        trial.job = dataclasses.replace(trial.job, phase="tune")
    seen: list[list[str]] = []
    monkeypatch.setattr(
        "bo_distill.search.pages.charts.trials.macs", lambda groups, narrow: seen.append([*groups]) or Figure()
    )
    page_of([study], False)
    assert set(seen[0]) == {"trial", "search of student alone", "student alone", "winner, fresh seeds"}
