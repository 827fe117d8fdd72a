"""Batch norm over ranks equals batch norm over the whole batch: output, gradients and running statistics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from distributed.norm import GlobalBatchNorm, globalise

ROWS = (5, 3)  # the ranks' shares need not be equal


def inputs(shape: tuple[int, ...]) -> Tensor:
    return 3 + 2 * torch.randn(sum(ROWS), *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def loss_of(out: Tensor, first: int) -> Tensor:
    weight = torch.arange(first, first + len(out), dtype=torch.float64).add(1).view(-1, *[1] * (out.dim() - 1))
    return (out.sin() * weight).sum()


def _rank(rank: int, folder: str, shape: tuple[int, ...]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    net = nn.Sequential(nn.BatchNorm2d(shape[0])).double()
    globalise(net)
    assert isinstance(net[0], GlobalBatchNorm)
    x = inputs(shape).split(ROWS)[rank].clone().requires_grad_()
    for _ in range(2):
        out = net(x)
    loss_of(out, rank * ROWS[0]).backward()
    weight = net[0].weight.grad.clone()
    dist.all_reduce(weight)
    torch.save({"out": out.detach(), "x": x.grad, "slope": weight, **net[0].state_dict()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(4, 3, 3), (4, 1, 1)])
def test_two_ranks_compute_what_one_does(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path), shape), nprocs=2)
    a, b = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    norm, x = nn.BatchNorm2d(shape[0]).double(), inputs(shape).requires_grad_()
    for _ in range(2):
        out = norm(x)
    loss_of(out, 0).backward()
    torch.testing.assert_close(torch.cat([a["out"], b["out"]]), out.detach())
    torch.testing.assert_close(torch.cat([a["x"], b["x"]]), x.grad)
    torch.testing.assert_close(a["slope"], norm.weight.grad)
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(a[name], value)
        torch.testing.assert_close(b[name], value)
