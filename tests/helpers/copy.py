"""A copy of the project, to be changed as CONTRIBUTING says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from helpers.running import ROOT


def copy_to(folder: Path) -> Path:
    """The packages and the tests, without what was made by running them."""
    for part in ("bo_distill", "methods", "distributed", "search", "tests"):
        shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def insert(file: Path, before: str, text: str) -> None:
    """Put `text` before the only place where `before` stands."""
    content = file.read_text()
    assert content.count(before) == 1, f"{before!r} stands {content.count(before)} times in {file}"
    file.write_text(content.replace(before, text + before))


def run_in(folder: Path, *words: str) -> str:
    """What Python prints when it is run there with these words."""
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
