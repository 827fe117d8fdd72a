"""What a second worker brings: images per second on one rank and on several, beside plain DistributedDataParallel.

    python -m benchmarks.scaling [--ranks 1,2] [--networks resnet14,resnet26,main] [--rounds 5] [--clock wall]

Each way trains the same network on made-up images, one thread a rank, in turns within one run, so that a slow spell of
the machine hits all of them:

    group, global, local   this project's loop and worker, with batch norm's statistics of fixed groups, of the global
                           batch, or of each rank's rows
    ddp                    torch's DistributedDataParallel, batch norm of each rank's rows, a bare loop
    torch                  one rank without any of that: torch's batch norm, a bare loop

On a machine that is busy with other work, `--clock cpu` counts the CPU seconds of the rank that used most: what quiet
cores would bring, but for the time that messages take to arrive.

`main` is the built-in main job's size: ResNet-14 on 16 px, batches of 64. Then a model says what ranks of several
machines would bring: a step on n ranks takes the computation of 1/n of the rows and

    2 (n - 1) latency + 2 (n - 1) / n * bytes / bandwidth      (ring all-reduce)

of which what the backward pass hides is left in, so that the model is a lower limit. Latency and bandwidth are those of
torch.distributed's messages, timed here. The ranks that are measured share one machine, and on CPUs their gradients go
by its memory instead: their speed stands beside the model's and does not check it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.step import made_up
from bo_distill.distributed.worker import LocalWorker, Runtime
from bo_distill.methods.nets.cifar import CifarNet
from bo_distill.methods.training import Batch, Player, Training

SIZES = {"resnet14": (14, 32, 128), "resnet26": (26, 32, 128), "main": (14, 16, 64)}
"""Depth, pixels, rows of the global batch."""
OURS = ("group", "global", "local")
STEPS = {"main": 24}
"""In a turn, where not `FEW`."""
FEW = 6


def speed(worker: LocalWorker, clock: str, train: Callable[[], object]) -> float:
    """Images per second, of wall time or of the CPU time of the rank that used most."""
    tick = time.process_time if clock == "cpu" else time.perf_counter
    if worker.world_size > 1:
        dist.barrier()
    started = tick()
    train()
    if worker.device.type == "cuda":
        torch.cuda.synchronize()
    return len(worker.data.train) / max(worker.ranks.gathered(tick() - started))


def own_loop(worker: LocalWorker, network: str, norm: str, clock: str) -> float:
    """Images per second of the project's loop."""
    depth, _, batch = SIZES[network]
    net = worker.place(CifarNet(worker.data.info, depth))

    def loss(batch: Batch) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(net(batch.x).float(), batch.y)}

    training = Training(epochs=1, batch_size=batch, norm=norm)
    return speed(worker, clock, lambda: worker.fit(Player(net, loss, training)))


