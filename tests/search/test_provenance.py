"""Which code a row was made with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bo_distill.search.rows import provenance


def repository(folder: Path) -> tuple[list[str], str]:
    """A repository with one commit of a module and of published rows. git's command for it, and the commit."""
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    (folder / "docs" / "results").mkdir(parents=True)
    for file in ("code.py", "docs/results/rows.parquet"):
        (folder / file).write_text("first")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    return git, subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_of_another_user_has_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container sees the folder that was mounted into it."""
    git, commit = repository(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to be such a user
    assert subprocess.run([*git, "status"], capture_output=True).returncode != 0
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    found = provenance.provenance.__wrapped__()
    assert (found["commit"], found["dirty"]) == (commit, False)


def test_rows_that_were_published_are_no_change_of_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "docs" / "results" / "rows.parquet").write_text("second")
    assert provenance.provenance.__wrapped__()["dirty"] is False
    (tmp_path / "code.py").write_text("second")
    assert provenance.provenance.__wrapped__()["dirty"] is True
