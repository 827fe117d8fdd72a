"""Short searches, each of which meets one misfortune at a random moment; what is lost, doubled, wrong or hung?

    python -m benchmarks.chaos [--searches 100] [--seed 0] [--minutes M] [--faults kill,stop,...] [--within S] [--s3]

Each search has four trials of a method whose accuracy is a formula (`tests/helpers/trivial.py`), and one retraining;
every tenth search shares each trial between two Ray Train workers. The misfortunes, by turns:

    kill      SIGKILL meets one process of its family, Ray's included: the search's own, the head's, a node's, a
              trial's or a worker's
    stop      one of them is stopped for 1 to 20 seconds (SIGSTOP, SIGCONT), as a sleeping laptop is
    flip      all are killed, and one bit flips in a kept file: ledger, study, trial, stage result, checkpoint. Where
              resuming refuses the file by its name, it is restored, as the message says
    vanish    its storage is moved away, and back once it has ended (not with --s3)
    full      the disk that holds its storage is full until it has ended (a tmpfs, so root alone; not with --s3)

`--s3` keeps results on a server of this machine that speaks S3. A search that did not end by itself is resumed until
it is complete. Then

    lost      trials that were finished before, or planned, and are not on the leaderboard
    doubled   trials that are there twice, or numbers used twice
    wrong     settings, accuracies or states that differ from those of a search that nobody disturbed
    hung      searches that did not end within five minutes of their misfortune and had to be ended
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.request import Request, urlopen

from bo_distill.distributed.storage import Storage
from bo_distill.methods import get
from bo_distill.search.searchers.random import random_point
from bo_distill.search.study.records import Trial
from tests.helpers.running import TRIVIAL, family, rows_of, run, start, study_of
from tests.helpers.trivial import accuracy

TRIALS = 4
PATIENCE = 300.0  # seconds
WORDS = ("--random", f"--trials={TRIALS}", "--seeds=1", "--set=only.pause=0.2", "--quiet")
SPACE = get(TRIVIAL).space(("only.x", "only.y"))
FAULTS = ("kill", "stop", "flip", "vanish", "full")
FLIPPED = ("studies/", "stages/")
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def bucket() -> Iterator[str]:
    """A server that speaks S3 on this machine; yields its bucket's URI, to which this process's environment leads."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    address = f"http://127.0.0.1:{process.stdout.readline().strip()}"
    urlopen(Request(f"{address}/results", method="PUT"), timeout=300).close()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update({"AWS_ENDPOINT_URL": address, "AWS_EC2_METADATA_DISABLED": "true", **keys})
    try:
        yield "s3://results"
    finally:
        process.stdin.close()
        process.wait()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 4 MB at a folder, where this process may mount one."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


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


def begun(storage: str) -> bool:
    """Whether a search has written what it is."""
    return any(name.endswith("/study.json") for name in Storage(storage).list("studies"))


def finished(storage: str) -> list[Trial]:
    """The trials that a study's ledger calls finished."""
    return [trial for trial in study_of(storage).trials if trial.finished] if begun(storage) else []


class Flipped:
    """A bit that flipped in a kept file."""

    def __init__(self, storage: str, draw: random.Random) -> None:
        self.storage = Storage(storage)
        names = [name for name in self.storage.list() if name.startswith(FLIPPED) and name.endswith((".json", ".pt"))]
        self.name = draw.choice(names) if names else ""
        if names:
            self.whole = self.storage.read_bytes(self.name)
            content = bytearray(self.whole)
            if content:
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            self.storage.write_bytes(self.name, bytes(content))

    def restore(self, said: str) -> bool:
        """Restore the file if a search refuses it by its name."""
        named = bool(self.name) and Path(self.name).name in said and "cannot be read" in said
        if named:
            self.storage.write_bytes(self.name, self.whole)
        return named


def misfortune(fault: str, process: subprocess.Popen[str], storage: str, draw: random.Random) -> tuple[str, bool]:
    """Let it happen; returns whom it met and whether the search then ended by itself."""
    victims = {process.pid: "search", **family(process.pid)}
    victim = draw.choice(sorted(victims))
    folder = Path(storage)
    if fault == "kill":
        with suppress(OSError):
            os.kill(victim, signal.SIGKILL)
    elif fault == "stop":
        with suppress(OSError):
            os.kill(victim, signal.SIGSTOP)
        time.sleep(draw.uniform(1, 20))
        with suppress(OSError):
            os.kill(victim, signal.SIGCONT)
    elif fault == "flip":
        for member in victims:
            with suppress(OSError):
                os.kill(member, signal.SIGKILL)
    elif fault == "vanish":
        if not folder.exists():
            return "nobody: nothing was kept yet", ended(process)
        away = folder.with_name(f"{folder.name}-away")
        folder.rename(away)
        well = ended(process)
        left = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
        if folder.exists():
            subprocess.run(["rm", "-rf", folder], check=True)
        away.rename(folder)
        return f"the storage{f', of which {len(left)} files were made again' if left else ''}", well
    elif fault == "full":
        with suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        well = ended(process)
        (folder / "filler").unlink()
        return "the disk", well
    return (victims[victim] if fault in ("kill", "stop") else "all"), ended(process)


