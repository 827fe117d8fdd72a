"""Every reader of a kept file, whatever the file holds: what was written, one line that says what is wrong, or a
clean fall-back; never another exception."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from bo_distill.distributed.storage import Storage
from bo_distill.methods.errors import UsageError
from bo_distill.search import compare, predict, report, run
from bo_distill.search.evidence.statistics import Course, analyse
from bo_distill.search.execution.comparison import check_question
from bo_distill.search.pages.page import Page
from bo_distill.search.simulation.recorded import Table
from bo_distill.search.study.kept import packed
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.winner import load_model, save_winner
from helpers.made_up import changed, made_up

QUESTION = {"method": "fsp", "space": ["transfer.lr"], "budget": {"trials": 3}}
COMPARISON = "comparisons/c/compare.json"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SOME = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def summary() -> dict[str, Any]:
    courses = {
        name: [Course((0.5 + seed / 10, 0.6), (1.0, 1.0), (2.0, 2.0)) for seed in range(2)] for name in ("random", "bo")
    }
    return {
        "comparison": "c", **QUESTION, "recipe": "quick", "settings": {}, "precision": "float32", "concurrency": 1,
        "data": {"name": "digits", "fingerprint": "0"}, "seeds": [0, 1], "studies": {"random": ["a"], "bo": ["b"]},
        **analyse(courses),
        "curves": {
            name: [{"value": run.values, "seconds": run.seconds, "macs": run.macs} for run in runs]
            for name, runs in courses.items()
        },
        "commit": None, "dirty": None, "python": "3", "torch": "2", "ray": "2", "version": "0",
    }  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage(tmp_path_factory.mktemp("kept"))
    study = made_up(storage, "s", trials=2)
    study.note_test("opened", "trial 0")
    save_winner(study)
    storage.write_bytes("comparisons/c/question.json", packed(QUESTION))
    storage.write_bytes(COMPARISON, packed(summary()))
    return storage


def page(storage: Storage) -> None:
    assert report.main(["c", f"--storage={storage.uri}", f"--out={storage.local_path('page.html')}"]) in (0, 2)


READERS: dict[str, Callable[[Storage], object]] = {
    "studies/s/study.json": lambda storage: Study.open(storage, "s"),
    "studies/s/ledger.json": lambda storage: Study.open(storage, "s"),
    "studies/s/trials/0.json": lambda storage: Study.open(storage, "s").outcome(0),
    "studies/s/test/": lambda storage: Study.open(storage, "s").test_notes(),
    "studies/s/model/model.json": lambda storage: load_model(storage, "studies/s/model"),
    "studies/s/model/model.safetensors": lambda storage: load_model(storage, "studies/s/model"),
    "comparisons/c/question.json": lambda storage: check_question(storage, "comparisons/c", QUESTION),
}


def told(reader: Callable[[Storage], object], storage: Storage) -> bool:
    """Whether the file is read; if not, one line says why."""
    try:
        reader(storage)
    except UsageError as error:
        assert "\n" not in str(error)
        return False
    return True


def file_of(storage: Storage, name: str) -> str:
    return storage.list(name)[0] if name.endswith("/") else name


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@SOME
def test_any_bytes(name: str, kept: Storage, data: st.DataObject) -> None:
    file = file_of(kept, name)
    whole = kept.read_bytes(file)
    cut = st.integers(0, len(whole) - 1).map(lambda n: whole[:n])
    anything = st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode())
    nested = st.sampled_from([b"[", b'{"a":']).map(lambda part: part * 200_000)
    try:
        content = data.draw(cut | anything | nested)
        kept.write_bytes(file, content)
        # A trial of version 0.1 may leave out every field, and a lost ledger is that of a study which was only begun.
        assert not told(READERS[name], kept) or (content == b"{}" and name.endswith("trials/0.json"))
    finally:
        kept.write_bytes(file, whole)
    assert told(READERS[name], kept)


@pytest.mark.parametrize("name", [name for name in READERS if not name.endswith("tensors")])
@given(data=st.data())
@SOME
def test_any_value_in_the_place_of_another(name: str, kept: Storage, data: st.DataObject) -> None:
    """The digest fits, as that of a file which somebody made by hand."""
    file = file_of(kept, name)
    whole = kept.read_bytes(file)
    content = json.loads(whole)
    field = data.draw(st.sampled_from(sorted(set(content) - {"format", "sha256"})))
    value = replaced(data, content[field])
    try:
        changed(kept, file, **{field: value})
        told(READERS[name], kept)
    finally:
        kept.write_bytes(file, whole)


def replaced(data: st.DataObject, value: Any) -> Any:
    """The value with something else in it, at some depth."""
    if isinstance(value, dict | list) and value and data.draw(st.booleans()):
        value = copy.copy(value)
        key = data.draw(st.sampled_from(sorted(value) if isinstance(value, dict) else list(range(len(value)))))
        if data.draw(st.booleans()):
            value[key] = replaced(data, value[key])
        else:
            del value[key]
        return value
    return data.draw(JSON)


@pytest.mark.parametrize("name", READERS)
def test_missing_and_unreadable(name: str, kept: Storage) -> None:
    file = file_of(kept, name)
    whole, path = kept.read_bytes(file), kept.local_path(file)
    path.unlink()
    try:
        if name.endswith("/"):
            assert READERS[name](kept) == []
        elif not name.endswith("question.json"):
            assert not told(READERS[name], kept) or name.endswith("ledger.json"), "a study that was only begun has none"
        path.unlink(missing_ok=True)
        path.mkdir()  # not even root can read it
        if not name.endswith("/"):
            assert not told(READERS[name], kept)
    finally:
        path.rmdir()
        kept.write_bytes(file, whole)


@given(data=st.data())
@SOME
def test_a_comparison(kept: Storage, data: st.DataObject) -> None:
    whole = kept.read_bytes(COMPARISON)
    content = summary()
    field = data.draw(st.sampled_from(sorted(content)))
    try:
        changed(kept, COMPARISON, **{field: replaced(data, content[field])})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Page, "chart", lambda *_: None)  # drawing takes seconds
            page(kept)
    finally:
        kept.write_bytes(COMPARISON, whole)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"[" * 200_000, b'{"format": 9}'])
def test_a_comparison_that_is_none(kept: Storage, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    whole = kept.read_bytes(COMPARISON)
    try:
        kept.write_bytes(COMPARISON, content)
        assert report.main(["c", f"--storage={kept.uri}"]) == 2
    finally:
        kept.write_bytes(COMPARISON, whole)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    about = {
        "space": {"lr": {"kind": "Real", "low": 0.1, "high": 1.0, "log": True}}, "axes": {"lr": [0.1, 1.0]},
        "seeds": [0, 1], "shared_seconds": 1.0,
    }  # fmt: skip
    rows = [
        {"lr": lr, "seed": seed, "val_accuracy": [0.5, 0.6], "seconds": [1.0, 1.0], "macs": 10}
        for lr in (0.1, 1.0)
        for seed in (0, 1)
    ]
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    written(path, rows, about)
    assert np.isfinite(Table.read(path).mean).all()
    return path


def written(path: Path, rows: list[dict[str, Any]], about: Any) -> None:
    content = pa.Table.from_pylist(rows)
    parquet.write_table(content.replace_schema_metadata({"table": json.dumps(about)}), path)


@given(data=st.data())
@settings(SOME, max_examples=100)
def test_a_replay_table(table: Path, data: st.DataObject) -> None:
    whole, content = table.read_bytes(), parquet.read_table(table)
    about = json.loads(content.schema.metadata[b"table"])
    other = table.with_name("other.parquet")
    if data.draw(st.booleans()):
        written(other, content.to_pylist(), replaced(data, about))
    elif data.draw(st.booleans()):
        column = data.draw(st.sampled_from(content.column_names))
        written(other, content.drop_columns([column]).to_pylist(), about)
    else:
        other.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    try:
        Table.read(other)
    except UsageError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "../x", "..", "", "a\nb", "\udce9"])
def test_names(name: str, kept: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    before = kept.list()
    storage = f"--storage={kept.uri}"
    for command, words in (
        (report, [name]),
        (compare, ["fsp", f"--name={name}"]),
        (predict, [name, "x.png"]),
        (run, [f"--resume={name or '.'}"]),
    ):
        code, said = command.main([*words, storage]), capsys.readouterr().err
        assert code == 2 and said.startswith("error: ") and said.count("\n") == 1, said
    assert kept.list() == before
