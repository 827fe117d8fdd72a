"""The cluster ensemble over S and over seeds: what is realised of the headroom, accuracy against e for each S, and how
far the clusters of independently trained bases agree.

    python -m benchmarks.label_embedding --recipe cifar100 --data-dir DIR --counts 3,8,9 --seeds 3

Each seed trains its own base; e is chosen on validation for each S and rule, and test is scored once with it. S = 1 is
always run too: with e = 0 it is the base trained on for the experts' epochs, the fair control. Seeds run side by side,
one thread each, and stages that an earlier command has left in the same storage are reused.
"""

from __future__ import annotations

import argparse
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations, repeat
from multiprocessing import get_context
from pathlib import Path

import torch
from sklearn.metrics import adjusted_rand_score

from distributed.cache import StageCache
from distributed.pipeline import run_stages
from distributed.storage import Storage
from distributed.worker import LocalWorker, best_runtime
from methods.data import load, load_test
from methods.data.dataset import DataSpec
from methods.label_embedding.figures import by_threshold, tables
from methods.label_embedding.paper import CLUSTERINGS, cluster, confusion
from methods.label_embedding.stages import METHOD, RULES, Answers, answers
from methods.method import State, Table, Trained
from methods.metrics import accuracy


def one_seed(
    seed: int, args: argparse.Namespace, counts: list[int]
) -> tuple[State, dict[int, tuple[Answers, Answers]], dict[str, Table]]:
    """The base; for each S what validation and test are answered; and the tables of the last S, on validation."""
    torch.set_num_threads(1)
    spec, cache = data_of(args), StageCache(Storage(args.storage))
    worker, test = LocalWorker(load(spec), seed=seed, runtime=best_runtime()), load_test(spec)
    found, shown = {}, {}
    for count in counts:
        settings = dict(word.split("=", 1) for word in args.set) | {"cluster.count": count}
        configs = METHOD.configure(args.recipe, settings)
        run = run_stages(worker, METHOD, configs, cache, shared_seed=0)
        seconds = ", ".join(f"{name} {value:.0f} s" for name, value in run.seconds.items() if name not in run.cached)
        print(f"seed {seed}, S = {count}: {seconds or 'all found in the storage'}", flush=True)
        val = Trained(worker, configs, run.states, worker.data.val)
        found[count] = answers(val), answers(Trained(worker, configs, run.states, test))
        shown = tables(val)
    return run.states["base"], found, shown


def data_of(args: argparse.Namespace) -> DataSpec:
    recipe = METHOD.recipes[args.recipe]
    return DataSpec(args.data or recipe.data, args.data_dir, args.train_size or recipe.train_size)


def spread(values: list[float]) -> str:
    """Mean and standard deviation of shares, in percent."""
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation}"


def line(*cells: object) -> None:
    print(f"{cells[0]!s:>4}{cells[1]!s:>9}" + "".join(f"{cell!s:>17}" for cell in cells[2:]))


def compare(found: dict[int, list[tuple[Answers, Answers]]]) -> None:
    """Test accuracy of base, control, ensemble and perfect routing."""
    print("\ntest accuracy (%), mean and standard deviation over seeds; e chosen on validation for each seed")
    print(f"base trained on: {spread([accuracy(test.experts, test.y) for _, test in found[1]])}")
    line("S", "rule", "base", "ensemble", "over base", "perfect routing", "of headroom", "e / log C", "MACs / base")
    for count in (count for count in found if count > 1):
        pairs = found[count]
        base = [accuracy(test.base, test.y) for _, test in pairs]
        oracle = [test.perfect(test.experts) for _, test in pairs]
        for rule in RULES:
            thresholds = [torch.tensor([val.best_threshold(rule)]) for val, _ in pairs]
            scores = [test.curve(rule, e) for (_, test), e in zip(pairs, thresholds, strict=True)]
            right, experts = ([float(score[part]) for score in scores] for part in (0, 1))
            gain = [r - b for r, b in zip(right, base, strict=True)]
            share = [g / (o - b) for g, b, o in zip(gain, base, oracle, strict=True) if o > b]
            e = statistics.mean(map(float, thresholds))
            cells = map(spread, (base, right, gain, oracle, share or [0.0]))
            line(count, rule, *cells, f"{e:.2f}", f"{1 + statistics.mean(experts):.2f}")


def agreement(bases: list[State], y: torch.Tensor, count: int) -> None:
    """Adjusted Rand index between the clusters of different bases, for each way to cluster."""
    print(f"\nS = {count}: mean adjusted Rand index between the clusters of {len(bases)} bases (1 the same, 0 chance)")
    for method, kind in CLUSTERINGS:
        parts = [
            cluster(b.tensors["net.head.weight"], confusion(b.tensors["val_logits"], y), count, method, kind, 0)
            for b in bases
        ]
        index = statistics.mean(adjusted_rand_score(a, b) for a, b in combinations(parts, 2))
        print(f"  {method:14}{kind:10}{index:.3f}")


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

    counts = [1, *(int(word) for word in args.counts.split(",") if word != "1")]
    load(data_of(args))  # drawn or fetched once, before the seeds want it all together
    with ProcessPoolExecutor(min(args.seeds, os.cpu_count() or 1), get_context("spawn")) as pool:
        seeds = list(pool.map(one_seed, range(args.seeds), repeat(args), repeat(counts)))
    bases = [base for base, _, _ in seeds]
    found = {count: [pairs[count] for _, pairs, _ in seeds] for count in counts}
    for table in seeds[0][2].values():
        print(f"\n{table.caption} (seed 0, validation)\n{' | '.join(table.columns)}")
        for row in table.rows:
            print(" | ".join(map(str, row)))
    compare(found)
    if len(bases) > 1:
        for count in counts[1:]:
            agreement(bases, found[count][0][0].y, count)
    if args.figure:
        drawn = {f"S = {count}": pairs[0][0] for count, pairs in found.items() if count > 1}
        by_threshold(drawn).savefig(args.figure, dpi=150)


if __name__ == "__main__":
    main()
