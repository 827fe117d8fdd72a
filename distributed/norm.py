"""Batch normalisation over the global batch, on any backend.

torch's own SyncBatchNorm needs a GPU. Here the sums that the statistics are made of go through one all-reduce that
autograd knows, so that two ranks compute what one rank computes on the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """Sum over ranks. Every rank uses the sum, so its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous().clone()
        dist.all_reduce(grad)
        return grad


class GlobalBatchNorm(_BatchNorm):
    """Batch norm whose training statistics are those of the rows of all ranks together; x (b, c, ...)."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any rank of tensor with channels second is taken."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        view = (1, -1) + (1,) * (x.dim() - 2)
        # Sums are taken about the running mean, the same on all ranks: large means would cancel otherwise.
        shift = self.running_mean.detach().clone()
        centred = x - shift.view(view)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = _Sum.apply(torch.cat([centred.sum(axes), centred.square().sum(axes), count]))
        total, square, n = sums.split([x.shape[1], x.shape[1], 1])
        mean = total / n
        var = (square / n - mean.square()).clamp_min(0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean + shift, momentum)
            self.running_var.lerp_(var * (n / (n - 1).clamp_min(1)), momentum)
        out = (centred - mean.view(view)) * torch.rsqrt(var + self.eps).view(view)
        if self.affine:
            out = out * self.weight.view(view) + self.bias.view(view)
        return out.to(input.dtype)


def globalise(net: nn.Module) -> None:
    """Replace the batch norms inside `net`, in place. Parameters, buffers and state-dict names stay what they were."""
    for name, child in net.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, GlobalBatchNorm):
            new = GlobalBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            new._parameters, new._buffers, new.training = child._parameters, child._buffers, child.training
            setattr(net, name, new)
        else:
            globalise(child)
