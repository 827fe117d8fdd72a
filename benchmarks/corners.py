"""Does any configuration of a method's search space diverge? Random ones, trained for an epoch on the smallest data.

    python -m benchmarks.corners METHOD [--points 200] [--precision float32,bfloat16] [--device cpu|cuda]
                                        [--set stage.field=value]

Prints each configuration that ends in a loss or a weight that is not finite; exits 1 if there is one.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from typing import Any

import torch

from bo_distill.distributed.cache import StageCache
from bo_distill.distributed.pipeline import run_stages
from bo_distill.distributed.storage import Storage
from bo_distill.distributed.worker import LocalWorker, Runtime
from bo_distill.methods import get
from bo_distill.methods.data import DataSpec, load
from bo_distill.methods.data.dataset import Data
from bo_distill.methods.method import Method
from bo_distill.methods.training import Training
from bo_distill.search.searchers.random import random_point

SEED = 7


def smallest(method: Method, rows: int) -> Data:
    """The data of the recipe `quick`, or so many rows of it."""
    recipe = method.recipes["quick"]
    spec = DataSpec(recipe.data, train_size=recipe.train_size, val_size=recipe.val_size)
    data = load(spec)
    return load(dataclasses.replace(spec, train_size=rows)) if len(data.train) > rows else data


def short(method: Method) -> dict[str, Any]:
    """One epoch wherever a stage trains."""
    return {f"{stage.name}.epochs": 1 for stage in method.stages if issubclass(stage.config, Training)}


def diverges(method: Method, data: Data, settings: dict[str, Any], runtime: Runtime, cache: StageCache) -> str | None:
    """What is not finite after a training with these settings; None if all is."""
    worker = LocalWorker(data, seed=SEED, runtime=runtime)
    try:
        run = run_stages(worker, method, method.configure("quick", settings), cache, shared_seed=SEED)
    except FloatingPointError as error:
        return str(error)
    for stage, state in run.states.items():
        for name, tensor in state.tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                return f"{stage}: {name} is not finite"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--precision", default="float32,bfloat16")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rows", type=int, default=512, help="of training, at most")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.FIELD=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    method = get(args.method)
    fixed = {**short(method), **dict(word.split("=", 1) for word in args.set)}
    space = method.space([name for name, field in method.fields().items() if field.searched and name not in fixed], {})
    data, found = smallest(method, args.rows), 0
    for precision in args.precision.split(","):
        started, bad = time.monotonic(), 0
        with tempfile.TemporaryDirectory() as folder:
            cache = StageCache(Storage(folder))
            for number in range(args.points):
                point = random_point(space, SEED, number)
                if words := diverges(method, data, {**fixed, **point}, Runtime(args.device, precision), cache):
                    bad += 1
                    shown = ", ".join(
                        f"{name} {v:.3g}" if isinstance(v, float) else f"{name} {v}" for name, v in point.items()
                    )
                    print(f"{precision} {number}: {shown}: {words}", flush=True)
        print(
            f"{args.method}, {args.device}, {precision}: {bad} of {args.points} configurations diverge "
            f"({len(data.train)} rows of {data.info.name}, {time.monotonic() - started:.0f} s)",
            flush=True,
        )
        found += bad
    sys.exit(found > 0)


if __name__ == "__main__":
    main()
