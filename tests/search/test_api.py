"""`bo_distill` as a script or a notebook uses it: the same search as the command's, from arrays to answers."""

from __future__ import annotations

import inspect
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bo_distill
from bo_distill.distributed.storage import Storage
from bo_distill.search.api import own_data
from bo_distill.search.api.calls import as_arguments
from bo_distill.search.command.interruption import Interruption, interruption
from bo_distill.search.command.run_options import parser
from bo_distill.search.searchers.registry import SEARCHERS
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.winner import save_winner
from helpers.made_up import made_up
from helpers.running import ROOT, TRIVIAL

SHORT: dict[str, Any] = {"searcher": "random", "trials": 2, "seeds": 1, "set": {"only.epochs": 1}}


def squares(rows: int = 90) -> tuple[np.ndarray, list[str]]:
    """Images (n, h, w, c) of three classes that differ in their red."""
    y = np.arange(rows) % 3
    x = np.random.default_rng(0).integers(0, 80, (rows, 16, 16, 3))
    x[..., 0] += 80 * y[:, None, None]
    return x.astype(np.uint8), [("low", "mid", "high")[k] for k in y]


# What is imported, and what is offered


def test_the_package_is_light_and_its_names_are_found() -> None:
    code = (
        "import sys, bo_distill; bo_distill.run, bo_distill.open, bo_distill.UsageError; "
        "print({'torch', 'ray', 'pandas', 'matplotlib'} & set(sys.modules)); "
        "names = bo_distill.__all__; "
        "print(set(names) <= set(dir(bo_distill)), all(getattr(bo_distill, name) for name in names))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert said.stdout == "set()\nTrue True\n", said.stderr
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        bo_distill.serach  # noqa: B018


def test_every_option_of_the_command_is_an_argument() -> None:
    taken = set(inspect.signature(bo_distill.run).parameters)
    options = {name.replace("-", "_") for name in parser().options}
    flags = {word for word, entry in SEARCHERS.items() if entry.flag}
    assert options - taken == {"help", "fields", "dry_run", "json"} | flags and "bo" in flags
    assert taken - options == {"method", "callbacks"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trails": 3}, "trails: run has no such argument; did you mean one of trials"),
        ({"json": True}, "json: an option of the command alone; look at what run returns"),
        ({"patience": "soon"}, "argument patience: invalid int value: 'soon'; see help"),
        ({"set": {"transfer.dept": 8}}, "transfer.dept"),
        ({"trials": 0}, "^trials 0: give at least 1"),
        ({"curves": True, "searcher": "grid"}, '^curves: not with searcher="grid"; leave one'),
        ({"method": "all", "data": "digits"}, "^method all: of the command alone; bo-distill run all --data NAME$"),
        ({"callbacks": 3}, "^callbacks: 3: give a function, or a list of them$"),
        ({"dry_run": True}, "^dry_run: .* use the command, bo-distill run METHOD --dry-run$"),
        ({"trials": "+3"}, "^trials \\+3: only resume and extend add to a search; give trials 3"),
        ({"tune_controls": True, "no_controls": True}, "^tune_controls: .* leave out no_controls and seeds 0"),
        ({"data": 3}, "data: train is no pair"),
        ({"method": None}, r"^which method\? .*; see help(bo_distill.run\)$"),
        ({"resume": "none-such", "method": None}, "study none-such: none of this name"),
    ],
)
def test_what_cannot_be_is_a_usage_error(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(bo_distill.UsageError, match=said.replace("(", r"\(")) as caught:
        bo_distill.run(**{"method": "fsp", "storage": str(tmp_path), **given})
    assert "\n" not in str(caught.value)
    assert not Storage(tmp_path).list("studies")


def test_rows_are_not_kept_for_a_search_that_cannot_be(tmp_path: Path) -> None:
    for wrong in (
        {"method": "fps"},
        {"method": "res_ic"},
        {"method": "fsp", "trails": 3},
        {"method": "fsp", "patience": "soon"},
    ):
        with pytest.raises(bo_distill.UsageError):
            bo_distill.run(**wrong, data=squares(), storage=str(tmp_path))
    assert not Storage(tmp_path).list()


def test_arguments_say_what_words_say() -> None:
    from bo_distill.search.api.calls import _parsed

    options = {
        "searcher": "bo", "trials": 12, "asha": True, "no_controls": False, "label_column": ["a", "b"],
        "set": {"transfer.depth": 8}, "search": ["transfer.lr", "transfer.weight"], "time": None,
        "range": {"transfer.lr": (1e-5, 1, "log"), "transfer.weight": [1, 2]},
    }  # fmt: skip
    words = "fsp --searcher bo --trials 12 --asha --label-column a --label-column b --set transfer.depth=8 --search "
    words += "transfer.lr,transfer.weight --range transfer.lr=1e-05:1:log --range transfer.weight=1,2 --data digits"
    assert _parsed("fsp", "digits", options) == parser().parse(words.split())


def test_a_field_is_found_by_its_help() -> None:
    (weight,) = [one for one in bo_distill.fields("fsp") if one["field"] == "transfer.weight"]
    assert weight["searched"] and weight["help"] and weight["range"]


# Rows that are handed over


def test_arrays_of_any_layout_are_one_content() -> None:
    x, y = squares(9)
    first = own_data.rows_of((x, y))
    assert first.images is not None and first.images.shape == (9, 3, 16, 16)
    for same in (torch.from_numpy(x).permute(0, 3, 1, 2), x / 255, (x / 255).astype(np.float32), list(x)):
        assert own_data.rows_of((same, np.array(y))).digest == first.digest
    numbers = own_data.rows_of((x, np.arange(9))).digest
    for counted in (list(np.arange(9)), list(torch.arange(9)), torch.arange(9), range(9)):
        assert own_data.rows_of((x, counted)).digest == numbers
    grey = own_data.rows_of((x[..., 0], y)).images
    assert grey is not None and (grey == np.moveaxis(x, 3, 1)[:, :1]).all()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (([np.zeros((4, 4, 2))], ["a"]), r"images of shape \(1, 4, 4, 2\); give"),
        ((np.full((2, 4, 4), 7.0), ["a", "b"]), "floats from 7 to 7; give floats from 0 to 1"),
        ((np.full((2, 4, 4), np.nan), ["a", "b"]), "floats from nan to nan"),
        ((np.zeros((2, 4, 4), np.int64), ["a", "b"]), "images of int64; give uint8"),
        ((np.zeros((2, 4, 4), np.uint8), ["a"]), "2 rows and 1 label;"),
        ((np.zeros((2, 4, 4), np.uint8), [0.5, 1.5]), "label 0.5; give text or whole numbers"),
        ((1, 2), "pair of int and int; give"),
        ((np.zeros((2, 4, 4), np.uint8), None), "pair of ndarray and NoneType"),
        (([np.zeros((4, 4)), np.zeros((5, 4))], ["a", "b"]), "images of different shapes"),
        ({"training": ([], [])}, "training: no such part"),
        ({"test": ([], [])}, 'there is no "train"'),
        ((["a", None], [1, 2]), "row 1 is None among text; give text in every row"),
        ((np.array(["a", np.nan], object), [1, 2]), "row 1 is nan among text"),
        ({"train": (["a"], [1]), "val": (np.zeros((1, 4, 4), np.uint8), [1])}, "give one kind"),
    ],
)
def test_rows_that_cannot_be_understood_are_refused_in_a_line(data: Any, said: str) -> None:
    with pytest.raises(bo_distill.UsageError, match=said) as caught:
        own_data.rows_of(data)
    assert "\n" not in str(caught.value)


