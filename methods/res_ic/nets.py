"""Res-IC (Fig. 1, Table 2): a residual network over characters whose every block feeds a classifier.

    x          (b, length) int64, 0 is padding, 1 an unknown character
    start      (b, width, 1, length - 4)
    parts[i]   (b, c_i, 1, l_i): c doubles and l halves three times
    heads[i]   (b, classes)

Sentences run along the last axis of four: on processors torch's two-dimensional kernels, channels last, take half the
time of its one-dimensional ones. All kernels are one character high, so nothing else is two-dimensional.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from bo_distill.methods.data.dataset import Info
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import State

if TYPE_CHECKING:
    from bo_distill.methods.res_ic.settings import Backbone

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # 18 and 34 are Table 2
STEM = 5  # without padding 132 characters become the 128 positions that section 4.2 gives for the first two exits


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution along the sentence, (b, inputs, 1, l) -> (b, outputs, 1, ceil(l / stride)), without bias."""
    return nn.Conv2d(inputs, outputs, (1, size), (1, stride), (0, size // 2), bias=False)


class ChannelAttention(nn.Module):
    """M_c(F) = sigmoid(MLP(AvgPool(F)) + MLP(MaxPool(F))), Woo et al. 2018, eq. 2: (b, c, 1, l) -> (b, c, 1, 1).

    MLP(v) = W_1 ReLU(W_0 v) with c / 16 hidden units, at least four, so that narrow networks keep a bottleneck.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, 1, l) -> (b, c, 1, 1), in (0, 1)."""
        return torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))[:, :, None, None]


