"""The convolutional network of Fig. 1: conv-norm-conv-pool-dropout twice, conv-norm-pool-dropout, two dense layers."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from bo_distill.methods.center_loss.paper import cosine_logits
from bo_distill.methods.center_loss.settings import Joint
from bo_distill.methods.data.dataset import Info
from bo_distill.methods.errors import UsageError


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())


class CosineHead(nn.Linear):
    """Features (b, features) -> s cos(theta) (b, classes) in the weights' own precision; the larger, the nearer."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__(features, classes, bias=False)
        self.scale = scale

    def forward(self, f: Tensor) -> Tensor:
        """Features (b, features) -> s cos(theta) (b, classes)."""
        with torch.autocast(f.device.type, enabled=False):  # three digits of a cosine are too few
            return cosine_logits(f.to(self.weight.dtype), self.weight, self.scale)


class Network(nn.Module):
    """Images (b, c, h, w) in [0, 1] -> logits (b, classes).

    With width 64, 512 features and batch norm, on 3x32x32 images and 10 classes, it has the 692,938 trainable
    parameters of Fig. 1 and its 896 running means and variances. Global average pooling fits it to any image of at
    least 8x8. The report scales the input to [0, 1] and no further, and so does this.

    `layers` alone maps images to features (b, features): the first dense layer after ReLU, the space of the loss.
    Its parts are named conv1 ... conv5, norm1 ... norm3, pool1 ... pool3, average and dense.

    Args:
        info: channels of the images and number of classes.
        width: filters of the first block; the next two have twice and four times as many.
        features: units of the first dense layer.
        batch_norm: after the convolution that opens each block (variant b); without it, variant a.
        dropout: share of units dropped after each block and after the dense layer.
        cosine: s of a `CosineHead`; 0 for the report's dense layer.
    """

    def __init__(
        self,
        info: Info,
        width: int = 64,
        features: int = 512,
        batch_norm: bool = True,
        dropout: float = 0.25,
        cosine: float = 0.0,
    ) -> None:
        super().__init__()
        if min(info.shape[1:]) < 8:
            height, wide = info.shape[1:]
            raise UsageError(f"images of {height}x{wide}: three poolings need at least 8x8; give larger ones")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for block, inputs, outputs in ((1, info.shape[0], width), (2, width, 2 * width), (3, 2 * width, 4 * width)):
            first = 2 * block - 1
            layers[f"conv{first}"] = _convolution(inputs, outputs)
            if batch_norm:
                layers[f"norm{block}"] = nn.BatchNorm2d(outputs)
            if block < 3:
                layers[f"conv{first + 1}"] = _convolution(outputs, outputs)
            layers[f"pool{block}"] = nn.MaxPool2d(2)
            layers[f"drop{block}"] = nn.Dropout(dropout)
        layers["average"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        layers["dense"] = nn.Sequential(nn.Linear(4 * width, features), nn.ReLU())
        self.layers = nn.Sequential(layers)
        self.drop = nn.Dropout(dropout)
        classes = len(info.classes)
        self.head = CosineHead(features, classes, cosine) if cosine else nn.Linear(features, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):  # Keras starts so, and the report is Keras
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (b, c, h, w) in [0, 1] -> features (b, features) and logits (b, classes)."""
        f = self.layers(x)
        return f, self.head(self.drop(f))

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] -> logits (b, classes)."""
        return self.features_and_logits(x)[1]


class Aligned(nn.Module):
    """The network and its centres (classes, features), which train together; only the network is deployed."""

    centres: Tensor

    def __init__(self, network: Network, learned: bool) -> None:
        super().__init__()
        self.network = network
        zeros = torch.zeros_like(network.head.weight)
        if learned:
            self.centres = nn.Parameter(zeros)
        else:
            self.register_buffer("centres", zeros)


def network(config: Joint, info: Info) -> Network:
    """The network that `config` describes, not trained."""
    cosine = config.scale if config.head == "cosine" else 0.0
    return Network(info, config.width, config.features, config.batch_norm, config.dropout, cosine)