# A search


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any]]:
    """A study that was run off the main thread, and what its callback saw."""
    found: list[Any] = []
    seen: list[Any] = []
    storage = str(tmp_path_factory.mktemp("api"))

    def work() -> None:
        found.append(bo_distill.run(TRIVIAL, data=squares(), storage=storage, callbacks=[seen.append], **SHORT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0], seen


def test_a_search_off_the_main_thread_on_arrays(searched: tuple[Any, list[Any]]) -> None:
    study, seen = searched
    assert study.complete and [(one.phase, one.status) for one in seen] == [("search", "done")] * 2 + [
        ("final", "done")
    ]
    assert sorted(seen, key=lambda one: one.number) == study.trials  # told in the order in which they ended
    assert study.best == max(study.trials[:2], key=lambda one: one.val["accuracy"])
    assert set(study.best.settings) == {"only.x", "only.y"}
    assert study.test.mean == seen[-1].test["accuracy"] and (study.test.n, study.test.sd) == (1, None)
    again = bo_distill.open(study.name, study.storage, trust="tests.helpers.trivial")
    assert again.trials == study.trials
    assert study.name in repr(again) and "2 trials, the best" in repr(again)


def test_the_winner_answers_to_arrays(searched: tuple[Any, list[Any]]) -> None:
    study, _ = searched
    x, _ = squares()
    assert study.tasks == {"class": ("high", "low", "mid")}
    chances = study.predict_proba(x)
    assert chances.shape == (90, 3) and np.allclose(chances.sum(1), 1)
    assert study.predict(x / 255) == [study.tasks["class"][k] for k in chances.argmax(1)]
    with pytest.raises(bo_distill.UsageError, match="row 1 is None among files; give files in every row"):
        study.predict(["a.png", None])
    with pytest.raises(
        bo_distill.UsageError, match="images of 8 x 8 pixels; this network takes 16 x 16, 3 channels: resize them"
    ):
        study.predict(x[:, :8, :8])
    with pytest.raises(bo_distill.UsageError, match="task colour: there are class"):
        study.predict(x, task="colour")


# A study that is there


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = made_up(Storage(tmp_path_factory.mktemp("kept")))
    save_winner(study)
    return study


def test_a_frame_has_a_row_for_each_trial(kept: Study) -> None:
    pytest.importorskip("pandas")
    frame = bo_distill.open(kept.plan.task.study, kept.storage.uri).frame()
    assert len(frame) == len(kept.trials) and list(frame.columns[:3]) == ["trial", "transfer.lr", "transfer.weight"]
    assert frame[frame.phase == "final"].test_accuracy.notna().all()
    assert frame.loc[frame.status == "done", "val_accuracy"].notna().all()


def test_a_frame_without_pandas_says_what_to_install(kept: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(bo_distill.UsageError, match=r"pip install -e '\.\[notebook\]'"):
        bo_distill.open(kept.plan.task.study, kept.storage.uri).frame()


def test_the_result_is_in_words_and_shows_itself(kept: Study) -> None:
    study = bo_distill.open(kept.storage.path(kept.folder))
    words = study.result()
    assert "The winner is trial 2" in words and repr(words) == str(words)
    assert study.test is not None and f"{100 * study.test.mean:.2f}% (mean of 3 seeds" in words
    assert study.controls["student_alone"] is not None and study.controls["student_alone"].n == 3


def test_the_page_shows_itself_in_a_notebook(kept: Study) -> None:
    report = bo_distill.open(kept.plan.task.study, kept.storage.uri).report(figures=False)
    assert Path(report.path).read_text() == report.text
    shown = report._repr_html_()
    assert shown.startswith('<iframe srcdoc="') and shown.count('"') == 8 and "<!doctype" not in shown.lower()


def test_predicting_from_files(kept: Study, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (20, 30), 99).save(tmp_path / "a.png")
    study = bo_distill.open(kept.plan.task.study, kept.storage.uri)
    assert study.predict([tmp_path / "a.png"]) == study.predict(str(tmp_path / "a.png"))
    with pytest.raises(bo_distill.UsageError, match=r"none\.png: there is no such file"):
        study.predict("none.png")


# Ray and signals


def test_a_ray_that_the_program_has_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.shutdown", lambda: pytest.fail("it is not ours"))
    with pytest.raises(bo_distill.UsageError, match=r"call ray\.shutdown\(\) first"):
        bo_distill.run("fsp", storage=str(tmp_path))
    assert not Storage(tmp_path).list("studies")


def test_a_search_that_ray_does_not_carry_raises_and_exits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: Any) -> None:
        raise OSError("no room\nfor sockets")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(RuntimeError, match=r"^Ray did not start: no room for sockets$"):
        bo_distill.run("fsp", storage=str(tmp_path))


def test_what_a_callback_raises_is_raised_as_it_is() -> None:
    with pytest.raises(RuntimeError) as raised, as_arguments():
        raise RuntimeError(7, "--trials")
    assert raised.value.args == (7, "--trials")
    with pytest.raises(bo_distill.UsageError, match=r"^trials 0: give at least 1$"), as_arguments():
        raise bo_distill.UsageError("--trials 0: give at least 1")


def test_an_interruption_of_a_program_is_raised_and_then_forgotten() -> None:
    before = signal.getsignal(signal.SIGINT)
    asked = Interruption()
    with pytest.raises(KeyboardInterrupt), asked.noticed():
        signal.raise_signal(signal.SIGINT)
    assert asked.asked and signal.getsignal(signal.SIGINT) == before and not interruption().asked


def test_within_deferred_work_the_first_is_noted_and_the_second_raises() -> None:
    asked = Interruption()
    with asked.noticed(), asked.deferred():
        signal.raise_signal(signal.SIGINT)
        assert asked.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_a_callback_that_raises_ends_the_search_which_goes_on_later(tmp_path: Path) -> None:
    def refuse(result: Any) -> None:
        raise ValueError("enough")

    common: dict[str, Any] = {"storage": str(tmp_path), "quiet": True}
    with pytest.raises(ValueError, match="enough"):
        bo_distill.run(TRIVIAL, data=squares(), callbacks=[refuse], **SHORT, **common)
    (name,) = {entry.split("/")[1] for entry in Storage(tmp_path).list("studies")}
    begun = bo_distill.open(name, str(tmp_path))
    assert not begun.complete and len(begun.trials) >= 1
    ended = bo_distill.run(resume=name, trust=["tests.helpers.trivial"], **common)
    # Two run at once: either may have ended first.
    assert ended.complete and len(ended.trials) == 3 and all(trial in ended.trials for trial in begun.trials)
