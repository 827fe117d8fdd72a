"""ResNet-18 (He et al. 2016) made of torchvision's blocks, with a choice of stem and a width for laptops."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bo_distill.methods.nets.layers import Normalize

STEMS = ("cifar", "imagenet")


def resnet18(
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    stem: str = "cifar",
    width: int = 64,
    blocks: int = 2,
) -> nn.Sequential:
    """Images (b, c, h, w) in [0, 1] -> logits (b, classes).

    torchvision's own constructor fixes the width of the first section at 64, so the sections are put together here.
    With the ImageNet stem, width 64 and two blocks the network is torchvision's `resnet18`, parameter for parameter.

    Args:
        classes: outputs.
        mean, std: per channel, of images in [0, 1]; their number is the number of channels.
        stem: "cifar" (3x3, stride 1: 32x32 stays 32x32) or "imagenet" (7x7, stride 2, max-pool: 32x32 becomes 8x8).
        width: channels of the first of four sections; each later one has twice as many.
        blocks: residual blocks in each section; 2 is ResNet-18, 1 is ResNet-10.
    """
    from torchvision.models.resnet import BasicBlock

    if stem == "cifar":
        first: list[nn.Module] = [nn.Conv2d(len(mean), width, 3, padding=1, bias=False)]
    else:
        first = [nn.Conv2d(len(mean), width, 7, stride=2, padding=3, bias=False)]
    first += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    if stem == "imagenet":
        first.append(nn.MaxPool2d(3, stride=2, padding=1))

    body: list[nn.Module] = []
    before = width
    for section in range(4):
        after, stride = width << section, 1 if section == 0 else 2
        shortcut = None
        if stride != 1:
            shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        body.append(BasicBlock(before, after, stride, shortcut))
        body += [BasicBlock(after, after) for _ in range(blocks - 1)]
        before = after

    net = nn.Sequential(
        Normalize(mean, std), *first, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
