"""Rows are shared in whole groups, and gradients that travel in buckets add up to one rank's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from bo_distill.distributed import ranks as buckets
from bo_distill.distributed.ranks import Ranks, Reducer, Share, dealt, dropping_together, share_of
from bo_distill.methods.errors import UsageError
from bo_distill.methods.training import Training
from helpers.ranks import on_ranks


@pytest.mark.parametrize(
    ("size", "group", "groups"),
    [(128, 0, 4), (64, 0, 4), (32, 0, 2), (20, 0, 1), (7, 0, 1), (128, 16, 8), (100, 32, 3), (8192, 128, 64)],
)
def test_ranks_hold_whole_groups_and_all_rows_once(size: int, group: int, groups: int) -> None:
    training = Training(group=group)
    assert training.groups(size) == groups
    (whole,) = (share_of(Ranks(), training, size, grouped=True),)
    assert sum(whole.groups) == size and max(whole.groups) - min(whole.groups) <= 1
    for ranks in range(1, min(groups, 5) + 1):
        shares = [share_of(Ranks(rank, ranks), training, size, grouped=True) for rank in range(ranks)]
        assert sum((share.groups for share in shares), ()) == whole.groups, "the groups are the global batch's"
        assert [share.rows.start for share in shares] == [0, *(share.rows.stop for share in shares[:-1])]
        assert all(share.rows.stop - share.rows.start == sum(share.groups) for share in shares)
        assert sum(share.weight for share in shares) == pytest.approx(1)


def test_too_many_workers_are_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"8 workers cannot share .* 128 rows in 4 groups .* group=16, or norm"):
        share_of(Ranks(0, 8), Training(), 128, grouped=True)
    assert share_of(Ranks(0, 8), Training(group=16), 128, grouped=True).groups == (16,)
    assert share_of(Ranks(1, 8), Training(), 128, grouped=False).rows == slice(16, 32)
    with pytest.raises(UsageError, match="5 workers cannot share a batch of 8 rows; give at most 4"):
        share_of(Ranks(0, 5), Training(), 8, grouped=False)


def test_buckets_hold_neighbours_of_one_type_up_to_a_size() -> None:
    tensors = [torch.zeros(n, dtype=kind) for n, kind in ((2, torch.float32), (2, torch.float32), (9, torch.float32),
                                                          (1, torch.float32), (1, torch.float64))]  # fmt: skip
    assert [[len(t) for t in bucket] for bucket in dealt(tensors, 16)] == [[2, 2], [9], [1], [1]]


class Branches(nn.Module):
    """Three layers, one of which takes no part in the loss."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second, self.idle = nn.Linear(3, 5), nn.Linear(5, 1), nn.Linear(5, 1)
        self.register_buffer("seen", torch.zeros(3))
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen.copy_(x.mean(0))
        out: torch.Tensor = self.second(self.first(x).tanh())
        return out.square().mean()


@pytest.mark.parametrize("times", [1, 2])  # a network may be shown a batch twice
def test_ranks_drop_what_one_drops(times: int) -> None:
    net, x = nn.Sequential(nn.Dropout(0.4), nn.Dropout2d(0.4)), torch.randn(8, 6, 5, 5) + 5
    x = x.contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    expected = net(torch.cat([x] * times)).chunk(times)
    assert float((expected[0] == 0).double().mean()) > 0.5
    for rows in (slice(0, 5), slice(5, 8)):
        torch.manual_seed(0)
        with dropping_together(net, Share(rows, 8, ())):
            out = net(torch.cat([x[rows]] * times))
            with pytest.raises(ValueError, match="no multiple"):
                net(x[:2])
            assert torch.equal(net.eval()(x[:2]), x[:2])
        net.train()
        assert torch.equal(out, torch.cat([part[rows] for part in expected]))
    assert net(x[:2]).shape == x[:2].shape


X = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
ROWS = (5, 3)


def _rank(rank: int, folder: str, bucket: int) -> None:
    buckets.BUCKET = bucket
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    net = Branches()
    reducer = Reducer(list(net.parameters()), [net.seen], Ranks(rank, 2), ROWS[rank] / sum(ROWS))
    for _ in range(2):  # a second step begins afresh
        reducer.backward(net(X.split(ROWS)[rank]))
    grads = {name: p.grad.clone() if p.grad is not None else None for name, p in net.named_parameters()}
    torch.save({"buckets": len(reducer.buckets), "seen": net.seen, **grads}, f"{folder}/{rank}.pt")
    reducer.close()
    net(X).backward()  # without hooks: nothing is sent any more
    dist.destroy_process_group()


@pytest.mark.parametrize(("bucket", "messages"), [(2**20, 1), (24, 4)])
def test_buckets_add_up_to_the_gradient_of_the_whole_batch(bucket: int, messages: int, tmp_path: Path) -> None:
    on_ranks(_rank, str(tmp_path), bucket)
    net = Branches()
    Reducer(list(net.parameters()), [net.seen], Ranks(), 1.0).backward(net(X))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["buckets"] == messages
        torch.testing.assert_close(found["seen"], X.mean(0))
        for name, parameter in net.named_parameters():
            if name.startswith("idle"):
                assert found[name] is None and parameter.grad is None
            else:
                torch.testing.assert_close(found[name], parameter.grad)
