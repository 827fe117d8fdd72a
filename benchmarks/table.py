"""Record a table of real trials for `search.replay`: a dense grid of configurations, each over several seeds.

    python -m benchmarks.table fsp --data digits --points 8 --seeds 2 --out fsp_digits.parquet

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

from bo_distill.distributed.cache import StageCache
from bo_distill.distributed.pipeline import run_stages
from bo_distill.distributed.storage import Storage
from bo_distill.distributed.worker import LocalWorker, best_runtime
from bo_distill.methods.data import load
from bo_distill.methods.space import Domain
from bo_distill.search.command.options import make_task, task_options
from bo_distill.search.command.shell import OK, Parser, carry_out, positive
from bo_distill.search.rows.provenance import provenance
from bo_distill.search.searchers.grid import axis


def parser() -> Parser:
    p = Parser(prog="python -m benchmarks.table", description=__doc__.splitlines()[0], allow_abbrev=False)
    task_options(p)
    p.set_defaults(workers=1, concurrency=1)
    p.add_argument("--points", type=int, default=8, metavar="N", help="of every field that is a number (8)")
    p.add_argument("--seeds", type=int, default=2, metavar="N", help="trainings of every point, from --seed (2)")
    p.add_argument("--threads", type=int, default=1, metavar="N")
    p.add_argument("--out", type=Path, required=True, metavar="FILE")
    return p


def words_of(domain: Domain) -> dict[str, Any]:
    """As `search.simulation.recorded.domain_of` reads it."""
    return {"kind": type(domain).__name__, **dataclasses.asdict(domain)}


def record(args: argparse.Namespace, words: Sequence[str]) -> int:
    """Run what is missing of the grid and write the table, the words of the command in it."""
    import pyarrow as pa
    from pyarrow import parquet

    for name in ("points", "seeds", "threads"):
        positive("--" + name, getattr(args, name))
    torch.set_num_threads(args.threads)
    task, names, ranges, method = make_task(args)
    space = method.space(names, ranges)
    axes = {name: axis(domain, args.points) for name, domain in space.items()}
    seeds = range(args.seed, args.seed + args.seeds)
    data, runtime, cache = load(task.data), best_runtime(args.precision), StageCache(Storage(args.storage))
    shared = [stage.name for stage in method.stages if stage.shared]
    rows: list[dict[str, Any]] = []
    shared_seconds = 0.0
    combinations = list(itertools.product(*axes.values(), seeds))
    started = time.monotonic()
    for done, (*values, seed) in enumerate(combinations, 1):
        settings = dict(zip(names, values, strict=True))
        configs = method.configure(task.recipe, {**task.settings, **settings})
        worker, begun = LocalWorker(data, seed=seed, runtime=runtime), time.monotonic()
        try:
            run = run_stages(worker, method, configs, cache, shared_seed=task.seed)
            epochs = [row for name, state in run.states.items() if name not in shared for row in state.history]
            curve = [row.get("val_accuracy") for row in epochs]
            # What the trial is judged by need not be its last epoch's accuracy.
            curve[-1] = run.states[method.stages[-1].name].metrics["val_accuracy"]
            seconds = [row["seconds"] for row in epochs]
            shared_seconds = sum(row["seconds"] for name in shared for row in run.states[name].history)
        except FloatingPointError:  # diverged: no better than a guess
            length = sum(getattr(config, "epochs", 0) for name, config in configs.items() if name not in shared)
            spent = time.monotonic() - begun
            curve, seconds = [1 / len(data.info.classes)] * length, [spent / length] * length
        macs = sum(stage.macs(configs, data.info) for stage in method.stages)
        rows.append({**settings, "seed": seed, "val_accuracy": curve, "seconds": seconds, "macs": macs})
        minutes = (time.monotonic() - started) / 60
        print(f"{done} of {len(combinations)}: {settings} seed {seed} {curve[-1]:.4f}, {minutes:.1f} min", flush=True)
    about = {
        "method": method.name,
        "data": data.info.name,
        "data_fingerprint": data.info.fingerprint,
        "recipe": task.recipe,
        "settings": task.settings,
        "space": {name: words_of(domain) for name, domain in space.items()},
        "axes": axes,
        "seeds": list(seeds),
        "shared_seconds": shared_seconds,
        "precision": runtime.precision,
        "command": shlex.join(["python", "-m", "benchmarks.table", *words]),
        **provenance(),
    }
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"table": json.dumps(about)})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, args.out, compression="zstd")
    print(f"{args.out}: {len(rows)} trials")
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    return carry_out(parser(), lambda args: record(args, words), words)


if __name__ == "__main__":
    sys.exit(main())
