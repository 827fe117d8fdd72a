"""A thousand trials of a trivial method through Ray: does anything grow?

    python -m benchmarks.many_trials [--trials 1000] [--every 100]

Prints, for every hundred trials, seconds per trial, memory (proportional set size, so that shared pages count once) and
open files of the search's own process, of Ray's head and node, and of the processes that run trials. Then the seconds
of CPU that the Bayesian searcher takes for one suggestion after as many observations.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from bo_distill.search.searchers.registry import make_searcher
from tests.helpers.running import TRIVIAL, family, start, study_of
from tests.helpers.trivial import accuracy

KINDS = {"search": (), "Ray": ("gcs_server", "raylet"), "trials": ("ray::ImplicitFunc",)}


def use(processes: Iterable[int]) -> tuple[float, int]:
    """MiB of memory and open files, together."""
    memory, files = 0, 0
    for process in processes:
        with suppress(OSError):
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            memory += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
            files += len(list(Path(f"/proc/{process}/fd").iterdir()))
    return memory / 1024, files


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--trials", type=int, default=1000)
    words.add_argument("--every", type=int, default=100)
    args = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="many-") as folder:
        process = start(
            TRIVIAL, "--random", f"--trials={args.trials}", "--seeds=1", "--set=only.epochs=1", storage=folder
        )
        heads = "  ".join(f"{kind:>8} MiB  files" for kind in KINDS)
        print(f"trials  s/trial  {heads}", flush=True)
        since, goal = time.monotonic(), args.every
        while process.poll() is None and goal <= args.trials:
            done = sum(1 for _ in Path(folder).glob("leaderboard/rows/*.parquet"))
            if done < goal:
                time.sleep(0.2)
                continue
            now = time.monotonic()
            names = family(process.pid)
            groups = {
                kind: [member for member, name in names.items() if name.startswith(titles)] if titles else [process.pid]
                for kind, titles in KINDS.items()
            }
            counts = "  ".join(f"{memory:12.0f} {files:6d}" for memory, files in map(use, groups.values()))
            print(f"{done:6d}  {(now - since) / args.every:7.2f}  {counts}", flush=True)
            since, goal = now, goal + args.every
        _, said = process.communicate()
        study = study_of(folder)
        print(f"exit code {process.returncode} {said.strip()}; ledger {len(study.trials)} trials")
        searcher = make_searcher("bo", study.space, 0, None)
        for trial in study.of_phase("search"):
            searcher.add_evaluated_point(dict(trial.job.settings), accuracy(trial.job.settings))
        began = time.process_time()
        searcher.suggest("one more")
        seconds = time.process_time() - began
        print(f"a suggestion after {len(study.of_phase('search'))} observations: {seconds:.2f} s of CPU")


if __name__ == "__main__":
    main()
