"""Short searches, in each of which a random process is killed at a random moment; what is lost, doubled or wrong?

    python -m benchmarks.chaos [--searches 100] [--seed 0] [--minutes M]

Each search has four trials of a method whose accuracy is a formula (`tests/helpers/trivial.py`), and one retraining;
every tenth search shares each trial between two Ray Train workers. A SIGKILL meets one process of its family, Ray's
included: the search's own, the head's, a node's, a trial's or a worker's. A search that did not end by itself is
resumed until it is complete.
Then

    lost      trials that were finished before the kill, or planned, and are not on the leaderboard
    doubled   trials that are there twice, or numbers used twice
    wrong     settings, accuracies or states that differ from those of a search that nobody disturbed
    hung      searches that did not end within five minutes of the kill and had to be ended
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from bo_distill.methods import get
from bo_distill.search.searchers.random import random_point
from tests.helpers.running import TRIVIAL, family, rows_of, run, start, study_of
from tests.helpers.trivial import accuracy

TRIALS = 4
PATIENCE = 300.0  # seconds
WORDS = ("--random", f"--trials={TRIALS}", "--seeds=1", "--set=only.pause=0.2")
SPACE = get(TRIVIAL).space(("only.x", "only.y"))


def ended(process: subprocess.Popen[str]) -> bool:
    """Wait for a search to end; one that hangs is killed with its family."""
    try:
        process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        for member in (process.pid, *family(process.pid)):
            with suppress(OSError):
                os.kill(member, signal.SIGKILL)
        process.communicate()
        return False
    return True


def one(seed: int, workers: int, folder: Path, longest: float) -> tuple[str, Counter[str], float]:
    """One search; who was killed, the counts, and its seconds before the kill."""
    draw = random.Random(seed)
    words = [*WORDS, f"--seed={seed}", f"--workers={workers}"]
    process = start(TRIVIAL, *words, storage=folder)
    moment = draw.uniform(0, longest)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    victims = {process.pid: "search", **family(process.pid)} if process.poll() is None else {}
    victim = draw.choice(sorted(victims)) if victims else 0
    found: Counter[str] = Counter()
    before = []
    if victim:
        with suppress(OSError):
            os.kill(victim, signal.SIGKILL)
        if (folder / "studies").exists() and any(folder.glob("studies/*/study.json")):
            before = [trial for trial in study_of(folder).trials if trial.finished]
    found["hung"] += not ended(process)
    for _ in range(3):
        if any(folder.glob("studies/*/study.json")):
            study = study_of(folder)
            if study.complete:
                break
            run(f"--resume={study.plan.task.study}", storage=folder)
        else:  # nothing had begun
            run(TRIVIAL, *words, storage=folder)
    study, rows = study_of(folder), rows_of(folder)
    numbers = Counter(row.trial for row in rows)
    found["lost"] += len(set(range(TRIALS + 1)) - numbers.keys())
    found["lost"] += sum(study.trials[trial.job.number] != trial for trial in before)
    found["doubled"] += sum(count - 1 for count in numbers.values())
    found["doubled"] += len(study.trials) - len({trial.job.number for trial in study.trials})
    for trial in study.of_phase("search"):
        expected = random_point(SPACE, seed, trial.job.number)
        value = accuracy(expected)
        settings = {name: trial.job.settings[name] for name in SPACE}
        same = settings == expected and trial.val_accuracy is not None and abs(trial.val_accuracy - value) < 1e-9
        found["wrong"] += trial.status != "done" or not same
    found["wrong"] += not study.complete or any(row.status != "done" for row in rows)
    return victims.get(victim, "nobody: it had ended"), found, moment


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--searches", type=int, default=100)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--minutes", type=float, help="begin no search after so long")
    args = words.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        longest = {}
        for workers in (2, 1):
            since = time.monotonic()
            run(TRIVIAL, *WORDS, f"--workers={workers}", storage=Path(scratch) / f"warm-{workers}")
            longest[workers] = time.monotonic() - since
        total, victims, made = Counter[str](), Counter[str](), 0
        for seed in range(args.seed, args.seed + args.searches):
            if args.minutes and time.monotonic() - begun > 60 * args.minutes:
                break
            workers = 2 if seed % 10 == 9 else 1
            victim, found, moment = one(seed, workers, Path(scratch) / str(seed), longest[workers])
            victims[victim] += 1
            total += found
            made += 1
            counts = ", ".join(f"{name} {found[name]}" for name in ("lost", "doubled", "wrong", "hung"))
            print(f"{seed:4d}  {moment:5.1f} s  {victim:32} {counts}", flush=True)
    print(f"{made} searches in {time.monotonic() - begun:.0f} s; killed: {dict(victims.most_common())}")
    print(", ".join(f"{name} {total[name]}" for name in ("lost", "doubled", "wrong", "hung")))


if __name__ == "__main__":
    main()
