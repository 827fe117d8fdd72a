"""Residual networks for small images (He et al. 2016, section 4.2), their plain twins, and VGG-16 with batch norm.

Every network here is `Sectioned`: it also gives the first and the last feature map of each of three equal sections,
which flow-based transfer compares.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bo_distill.methods.data.dataset import Info
from bo_distill.methods.nets.layers import Normalize

Sections = list[tuple[Tensor, Tensor]]


class Sectioned(nn.Module):
    """A network in three sections.

    Attributes:
        pairs: channels of the (first, last) map of each section.
    """

    pairs: list[tuple[int, int]]

    def sections(self, x: Tensor) -> tuple[Tensor, Sections]:
        """x (b, c, h, w) in [0, 1] -> logits (b, classes) and three pairs of maps (b, m, h', w'), (b, n, h'', w'')."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] -> logits (b, classes)."""
        return self.sections(x)[0]


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm; the sum with the input (subsampled, channels padded: option A) or plain."""

    def __init__(self, channels: int, out: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.stride, self.grow, self.shortcut = stride, out - channels, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(b, c_in, h, w) -> (b, c_out, h / stride, w / stride)."""
        return self.closed(self.opened(x), x)

    def opened(self, x: Tensor) -> Tensor:
        """The map after the block's first convolution, (b, out, h', w')."""
        return F.relu(self.norm1(self.conv1(x)))

    def closed(self, opened: Tensor, x: Tensor) -> Tensor:
        """The block's map from `opened(x)` and its input."""
        out = self.norm2(self.conv2(opened))
        if self.shortcut:
            if self.stride > 1 or self.grow:
                x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.grow))
            out = out + x
        return F.relu(out)


class CifarNet(Sectioned):
    """Depth 6n+2: a convolution, three sections of n blocks with w, 2w and 4w filters, average pooling, a linear layer.

    Args:
        info: classes, channels and normalisation.
        depth: 6n+2, so 8, 14, 20, 26, ...
        shortcut: residual; False is the plain network of the same depth and filters (the paper's VGG-26).
        width: filters of the first section.
    """

    def __init__(self, info: Info, depth: int, shortcut: bool = True, width: int = 16) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth {depth} is not 6n+2")
        self.normalize = Normalize(info.mean, info.std)
        self.conv = nn.Conv2d(info.shape[0], width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        sections, channels = [], width
        for number in range(3):
            out = width << number
            blocks = [Block(channels, out, 2 if number else 1, shortcut)]
            blocks += [Block(out, out, 1, shortcut) for _ in range(depth // 6 - 1)]
            sections.append(nn.ModuleList(blocks))
            channels = out
        self.body = nn.ModuleList(sections)
        self.fc = nn.Linear(channels, len(info.classes))
        self.pairs = [(width << number, width << number) for number in range(3)]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def sections(self, x: Tensor) -> tuple[Tensor, Sections]:
        """Logits (b, classes), and the first and last map of each section."""
        x = F.relu(self.norm(self.conv(self.normalize(x))))
        maps: Sections = []
        for section in self.body:
            assert isinstance(section, nn.ModuleList) and isinstance(section[0], Block)
            opened = section[0].opened(x)
            x = first = section[0].closed(opened, x)
            for block in section[1:]:
                x = block(x)
            # A section of one block would compare its map with itself: there its first layer's map is the first.
            maps.append((first if len(section) > 1 else opened, x))
        return self.fc(x.mean((2, 3))), maps


class Vgg16(Sectioned):
    """VGG-16 (configuration D) with batch norm, average pooling and one linear layer, as is usual on small images.

    Its 13 convolutions are cut into sections of 4, 4 and 5. Pooling is left out where the map is 1 pixel wide.
    """

    WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    POOL_AFTER = frozenset({1, 3, 6, 9})
    SECTIONS = ((0, 3), (4, 7), (8, 12))

    def __init__(self, info: Info) -> None:
        super().__init__()
        self.normalize = Normalize(info.mean, info.std)
        channels = (info.shape[0], *self.WIDTHS)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in zip(channels, self.WIDTHS, strict=False)
        )
        self.fc = nn.Linear(self.WIDTHS[-1], len(info.classes))
        self.pairs = [(self.WIDTHS[first], self.WIDTHS[last]) for first, last in self.SECTIONS]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def sections(self, x: Tensor) -> tuple[Tensor, Sections]:
        """Logits (b, classes), and the first and last map of each section."""
        x = self.normalize(x)
        maps: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            maps.append(x)
            if number in self.POOL_AFTER and min(x.shape[2:]) > 1:
                x = F.max_pool2d(x, 2)
        return self.fc(x.mean((2, 3))), [(maps[first], maps[last]) for first, last in self.SECTIONS]
