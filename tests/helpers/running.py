"""Searches as processes of their own, to be watched and killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bo_distill.distributed.storage import Storage
from bo_distill.methods.outside import trust
from bo_distill.search.rows.row import Row, from_table
from bo_distill.search.rows.sql import read
from bo_distill.search.study.ledger import Study

ROOT = Path(__file__).resolve().parents[2]
TRIVIAL = "tests.helpers.trivial:METHOD"
trust(TRIVIAL)


def start(*words: str, storage: Path | str, program: tuple[str, ...] = ("-m", "search.run"), **options: Any) -> Any:
    """Begin a search; `options` are those of `Popen`."""
    if any(word.startswith("--resume") for word in words):
        words = (*words, "--trust=tests.helpers.trivial")
    return subprocess.Popen(
        [sys.executable, *program, *words, f"--storage={storage}"], cwd=ROOT, text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip


def run(*words: str, storage: Path | str, **options: Any) -> tuple[int, str]:
    """Exit code and stderr of a search."""
    process = start(*words, storage=storage, **options)
    _, said = process.communicate(timeout=560)
    return process.returncode, said


def until(found: Callable[[], Any], process: Any, seconds: float = 400) -> Any:
    """What `found` finds, once it does, while the process lives."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{found} found nothing in {seconds} s"
        time.sleep(0.05)
    return value


def study_of(storage: Path | str) -> Study:
    """The only study there."""
    place = Storage(storage)
    (name,) = {file.split("/")[1] for file in place.list("studies") if file.endswith("/study.json")}
    return Study.open(place, name)


def rows_of(storage: Path | str) -> list[Row]:
    return from_table(read(Storage(storage), sort="trial"))


def family(pid: int) -> dict[int, str]:
    """Processes that descend from `pid`, and their names; Ray's are "gcs_server", "raylet", "ray::..."."""
    children: dict[int, list[int]] = {}
    for process, parent in _parents():
        children.setdefault(parent, []).append(process)
    found: dict[int, str] = {}
    waiting = list(children.get(pid, []))
    while waiting:
        process = waiting.pop()
        with suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            found[process] = Path(words[0].decode()).name or words[0].decode()
        waiting += children.get(process, [])
    return found


def named(pid: int, name: str) -> list[int]:
    """Descendants of `pid` whose name begins so."""
    return [process for process, title in family(pid).items() if title.startswith(name)]


def _parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has ended
                yield int(folder.name), int((folder / "stat").read_text().rpartition(")")[2].split()[1])
