"""Batch normalisation whose training statistics do not depend on how many ranks share a batch.

    group    of fixed groups of the global batch (ghost batch norm: Hoffer, Hubara and Soudry 2017). Each rank holds
             whole groups, so nothing is exchanged.
    global   of the whole global batch. Two small messages for every layer and step (`distributed.board`).
    local    of each rank's rows, as DistributedDataParallel has it. Results then change with the number of ranks.

Running statistics are means over groups or ranks; `distributed.ranks.Reducer` adds them up with the gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bo_distill.distributed.ranks import Ranks


def merged(counts: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of several samples together (Chan, Golub and LeVeque 1983).

    Args:
        counts: (samples,) values in each.
        means, variances: (samples, c), biased.

    Returns:
        mean, variance (c,).
    """
    shares = counts / counts.sum()
    mean = torch.addmv(means[0], (means - means[0]).T, shares)
    return mean, torch.mv((means - mean).square_().add_(variances).T, shares)


class _Global(torch.autograd.Function):
    """Normalise by the statistics of all ranks' rows: torch's fused kernels on this rank's, and two sums over ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, ranks: Ranks) -> Any:
        c = x.shape[1]
        precise = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        mean, var = torch.batch_norm_update_stats(precise, None, None, 0.0)
        everyone = ranks.spread(torch.cat([mean, var, mean.new_tensor([x.numel() // c])]))
        counts = everyone[:, -1]
        mean, var = merged(counts, everyone[:, :c], everyone[:, c:-1])
        n = float(counts.sum())
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.n, ctx.ranks = eps, n, ranks
        ctx.mark_non_differentiable(mean, var)
        return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, False), mean, var, n

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, mean, var = ctx.saved_tensors
        slope = gradients[0]
        if x.is_contiguous(memory_format=torch.channels_last):
            slope = slope.contiguous(memory_format=torch.channels_last)
        inverse = torch.rsqrt(var + ctx.eps)
        # The kernel of CUDA wants the saved statistics beside the running ones, which that of the processor reads.
        _, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            slope, x, weight, mean, var, mean, inverse, False, ctx.eps, [False, True, True]
        )
        along, level = (ctx.ranks.spread(torch.cat([d_weight, d_bias])).sum(0) / ctx.n).view(2, -1)
        # With y = (x - mean) / sd, x's gradient is weight / sd (slope - level - along y): two outputs of batch norm.
        along = -along * inverse
        if weight is not None:
            along *= weight
        dx = torch.batch_norm(slope, weight, None, level, var, False, 0.0, ctx.eps, False)
        dx += torch.batch_norm(x, along, None, mean, var, False, 0.0, ctx.eps, False)
        return dx, d_weight if weight is not None else None, d_bias if weight is not None else None, None, None


class BatchNorm(_BatchNorm):
    """Batch norm of x (b, c, ...), told by the training loop which rows share statistics.

    Attributes:
        groups: rows of each group that this rank holds. Empty: all that it is given is one group.
        ranks: whose rows one group is of.
    """

    groups: tuple[int, ...] = ()
    ranks = Ranks()

    def _check_input_dim(self, input: Tensor) -> None:
        """Any rank of tensor with channels second is taken."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        if self.ranks.size > 1:
            return self._global(input)
        several = len(self.groups) > 1 or len(input) > sum(self.groups) > 0  # groups, or views of the only one
        return self._grouped(input) if several else super().forward(input)

    def _momentum(self) -> float:
        """Weight of the batch to come in the running statistics; counts it."""
        if self.num_batches_tracked is None:
            return 0.0
        self.num_batches_tracked += 1
        return 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _grouped(self, input: Tensor) -> Tensor:
        rows = sum(self.groups)
        times, rest = divmod(len(input), rows)
        if rest:
            raise ValueError(f"batch norm by groups: {len(input)} rows are no multiple of the batch's {rows}")
        sizes = self.groups * times
        momentum, before, parts = self._momentum(), 0, []
        for part in input.split(sizes):
            # In this order each group has the same weight in the end, that of its rows: later ones fade earlier ones.
            before += len(part)
            own = momentum * len(part) / len(input)
            own /= 1 - momentum * (len(input) - before) / len(input)
            parts.append(
                torch.batch_norm(
                    part, self.weight, self.bias, self.running_mean, self.running_var, True, own, self.eps, True
                )
            )
        return torch.cat(parts)

    def _global(self, input: Tensor) -> Tensor:
        momentum = self._momentum()
        out, mean, var, n = _Global.apply(input, self.weight, self.bias, self.eps, self.ranks)
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((var * (n / (n - 1))).to(self.running_var.dtype), momentum)
        return out


def has_batch_norm(net: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in net.modules())


def arrange(net: nn.Module, kind: str, groups: tuple[int, ...], ranks: Ranks) -> None:
    """Make the batch norms inside `net` take their training statistics as `kind` says, in place.

    Parameters, buffers and state-dict names stay what they were.

    Args:
        kind: "group", "global" or "local".
        groups: rows of each group that this rank holds.
    """
    for name, child in net.named_children():
        if isinstance(child, _BatchNorm):
            if not isinstance(child, BatchNorm):
                new = BatchNorm(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
                new._parameters, new._buffers, new.training = child._parameters, child._buffers, child.training
                setattr(net, name, new)
                child = new
            child.groups = groups if kind == "group" else ()
            child.ranks = ranks if kind == "global" else Ranks()
        else:
            arrange(child, kind, groups, ranks)


def running_statistics(net: nn.Module) -> list[Tensor]:
    """Means and variances of the batch norms inside `net` that the ranks must average."""
    norms = [module for module in net.modules() if isinstance(module, BatchNorm) and module.ranks.size == 1]
    return [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
