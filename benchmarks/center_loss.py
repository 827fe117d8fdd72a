"""The report's comparisons at equal epochs: variants a to f, and what each part of the centre-aligned loss does.

    python -m benchmarks.center_loss --data cifar10 --data-dir DIR --train-size 2000 --seeds 3 --set joint.width=16

Every run is scored on test once. Differences are paired: the same seed, and so the same first weights and batches,
with and without the part. Pictures and runs.json go to the folder --out; finished runs are found again there.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from methods.data.dataset import DataSpec

LOSS = {  # laid over variant c, which is the report's network and the baseline of its section 3-2
    "c_loss": {"joint.term": "hinge"},
    "class_means": {"joint.term": "hinge", "joint.start": "means"},
    "random_centres": {"joint.term": "hinge", "joint.start": "random"},
    "pull": {"joint.term": "pull"},
    "push": {"joint.term": "push"},
    "ratio": {"joint.term": "ratio"},
    "learned": {"joint.term": "hinge", "joint.centres": "learned"},
}
PRINTED = {"a": 81.77, "b": 82.61, "c": 84.57, "d": 81.21, "e": 81.80, "f": 83.47}


@dataclass(frozen=True)
class Run:
    """One training: what it is called, its seed, what it changes, and on what."""

    name: str
    seed: int
    settings: dict[str, Any]
    recipe: str
    data: DataSpec
    val_rows: int
    out: str


def trained(run: Run) -> Any:
    """The run from the cache, or trained, as a `Trained` on the test split."""
    import torch

    from distributed.cache import StageCache
    from distributed.pipeline import run_stages
    from distributed.storage import Storage
    from distributed.worker import LocalWorker, best_runtime
    from methods import get
    from methods.data import Data, Split, load, load_test
    from methods.method import Trained

    torch.set_num_threads(1)
    method, data = get("center_loss"), load(run.data)
    if run.val_rows < len(data.val):  # validation only draws curves here: few rows leave the time to training
        info = replace(data.info, fingerprint=f"{data.info.fingerprint}-{run.val_rows}", val_size=run.val_rows)
        data = Data(info, data.train, Split(data.val.x[: run.val_rows], data.val.y[: run.val_rows]))
    configs = method.configure(run.recipe, run.settings)
    worker = LocalWorker(data, seed=run.seed, runtime=best_runtime())
    states = run_stages(worker, method, configs, StageCache(Storage(run.out)), shared_seed=0).states
    return Trained(worker, configs, states, load_test(run.data))


def score(run: Run) -> dict[str, Any]:
    from methods import get
    from methods.metrics import classification

    done = trained(run)
    method = get("center_loss")
    net = done.worker.place(method.model(done.configs, done.states, done.worker.data.info))
    found = classification(done.worker.predict(net, done.split.x), done.split.y)
    history = done.states["joint"].history
    seconds = sum(epoch["seconds"] for epoch in history)
    print(f"{run.name:<16} seed {run.seed}  {100 * found['accuracy']:.2f} %  {seconds:.0f} s", flush=True)
    about = {"name": run.name, "seed": run.seed, "epochs": len(history), "seconds": seconds}
    return {**about, **found, **method.metrics(done)}


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean and half width of the 95% t-interval of paired differences; NaN width for one pair."""
    from scipy.stats import t

    if len(differences) < 2:
        return differences[0], math.nan
    spread = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences), float(t.ppf(0.975, len(differences) - 1)) * spread


def print_table(rows: list[dict[str, Any]], baseline: str) -> None:
    """Markdown: means over seeds, and the paired difference of accuracy from the baseline."""
    keys = ("loss", "ece", "distance_ratio", "silhouette", "knn_accuracy")
    print(f"| run | printed | test % (sd) | minus {baseline} (95%) | " + " | ".join(keys) + " |")
    print("|" + " --- |" * (len(keys) + 4))
    by_name: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["name"], {})[row["seed"]] = row
    for name, runs in by_name.items():
        percent = [100 * row["accuracy"] for row in runs.values()]
        spread = statistics.stdev(percent) if len(percent) > 1 else math.nan
        mean, half = interval([100 * (row["accuracy"] - by_name[baseline][s]["accuracy"]) for s, row in runs.items()])
        apart = "" if name == baseline else f"{mean:+.2f} ± {half:.2f}"
        others = " | ".join(f"{statistics.fmean(row[key] for row in runs.values()):.3f}" for key in keys)
        ours = f"{statistics.fmean(percent):.2f} ({spread:.2f})"
        print(f"| {name} | {PRINTED.get(name, '')} | {ours} | {apart} | {others} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Variants and ablation of the centre-aligned loss at equal epochs.")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--train-size", type=int)
    parser.add_argument("--val-rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", help="names by commas, c and c_loss among them (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE", help="for all runs")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", default="results/center_loss")
    args = parser.parse_args()

    from methods.center_loss.stages import VARIANTS

    fixed = dict(word.split("=", 1) for word in args.set)
    data = DataSpec(args.data, args.data_dir, args.train_size)
    settings = {**VARIANTS, **{name: {**VARIANTS["c"], **change} for name, change in LOSS.items()}}
    if args.runs:
        settings = {name: settings[name] for name in args.runs.split(",")}
    runs = [
        Run(name, seed, {**change, **fixed}, "paper", data, args.val_rows, args.out)
        for seed in range(args.seeds)
        for name, change in settings.items()
    ]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        rows = pool.map(score, runs, chunksize=1)
    out = Path(args.out)
    (out / "runs.json").write_text(json.dumps(rows, indent=1))
    print_table(sorted(rows, key=lambda row: list(settings).index(row["name"])), "c")

    from methods.center_loss import figures

    without, with_loss = (trained(next(run for run in runs if run.name == name)) for name in ("c", "c_loss"))
    drawn = figures.figures(with_loss)
    drawn |= figures.compared({"cross-entropy alone": without, "with the centre-aligned loss": with_loss})
    for name, figure in drawn.items():
        figure.savefig(out / f"{name}.png", dpi=110)
    (out / "tsne_3d.json").write_text(json.dumps(figures.turnables(with_loss)))
    print(f"pictures: {', '.join(f'{name}.png' for name in drawn)} and tsne_3d.json in {out}")


if __name__ == "__main__":
    main()
