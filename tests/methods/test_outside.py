"""Words in files run no code; a person's own word does."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from bo_distill.distributed.storage import Storage
from bo_distill.methods import get, outside
from bo_distill.methods.errors import UsageError
from bo_distill.search import leaderboard, predict, report, run
from bo_distill.search.rows.files import write_row
from bo_distill.search.rows.row import Row, from_table
from bo_distill.search.rows.sql import read
from bo_distill.search.study.winner import save_winner
from helpers.made_up import changed, made_up


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file behind when it is imported."""
    monkeypatch.setattr(outside, "_trusted", set(outside._trusted))
    (tmp_path / "evil_weights.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nMETHOD = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("evil_weights", None)
    return tmp_path / "ran"


def test_a_word_resolves_only_where_a_person_said_so(evil: Path) -> None:
    with pytest.raises(UsageError, match="--trust evil_weights"):
        get("evil_weights:METHOD")
    assert not evil.exists()
    outside.trust("evil_weights")
    with pytest.raises(UsageError, match="this is no method"):
        get("evil_weights:METHOD")
    assert evil.exists()
    with pytest.raises(UsageError, match="no such method"):
        get("evil_weights")


def test_a_study_a_model_and_a_row_run_nothing(
    evil: Path, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    study = made_up(storage)
    name = study.plan.task.study
    model = save_winner(study)
    changed(storage, f"{model}/model.json", method="evil_weights:METHOD")
    file = f"{study.folder}/study.json"
    task = json.loads(storage.read_bytes(file))["task"]
    changed(storage, file, task={**task, "method": "evil_weights:METHOD"})
    row = from_table(read(storage))[0]
    changes = {"study": "other", "method": "evil_weights:METHOD", "data_spec": {"name": "digits"}, "shared_seed": 0}
    given = {f.name: getattr(row, f.name) for f in dataclasses.fields(row) if f.init}
    write_row(storage, Row(**{**given, **changes, "threads": 1}))
    where = f"--storage={storage.uri}"
    for command, words in (
        (run, [f"--resume={name}", where]),
        (report, [name, where]),
        (leaderboard, ["reproduce", f"other/{row.phase}/{row.trial}", where]),
    ):
        assert command.main(words) == 2, words
        said = capsys.readouterr().err
        assert "--trust evil_weights" in said and "another version" not in said
    assert predict.main([str(storage.local_path(model)), "x.png"]) == 2
    assert "--trust evil_weights" in capsys.readouterr().err
    assert not evil.exists()
