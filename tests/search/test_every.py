"""Every method on one data set: budget, what is left out, a failure among them, going on, and which one helped."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bo_distill.distributed.locks import locked
from bo_distill.distributed.storage import Storage
from bo_distill.methods import METHODS, get
from bo_distill.methods.errors import UsageError
from bo_distill.search import report
from bo_distill.search.api import every
from bo_distill.search.evidence.every import Held, held, verdict
from bo_distill.search.evidence.statistics import Paired
from bo_distill.search.run import main
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Outcome, Trial
from helpers.carrying import carried
from helpers.made_up import made_up

GAINS = {"fsp": 0.05, "max_entropy": 0.0, "label_embedding": -0.04, "center_loss": 0.001}


def carry(study: Study, stop: int | None = None) -> None:
    """Carry a study through without training: the winner gains over plain training what GAINS says, give or take."""

    def outcome(trial: Trial) -> Outcome:
        job = trial.job
        noise = np.random.default_rng([job.seed, job.control is None]).normal(0, 0.002)
        value = 0.8 + 0.01 * job.seed + noise + (0.0 if job.control else GAINS[study.method.name])
        test = {"accuracy": value} if job.phase in ("final", "control") else {}
        history = [{"stage": study.method.stages[-1].name, "epoch": 1, "seconds": 1.0}]
        return Outcome(val={"accuracy": value}, test=test, history=history, started=time.time(), seconds=1.0)

    carried(study, outcome, stop)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`search.run` without Ray; "fails" names methods whose search raises, "stops" how far one comes."""
    how: dict[str, Any] = {"fails": (), "stops": {}}

    def search(args: Any, study: Study, go_on: str) -> float:
        study.save_plan()
        if study.method.name in how["fails"]:
            raise RuntimeError("no\nmemory")
        carry(study, how["stops"].get(study.method.name))
        return 1.0

    monkeypatch.setattr(every, "search", search)
    monkeypatch.setattr(every, "keep", lambda study, quiet: None)  # there are no networks
    return how


def words(storage: Storage, *more: str) -> list[str]:
    data = ["--data=digits", "--train-size=200", "--val-size=100"]
    return ["all", "--random", "--quiet", f"--storage={storage.uri}", *([] if "--resume" in more else data), *more]