def bare_loop(worker: LocalWorker, network: str, wrap: bool, clock: str) -> float:
    """Images per second of forward, backward and step alone, with or without DistributedDataParallel."""
    depth, _, batch = SIZES[network]
    net: nn.Module = worker.place(CifarNet(worker.data.info, depth)).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=5e-4)
    net = DistributedDataParallel(net) if wrap else net
    rows = slice(batch * worker.rank // worker.world_size, batch * (worker.rank + 1) // worker.world_size)

    def train() -> None:
        for step in range(len(worker.data.train) // batch):
            index = torch.arange(step * batch, (step + 1) * batch)[rows]
            x = worker.batch(index, "none", 0, rows, batch)
            y = worker.data.train.y[index].to(worker.device)
            optimizer.zero_grad(set_to_none=True)
            with worker.autocast():
                loss = F.cross_entropy(net(x).float(), y)
            loss.backward()
            optimizer.step()

    return speed(worker, clock, train)


def one_round(network: str, precision: str, args: argparse.Namespace, rank: int, size: int) -> dict[str, float]:
    """Way -> images per second of the whole group."""
    _, pixels, batch = SIZES[network]
    worker = LocalWorker(
        made_up(pixels, batch * STEPS.get(network, FEW)),
        runtime=Runtime(args.device, precision),
        rank=rank,
        world_size=size,
    )
    found = {norm: own_loop(worker, network, norm, args.clock) for norm in OURS}
    if size > 1:
        found["ddp"] = bare_loop(worker, network, True, args.clock)
    else:
        found["torch"] = bare_loop(worker, network, False, args.clock)
    return found


def latency(device: str, values: int) -> float:
    """Seconds of one all-reduce of so many float32."""
    tensor, times = torch.ones(values, device=device), []
    for _ in range(30):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(tensor)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[5:])


def _rank(rank: int, size: int, args: argparse.Namespace, networks: list[str], folder: str) -> None:
    """One rank of one group; groups take turns, so that each waits for a file before its round."""
    torch.set_num_threads(1)
    if args.device == "cuda":
        torch.cuda.set_device(rank)
    if size > 1:
        backend = "nccl" if args.device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous{size}", rank=rank, world_size=size)
    jobs = [(network, precision) for network in networks for precision in args.precisions.split(",")]
    for number in range(args.rounds + 1):  # the first round warms up
        for network, precision in jobs:
            token = Path(folder, f"{size}-{number}-{network}-{precision}")
            while not token.with_suffix(".go").exists():
                time.sleep(0.01)
            found = one_round(network, precision, args, rank, size)
            if rank == 0:
                aside = token.with_suffix(".aside")
                aside.write_text(json.dumps(found))
                os.replace(aside, token.with_suffix(".done"))
    if size > 1:
        seconds = {values: latency(args.device, values) for values in (1, 2**18, 2**21)}
        if rank == 0:
            Path(folder, f"latency{size}.json").write_text(json.dumps(seconds))
        dist.destroy_process_group()


def measure(args: argparse.Namespace, networks: list[str]) -> tuple[dict[Any, list[float]], dict[int, Any]]:
    """(network, precision, ranks, way) -> images per second of each round; ranks -> seconds of messages by size."""
    sizes = [int(size) for size in args.ranks.split(",")]
    speeds: dict[Any, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        spawn = torch.multiprocessing.get_context("spawn")
        members = [
            spawn.Process(target=_rank, args=(rank, size, args, networks, folder))
            for size in sizes
            for rank in range(size)
        ]
        for member in members:
            member.start()
        for number in range(args.rounds + 1):
            for network in networks:
                for precision in args.precisions.split(","):
                    for size in sizes:
                        token = Path(folder, f"{size}-{number}-{network}-{precision}")
                        token.with_suffix(".go").touch()
                        while not token.with_suffix(".done").exists():
                            if any(member.exitcode for member in members):
                                raise SystemExit("a rank failed")
                            time.sleep(0.01)
                        if number:
                            for way, speed in json.loads(token.with_suffix(".done").read_text()).items():
                                speeds.setdefault((network, precision, size, way), []).append(speed)
        for member in members:
            member.join()
        messages = {size: json.loads(Path(folder, f"latency{size}.json").read_text()) for size in sizes if size > 1}
    return speeds, messages


def ratio(speeds: dict[Any, list[float]], of: Any, to: Any) -> float:
    """Median over rounds of one way's speed over another's."""
    return statistics.median(a / b for a, b in zip(speeds[of], speeds[to], strict=True))


def table(speeds: dict[Any, list[float]], networks: list[str], args: argparse.Namespace) -> None:
    """Print what was measured."""
    sizes = sorted({size for _, _, size, _ in speeds})
    print(f"{'network':9} {'precision':9} {'ranks':>5} {'way':7} {'images/s':>9} {'of one rank':>12} {'of peer':>14}")
    for network in networks:
        for precision in args.precisions.split(","):
            for size in sizes:
                peer = "ddp" if size > 1 else "torch"
                for way in (*OURS, peer):
                    own, one = (network, precision, size, way), (network, precision, 1, "group")
                    base = (network, precision, 1, "torch" if way == "ddp" else way)
                    gain = ratio(speeds, own, base if base in speeds else one) if 1 in sizes else float("nan")
                    print(
                        f"{network:9} {precision:9} {size:5} {way:7} {statistics.median(speeds[own]):9.0f} "
                        f"{gain:11.2f}x {ratio(speeds, own, (network, precision, size, peer)):13.2f}x"
                    )


def extend(speeds: dict[Any, list[float]], messages: dict[int, Any], networks: list[str], precision: str) -> None:
    """Print what the model says of 2, 4, 8 and 64 ranks with norm=group, whose messages are the gradients alone."""
    if 1 not in {size for _, _, size, _ in speeds} or not messages:
        return
    size, seconds = min(messages.items())
    start = seconds["1"] / (2 * (size - 1))
    pace = (seconds[str(2**21)] - seconds["1"]) / (4 * 2**21 * 2 * (size - 1) / size)  # seconds a byte
    print(f"messages between {size} ranks: {start * 1e6:.0f} us a hop, {1 / pace / 1e9:.1f} GB/s")
    print(f"{'network':9} {'ranks':>5} {'model':>7} {'measured':>9}   times one rank (beyond 4, larger batches)")
    for network in networks:
        depth, pixels, batch = SIZES[network]
        info = made_up(pixels, 2).info
        size_of = sum(p.numel() * 4 for p in CifarNet(info, depth).parameters())
        alone = statistics.median(speeds[network, precision, 1, "group"])
        for ranks in (2, 4, 8, 64):
            rows = batch * max(1, ranks // 4)
            step = rows / ranks / alone + 2 * (ranks - 1) * start + 2 * (ranks - 1) / ranks * size_of * pace
            known = speeds.get((network, precision, ranks, "group"))
            measured = f"{statistics.median(known) / alone:8.2f}x" if known else ""
            print(f"{network:9} {ranks:5} {rows / step / alone:6.2f}x {measured:>9}")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ranks", default="1,2", metavar="N,N")
    p.add_argument("--networks", default=",".join(SIZES), metavar="NAME,NAME")
    p.add_argument("--precisions", default="float32,bfloat16", metavar="NAME,NAME")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="cuda: one GPU for each rank, over nccl")
    args = p.parse_args()
    networks = args.networks.split(",")
    speeds, messages = measure(args, networks)
    table(speeds, networks, args)
    for precision in args.precisions.split(","):
        print(f"\n{precision}, by the model:")
        extend(speeds, messages, networks, precision)


if __name__ == "__main__":
    main()
