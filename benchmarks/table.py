"""Record a table of real trials for `search.replay`: a dense grid of configurations, each over several seeds.

    python -m benchmarks.table fsp --data digits --points 8 --seeds 2 --out benchmarks/tables/fsp_digits.parquet

Trials run one after the other in this process, without Ray. Finished stages lie in the storage, so a run that was
stopped goes on where it was when the same command is given again; the file is written when the last trial is done.
Whatever one trial takes, the seconds kept are those of its epochs when they were trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distributed.cache import StageCache
from distributed.pipeline import run_stages
from distributed.storage import Storage
from distributed.worker import LocalWorker, best_runtime
from methods import get
from methods.data import load
from methods.data.dataset import DataSpec
from methods.errors import UsageError
from methods.space import Domain
from search.conductor import provenance
from search.searchers import axis


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__.splitlines()[0])
    p.add_argument("method")
    p.add_argument("--data")
    p.add_argument("--data-dir")
    p.add_argument("--train-size", type=int)
    p.add_argument("--val-size", type=int)
    p.add_argument("--recipe", default="quick")
    p.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    p.add_argument("--search", metavar="FIELDS", help="by commas (default: the method's own)")
    p.add_argument("--points", type=int, default=8, help="of every field that is a number (8)")
    p.add_argument("--seeds", type=int, default=2)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    p.add_argument("--storage", default="results", help="of stages, which make the command resumable")
    p.add_argument("--out", type=Path, required=True)
    return p


def words_of(domain: Domain) -> dict[str, Any]:
    """As `search.replay.domain_of` reads it."""
    return {"kind": type(domain).__name__, **dataclasses.asdict(domain)}


def record(args: argparse.Namespace, command: Sequence[str]) -> None:
    """Run what is missing of the grid and write the table."""
    import pyarrow as pa
    from pyarrow import parquet

    torch.set_num_threads(args.threads)
    method = get(args.method)
    fixed = method.check(dict(word.split("=", 1) for word in args.set))
    fields = method.fields()
    names = args.search.split(",") if args.search else [n for n, (_, own) in fields.items() if own and n not in fixed]
    space = {name: fields[name][0] for name in names}
    axes = {name: axis(domain, args.points) for name, domain in space.items()}
    recipe = method.recipes[args.recipe]
    size = recipe.train_size if args.train_size is None and not args.data else args.train_size
    data = load(DataSpec(args.data or recipe.data, args.data_dir, train_size=size, val_size=args.val_size))
    runtime, cache = best_runtime(args.precision), StageCache(Storage(args.storage))
    shared = [stage.name for stage in method.stages if stage.shared]
    rows: list[dict[str, Any]] = []
    shared_seconds = 0.0
    combinations = list(itertools.product(*axes.values(), range(args.seeds)))
    started = time.monotonic()
    for done, (*values, seed) in enumerate(combinations, 1):
        settings = dict(zip(names, values, strict=True))
        configs = method.configure(args.recipe, {**fixed, **settings})
        worker = LocalWorker(data, seed=seed, runtime=runtime)
        try:
            run = run_stages(worker, method, configs, cache, shared_seed=0)
            epochs = [row for name, state in run.states.items() if name not in shared for row in state.history]
            curve = [row.get("val_accuracy") for row in epochs]
            # What the trial is judged by need not be its last epoch's accuracy.
            curve[-1] = run.states[method.stages[-1].name].metrics["val_accuracy"]
            seconds = [row["seconds"] for row in epochs]
            shared_seconds = sum(row["seconds"] for name in shared for row in run.states[name].history)
        except FloatingPointError:  # diverged: no better than a guess
            length = sum(getattr(config, "epochs", 0) for name, config in configs.items() if name not in shared)
            curve, seconds = [1 / len(data.info.classes)] * length, [0.0] * length
        macs = sum(stage.macs(configs, data.info) for stage in method.stages)
        rows.append({**settings, "seed": seed, "val_accuracy": curve, "seconds": seconds, "macs": macs})
        spent = time.monotonic() - started
        print(f"{done} of {len(combinations)}: {settings} seed {seed} {curve[-1]:.4f}, {spent:.0f} s", flush=True)
    about = {
        "method": method.name,
        "data": data.info.name,
        "data_fingerprint": data.info.fingerprint,
        "recipe": args.recipe,
        "settings": fixed,
        "space": {name: words_of(domain) for name, domain in space.items()},
        "axes": axes,
        "seeds": list(range(args.seeds)),
        "shared_seconds": shared_seconds,
        "precision": runtime.precision,
        "command": shlex.join(command),
        **provenance(),
    }
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"table": json.dumps(about)})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, args.out, compression="zstd")
    print(f"{args.out}: {len(rows)} trials")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        record(parser().parse_args(words), ["python", "-m", "benchmarks.table", *words])
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
