"""python -m benchmarks.leaderboard: does the leaderboard keep every row, and how long does a million take to show?

1. 32 processes write 100 rows each at the same moment while a 33rd compacts without pause. Kept: all 3,200.
2. A million compacted rows and 100 loose ones, filtered, sorted and shown: 1 s at most, the start of Python and the
   imports left out; the whole command is timed as well. The million is written as `compact` writes it, straight
   into files of 100,000 rows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bo_distill.distributed.storage import Storage
from bo_distill.search import leaderboard
from bo_distill.search.rows.compaction import ROWS_PER_FILE, compact, verify
from bo_distill.search.rows.files import write_row
from bo_distill.search.rows.row import COMPACTED, ROWS, Row, encoded, named, record_of, schema
from bo_distill.search.rows.sql import read

METHODS = ("center_loss", "fsp", "label_embedding", "max_entropy", "res_ic")
START = datetime(2026, 1, 1, tzinfo=UTC)
FIXED = {f"stage{stage}.field{number}": number / 7 for stage in range(3) for number in range(14)}


def make(study: str, trial: int) -> Row:
    return Row(
        study=study,
        trial=trial,
        phase="search",
        method=METHODS[trial % 5],
        searcher="bayes",
        data="cifar10",
        data_fingerprint="0" * 16,
        recipe="quick",
        seed=0,
        config={**FIXED, "joint.lr": trial / 3},
        stage_seconds={"joint": 60.0},
        val_accuracy=trial * 7919 % 10_007 / 10_007,
        val_loss=1.0,
        val_metrics={"top3": 0.9, "macro_f1": 0.5, "ece": 0.1},
        status="done",
        macs_forward=41_000_000,
        params=270_000,
        seconds=60.0,
        device="cpu",
        precision="float32",
        nodes=("node",),
        python="3.11",
        torch="2",
        started=START + timedelta(minutes=trial),
        finished=START + timedelta(minutes=trial + 1),
        version="0",
    )


def _write(storage: Storage, together: Any, process: int, count: int) -> None:
    schema()  # loads Arrow before the race, not in it
    together.wait()
    for trial in range(count):
        write_row(storage, make("many", process * count + trial))


def _compact(storage: Storage, together: Any, done: Any) -> None:
    compact(storage)
    together.wait()
    while not done.is_set():
        compact(storage)


def concurrent(processes: int, count: int) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["bo_distill.search.leaderboard", "bo_distill.search.rows.sql", "pyarrow.parquet", "duckdb"]
    )
    together, done = context.Barrier(processes + 2), context.Event()
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        writers = [context.Process(target=_write, args=(storage, together, i, count)) for i in range(processes)]
        compactor = context.Process(target=_compact, args=(storage, together, done))
        for process in [*writers, compactor]:
            process.start()
        together.wait()
        start = time.perf_counter()
        for process in writers:
            process.join()
        seconds = time.perf_counter() - start
        done.set()
        compactor.join()
        kept = len(read(storage, columns=("trial",)))
        problems = len(verify(storage))
        loose = len(storage.list(ROWS))
    print(
        f"{processes} processes x {count} rows: {kept} kept, {problems} problems, {seconds:.1f} s; "
        f"{loose} still loose, the rest compacted meanwhile"
    )


def write_million(storage: Storage, count: int) -> None:
    """`count` rows in files of ROWS_PER_FILE, each with its own configuration, accuracy and time."""
    import pyarrow as pa

    for first in range(0, count, ROWS_PER_FILE):
        trials = range(first, min(first + ROWS_PER_FILE, count))
        pattern = make("pattern", 0)
        record = record_of(pattern)
        head, tail = record["config"].split('"joint.lr":0.0')
        own = {
            "study": [f"study-{trial // 1000:04d}" for trial in trials],
            "trial": list(trials),
            "method": [METHODS[trial // 1000 % 5] for trial in trials],
            "config": [f'{head}"joint.lr":{trial / 3}{tail}' for trial in trials],
            "config_hash": [f"{trial * 0x9E3779B97F4A7C15 % 2**64:016x}" for trial in trials],
            "val_accuracy": [trial * 7919 % 1_000_003 / 1_000_003 for trial in trials],
            "finished": [START + timedelta(seconds=trial) for trial in trials],
        }
        columns = [
            pa.array(own[field.name], field.type)
            if field.name in own
            else pa.repeat(pa.scalar(record[field.name], field.type), len(trials))
            for field in schema()
        ]
        data = encoded(pa.table(columns, schema=schema()))
        storage.write_bytes(named(COMPACTED, f"{len(trials):06d}", data), data)


def output(words: Sequence[str]) -> bytes:
    return subprocess.check_output([sys.executable, "-m", "search.leaderboard", *words], stderr=subprocess.DEVNULL)


def quiet(words: Sequence[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        leaderboard.main(words)


def timed(run: Callable[[Sequence[str]], object], words: Sequence[str], times: int) -> str:
    """Median and range of wall-clock time, and the least processor time, which a busy machine distorts less."""
    seconds, processor = [], []
    for _ in range(times):
        start, used = time.perf_counter(), os.times()
        run(words)
        seconds.append(time.perf_counter() - start)
        processor.append(sum(os.times()[:4]) - sum(used[:4]))
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}; CPU {min(processor):.2f} s)"


def million(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage(folder)
        write_million(storage, count)
        for trial in range(100):
            write_row(storage, make("loose", trial))
        size = sum(storage.local_path(name).stat().st_size for name in storage.list(COMPACTED))
        print(f"{count} compacted rows ({size / 1e6:.0f} MB) and 100 loose ones")
        for words in (
            ["show", "--method", "fsp", "--sort", "-val_accuracy", "--top", "20"],
            ["show", "--sort", "seconds"],
            ["show", "--study", "study-0007", "--top", "0"],
            ["show", "--method", "fsp", "--json"],
        ):
            print(" ".join(words))
            command = [*words, "--storage", folder]
            print(f"    in a running process {timed(quiet, command, 7)}; whole command {timed(output, command, 3)}")
        print(f"--help: whole command {timed(output, ['--help'], 5)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaderboard", description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--rows", type=int, default=100, help="that each process writes (100)")
    parser.add_argument("--million", type=int, default=1_000_000, help="compacted rows (1000000)")
    arguments = parser.parse_args()
    concurrent(arguments.processes, arguments.rows)
    million(arguments.million)