def one(seed: int, fault: str, workers: int, storage: str, longest: float) -> tuple[str, Counter[str], float]:
    """One search; whom its misfortune met, the counts, and its seconds before."""
    draw = random.Random(seed)
    words = [*WORDS, f"--seed={seed}", f"--workers={workers}"]
    process = start(TRIVIAL, *words, storage=storage)
    moment = draw.uniform(0, longest)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    found: Counter[str] = Counter()
    before, met, flipped = list[Trial](), "nobody: it had ended", None
    if process.poll() is None:
        with suppress(Exception):  # as it writes, and on a disk that is full, the ledger may not be there
            before = finished(storage)
        met, well = misfortune(fault, process, storage, draw)
        found["hung"] += not well
        if fault == "flip":
            before = finished(storage)
            flipped = Flipped(storage, draw)
            met = flipped.name.rpartition("/")[2] or "nothing"
    else:
        process.communicate()
    for _ in range(4):
        if flipped:
            said = ""
            try:
                study_of(storage)
            except Exception as error:
                said = str(error)
            if flipped.restore(said):
                found["named"] += 1
        if begun(storage):
            study = study_of(storage)
            if study.complete:
                break
            _, said = run(f"--resume={study.plan.task.study}", storage=storage)
            found["named"] += bool(flipped and flipped.restore(said))
        else:  # nothing had begun
            run(TRIVIAL, *words, storage=storage)
    judge(seed, storage, before, found)
    return met, found, moment


def judge(seed: int, storage: str, before: list[Trial], found: Counter[str]) -> None:
    """Count what is lost, doubled or wrong in a study that was carried to its end."""
    study, rows = study_of(storage), rows_of(storage)
    numbers = Counter(row.trial for row in rows)
    found["lost"] += len(set(range(TRIALS + 1)) - numbers.keys())
    found["lost"] += sum(study.trials[trial.job.number].val_accuracy != trial.val_accuracy for trial in before)
    found["doubled"] += sum(count - 1 for count in numbers.values())
    found["doubled"] += len(study.trials) - len({trial.job.number for trial in study.trials})
    for trial in study.of_phase("search"):
        expected = random_point(SPACE, seed, trial.job.number)
        value = accuracy(expected)
        settings = {name: trial.job.settings[name] for name in SPACE}
        same = settings == expected and trial.val_accuracy is not None and abs(trial.val_accuracy - value) < 1e-9
        found["wrong"] += trial.status != "done" or not same
    found["wrong"] += not study.complete or any(row.status != "done" for row in rows)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--searches", type=int, default=100)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--minutes", type=float, help="begin no search after so long")
    words.add_argument("--faults", default=",".join(FAULTS), help="by commas")
    words.add_argument(
        "--within", type=float, help="seconds to a misfortune at most (default: an undisturbed search's)"
    )
    words.add_argument("--s3", action="store_true")
    args = words.parse_args()
    faults = [fault for fault in args.faults.split(",") if not args.s3 or fault not in ("vanish", "full")]
    started = time.monotonic()
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-"))
        base = stack.enter_context(bucket()) if args.s3 else scratch
        longest = dict.fromkeys((1, 2), args.within)
        sizes = {2 if seed % 10 == 9 else 1 for seed in range(args.seed, args.seed + args.searches)}
        for workers in sizes if args.within is None else ():
            since = time.monotonic()
            run(TRIVIAL, *WORDS, f"--workers={workers}", storage=f"{base}/warm-{workers}")
            longest[workers] = time.monotonic() - since
        total, met, made = Counter[str](), Counter[str](), 0
        for seed in range(args.seed, args.seed + args.searches):
            if args.minutes and time.monotonic() - started > 60 * args.minutes:
                break
            workers, fault, storage = 2 if seed % 10 == 9 else 1, faults[seed % len(faults)], f"{base}/{seed}"
            with ExitStack() as own:
                if fault == "full":
                    own.enter_context(small_disk(Path(storage)))
                whom, found, moment = one(seed, fault, workers, storage, longest[workers])
            met[f"{fault} {whom}"] += 1
            total += found
            made += 1
            counts = ", ".join(f"{name} {found[name]}" for name in ("lost", "doubled", "wrong", "hung"))
            note = "; named and restored" if found["named"] else ""
            print(f"{seed:4d}  {moment:5.1f} s  {fault:6} {whom:32} {counts}{note}", flush=True)
    print(f"{made} searches in {time.monotonic() - started:.0f} s; {dict(met.most_common())}")
    print(", ".join(f"{name} {total[name]}" for name in ("lost", "doubled", "wrong", "hung")))


if __name__ == "__main__":
    main()