def test_every_method_that_takes_the_data_is_held_against_plain_training(
    storage: Storage, untrained: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    untrained["fails"] = ("max_entropy",)
    assert main(words(storage, "--trials=3", "--seeds=4")) == 3, "finished, and a method failed"
    said = capsys.readouterr()
    assert "max_entropy failed: no memory" in said.err
    first, *lines = said.out.splitlines()
    assert first.startswith("fsp helped; label_embedding hurt; no difference from plain training is shown for center_")
    assert lines[0].startswith("- fsp helped: +") and "4 seeds, p = " in lines[0] and "(equal epochs)" in lines[0]
    assert lines[3:5] == ["- res_ic: left out, takes text data", "- max_entropy: failed, no memory"]
    (name,) = (file.split("/")[1] for file in storage.list("comparisons") if file.endswith("all.json"))
    record = every.read_record(storage, name)
    assert record.budgets == {
        m: {"trials": str(n)} for m, n in {"fsp": 3, "max_entropy": 4, "label_embedding": 3, "center_loss": 4}.items()
    }
    page = storage.read_bytes(f"comparisons/{name}/report.html").decode()
    assert first[:80] in page and "takes text data" in page and "no memory" in page

    untrained["fails"] = ()  # mended
    assert main(words(storage, "--resume", name)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 4 + 1 + 1 + 5 and lines[6].startswith(
        "So few seeds show large differences only: in four of"
    )
    assert "center_loss 0." in lines[6] and "fsp" not in lines[6], "its difference is shown"
    page = storage.read_bytes(f"comparisons/{name}/report.html").decode()
    assert lines[6][:70] in page and f'href="../../studies/{every.read_record(storage, name).studies["fsp"]}/' in page
    assert list(every.read_record(storage, name).studies) == ["fsp", "max_entropy", "label_embedding", "center_loss"]
    before = storage.read_bytes(f"comparisons/{name}/report.html")
    assert report.main([name, f"--storage={storage.uri}"]) == 0
    assert len(storage.read_bytes(f"comparisons/{name}/report.html")) == len(before)


def test_an_interruption_goes_on_with_the_trials_that_there_are(
    storage: Storage, untrained: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    untrained["stops"] = {"label_embedding": 2}
    assert main(words(storage, "--trials=3", "--seeds=2")) == 130
    (name,) = (file.split("/")[1] for file in storage.list("comparisons"))
    begun = every.read_record(storage, name).studies
    assert list(begun) == ["fsp", "max_entropy", "label_embedding"]
    untrained["stops"] = {}
    capsys.readouterr()
    assert main(words(storage, "--resume", name, "--trials=9")) == 2
    assert f"all --resume {name} --trials: not what" in capsys.readouterr().err
    assert main(words(storage, "--resume", name, "--trials=3", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert {m: one["study"] for m, one in found["studies"].items()}.items() >= begun.items()
    assert len(found["sentences"]) == 4 and found["left_out"] == {"res_ic": "takes text data"}
    study = Study.open(storage, begun["fsp"])
    study.trials[0].status = "failed"
    study.save()
    assert main(words(storage, "--resume", name, "--json")) == 3, "finished, and a trial failed"


def test_a_second_process_is_refused(
    storage: Storage, untrained: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    untrained["stops"] = {"max_entropy": 1}
    assert main(words(storage, "--trials=3", "--seeds=2")) == 130
    (name,) = (file.split("/")[1] for file in storage.list("comparisons"))
    before = every.read_record(storage, name)
    capsys.readouterr()
    with locked(storage, f"comparisons/{name}/.lock"):
        assert main(words(storage, "--resume", name)) == 2
        assert f"all --resume {name}: another process is running it, held by" in capsys.readouterr().err
        assert main(words(storage, "--resume", name, "--dry-run")) == 0, "which runs nothing"
    assert every.read_record(storage, name) == before


def test_an_error_on_going_on_leaves_no_method_out(
    storage: Storage, untrained: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained["stops"] = {"fsp": 1}
    assert main(words(storage, "--trials=3", "--seeds=2")) == 130
    (name,) = (file.split("/")[1] for file in storage.list("comparisons"))
    untrained["stops"] = {}

    def gone(args: Any) -> Study:
        raise UsageError("digits: gone")

    with monkeypatch.context() as patch:
        patch.setattr(every, "begun", gone)
        assert main(words(storage, "--resume", name)) == 2
    assert "digits: gone" in capsys.readouterr().err
    assert every.read_record(storage, name).left_out == {"res_ic": "takes text data"}
    assert main(words(storage, "--resume", name)) == 0


def test_a_page_that_a_kill_left_out_is_drawn_on_going_on(
    storage: Storage, untrained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained["stops"] = {"label_embedding": 1}
    assert main(words(storage, "--trials=3", "--seeds=2")) == 130
    (name,) = (file.split("/")[1] for file in storage.list("comparisons"))
    studies = every.read_record(storage, name).studies
    for file in ("model/model.json", "report.html"):
        storage.write_bytes(f"studies/{studies['fsp']}/{file}", b"whole")
    kept: list[str] = []
    monkeypatch.setattr(every, "keep", lambda study, quiet: kept.append(study.method.name))
    untrained["stops"] = {}
    assert main(words(storage, "--resume", name)) == 0
    assert kept == ["max_entropy"], "those that are searched now keep their own"


def test_what_is_not_for_all_methods_is_refused(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    for more, remedy in (
        (["all"], "all: which data? give --data"),
        (["all", "--fields"], "all --fields: fields are of one method; give fsp, "),
        (["all", "--data=digits", "--set", "lr=1"], "all --set: not for all methods at once; leave it out"),
        (["all", "--data=digits", "--warm=all"], "all --warm: not for all methods at once; leave it out"),
        (["all", "--data=digits", "--seeds", "1"], "give at least 2"),
        (["all", "--resume", "none"], "--resume none: no searches of all methods by this name"),
        (["all", "--data=nothing"], "nothing"),
    ):
        assert main([*more, f"--storage={storage.uri}"]) == 2
        said = capsys.readouterr().err
        assert remedy in said and said.count("\n") == 1
    assert not list(Path(storage.uri).glob("**/*.json"))


def test_time_is_shared_and_a_dry_run_lists_all(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bo_distill.search.execution import forecast as planning

    def rehearsed(task: Any, place: Any) -> planning.Rehearsal:
        return planning.Rehearsal(1.0, {s.name: planning.Speed(1.0) for s in get(task.method).stages}, 2**30)

    monkeypatch.setattr(planning, "rehearsals", rehearsed)
    assert main(words(storage, "--dry-run", "--time=1s")) == 0, "a quarter of a second each"
    assert "fsp: trials for 0.2 s of 17 epochs" in capsys.readouterr().out
    assert main(words(storage, "--dry-run", "--time=40m")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*(m for m in METHODS if m != "res_ic"), "res_ic", "all"]
    assert "fsp: trials for 10 min of 17 epochs over transfer.weight, transfer.lr" in lines[0].replace(
        "transfer.lr, transfer.weight", "transfer.weight, transfer.lr"
    )
    assert "then 10 retrainings (winner and equal_epochs)" in lines[0] and "left out, takes text data" in lines[4]
    assert not Path(storage.uri).exists() or not list(Path(storage.uri).glob("**/*.json")), "nothing is written"


def test_p_is_corrected_for_the_number_of_methods(storage: Storage) -> None:
    study = made_up(storage)
    (one,) = held([study])
    assert one.control == "equal_epochs" and one.difference is None, "no such control was run"
    pair = Paired.of({1: 0.9, 2: 0.91, 3: 0.93}, {1: 0.8, 2: 0.82, 3: 0.83})
    assert pair and pair.p is not None and pair.p < 0.05
    again = [Held(study, "student_alone", {}, {}, pair, p, 3, 9) for p in (pair.p, 4 * pair.p + 0.05)]
    assert [each.shown for each in again] == [True, False]
    assert verdict([]) == "No method was carried through, so nothing is said."
    many = held([study] * 2)
    assert [each.p for each in many] == [None, None]
    assert verdict(many).startswith("Nothing is said of fsp, fsp, whose seeds lack one of the two.")
    assert verdict([*again, one]).startswith(
        "fsp helped; no difference from plain training is shown for fsp; nothing is said of fsp, whose seeds lack"
    )
    assert verdict(many).endswith("%: being the best of 2 there, it flatters.") and verdict([one]).endswith("%.")


def test_the_first_control_of_every_method_trains_as_many_epochs() -> None:
    for name in METHODS:
        method = get(name)
        configs = method.configure("quick")
        settings = {f"{s}.{f}": getattr(c, f) for s, c in configs.items() for f in vars(c)}
        plain = method.configure("quick", {**settings, **next(iter(method.controls.values()))(settings)})
        epochs = [sum(getattr(c, "epochs", 0) for c in some.values()) for some in (configs, plain)]
        assert 0.6 * epochs[0] <= epochs[1] <= epochs[0], (name, epochs)