class SpatialAttention(nn.Module):
    """M_s(F) = sigmoid(f([AvgPool(F); MaxPool(F)])), Woo et al. 2018, eq. 3: (b, c, 1, l) -> (b, 1, 1, l).

    Both pools run over channels; f is the published 7 x 7 convolution, here of 7 characters.
    """

    def __init__(self, size: int = 7) -> None:
        super().__init__()
        self.conv = conv(2, 1, size)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, 1, l) -> (b, 1, 1, l), in (0, 1)."""
        return torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class CBAM(nn.Module):
    """F' = M_c(F) F, F'' = M_s(F') F' (Woo et al. 2018, eq. 1); keeps the shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels)
        self.spatial = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, 1, l) -> the same shape, weighted."""
        x = self.channel(x) * x
        out: Tensor = self.spatial(x) * x
        return out


class Block(nn.Module):
    """Two 3-convolutions, the shortcut, then CBAM: (b, inputs, 1, l) -> (b, outputs, 1, ceil(l / stride)).

    The shortcut is the identity, or a strided 1-convolution where the width changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv(inputs, outputs, 3, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            conv(outputs, outputs, 3),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        self.cbam = CBAM(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, 1, l) -> (b, outputs, 1, ceil(l / stride))."""
        out: Tensor = self.cbam(torch.relu(self.residual(x) + self.shortcut(x)))
        return out


class ResIC(nn.Module):
    """A network with E exits; exit i is `parts[i]` on top of what exit i - 1 has computed, then `heads[i]`.

    Args:
        vocabulary: characters known, without padding and unknown.
        classes: outputs of each exit; those of several tasks side by side where tasks share the blocks.
        depth: a key of `BLOCKS`.
        width: channels of the first quarter; 64 in the paper.
        internal: whether there are internal classifiers. Without, E = 1.
    """

    def __init__(self, vocabulary: int, classes: int, depth: int = 18, width: int = 64, internal: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary + 2, width, padding_idx=0)
        self.stem = nn.Sequential(nn.Conv2d(width, width, (1, STEM), bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks: list[nn.Module] = []
        self.widths: list[int] = []  # of the features that each exit reads
        inputs = width
        for quarter, repeats in enumerate(BLOCKS[depth]):
            outputs = width * 2**quarter
            for i in range(repeats):
                blocks.append(Block(inputs, outputs, 2 if quarter and not i else 1))
                self.widths.append(outputs)
                inputs = outputs
        if not internal:
            blocks, self.widths = [nn.Sequential(*blocks)], self.widths[-1:]
        self.parts = nn.ModuleList(blocks)
        self.heads = nn.ModuleList(nn.Linear(features, classes) for features in self.widths)

    def start(self, x: Tensor) -> Tensor:
        """Characters (b, length) -> (b, width, 1, length - 4)."""
        # (b, length, width) seen as (b, width, 1, length) is channels last already: nothing is copied.
        out: Tensor = self.stem(self.embedding(x).transpose(1, 2).unsqueeze(2))
        return out

    def leave(self, i: int, h: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Exit i from what exit i - 1 left: h -> (what exit i + 1 needs, logits (b, classes)).

        `keep` (b, widths[i]) are factors on the pooled features (dropout). Logits have the weights' own precision also
        where products are bf16: losses are means of them, and a score of 0.999 would be 1.
        """
        h = self.parts[i](h)
        pooled = h.mean((2, 3))
        logits: Tensor = self.heads[i](pooled if keep is None else pooled * keep)
        return h, logits.to(self.embedding.weight.dtype)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """All exits: x (b, length), keep (b, sum(widths)) or None -> logits (b, E, classes)."""
        factors = [None] * len(self.widths) if keep is None else keep.split(self.widths, 1)
        h, result = self.start(x), []
        for i, factor in enumerate(factors):
            h, logits = self.leave(i, h, factor)
            result.append(logits)
        return torch.stack(result, 1)


def exit_macs(net: ResIC, length: int) -> list[int]:
    """Multiply-adds of one sentence that leaves at each exit, all earlier internal classifiers included: E numbers.

    The unit and what counts are those of `methods.cost`, from one forward pass and without its tracing.
    """
    total, totals, training = 0, [], net.training

    def add(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        """Count a layer: every output takes one product for each weight of one filter."""
        nonlocal total
        total += out.numel() * module.weight[0].numel()  # type: ignore[index]

    hooks = [m.register_forward_hook(add) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    net.eval()
    with torch.no_grad():
        h = net.start(torch.ones(1, length, dtype=torch.long, device=net.embedding.weight.device))
        for i in range(len(net.parts)):
            h, _ = net.leave(i, h)
            totals.append(total)
    net.train(training)
    for hook in hooks:
        hook.remove()
    return totals


def task_sizes(info: Info) -> list[int]:
    """Classes of each task."""
    return [len(names) for _, names in info.tasks]


def task_columns(info: Info, group: Sequence[int] | None = None) -> list[slice]:
    """Where each task's logits lie among those of a group of tasks, None for all of them."""
    sizes = task_sizes(info)
    ends = accumulate((sizes[task] for task in (range(len(sizes)) if group is None else group)), initial=0)
    return [slice(*pair) for pair in pairwise(ends)]


class Networks(nn.ModuleList):
    """One network for each group of tasks that share their blocks; groups and tasks in order.

    x (b, length) int64 -> logits (b, E, classes of all tasks side by side).
    """

    def __init__(self, config: Backbone, info: Info) -> None:
        if info.shape[0] < STEM:
            raise UsageError(f"max_length {info.shape[0]}: Res-IC's first layer reads {STEM} characters; keep as many")
        tasks = list(range(len(info.tasks)))
        self.groups = {"first": [[0]], "separate": [[task] for task in tasks], "joint": [tasks]}[config.tasks]
        sizes, internal = task_sizes(info), config.weighting != "none"
        super().__init__(
            ResIC(len(info.vocabulary), sum(sizes[task] for task in group), config.depth, config.width, internal)
            for group in self.groups
        )

    def __iter__(self) -> Iterator[ResIC]:
        return cast(Iterator[ResIC], super().__iter__())

    def forward(self, x: Tensor) -> Tensor:
        """x (b, length) int64 -> logits (b, E, classes of all tasks side by side)."""
        return torch.cat([net(x) for net in self], 2)

    def macs(self, length: int) -> list[tuple[int, ...]]:
        """For each task, multiply-adds of one sentence that leaves at each exit."""
        return [tuple(exit_macs(net, length)) for net, group in zip(self, self.groups, strict=True) for _ in group]


def restored(config: Backbone, info: Info, state: State) -> Networks:
    """The trained networks."""
    nets = Networks(config, info)
    nets.load_state_dict({name[4:]: tensor for name, tensor in state.tensors.items() if name.startswith("net.")})
    return nets.eval()
