"""Batch norm over ranks: equal to one rank's in output, gradients and running statistics, and as exact as torch's."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bo_distill.distributed.norm import BatchNorm, arrange, merged, running_statistics
from bo_distill.distributed.ranks import Ranks, Reducer
from helpers.ranks import on_ranks

ROWS = (5, 3)  # the ranks' shares need not be equal


def inputs(shape: tuple[int, ...], mean: float = 3.0, sd: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    noise = torch.randn(sum(ROWS), *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (mean + sd * noise).to(dtype)


def loss_of(out: Tensor, first: int) -> Tensor:
    weight = torch.arange(first, first + len(out), dtype=torch.float64).add(1).view(-1, *[1] * (out.dim() - 1))
    return (out.sin() * weight).sum()


def normed(shape: tuple[int, ...], kind: str, groups: tuple[int, ...], ranks: Ranks, **options: bool) -> nn.Sequential:
    net = nn.Sequential(nn.BatchNorm2d(shape[0], **options)).double()
    if options.get("affine", True):
        nn.init.normal_(net[0].weight, generator=torch.Generator().manual_seed(1))
    arrange(net, kind, groups, ranks)
    return net


def results(net: nn.Sequential, x: Tensor, first: int) -> dict[str, Tensor]:
    """After two steps: output, gradients of the input and of weight and bias, and the buffers."""
    x = x.clone().requires_grad_()
    for _ in range(2):
        out = net(x)
    loss_of(out, first).backward()
    grads = {f"{name}.grad": p.grad for name, p in net.named_parameters()}
    return {"out": out.detach(), "x": x.grad, **grads, **net.state_dict()}  # type: ignore[dict-item]


def _rank(rank: int, folder: str, shape: tuple[int, ...], kind: str, affine: bool) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    groups = ((2, 3), (3,))[rank]
    net = normed(shape, kind, groups, Ranks(rank, 2), affine=affine)
    found = results(net, inputs(shape).split(ROWS)[rank], rank * ROWS[0])
    weight = ROWS[rank] / sum(ROWS)
    for name, value in found.items():
        if name.endswith(".grad"):
            dist.all_reduce(value)
    if kind == "group":  # ranks keep their own until the loop adds them up with the gradients
        for buffer in running_statistics(net):
            buffer.mul_(weight)
            dist.all_reduce(buffer)
    else:
        assert not running_statistics(net), "the same on all ranks already"
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("shape", "kind", "affine"),
    [((4, 3, 3), "group", True), ((4, 1, 1), "group", True), ((4, 3, 3), "global", True), ((4, 1, 1), "global", False)],
)
def test_two_ranks_compute_what_one_does(shape: tuple[int, ...], kind: str, affine: bool, tmp_path: Path) -> None:
    on_ranks(_rank, str(tmp_path), shape, kind, affine)
    a, b = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    expected = results(normed(shape, kind, (2, 3, 3), Ranks(), affine=affine), inputs(shape), 0)
    for name, value in expected.items():
        if name in ("out", "x"):
            torch.testing.assert_close(torch.cat([a[name], b[name]]), value)
        else:
            torch.testing.assert_close(a[name], value, msg=lambda m, n=name: f"{n}: {m}")
            torch.testing.assert_close(b[name], value)


def test_groups_equal_torchs_norm_of_each_alone() -> None:
    x, groups = inputs((4, 3, 3)), (2, 3, 3)
    net = normed((4, 3, 3), "group", groups, Ranks())
    out = net(x)
    alone = [nn.BatchNorm2d(4, momentum=1.0).double() for _ in groups]
    for norm in alone:
        norm.weight.data = net[0].weight.data  # type: ignore[union-attr]
    torch.testing.assert_close(out, torch.cat([norm(part) for norm, part in zip(alone, x.split(groups), strict=True)]))
    for name, start in (("running_mean", 0.0), ("running_var", 1.0)):
        mean = sum(rows / 8 * getattr(norm, name) for rows, norm in zip(groups, alone, strict=True))
        torch.testing.assert_close(getattr(net[0], name), 0.9 * start + 0.1 * mean)
    assert int(net[0].num_batches_tracked) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("groups", [(2, 3, 3), (8,)])
def test_a_batch_that_is_passed_twice_keeps_its_groups(groups: tuple[int, ...]) -> None:
    x, net = inputs((4, 3, 3)), normed((4, 3, 3), "group", groups, Ranks())
    torch.testing.assert_close(net(torch.cat([x, 2 * x])), torch.cat([net(x), net(2 * x)]))
    with pytest.raises(ValueError, match="9 rows are no multiple of the batch's 8"):
        net(inputs((4, 3, 3))[[0] * 9])


@pytest.mark.parametrize("kind", ["group", "global", "local"])
def test_one_rank_with_one_group_is_torchs_norm(kind: str) -> None:
    x = inputs((4, 3, 3))
    own = results(normed((4, 3, 3), kind, (8,), Ranks()), x, 0)
    net = nn.Sequential(nn.BatchNorm2d(4)).double()
    nn.init.normal_(net[0].weight, generator=torch.Generator().manual_seed(1))
    for name, value in results(net, x, 0).items():
        assert torch.equal(own[name], value), name


@pytest.mark.parametrize("options", [{"track_running_stats": False}, {"affine": False}, {"momentum": None}])
def test_every_option_of_torchs_norm(options: dict[str, bool]) -> None:
    x, net = inputs((4, 3, 3)), normed((4, 3, 3), "group", (4, 4), Ranks(), **options)
    expected = nn.BatchNorm2d(4, **options).double()  # type: ignore[arg-type]
    if options.get("affine", True):
        expected.weight.data = net[0].weight.data  # type: ignore[union-attr]
    torch.testing.assert_close(net(x)[:4], expected(x[:4]))
    net.eval()(x)


def test_samples_are_merged_without_cancellation() -> None:
    """Mean 1000, sd 0.01 in float32: squares alone would lose all of the variance."""
    x = 1000 + 0.01 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = x.float().split([50, 3, 11])
    counts = torch.tensor([50.0, 3.0, 11.0])
    means = torch.stack([part.double().mean(0).float() for part in parts])
    variances = torch.stack([part.double().var(0, correction=0).float() for part in parts])
    mean, var = merged(counts, means, variances)
    whole = x.float().double()
    torch.testing.assert_close(mean.double(), whole.mean(0), rtol=1e-6, atol=0)
    # A mean of float32 at 1000 is known to 6e-5, which the variance, 1e-4, cannot but feel.
    torch.testing.assert_close(var.double(), whole.var(0, correction=0), rtol=2e-2, atol=0)


def _far(rank: int, folder: str, ratios: list[float]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for ratio in ratios:
        net = nn.Sequential(nn.BatchNorm2d(4))
        arrange(net, "global", (), Ranks(rank, 2))
        x = inputs((4, 3, 3), ratio, 1.0, torch.float32).split(ROWS)[rank].requires_grad_()
        out = net(x)
        loss_of(out.double(), rank * ROWS[0]).backward()
        torch.save({"out": out.detach(), "x": x.grad}, f"{folder}/{ratio:g}-{rank}.pt")
    dist.destroy_process_group()


def test_global_statistics_are_as_exact_as_torchs(tmp_path: Path) -> None:
    """In float32 at mean / sd of 10 to 10,000: the error against float64 is at most twice torch's own."""
    ratios = [10.0, 100.0, 1e3, 1e4]
    on_ranks(_far, str(tmp_path), ratios)
    for ratio in ratios:
        start = inputs((4, 3, 3), ratio, 1.0, torch.float32)
        errors = {}
        exact = start.double().requires_grad_()
        right = nn.BatchNorm2d(4).double()(exact)
        loss_of(right, 0).backward()
        x = start.clone().requires_grad_()
        theirs = nn.BatchNorm2d(4)(x)
        loss_of(theirs.double(), 0).backward()
        both = [torch.load(tmp_path / f"{ratio:g}-{rank}.pt", weights_only=True) for rank in range(2)]
        for name, torchs, true in (("out", theirs.detach(), right.detach()), ("x", x.grad, exact.grad)):
            assert torchs is not None and true is not None
            ours = torch.cat([found[name] for found in both])
            scale = true.abs().max()
            errors[name] = ((ours - true).abs().max() / scale).item(), ((torchs - true).abs().max() / scale).item()
        for name, (own, torchs_own) in errors.items():
            assert own <= 2 * torchs_own + 2e-7 * math.sqrt(ratio), (ratio, name, own, torchs_own)


def test_norms_are_replaced_once_and_keep_their_weights() -> None:
    net = nn.Sequential(nn.Sequential(nn.BatchNorm1d(3)), nn.BatchNorm2d(3))
    before = {name: value.data_ptr() for name, value in net.state_dict().items()}
    arrange(net, "group", (2, 2), Ranks())
    first = net[1]
    arrange(net, "local", (), Ranks(1, 2))
    assert net[1] is first and isinstance(first, BatchNorm) and first.groups == ()
    assert {name: value.data_ptr() for name, value in net.state_dict().items()} == before
    assert Reducer(list(net.parameters()), running_statistics(net), Ranks(), 1.0).buckets == []
