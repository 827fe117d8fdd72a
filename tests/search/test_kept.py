"""Files that a study keeps: read as they were written, or refused in one line; never misread."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.search.run import main
from bo_distill.search.study.kept import FORMAT
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.winner import load_model, save_winner
from helpers.made_up import changed, made_up

FILES = ("study.json", "ledger.json", "trials/0.json", "model/model.json")


def read_all(storage: Storage) -> None:
    study = Study.open(storage, "s")
    study.outcome(0)
    load_model(storage, f"{study.folder}/model")


@pytest.fixture
def kept(storage: Storage) -> Storage:
    study = made_up(storage, "s", trials=2)
    save_winner(study)
    (storage.local_path("studies/s/ledger.previous.json")).unlink(missing_ok=True)
    return storage


@pytest.mark.parametrize("file", FILES)
def test_a_file_bears_its_format_and_a_later_one_is_refused(file: str, kept: Storage) -> None:
    assert json.loads(kept.read_bytes(f"studies/s/{file}"))["format"] == FORMAT
    read_all(kept)
    changed(kept, f"studies/s/{file}", format=FORMAT + 1)
    with pytest.raises(UsageError, match=f"{file} is of format {FORMAT + 1}, newer than this version reads"):
        read_all(kept)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": "2"}', b'{"format": 2, "status": 3}', b"[" * 99_999],
)
def test_a_damaged_file_is_one_line(file: str, content: bytes, kept: Storage) -> None:
    kept.write_bytes(f"studies/s/{file}", content)
    with pytest.raises(UsageError, match=f"{file} cannot be read .*; restore it from a copy") as caught:
        read_all(kept)
    assert "\n" not in str(caught.value)


def test_a_value_of_another_type_is_named(kept: Storage) -> None:
    changed(kept, "studies/s/study.json", trials="ten")
    with pytest.raises(UsageError, match=r"study\.json cannot be read \(trials is 'ten', not a whole number\)"):
        read_all(kept)


def test_a_later_ledger_is_not_passed_over_for_the_one_before(kept: Storage) -> None:
    kept.write_bytes("studies/s/ledger.previous.json", kept.read_bytes("studies/s/ledger.json"))
    changed(kept, "studies/s/ledger.json", format=FORMAT + 1)
    with pytest.raises(UsageError, match="newer than this version"):
        Study.open(kept, "s")


def test_a_study_of_version_0_1_is_read(kept: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    """Its files bear no format, its outcomes' names begin with "val_", its searcher's state is not trusted."""
    before, outcome = Study.open(kept, "s"), Study.open(kept, "s").outcome(0)
    for file in FILES[:3]:
        content = json.loads(kept.read_bytes(f"studies/s/{file}"))
        del content["format"], content["sha256"]
        if file == "trials/0.json":
            content["val"] = {f"val_{name}": value for name, value in content["val"].items()}
        if file == "ledger.json":
            content["searcher"] = {"asked": 99}
        kept.write_bytes(f"studies/s/{file}", json.dumps(content).encode())
    study = Study.open(kept, "s")
    assert (study.plan, study.trials, study.searcher_state) == (before.plan, before.trials, None)
    assert dataclasses.asdict(study.outcome(0)) == dataclasses.asdict(outcome) and "accuracy" in outcome.val
    changed(kept, "studies/s/study.json", format=FORMAT + 7)
    assert main(["--resume=s", f"--storage={kept.uri}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_model_of_version_0_1_is_read(kept: Storage) -> None:
    """It bears format 1, no digest, and notes on its data where now an account stands."""
    name = "studies/s/model/model.json"
    before, content = load_model(kept, "studies/s/model"), json.loads(kept.read_bytes(name))
    del content["sha256"], content["info"]["account"], content["info"]["reading"]
    content["format"], content["info"]["notes"] = 1, ["5 rows are left out"]
    kept.write_bytes(name, json.dumps(content).encode())
    found = load_model(kept, "studies/s/model")
    assert (found.card.config, found.info.classes) == (before.card.config, before.info.classes)
    changed(kept, name, format=FORMAT, info=content["info"])
    with pytest.raises(UsageError, match="unknown field notes"):
        load_model(kept, "studies/s/model")
