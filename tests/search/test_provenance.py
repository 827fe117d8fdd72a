"""Which code a row was made with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bo_distill.search.rows import provenance


def test_a_checkout_of_another_user_has_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container sees the folder that was mounted into it."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to be such a user
    assert subprocess.run([*git, "status"], capture_output=True).returncode != 0
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    found = provenance.provenance.__wrapped__()
    assert (found["commit"], found["dirty"]) == (commit, False)
