"""Images per second of the training loop beside a bare forward, backward and step on the same resident batch.

    python -m benchmarks.step [--depth 14] [--size 32] [--seconds 3] [--rounds 5]

The two take turns in one run, so that a slow spell of the machine hits both. The ratio is what counts.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from distributed.worker import LocalWorker, best_runtime
from methods.data.dataset import Data, Info, Split
from methods.nets.cifar import CifarNet
from methods.training import Batch, Player, Training

BATCH = 128


def made_up(size: int, rows: int) -> Data:
    classes = tuple("0123456789")
    info = Info("made-up", "image", classes, (3, size, size), "", rows, 2, 2, (0.5,) * 3, (0.25,) * 3)
    x = torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8)
    return Data(info, Split(x, torch.randint(0, 10, (rows,))), Split(x[:2], torch.zeros(2, dtype=torch.long)))


def loop_speed(worker: LocalWorker, depth: int, augment: str) -> float:
    net = worker.place(CifarNet(worker.data.info, depth))

    def loss(batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": F.cross_entropy(net(batch.x).float(), batch.y)}

    rows = len(worker.data.train) // BATCH * BATCH
    started = time.perf_counter()
    worker.fit(Player(net, loss, Training(epochs=1, batch_size=BATCH, augment=augment)))
    return rows / (time.perf_counter() - started)


def bare_speed(worker: LocalWorker, depth: int) -> float:
    net = worker.place(CifarNet(worker.data.info, depth)).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=5e-4)
    x = worker.batch(torch.arange(BATCH), "none", 0, slice(0, BATCH), BATCH)
    y = worker.data.train.y[:BATCH].to(worker.device)
    steps = len(worker.data.train) // BATCH
    started = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        with worker.autocast():
            loss = F.cross_entropy(net(x).float(), y)
        loss.backward()
        optimizer.step()
    if worker.device.type == "cuda":
        torch.cuda.synchronize()
    return steps * BATCH / (time.perf_counter() - started)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--depth", type=int, default=14)
    p.add_argument("--size", type=int, default=32)
    p.add_argument("--rows", type=int, default=3840)
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    for precision in ("float32", "bfloat16"):
        worker = LocalWorker(made_up(args.size, args.rows), runtime=best_runtime(precision))
        loop_speed(worker, args.depth, "none")
        bare_speed(worker, args.depth)
        bare, loops = [], {"none": [], "crop_flip": []}
        for _ in range(args.rounds):
            bare.append(bare_speed(worker, args.depth))
            for augment, speeds in loops.items():
                speeds.append(loop_speed(worker, args.depth, augment))
        print(f"{precision}: bare {statistics.median(bare):.0f} images/s on {torch.get_num_threads()} threads")
        for augment, speeds in loops.items():
            ratio = statistics.median(a / b for a, b in zip(speeds, bare, strict=True))
            print(f"  loop, augment {augment}: {statistics.median(speeds):.0f} images/s, {ratio:.3f} of bare")


if __name__ == "__main__":
    main()
