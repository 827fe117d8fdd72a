"""Wide residual networks (Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016).

WRN-d-k: a 3x3 convolution, then three groups of (d - 4) / 6 pre-activation blocks with 16k, 32k and 64k channels; the
second and third group halve the side. WRN-28-10 on 100 classes has 36,536,884 parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bo_distill.methods.errors import UsageError
from bo_distill.methods.nets.layers import Normalize


class Block(nn.Module):
    """BN-ReLU-conv-dropout-BN-ReLU-conv beside a shortcut. (b, c_in, h, w) -> (b, c_out, h / stride, w / stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if c_in != c_out or stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, c_in, h, w) -> (b, c_out, h / stride, w / stride)."""
        active = F.relu(self.norm1(x))
        # As in the authors' code: where the shape changes, the shortcut starts after the first activation.
        skip: Tensor = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(F.relu(self.norm2(self.dropout(self.conv1(active)))))
        return skip + out


class WideResNet(nn.Module):
    """WRN-`depth`-`width`: images (b, c, h, w) in [0, 1] -> logits (b, classes).

    Args:
        depth: 6n + 4.
        width: the widening factor k.
        classes: rows of the linear head.
        mean, std: per channel; how many there are says how many channels an image has.
        dropout: between the two convolutions of each block (0 or 0.3 in the paper).

    Raises:
        UsageError: no whole number of blocks gives this depth.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise UsageError(f"depth={depth}: a wide residual network has 6n + 4 layers; give 10, 16, 22, 28 or 40")
        self.normalize = Normalize(mean, std)
        self.stem = nn.Conv2d(len(mean), 16, 3, 1, 1, bias=False)
        blocks, c_in = [], 16
        for group in range(3):
            c_out = 16 * width * 2**group
            for i in range((depth - 4) // 6):
                blocks.append(Block(c_in, c_out, 2 if group and not i else 1, dropout))
                c_in = c_out
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(c_in)
        self.head = nn.Linear(c_in, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        """What the head reads: (b, c, h, w) -> (b, 64 * width)."""
        x = self.blocks(self.stem(self.normalize(x)))
        return F.relu(self.norm(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] -> logits (b, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits
