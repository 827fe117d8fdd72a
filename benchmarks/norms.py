"""Does it matter which rows batch norm takes together? Validation accuracy of one network, its seeds paired.

    python -m benchmarks.norms --data-dir DIR [--rows 10000] [--epochs 12] [--seeds 3]

ResNet-14 on rows of CIFAR-10 with crop and flip, batches of 128, one process. `global` is the whole batch; groups of 64
rows are what DistributedDataParallel takes on two ranks, groups of 32 what it takes on four and what norm=group has by
default.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor

from bo_distill.distributed.worker import LocalWorker, best_runtime
from bo_distill.methods.data import DataSpec, load
from bo_distill.methods.data.dataset import Data
from bo_distill.methods.nets.cifar import CifarNet
from bo_distill.methods.training import Batch, Player, Training
from bo_distill.search.evidence.statistics import student

WAYS = {
    "global": Training(norm="global"),
    "groups of 64": Training(norm="group", group=64),
    "groups of 32": Training(norm="group", group=32),
}


def accuracy(data: Data, way: str, epochs: int, seed: int) -> float:
    """Of validation, in percent, after the last epoch."""
    worker = LocalWorker(data, seed=seed, runtime=best_runtime())
    torch.manual_seed(seed)
    net = worker.place(CifarNet(data.info, 14))

    def loss(batch: Batch) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(net(batch.x).float(), batch.y)}

    training = replace(
        WAYS[way], epochs=epochs, nesterov=True, schedule="linear", warmup=epochs / 5, augment="crop_flip"
    )
    worker.fit(Player(net, loss, training))
    return 100 * float((worker.predict(net, data.val.x).argmax(1) == data.val.y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load(DataSpec("cifar10", directory=args.data_dir, train_size=args.rows, val_size=5000))
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(args.seeds):
        for way, values in found.items():
            values.append(accuracy(data, way, args.epochs, seed))
            print(f"seed {seed}, {way}: {values[-1]:.2f} %", flush=True)
    for way, values in found.items():
        words = f"{way}: {mean(values):.2f} %"
        if way != "global":
            differences = [value - whole for value, whole in zip(values, found["global"], strict=True)]
            words += f", {mean(differences):+.2f} points over global"
            if interval := student(differences):
                words += f" ({interval[0]:+.2f} to {interval[1]:+.2f})"
        print(words)


if __name__ == "__main__":
    main()
