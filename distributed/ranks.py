"""The processes that share one training: who holds which rows of a batch, and what they tell one another."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from bo_distill.distributed.board import Board, meet
from bo_distill.methods.errors import UsageError, counted
from bo_distill.methods.training import Training

T = TypeVar("T")

BUCKET = 4 * 2**20
"""Bytes of gradients that travel in one message. Smaller networks need one message; larger ones send while the
backward pass goes on."""

WORD = 2**16
"""Bytes of a short message at most: batch statistics of some thousand channels."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that share a training. One alone exchanges nothing.

    Attributes:
        rank: from 0.
        size: processes of `torch.distributed`'s default group.
    """

    rank: int = 0
    size: int = 1

    def total(self, value: Tensor) -> Tensor:
        """Sum over ranks, without gradient. With one rank, `value` itself."""
        if self.size == 1:
            return value
        value = value.detach().clone()
        dist.all_reduce(value)
        return value

    def spread(self, value: Tensor) -> Tensor:
        """Every rank's `value` (n,), in the order of ranks, on every rank: (ranks, n). Without gradient.

        What is returned is to be used before the next call.
        """
        board = board_of(self) if value.device.type == "cpu" and value.nbytes <= WORD else None
        if board:
            board.post(value)
            return board.read()
        everyone = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(everyone, value)
        return torch.stack(everyone)

    def gathered(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on every rank. Values are pickled."""
        if self.size == 1:
            return [value]
        everyone: list[T] = [value] * self.size
        dist.all_gather_object(everyone, value)
        return everyone

    def from_first(self, value: T) -> T:
        """Rank 0's value, on every rank. Values are pickled."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]


# A process group that outlives `destroy_process_group` is torn down with the interpreter, where its threads abort it.
_met: tuple[Callable[[], object], Board | None] = (lambda: None, None)


def board_of(ranks: Ranks) -> Board | None:
    """The board for short messages of the process group that there is now. The first call of a group is collective."""
    global _met
    group = dist.group.WORLD
    if _met[0]() is not group:
        _met = weakref.ref(group), meet(ranks.rank, ranks.size, WORD)
    return _met[1]


@dataclass(frozen=True)
class Share:
    """This rank's rows of every global batch.

    Attributes:
        rows: which of the global batch's.
        size: rows of the global batch.
        groups: rows of each group that this rank holds, for batch norm by groups; empty where it is not by groups.
    """

    rows: slice
    size: int
    groups: tuple[int, ...]

    @property
    def weight(self) -> float:
        """Share of the global batch's rows."""
        return float(self.rows.stop - self.rows.start) / self.size


