"""The data augmentation module G and the discriminator D. The paper names the transformer but no sizes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bo_distill.methods.data.dataset import Info
from bo_distill.methods.max_entropy import paper
from bo_distill.methods.max_entropy.settings import Augment
from bo_distill.methods.method import State
from bo_distill.methods.nets.layers import Normalize
from bo_distill.methods.nets.resnet18 import resnet18

M = TypeVar("M", bound=nn.Module)

DRAWN = 8
"""Size of the noise vector that `input` adds to what the regressor sees."""


FARTHEST = 100.0
"""A free entry moves by less than this, in half sides, so that the grid stays finite; its slope stays positive."""


class Augmenter(nn.Module):
    """G: one affine map per image, from the image and noise, and with `colour` one of its channels too.

    It starts as the identity.

    The localisation network has no batch norm: an image's map does not depend on its batch.

    Args:
        mean, std: per channel, of images in [0, 1].
        bound: how far each entry of theta, each scale and each shift may move from the identity; None leaves it free.
        noise: "none", a deterministic map; "input", noise beside the image's features, which G may learn to ignore; or
            "strength": each entry moves by a share, uniform in [-1, 1], of what G gives for the image, so that G learns
            ranges rather than places (as Augerino does for a whole data set, Benton et al. 2020).
        padding: as in `paper.transform`.
        probability: share of images that are augmented when the classifier trains.
        learn_probability: make it a parameter. Starts at `probability`, within [0.01, 0.99]: it could not leave 0 or 1.
        colour: give scale and shift of each channel too (`paper.recolour`).
        width: channels of the first convolution.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        bound: float | None = 0.25,
        noise: str = "strength",
        padding: str = "reflection",
        probability: float = 1.0,
        learn_probability: bool = False,
        colour: bool = False,
        width: int = 16,
    ) -> None:
        super().__init__()
        self.bound, self.padding, self.strength = bound, padding, noise == "strength"
        self.colours = len(mean) if colour else 0
        entries = 6 + 2 * self.colours
        self.noise = {"none": 0, "input": DRAWN, "strength": entries}[noise]
        self.localise = nn.Sequential(
            Normalize(mean, std),
            nn.Conv2d(len(mean), width, 5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )
        self.hidden = nn.Linear(2 * width * 16 + (DRAWN if noise == "input" else 0), 64)
        self.regress = nn.Linear(64, entries)
        nn.init.zeros_(self.regress.weight)
        nn.init.zeros_(self.regress.bias)
        share = torch.tensor(min(max(probability, 0.01), 0.99) if learn_probability else probability)
        self.logit = nn.Parameter(torch.logit(share), requires_grad=learn_probability)

    @property
    def probability(self) -> Tensor:
        """Share of images that are augmented, a scalar in [0, 1]."""
        return torch.sigmoid(self.logit)

    def changes(self, image: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """What is done to each image: theta (b, 2, 3), and scale and shift of its channels (b, 2, c or 0), float32.

        Args:
            image: (b, c, h, w).
            z: standard normal noise, (b, self.noise).
        """
        features = self.localise(image)
        if not self.strength:
            features = torch.cat([features, z], dim=1)
        moved: Tensor = self.regress(torch.relu(self.hidden(features))).float()
        if self.bound is None:
            moved = moved / torch.hypot(torch.ones_like(moved), moved / FARTHEST)
        else:
            moved = self.bound * torch.tanh(moved)
        if self.strength:
            moved = moved * (2 * torch.special.ndtr(z) - 1)
        theta, colour = moved[:, :6].view(-1, 2, 3), moved[:, 6:].view(len(moved), 2, -1)
        return paper.identity(theta) + theta, colour + torch.tensor([[1.0], [0.0]], device=colour.device)

    def theta(self, image: Tensor, z: Tensor) -> Tensor:
        """The affine maps alone, (b, 2, 3) float32."""
        return self.changes(image, z)[0]

    def changed(self, image: Tensor, theta: Tensor, colour: Tensor) -> Tensor:
        """I' (b, c, h, w) of images and what `changes` gives for them."""
        moved = paper.transform(image, theta, self.padding)
        return paper.recolour(moved, *colour.to(image.dtype).unbind(1)) if self.colours else moved

    def forward(self, image: Tensor, z: Tensor | None = None) -> Tensor:
        """I' = G(I, z), every image augmented. (b, c, h, w), (b, self.noise), None is zeros -> (b, c, h, w)."""
        z = image.new_zeros(len(image), self.noise) if z is None else z
        return self.changed(image, *self.changes(image, z))

    def sometimes(self, image: Tensor, z: Tensor) -> Tensor:
        """I' for a share `probability` of the images, I for the rest. z (b, self.noise + 1): its last decides."""
        chosen = torch.special.ndtr(z[:, -1]) < self.probability
        return torch.where(chosen[:, None, None, None], self(image, z[:, :-1]), image)


def discriminator(mean: Sequence[float], std: Sequence[float], width: int = 32) -> nn.Sequential:
    """D: (b, c, h, w) in [0, 1] -> the logit that the image is not augmented, (b,)."""
    return nn.Sequential(
        Normalize(mean, std),
        nn.Conv2d(len(mean), width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 1),
        nn.Flatten(0),
    )


class Student(nn.Module):
    """A classifier and its teacher: the moving average of its weights, always in eval mode, never trained.

    One module, so that a checkpoint holds both.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.teacher = copy.deepcopy(classifier).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Student:
        """As in any module, but the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the teacher a step towards the classifier, batch statistics included."""
        for own, other in zip(self.teacher.state_dict().values(), self.classifier.state_dict().values(), strict=True):
            own.lerp_(other, 1 - decay) if own.is_floating_point() else own.copy_(other)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Running batch statistics inside, and no update of them: what a network sees here is not what it learns from."""
    mode = net.training
    net.eval()
    yield
    net.train(mode)


def classifier_net(spec: Mapping[str, Any], info: Info) -> nn.Module:
    """The ResNet-18 that `spec` describes, not trained: images (b, c, h, w) in [0, 1] -> logits."""
    return resnet18(len(info.classes), info.mean, info.std, **spec)


def augmenter_net(config: Augment, info: Info) -> Augmenter:
    """The augmenter G that `config` describes, not trained."""
    return Augmenter(
        info.mean,
        info.std,
        bound=config.bound if config.affine == "bounded" else None,
        noise=config.noise,
        padding=config.padding,
        probability=config.probability,
        learn_probability=config.apply == "learned",
        colour=config.colour == "affine",
    )


def filled(net: M, state: State, name: str) -> M:
    """`net` with the weights that `state` holds under `name`."""
    prefix = f"{name}."
    net.load_state_dict({k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)})
    return net
