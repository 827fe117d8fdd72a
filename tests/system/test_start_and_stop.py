"""How a command starts in strange places, and how it ends when it is told to: how soon, with which words."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from bo_distill.search.execution.processes import begin
from helpers.running import ROOT, TRIVIAL, family, rows_of, start, study_of, until

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STUCK = """
import sys, time
from bo_distill.search.command import interruption as module
module.PATIENCE, module.TOGETHER = float(sys.argv[1]), 0.2
it = module.Interruption()
with it.heeded(130):
    it.words = "go on so"
    try:
        with it.deferred():
            print("begun", flush=True)
            until = time.monotonic() + float(sys.argv[2])
            while time.monotonic() < until and not (it.asked and "ask" in sys.argv):
                time.sleep(0.05)
        if not it.asked:
            time.sleep(60)
    except KeyboardInterrupt:
        print("raised", flush=True)
    it.say()
"""


def stuck(*words: str, **options: Any) -> Any:
    """A command that is at work, and deaf until a time."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, *words], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options,
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("sign", SIGNALS)
def test_an_orderly_end_says_its_line_once(sign: signal.Signals) -> None:
    process = stuck("30", "60", "ask")
    process.send_signal(sign)
    assert process.communicate(timeout=30) == ("", "go on so\n") and process.returncode == 0


def test_a_signal_outside_of_deferred_work_raises() -> None:
    process = stuck("30", "0")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == ("raised\n", "go on so\n")


def test_a_command_that_is_deaf_ends_by_the_clock() -> None:
    process = stuck("1", "60")
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == ("", "go on so\n") and process.returncode == 130


def test_a_second_signal_ends_at_once_but_a_doubled_one_is_one() -> None:
    process = stuck("60", "60")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == ("", "go on so\n") and process.returncode == 130


SIDE_BY_SIDE = """
import os, time
from bo_distill.search.execution.processes import side_by_side
with side_by_side(2) as pool:
    print(*{pool.submit(os.getpid).result() for _ in range(2)}, flush=True)
    pool.submit(time.sleep, 600).result()
"""  # without a guard: the processes do not run it again


def test_each_process_has_a_gpu_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", given.append)
    number = multiprocessing.get_context("spawn").Value("i", 0)
    for _ in range(5):
        begin(number)
    assert given == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_processes_side_by_side_end_with_the_command(sign: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "side.py"
    script.write_text(SIDE_BY_SIDE)
    how: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
    }
    with subprocess.Popen([sys.executable, script], text=True, start_new_session=True, **how) as process:
        assert process.stdout
        pids = [int(word) for word in process.stdout.readline().split()]
        process.send_signal(sign)
        process.wait(timeout=20)

    def alive(pid: int) -> bool:
        with suppress(OSError):
            return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # empty of one that nobody has waited for
        return False

    deadline = time.monotonic() + 20
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)


def test_what_was_to_be_ignored_is_ignored() -> None:
    """As `nohup` starts a command."""
    process = stuck("30", "60", "ask", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[1] == "go on so\n"


def alive(pids: Any) -> list[int]:
    """Those of the processes that still run."""
    found = []
    for pid in pids:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


def one(process: Any, sign: signal.Signals) -> None:
    """Signal the search alone."""
    process.send_signal(sign)


def group(process: Any, sign: signal.Signals) -> None:
    """Signal its process group, as a terminal and `timeout` do."""
    os.killpg(process.pid, sign)


def everyone(process: Any, sign: signal.Signals) -> None:
    """Signal each process, Ray's too, as systemd and Slurm do."""
    for each in (process.pid, *family(process.pid)):
        with suppress(OSError):
            os.kill(each, sign)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "send"),
    [
        (signal.SIGINT, one),
        (signal.SIGTERM, one),
        (signal.SIGHUP, one),
        (signal.SIGINT, group),
        (signal.SIGTERM, group),
        (signal.SIGHUP, group),
        (signal.SIGTERM, everyone),
    ],
)
def test_a_search_ends_when_it_is_told_to(
    sign: signal.Signals, send: Callable[[Any, signal.Signals], None], tmp_path: Path
) -> None:
    """Once, and twice in a row."""
    for times in (1, 2):
        storage = tmp_path / str(times)
        words = [TRIVIAL, "--random", "--trials=99", "--concurrency=1", "--set=only.pause=0.5"]
        process = start(*words, storage=storage, start_new_session=True)
        until(lambda storage=storage: (storage / "leaderboard").exists() and rows_of(storage), process)
        ours, began = [process.pid, *family(process.pid)], time.monotonic()
        for _ in range(times):
            send(process, sign)
            time.sleep(1.5)
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - began < 15 + 2 * times
        assert process.returncode == 130 and said.endswith("\n"), said
        study = study_of(storage)
        assert said.splitlines()[-1] == f"interrupted; go on with {study.resume_words}"
        assert said.count("go on with") == 1 and "Traceback" not in said
        assert all(trial.finished or trial.status == "running" for trial in study.trials)
        deadline = time.monotonic() + 10
        while alive(ours):
            assert time.monotonic() < deadline, alive(ours)
            time.sleep(0.1)


STRANGE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from bo_distill.search.run import main
with ThreadPoolExecutor(1) as threads:
    sys.exit(threads.submit(main, sys.argv[1:]).result())
"""


def test_a_search_starts_in_a_strange_place(tmp_path: Path) -> None:
    """A method that PYTHONPATH finds, a scheduler's long TMPDIR, a HOME that cannot be written, not the main
    thread; what is printed goes to a device that is full, which costs nothing that is kept."""
    outside, scratch = tmp_path / "outside", tmp_path / ("a-scheduler's-folder-of-one-job-" * 3)
    outside.mkdir()
    scratch.mkdir()
    (outside / "elsewhere.py").write_text("from tests.helpers.trivial import METHOD\n")
    environment = os.environ | {"PYTHONPATH": str(outside), "TMPDIR": str(scratch), "HOME": "/proc/nobody"}
    environment.pop("RAY_TMPDIR", None)
    words = ["elsewhere:METHOD", "--random", "--trials=1", "--seeds=1", f"--storage={tmp_path / 'results'}"]
    before = set(Path("/tmp").glob(f"ray-{os.getuid()}-*"))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", STRANGE, *words],
            cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=560,
        )  # fmt: skip
    assert done.returncode == 0 and "standard output: No space left on device" in done.stderr, done.stderr
    study = tmp_path / "results" / study_of(tmp_path / "results").folder
    assert (study / "model/model.json").exists() and (study / "report.html").exists()
    assert [row.status for row in rows_of(tmp_path / "results")] == ["done"] * 2
    assert set(Path("/tmp").glob(f"ray-{os.getuid()}-*")) <= before, "the short folder is gone"
