"""The cluster ensemble over S and over seeds: accuracy against e for each S, what is realised of the headroom, and
how far the clusters of independently trained bases agree.

    python -m benchmarks.label_embedding --recipe cifar100 --data-dir DIR --counts 3,8,9 --seeds 3

All figures are on validation, where S and e are chosen; `search.run` scores its winner on test. Stages that a search
has left in the same storage are reused.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import combinations
from pathlib import Path

import torch
from sklearn.metrics import adjusted_rand_score

from distributed.cache import StageCache
from distributed.pipeline import run_stages
from distributed.storage import Storage
from distributed.worker import LocalWorker, best_runtime
from methods.data import load
from methods.data.dataset import DataSpec
from methods.label_embedding.figures import by_threshold, curve
from methods.label_embedding.paper import cluster, confusion
from methods.label_embedding.stages import METHOD, RULES, Answers, answers
from methods.method import State, Trained
from methods.metrics import accuracy


def spread(values: list[float]) -> str:
    """Mean and standard deviation of shares, in percent."""
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation}"


def best(own: Answers, rule: str) -> tuple[float, float, float]:
    """The threshold at which the rule is most accurate (the largest of equals), that accuracy, experts per image."""
    thresholds = torch.linspace(0, 1, 101)
    right, experts = curve(own, rule, thresholds)
    at = len(right) - 1 - int(right.flip(0).argmax())
    return float(thresholds[at]), float(right[at]), float(experts[at])


def agreement(bases: list[State], y: torch.Tensor, count: int) -> None:
    """Adjusted Rand index between the clusters of different bases, for each way to cluster."""
    print(f"\nS = {count}: mean adjusted Rand index between the clusters of {len(bases)} bases (1 the same, 0 chance)")
    for method, kind in (
        *(("spectral", kind) for kind in ("shifted", "clipped", "angular")),
        *((method, "shifted") for method in ("agglomerative", "kmeans", "confusion")),
    ):
        found = [
            cluster(b.tensors["net.head.weight"], confusion(b.tensors["val_logits"], y), count, method, kind, 0)
            for b in bases
        ]
        index = statistics.mean(adjusted_rand_score(a, b) for a, b in combinations(found, 2))
        print(f"  {method:14}{kind if method == 'spectral' else '':10}{index:.3f}")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--recipe", default="quick")
    p.add_argument("--data")
    p.add_argument("--data-dir")
    p.add_argument("--train-size", type=int)
    p.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    p.add_argument("--counts", default="3,8,9", help="the S to compare")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--storage", default="results")
    p.add_argument("--figure", type=Path, help="where the curves of the first seed are drawn (PNG)")
    args = p.parse_args()

    recipe = METHOD.recipes[args.recipe]
    data = load(DataSpec(args.data or recipe.data, args.data_dir, args.train_size or recipe.train_size))
    cache, y = StageCache(Storage(args.storage)), data.val.y
    counts = [int(word) for word in args.counts.split(",")]
    bases: list[State] = []
    found: dict[int, list[Answers]] = {count: [] for count in counts}
    trainings = 0
    for seed in range(args.seeds):
        worker = LocalWorker(data, seed=seed, runtime=best_runtime())
        for count in counts:
            settings = dict(word.split("=", 1) for word in args.set) | {"cluster.count": count}
            configs = METHOD.configure(args.recipe, settings)
            run = run_stages(worker, METHOD, configs, cache, shared_seed=0)
            trainings += "experts" not in run.cached
            found[count].append(answers(Trained(worker, configs, run.states, data.val)))
        bases.append(run.states["base"])
        print(f"seed {seed}: base {100 * bases[-1].metrics['val_accuracy']:.2f} %", flush=True)

    print(f"\n{trainings} trainings of experts for {len(counts) * args.seeds} pairs of S and seed, each with 101 values of e")
    print("validation accuracy (%) at the best e of each seed, mean and standard deviation over seeds")
    print(f"{'S':>4}{'rule':>8}{'base':>16}{'ensemble':>16}{'oracle':>16}{'of headroom':>16}{'e / log C':>12}{'MACs / base':>13}")
    for count, all_answers in found.items():
        base = [accuracy(own.base, own.y) for own in all_answers]
        oracle = [own.perfect(own.experts) for own in all_answers]
        for rule in RULES:
            thresholds, right, experts = zip(*(best(own, rule) for own in all_answers), strict=True)
            share = [(r - b) / (o - b) for r, b, o in zip(right, base, oracle, strict=True) if o > b]
            cells = (*map(spread, (base, list(right), oracle)), spread(share) if share else "-")
            print(
                f"{count:>4}{rule:>8}" + "".join(f"{cell:>16}" for cell in cells)
                + f"{statistics.mean(thresholds):>12.2f}{1 + statistics.mean(experts):>13.2f}"
            )
    if args.seeds > 1:
        for count in counts:
            agreement(bases, y, count)
    if args.figure:
        by_threshold({f"S = {count}": all_answers[0] for count, all_answers in found.items()}).savefig(args.figure, dpi=150)


if __name__ == "__main__":
    main()
