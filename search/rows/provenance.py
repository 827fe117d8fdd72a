"""Which code and which releases a row was made with."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@cache
def provenance() -> dict[str, Any]:
    """Commit and versions, as the leaderboard's columns name them."""

    def git(*words: str) -> str | None:
        """What git prints; None where there is no git or no repository."""
        if not (ROOT / ".git").exists():  # an installation, which may lie within a repository of somebody else's
            return None
        # A checkout of another user, as a container's mount is one, is no danger: its code runs already.
        command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *words]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    def release(package: str) -> str:
        """The package's version; 0 where it is not installed."""
        try:
            return version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            return "0"

    # Rows that `search.reproduce` publishes as it goes are no change of the code that makes the next.
    status = git("status", "--porcelain", "--untracked-files=no", "--", ":!docs/results")
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "torch": release("torch"),
        "ray": release("ray"),
        "version": release("bo-distill"),
    }