def share_of(ranks: Ranks, training: Training, size: int, grouped: bool) -> Share:
    """How a global batch of `size` rows is shared: whole groups to each rank, or single rows where nothing is grouped.

    Args:
        grouped: whether the network's batch norms take their statistics by groups.

    Raises:
        UsageError: there are more ranks than groups, or fewer than two rows for each rank.
    """
    parts = training.groups(size) if grouped else size // 2
    if parts < ranks.size:
        remedy = f", group={max(2, size // ranks.size)}, or norm=global" if grouped else ""
        groups = f" in {counted(parts, 'group')} for batch norm" if grouped else ""
        most = counted(parts, "worker")
        raise UsageError(
            f"{ranks.size} workers cannot share a batch of {counted(size, 'row')}{groups}; give at most {most}{remedy}"
        )
    if not grouped:
        return Share(slice(size * ranks.rank // ranks.size, size * (ranks.rank + 1) // ranks.size), size, ())
    first, last = (parts * rank // ranks.size for rank in (ranks.rank, ranks.rank + 1))
    ends = [size * number // parts for number in range(first, last + 1)]
    return Share(slice(ends[0], ends[-1]), size, tuple(end - start for start, end in pairwise(ends)))


@contextmanager
def dropping_together(net: nn.Module, share: Share) -> Iterator[None]:
    """Within it the dropouts inside `net` draw for the whole global batch, from the generator that all ranks seed
    alike, so that what they drop does not depend on how many ranks there are.

    Each is handed the global batch, in which the rows of other ranks are zeros; its draws are those of one rank alone.

    Raises:
        ValueError: a dropout was given rows that are no multiple of this rank's.
    """
    own = share.rows.stop - share.rows.start
    others = share.rows.start, share.size - share.rows.stop

    def widen(module: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
        (x,) = inputs
        if not module.training:
            return None
        if len(x) % own:
            raise ValueError(f"dropout: {len(x)} rows are no multiple of the {own} that this rank has of a batch")
        return torch.cat([functional.pad(part, (0, 0) * (x.dim() - 1) + others) for part in x.split(own)])

    def narrow(module: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor | None:
        return torch.cat([part[share.rows] for part in out.split(share.size)]) if module.training else None

    drops = [module for module in net.modules() if isinstance(module, _DropoutNd) and module.p]
    hooks: list[RemovableHandle] = []
    for module in drops if own < share.size else []:
        hooks += module.register_forward_pre_hook(widen), module.register_forward_hook(narrow)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Reducer:
    """Runs the backward passes of one network, and adds its gradients up over the ranks meanwhile.

    Parameters are dealt to buckets from the last to the first, as their gradients come. A bucket leaves when its last
    gradient is there. All ranks send the same buckets in the same order, since they run the same graph.

    Args:
        parameters: to differentiate by. Their `grad` is theirs alone: an adversary in the same graph keeps its own.
        buffers: running batch statistics. They are linear in the batches seen, so the mean over ranks is what one
            rank would have; they go with the gradients.
        ranks: who adds up.
        weight: this rank's share of the rows.
    """

    def __init__(self, parameters: Sequence[Tensor], buffers: Sequence[Tensor], ranks: Ranks, weight: float) -> None:
        self.parameters, self.weight = parameters, weight
        self.buckets: list[Bucket] = []
        if ranks.size > 1:
            statistics = list(buffers)
            for own in dealt(list(reversed(parameters)), BUCKET):
                same = [buffer for buffer in statistics if buffer.dtype == own[0].dtype]
                statistics = [buffer for buffer in statistics if buffer.dtype != own[0].dtype]
                self.buckets.append(Bucket(own, same, ranks, weight))
            if statistics:
                raise TypeError(f"running statistics of {statistics[0].dtype} have no parameters of their type")
        self.hooks = [
            parameter.register_post_accumulate_grad_hook(bucket.arrived)
            for bucket in self.buckets
            for parameter in bucket.parameters
        ]

    def backward(self, loss: Tensor) -> None:
        """Leave in each parameter's `grad` the gradient of the global batch's mean loss; None where it has no part.

        Args:
            loss: mean over this rank's rows.
        """
        for parameter in self.parameters:
            parameter.grad = None
        for bucket in self.buckets:
            bucket.begin()
        (loss * self.weight).backward(inputs=self.parameters)
        for bucket in self.buckets:
            bucket.send()  # what has not left yet: a parameter without a gradient held it up
        for bucket in self.buckets:
            bucket.finish()

    def close(self) -> None:
        """Take the hooks off the parameters."""
        for hook in self.hooks:
            hook.remove()


class Bucket:
    """Gradients that travel in one message, and the running statistics that go with them."""

    def __init__(self, parameters: Sequence[Tensor], buffers: Sequence[Tensor], ranks: Ranks, weight: float) -> None:
        self.parameters, self.buffers, self.weight = parameters, buffers, weight
        tensors = [*parameters, *buffers]
        self.flat = torch.zeros(sum(t.numel() for t in tensors), dtype=tensors[0].dtype, device=tensors[0].device)
        parts = self.flat.split([t.numel() for t in tensors])
        views = [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
        self.views = dict(zip(map(id, tensors), views, strict=True))
        self.missing: set[int] = set()
        self.sent = False
        self.work: dist.Work | None = None
        on_host = self.flat.device.type == "cpu"
        self.board = meet(ranks.rank, ranks.size, self.flat.nbytes) if on_host else None

    def begin(self) -> None:
        """Wait for all gradients of a new step."""
        self.missing, self.sent = set(map(id, self.parameters)), False

    def arrived(self, parameter: Tensor) -> None:
        """A parameter's gradient of this rank is complete."""
        view = self.views[id(parameter)]
        assert parameter.grad is not None
        view.copy_(parameter.grad)
        parameter.grad = view
        self.missing.discard(id(parameter))
        if not self.missing:
            self.send()

    def send(self) -> None:
        """Begin to add up over ranks, once."""
        if not self.sent:
            self.sent = True
            for parameter in self.parameters:
                if id(parameter) in self.missing:
                    self.views[id(parameter)].zero_()
            for buffer in self.buffers:
                torch.mul(buffer, self.weight, out=self.views[id(buffer)])
            if self.board:
                self.board.post(self.flat)
            else:
                self.work = dist.all_reduce(self.flat, async_op=True)

    def finish(self) -> None:
        """Wait for the sum."""
        if self.board:
            torch.sum(self.board.read(), 0, out=self.flat)
        else:
            assert self.work
            self.work.wait()
        for buffer in self.buffers:
            buffer.copy_(self.views[id(buffer)])


def dealt(tensors: Sequence[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Neighbours of one type together, at most `most` bytes, or one tensor that is larger."""
    own: list[Tensor] = []
    for tensor in tensors:
        if own and (tensor.dtype != own[0].dtype or sum(t.nbytes for t in own) + tensor.nbytes > most):
            yield own
            own = []
        own.append(tensor)
    if own:
        yield own
