"""What is kept is read as it was written: any flipped bit is seen, named, and never read as something else."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import safetensors.torch
import torch

from bo_distill.distributed.cache import StageCache, StageCheckpoints, decode, encode, sealed, unsealed
from bo_distill.distributed.locks import Lock, LockLost
from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import State
from bo_distill.search.rows.files import of_study
from bo_distill.search.study.kept import packed, unpacked
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Outcome
from bo_distill.search.study.winner import load_model, save_winner
from helpers.made_up import changed, made_up


def flipped(content: bytes, count: int = 1000) -> list[bytes]:
    """The content with one bit turned, `count` times, the same bits every time."""
    found = []
    for bit in np.random.RandomState(0).randint(len(content) * 8, size=count).tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        found.append(bytes(damaged))
    return found


def state() -> State:
    generator = torch.Generator().manual_seed(0)
    return State({"w": torch.randn(40, 7, generator=generator)}, {"width": 7}, {"val_accuracy": 0.5}, ({"epoch": 1},))


def test_a_stage_state() -> None:
    content = encode(state())
    assert torch.equal(decode(content).tensors["w"], state().tensors["w"])
    for damaged in flipped(content):
        with pytest.raises(ValueError, match="not a stage's state"):
            decode(damaged)


def test_a_checkpoint() -> None:
    content = sealed(bytes(range(256)) * 4)
    assert unsealed(content) == bytes(range(256)) * 4
    for damaged in flipped(content):
        with pytest.raises(ValueError, match="not what was written"):
            unsealed(damaged)


def test_a_damaged_stage_is_made_anew_and_a_damaged_checkpoint_begun_again(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    cache, progress = StageCache(storage), StageCheckpoints(storage, "stages/x.progress", Lock())
    cache.put("s", "key", encode(state()))
    progress.save("0", b"epochs")
    assert progress.load("0") == b"epochs"
    for name in (cache.name("s", "key"), "stages/x.progress/0.pt"):
        storage.write_bytes(name, flipped(storage.read_bytes(name), 1)[0])
    assert cache.get("s", "key") is None and not cache.holds("s", "key")
    assert progress.load("0") is None
    assert caplog.text.count("set aside (") == 2


@pytest.mark.parametrize("file", ["study.json", "ledger.json", "trials/0.json", "model/model.json"])
def test_a_study_s_files(storage: Storage, file: str) -> None:
    study = made_up(storage, "s", trials=2)
    save_winner(study)
    name = f"{study.folder}/{file}"
    content = storage.read_bytes(name)
    whole = unpacked(name, content)
    for damaged in flipped(content):
        try:
            assert unpacked(name, damaged) == whole
        except UsageError as error:
            assert "\n" not in str(error)
    readers: dict[str, Callable[[], object]] = {
        "study.json": lambda: Study.open(storage, "s"),
        "trials/0.json": lambda: study.outcome(0),
        "model/model.json": lambda: load_model(storage, f"{study.folder}/model"),
    }
    if file in readers:  # a damaged ledger is taken from the one before: tests/search/test_study.py
        storage.write_bytes(
            name, content.replace(b"fsp", b"fsq", 1) if b"fsp" in content else content[:-9] + b"        }"
        )
        with pytest.raises(UsageError, match="restore it from a copy"):
            readers[file]()


def test_names_and_fields_of_others_are_shown_and_not_obeyed(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up(storage)
    storage.write_bytes("leaderboard/rows/fsp-bo-made-up-x\x1b]0;owned\x07y.parquet", b"no table")
    folder = "studies/fsp-bo-made-up"
    storage.write_bytes(f"{folder}/ledger.previous.json", storage.read_bytes(f"{folder}/ledger.json"))
    changed(storage, f"{folder}/ledger.json", **{"\x1b[2J": 1})
    of_study(storage, "fsp-bo-made-up")
    Study.open(storage, "fsp-bo-made-up")
    said = capsys.readouterr().err
    assert "\\x1b]0;owned\\x07y.parquet" in said and "\\x1b[2J" in said
    assert not set(said) & {"\x1b", "\x07"}


def test_a_damaged_ledger_never_takes_the_place_of_the_one_before(storage: Storage) -> None:
    study = made_up(storage)
    study.save()
    last, previous = (f"{study.folder}/{name}" for name in ("ledger.json", "ledger.previous.json"))
    before = storage.read_bytes(previous)
    storage.write_bytes(last, storage.read_bytes(last)[:-40])
    again = Study.open(storage, study.plan.task.study)
    again.save()
    assert storage.read_bytes(previous) == before, "a kill between the two would have left nothing"
    whole = storage.read_bytes(last)
    again.save()
    assert storage.read_bytes(previous) == whole


def test_weights(storage: Storage) -> None:
    folder = save_winner(made_up(storage))
    name = f"{folder}/model.safetensors"
    content = storage.read_bytes(name)
    for damaged in flipped(content, 5):
        storage.write_bytes(name, damaged)
        with pytest.raises(UsageError, match="is not what model"):
            load_model(storage, folder)


def test_weights_that_are_not_numbers_and_another_count_of_classes_are_refused(storage: Storage) -> None:
    """The digests fit, as those of files that somebody made by hand."""
    folder = save_winner(made_up(storage))
    weights, card = (storage.read_bytes(f"{folder}/{name}") for name in ("model.safetensors", "model.json"))
    every = safetensors.torch.load(weights)
    next(tensor for tensor in every.values() if tensor.is_floating_point()).view(-1)[0] = float("nan")
    spoilt = safetensors.torch.save(every)
    storage.write_bytes(f"{folder}/model.safetensors", spoilt)
    changed(storage, f"{folder}/model.json", weights=hashlib.sha256(spoilt).hexdigest())
    with pytest.raises(UsageError, match="holds numbers that are not finite"):
        load_model(storage, folder)
    storage.write_bytes(f"{folder}/model.safetensors", weights)
    storage.write_bytes(f"{folder}/model.json", card)
    info = unpacked("model.json", card)[1]["info"]
    changed(storage, f"{folder}/model.json", info={**info, "classes": info["classes"][:-1]})
    with pytest.raises(UsageError, match="no network of fsp can be made of it"):
        load_model(storage, folder)


def test_what_is_packed_is_unpacked() -> None:
    assert unpacked("x", packed({"a": [1, 2.5, None], "b": "é"})) == (2, {"a": [1, 2.5, None], "b": "é"})


def test_a_copied_study_is_itself(storage: Storage) -> None:
    original = made_up(storage, "a")
    shutil.copytree(storage.local_path(original.folder), storage.local_path("studies/branch"))
    before = {name: storage.read_bytes(name) for name in storage.list(original.folder)}
    branch = Study.open(storage, "branch")
    with branch.locked():
        branch.trials = branch.trials[:1]
        branch.save()
        branch.save_outcome(0, Outcome(reason="of the branch"))
    assert {name: storage.read_bytes(name) for name in storage.list(original.folder)} == before
    assert Study.open(storage, "branch").outcome(0).reason == "of the branch"


def test_storage_that_vanishes_stops_the_search_at_its_next_event(storage: Storage) -> None:
    study = made_up(storage, "a")
    with study.locked(), pytest.raises(UsageError, match=r"is gone or lost its study\.json"):
        study.save()
        shutil.rmtree(storage.local_path("studies/a"))
        study.save()
    assert not storage.exists("studies/a/ledger.json")


def test_a_holder_that_lost_its_study_writes_nothing(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    study = made_up(storage, "a")
    before = {name: storage.read_bytes(name) for name in storage.list()}
    with study.locked():
        monkeypatch.setattr(study._lock, "check", lost)
        for write in (study.save, lambda: study.save_outcome(0, Outcome()), lambda: study.note_test("opened", "")):
            with pytest.raises(LockLost):
                write()
    assert {name: storage.read_bytes(name) for name in storage.list()} == before


def lost() -> None:
    raise LockLost("taken over")
