"""Collapse against cure, and every control, on the same classifier: identity distance and accuracy over seeds.

    python -m benchmarks.max_entropy_collapse --data-dir DIR --out FOLDER [--train-size 1500] [--seeds 3]

One process, no search: the recipe's own augmenter stands beside the method's controls. Prints a table of means with
the 95% interval (Student's t) over the seeds, and draws the first seed's outputs and histograms. What was trained is
kept in the storage and found again.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from pathlib import Path

import torch
from scipy.stats import t

from distributed.cache import StageCache
from distributed.pipeline import run_stages
from distributed.storage import Storage
from distributed.worker import LocalWorker, best_runtime
from methods.data import Data, DataSpec, Split, load, load_test
from methods.max_entropy.figures import images, transforms
from methods.max_entropy.stages import METHOD
from methods.method import Trained, flatten
from methods.metrics import accuracy

SHOWN = ("accuracy", "distance", "spread", "entropy_before", "entropy_after", "agreement_before", "agreement")


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
    parser.add_argument("--data-dir", help="where the CIFAR sets lie")
    parser.add_argument("--recipe", default="subset", choices=METHOD.recipes)
    parser.add_argument("--train-size", type=int, help="training images (default: the recipe's)")
    parser.add_argument("--val-size", type=int, default=1000, help="validation images that are looked at")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", metavar="RUNS", help="of the table, by commas: default and names of controls")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    parser.add_argument("--storage", default="results/max_entropy_collapse", help="of its own: fewer validation images")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe, settings = METHOD.recipes[args.recipe], dict(word.split("=", 1) for word in args.set)
    spec = DataSpec(recipe.data, directory=args.data_dir, train_size=args.train_size or recipe.train_size)
    data, test = load(spec), load_test(spec)
    data = Data(data.info, data.train, Split(data.val.x[: args.val_size], data.val.y[: args.val_size]))
    complete = flatten(METHOD.configure(args.recipe, settings))
    arms = {"default": {}, **{name: control(complete) for name, control in METHOD.controls.items()}}
    if args.only:
        arms = {arm: arms[arm] for arm in args.only.split(",")}

    cache = StageCache(Storage(args.storage))
    scores: dict[str, dict[str, list[float]]] = {arm: {key: [] for key in SHOWN} for arm in arms}
    shown: dict[str, Trained] = {}
    for seed in range(1, args.seeds + 1):
        for arm, change in arms.items():
            configs = METHOD.configure(args.recipe, {**settings, **change})
            worker = LocalWorker(data, seed=seed, runtime=best_runtime())
            run = run_stages(worker, METHOD, configs, cache, shared_seed=0)
            trained = Trained(worker, configs, run.states, test)
            net = worker.place(METHOD.model(configs, run.states, data.info))
            found = {"accuracy": accuracy(worker.predict(net, test.x), test.y), **METHOD.metrics(trained)}
            for key in SHOWN:
                if key in found:
                    scores[arm][key].append(found[key])
            if seed == 1 and "distance" in found:
                shown[arm] = trained
            print(f"seed {seed} {arm}: " + ", ".join(f"{k} {found[k]:.4f}" for k in SHOWN if k in found), flush=True)

    print(f"\n| run | {' | '.join(SHOWN)} |\n|---|{'---|' * len(SHOWN)}")
    for arm, columns in scores.items():
        print(f"| {arm} | {' | '.join(interval(columns[key]) for key in SHOWN)} |")
    if not shown:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    few = {arm: dataclasses.replace(one, split=Split(test.x[:2000], test.y[:2000])) for arm, one in shown.items()}
    images(few).savefig(args.out / "max_entropy_outputs.png", dpi=150)
    transforms(few).savefig(args.out / "max_entropy_transforms.png", dpi=150)


if __name__ == "__main__":
    main()
