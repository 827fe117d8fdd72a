"""Images a second of the training loop, beside a bare step and beside a plain PyTorch script, on one network.

    OMP_NUM_THREADS=1 python -m benchmarks.step [--depth 14] [--size 32] [--rows 3840] [--rounds 5]

- bare: forward, backward and step on one resident batch; the loop with crop and flip should reach 0.97 of it.
- plain: written by hand: torchvision's transforms (RandomCrop, RandomHorizontalFlip, ToTensor, Normalize) on PIL
  images in a DataLoader of this process, float32; our loop should reach 1.5 of it.

All take turns in one run, so that a slow spell of the machine hits all. Seconds are of the processor, not of the clock,
unless a GPU trains; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bo_distill.distributed.worker import LocalWorker, best_runtime
from bo_distill.methods.data.dataset import Data, Info, Split
from bo_distill.methods.nets.cifar import CifarNet
from bo_distill.methods.training import Batch, Player, Training

BATCH = 128


def made_up(size: int, rows: int) -> Data:
    classes = tuple("0123456789")
    info = Info("made-up", "image", classes, (3, size, size), "", rows, 2, 2, (0.5,) * 3, (0.25,) * 3)
    x = torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8)
    return Data(info, Split(x, torch.randint(0, 10, (rows,))), Split(x[:2], torch.zeros(2, dtype=torch.long)))


def clock(worker: LocalWorker) -> float:
    """Seconds of this process on its processors; of the wall where a GPU works."""
    if worker.device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def loop_speed(worker: LocalWorker, depth: int, augment: str) -> float:
    """Images a second of `fit`."""
    net = worker.place(CifarNet(worker.data.info, depth))

    def loss(batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": F.cross_entropy(net(batch.x).float(), batch.y)}

    rows = len(worker.data.train) // BATCH * BATCH
    started = clock(worker)
    training = Training(epochs=1, batch_size=BATCH, augment=augment, norm="global")  # the bare step's batch norm
    worker.fit(Player(net, loss, training))
    return rows / (clock(worker) - started)


def bare_speed(worker: LocalWorker, depth: int) -> float:
    """Images a second of steps on one batch that is there already."""
    net = worker.place(CifarNet(worker.data.info, depth)).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=5e-4)
    x = worker.batch(torch.arange(BATCH), "none", 0, slice(0, BATCH), BATCH)
    y = worker.data.train.y[:BATCH].to(worker.device)
    steps = len(worker.data.train) // BATCH
    started = clock(worker)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        with worker.autocast():
            loss = F.cross_entropy(net(x).float(), y)
        loss.backward()
        optimizer.step()
    return steps * BATCH / (clock(worker) - started)


class Pictures(Dataset):
    """Rows as torchvision's CIFAR10 gives them: a PIL image through a transform, and a number."""

    def __init__(self, split: Split, transform: Callable) -> None:
        self.pixels, self.labels = split.x.permute(0, 2, 3, 1).numpy(), split.y.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def plain_speed(worker: LocalWorker, depth: int) -> float:
    """Images a second of a script as one writes it by hand; the network normalises its input as ours does."""
    size = worker.data.info.shape[-1]
    steps = [transforms.RandomCrop(size, size // 8), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize(worker.data.info.mean, worker.data.info.std)])
    loader = DataLoader(Pictures(worker.data.train, transform), BATCH, shuffle=True, drop_last=True)
    net = CifarNet(worker.data.info, depth).to(worker.device).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=5e-4)
    started = clock(worker)
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x.to(worker.device)), y.to(worker.device))
        loss.backward()
        optimizer.step()
    return len(loader) * BATCH / (clock(worker) - started)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--depth", type=int, default=14)
    p.add_argument("--size", type=int, default=32)
    p.add_argument("--rows", type=int, default=3840)
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    data = made_up(args.size, args.rows)
    workers = {name: LocalWorker(data, runtime=best_runtime(name)) for name in ("float32", "bfloat16")}
    runs: dict[str, Callable[[], float]] = {"plain": lambda: plain_speed(workers["float32"], args.depth)}
    for name, worker in workers.items():
        runs[f"{name} bare"] = partial(bare_speed, worker, args.depth)
        for augment in ("none", "crop_flip"):
            runs[f"{name} loop, {augment}"] = partial(loop_speed, worker, args.depth, augment)
    for run in runs.values():
        run()  # pays for what is set up once
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            found[name].append(run())

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(found[one], found[other], strict=True))

    print(f"{torch.get_num_threads()} threads")
    for name, speeds in found.items():
        beside = f", {ratio(name, 'plain'):.2f} of plain" if name != "plain" else ""
        if "loop" in name:
            beside += f", {ratio(name, name.split()[0] + ' bare'):.3f} of bare"
        print(f"{name:<26} {statistics.median(speeds):6.0f} images/s{beside}")


if __name__ == "__main__":
    main()
