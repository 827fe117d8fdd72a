"""Table 3 and Table 5 over seeds: Res-IC at several depths, each with and without internal classifiers.

    python -m benchmarks.res_ic_depths --data text:FILE.tsv --label-column topic --depths 18 34 --seeds 3

Prints Markdown: the two comparisons, then every table of the deepest network's first seed. Stages that the storage
holds are not trained again. Figures go to `--figures DIR`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import torch

from distributed.cache import StageCache
from distributed.pipeline import run_stages
from distributed.storage import Storage
from distributed.worker import LocalWorker, best_runtime
from methods.data import load, load_test
from methods.data.dataset import DataSpec
from methods.errors import UsageError
from methods.method import Table, Trained
from methods.res_ic import figures
from methods.res_ic.stages import METHOD


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks.res_ic_depths", description=__doc__.splitlines()[0])
    p.add_argument("--data", default="docstrings")
    p.add_argument("--text-column", default="text")
    p.add_argument("--label-column", action="append")
    p.add_argument("--split-column")
    p.add_argument("--max-length", type=int, default=132, help="characters of a sentence that are kept")
    p.add_argument("--train-size", type=int)
    p.add_argument("--recipe", default="quick", choices=tuple(METHOD.recipes))
    p.add_argument("--depths", type=int, nargs="+", default=[18, 34])
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--no-control", action="store_true", help="leave out the networks without internal classifiers")
    p.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    p.add_argument("--storage", default="results")
    p.add_argument("--figures", type=Path)
    return p


def markdown(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    cells = [[f"{value:,}" if isinstance(value, int) else str(value) for value in line] for line in lines]
    return f"**{table.caption}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def spread(values: list[float]) -> str:
    """Mean, and standard deviation where there are several."""
    return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def main() -> int:
    args = parser().parse_args()
    torch.set_num_threads(args.threads)
    spec = DataSpec(
        args.data,
        train_size=args.train_size,
        text_column=args.text_column,
        label_columns=tuple(args.label_column or ("label",)),
        split_column=args.split_column,
        max_length=args.max_length,
    )
    settings = dict(word.split("=", 1) for word in args.set)
    cache, data, test = StageCache(Storage(args.storage)), load(spec), load_test(spec)
    info = data.info
    print(f"{info.name}: {info.train_size} / {info.val_size} / {len(test)} rows, {len(info.vocabulary)} characters")
    print("".join(f"- {note}\n" for note in info.notes))

    scores: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    shown: Trained | None = None
    for depth in args.depths:
        for control in (False,) if args.no_control else (False, True):
            network = f"Res-IC{depth}" + (", no internal classifiers" if control else "")
            for seed in range(1, args.seeds + 1):
                started = time.monotonic()
                own = {"backbone.depth": depth} | ({"backbone.weighting": "none"} if control else {})
                configs = METHOD.configure(args.recipe, {**settings, **own})
                worker = LocalWorker(data, seed=seed, runtime=best_runtime(args.precision))
                run = run_stages(worker, METHOD, configs, cache, shared_seed=0)
                trained = Trained(worker, configs, run.states, test)
                for task in figures.observed(trained):
                    for answer in ("last",) if control else ("last", "fixed", "length", "ensemble"):
                        _, guess = task.outcome(answer)
                        kept = scores[task.name, network, answer]
                        kept["ACC"].append(float((guess == task.on.y).double().mean()))
                        kept["F1"].append(task.f1(guess))
                if not control and seed == 1:
                    shown = trained
                print(f"{network}, seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    rows = tuple((*key, spread(kept["ACC"]), spread(kept["F1"])) for key, kept in sorted(scores.items()))
    print(
        markdown(
            Table(f"Tables 3 and 5 on test, {args.seeds} seeds", ("task", "network", "answer of", "ACC", "F1"), rows)
        )
    )
    assert shown is not None
    for table in figures.tables(shown).values():
        print(markdown(table))
    if args.figures:
        args.figures.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.figures(shown).items():
            figure.savefig(args.figures / f"{name}.png", dpi=120)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
