"""Multiply-adds and parameters of a network, counted by fvcore, or by PyTorch's own counter where fvcore is missing.

fvcore counts one fused multiply-add as one operation, so the unit here is MACs, not FLOPs. Only matrix products and
convolutions count, as papers do it; `Cost.uncounted` lists every other operator that was met.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bo_distill.methods.data.dataset import Info

PRODUCTS = frozenset({"conv", "linear", "matmul", "mm", "bmm", "addmm", "einsum"})


@dataclass(frozen=True)
class Cost:
    """One inference of one image or sentence.

    Attributes:
        macs: multiply-adds of convolutions, matrix products and the like.
        params: trainable and frozen parameters.
        uncounted: operators that were met and left out: name -> how often, or elements where fvcore counts those;
            empty where fvcore is missing.
    """

    macs: int
    params: int
    uncounted: Mapping[str, int] = field(default_factory=dict)


def example(info: Info) -> Tensor:
    """One made-up row as a network takes it: (1, c, h, w) float or (1, length) int64."""
    return torch.zeros(1, *info.shape) if info.kind == "image" else torch.ones(1, *info.shape, dtype=torch.long)


def count(net: nn.Module, info: Info) -> Cost:
    """Cost of one row through `net.forward`. The network is left in eval mode."""
    net, params = net.eval(), sum(p.numel() for p in net.parameters())
    try:
        with warnings.catch_warnings():  # of PyTorch, about what fvcore does as it is imported
            warnings.simplefilter("ignore", FutureWarning)
            from fvcore.nn import FlopCountAnalysis
    except ModuleNotFoundError:  # a machine that only trains
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(example(info))
        return Cost(counter.get_total_flops() // 2, params)  # it takes a multiply-add for two operations
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    with torch.no_grad():
        analysis = (
            FlopCountAnalysis(net, example(info)).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        )
        counted = analysis.by_operator()
        others = {name: n for name, n in counted.items() if name not in PRODUCTS} | dict(analysis.unsupported_ops())
        return Cost(
            macs=int(sum(n for name, n in counted.items() if name in PRODUCTS)),
            params=params,
            uncounted={str(name): int(n) for name, n in sorted(others.items())},
        )
