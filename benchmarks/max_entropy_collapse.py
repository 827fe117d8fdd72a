"""Collapse against cure: what the augmenters of one finished study do, side by side.

    python -m benchmarks.max_entropy_collapse STUDY --storage results --out FOLDER [--data-dir DIR]

Reads the study's final runs from the storage and trains nothing. Prints accuracy and the augmenters' distance from the
identity on test, each with the 95% interval of its mean over the seeds (Student's t), and draws the outputs and the
histograms of the first seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from pathlib import Path

from scipy.stats import t

from distributed.cache import StageCache, decode
from distributed.storage import Storage
from distributed.worker import LocalWorker
from methods.data import load, load_test
from methods.max_entropy.figures import images, transforms
from methods.max_entropy.stages import METHOD
from methods.method import Trained
from search.study import Study

SHOWN = ("accuracy", "distance", "spread", "entropy_before", "entropy_after", "agreement")


def interval(values: list[float]) -> str:
    """Mean and half of its 95% interval."""
    if not values:
        return "-"
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.4f}"
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.4f} ± {half:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--storage", default="results")
    parser.add_argument("--data-dir", help="where the CIFAR sets lie, if not where the study found them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    args = parser.parse_args()
    storage = Storage(args.storage)
    study, cache = Study.open(storage, args.study), StageCache(storage)
    task = study.plan.task
    spec = dataclasses.replace(task.data, directory=args.data_dir or task.data.directory)
    data, test = load(spec), load_test(spec)

    runs: dict[str, list[int]] = {}
    for trial in study.of_phase("final") + study.of_phase("control"):
        if trial.status == "done":
            runs.setdefault(trial.job.control or "winner", []).append(trial.job.number)
    print(f"| run | n | {' | '.join(SHOWN)} |\n|---|---|{'---|' * len(SHOWN)}")
    shown: dict[str, Trained] = {}
    for name, numbers in runs.items():
        outcomes = [study.outcome(number) for number in numbers]
        cells = [interval([o.test[key] for o in outcomes if key in o.test]) for key in SHOWN]
        print(f"| {name} | {len(numbers)} | {' | '.join(cells)} |")
        if "distance" in outcomes[0].test:
            settings = {**task.settings, **study.trials[numbers[0]].job.settings}
            states = {}
            for stage, key in outcomes[0].stage_keys.items():
                content = cache.get(f"{METHOD.name}.{stage}", key)
                if content is None:
                    raise SystemExit(f"{storage.uri}: the results of trial {numbers[0]} are gone; run the study again")
                states[stage] = decode(content)
            shown[name] = Trained(LocalWorker(data), METHOD.configure(task.recipe, settings), states, test)
    args.out.mkdir(parents=True, exist_ok=True)
    images(shown).savefig(args.out / "max_entropy_outputs.png", dpi=150)
    transforms(shown).savefig(args.out / "max_entropy_transforms.png", dpi=150)


if __name__ == "__main__":
    main()
