"""Augmentation of a batch of images, drawn for the whole global batch and applied to the rows of one rank.

A kind is a word for each step, joined by "_" and done in that order:

    none             nothing
    crop             pads by an eighth of the width with zeros and crops at random (4 pixels of 32; He et al. 2016)
    flip             mirrors half of the images left to right
    rotate           turns by up to 15 degrees, the border repeated
    randaugment      two of 14 operations at magnitude 9 of 30 (Cubuk et al. 2020)
    trivialaugment   one of 14 operations at a random magnitude, the wide ranges (Mueller & Hutter 2021)

so that `crop_flip` is the field's standard and `crop_flip_randaugment` is RandAugment as its paper uses it. Operations
and ranges are those of `torchvision.transforms.v2`, which gives one magnitude to a whole batch; here each image has
its own, and the images that drew the same operation are done together.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

OPERATIONS = (
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "identity",
)
BINS = 31
"""Magnitudes run from bin 0 to bin 30; torchvision's tables."""


def augment(x: Tensor, kind: str, seed: int, rows: slice, size: int) -> Tensor:
    """Augmented images. What happens to an image depends on the seed and its place in the global batch alone.

    Args:
        x: this rank's images (b, c, h, w), float in [0, 1] or uint8; crops and flips of uint8 stay exact.
        kind: steps joined by "_", see above.
        seed: of the global batch.
        rows: where in the global batch `x` lies.
        size: rows of the global batch.

    Returns:
        (b, c, h, w) of x's type and device. Draws are made on the CPU and sent over; nothing waits for the device.

    Raises:
        ValueError: no such step.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = kind.split("_")
    quantised = x.dtype == torch.uint8 and not {"none", "crop", "flip"}.issuperset(steps)
    if quantised:
        x = x / 255
    for step in steps:
        if step == "crop":
            pad = x.shape[-1] // 8
            corner = torch.randint(2 * pad + 1, (size, 2), generator=generator)[rows]
            x = crop(x, corner.to(x.device, non_blocking=True), pad)
        elif step == "flip":
            which = torch.randint(2, (size,), generator=generator, dtype=torch.bool)[rows]
            x = flip(x, which.to(x.device, non_blocking=True))
        elif step == "rotate":
            degrees = torch.rand(size, generator=generator)[rows] * 30 - 15
            x = warp(x, rotation(degrees), "bilinear", "border")
        elif step == "randaugment":
            for _ in range(2):
                operation, sign = torch.randint(len(OPERATIONS), (size,), generator=generator), _signs(size, generator)
                x = operate(x, operation[rows], torch.full((len(x),), 9), sign[rows], wide=False)
        elif step == "trivialaugment":
            operation, sign = torch.randint(len(OPERATIONS), (size,), generator=generator), _signs(size, generator)
            magnitude = torch.randint(BINS, (size,), generator=generator)
            x = operate(x, operation[rows], magnitude[rows], sign[rows], wide=True)
        elif step != "none":
            raise ValueError(f"{kind}: no augmentation step is called {step}")
    return (x * 255).round().byte() if quantised else x


def _signs(size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(2, (size,), generator=generator) * 2 - 1


def crop(x: Tensor, corner: Tensor, pad: int) -> Tensor:
    """Windows (b, c, h, w) at `corner` (b, 2), (row, column) from 0 to 2 pad, of x padded with zeros on all sides."""
    *_, height, width = x.shape
    padded = functional.pad(x, (pad, pad, pad, pad))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (b, c, 2 pad + 1, 2 pad + 1, h, w), a view
    return windows[torch.arange(len(x), device=x.device), :, corner[:, 0], corner[:, 1]]


def flip(x: Tensor, which: Tensor) -> Tensor:
    """x (b, c, h, w) with the images where `which` (b) is true mirrored left to right."""
    return torch.where(which[:, None, None, None], x.flip(3), x)


def rotation(degrees: Tensor) -> Tensor:
    """Angles (b), counter-clockwise -> maps (b, 2, 3) for `warp`."""
    cos, sin, zero = degrees.deg2rad().cos(), degrees.deg2rad().sin(), torch.zeros(len(degrees))
    return torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)


def warp(x: Tensor, matrix: Tensor, mode: str, padding: str) -> Tensor:
    """Images (b, c, h, w) sampled where `matrix` (b, 2, 3) sends their pixels, in pixels from the image's middle."""
    height, width = x.shape[2:]
    scale = torch.tensor([width / 2, height / 2, 1.0])
    theta = (matrix * scale / scale[:2, None]).to(x.device, non_blocking=True)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode, padding, align_corners=False)


def operate(x: Tensor, operation: Tensor, magnitude: Tensor, sign: Tensor, wide: bool) -> Tensor:
    """One operation per image, as `torchvision.transforms.v2` defines it.

    Args:
        x: (b, c, h, w) float in [0, 1].
        operation: (b) index into OPERATIONS, on the CPU, as are the next two.
        magnitude: (b) bin, 0 to BINS - 1.
        sign: (b) 1 or -1; counts where an operation has two directions.
        wide: TrivialAugment's ranges in place of RandAugment's.
    """
    from torchvision.transforms.v2 import functional as library

    height, width = x.shape[2:]
    shear, turn, change, bits = (0.99, 135, 0.99, 6) if wide else (0.3, 30, 0.9, 4)
    across, down = (32, 32) if wide else (150 / 331 * width, 150 / 331 * height)
    level = magnitude / (BINS - 1)
    signed = sign * level
    drew = {name: (operation == index).nonzero().squeeze(1) for index, name in enumerate(OPERATIONS)}

    matrix = torch.eye(2, 3).repeat(len(x), 1, 1)
    for axis, name, side in ((0, "shear_x", height), (1, "shear_y", width)):  # the top or left edge stays
        matrix[drew[name], axis, 1 - axis] = shear * signed[drew[name]]
        matrix[drew[name], axis, 2] = shear * signed[drew[name]] * side / 2
    matrix[drew["translate_x"], 0, 2] = -(across * signed[drew["translate_x"]]).trunc()
    matrix[drew["translate_y"], 1, 2] = -(down * signed[drew["translate_y"]]).trunc()
    matrix[drew["rotate"]] = rotation(turn * signed[drew["rotate"]])

    x = x.clone()
    moved = torch.cat([drew[name] for name in OPERATIONS[:5]])
    for name, where in {"move": moved, **{name: drew[name] for name in OPERATIONS[5:-1]}}.items():
        if len(where) == 0:
            continue
        index = where.to(x.device, non_blocking=True)
        image = x[index]
        if name == "move":
            image = warp(image, matrix[where], "nearest", "zeros")
        elif name == "posterize":
            levels = _per_image(2 ** (8 - (bits * level[where]).round()), x)
            image = (image * levels).floor().minimum(levels - 1) / levels
        elif name == "solarize":
            image = torch.where(image >= _per_image(1 - level[where], x), 1 - image, image)
        elif name == "autocontrast":
            image = library.autocontrast(image)
        elif name == "equalize":
            image = library.equalize(image)
        else:
            without = _without(name, image)
            image = (without + _per_image(1 + change * signed[where], x) * (image - without)).clamp(0, 1)
        x[index] = image
    return x


def _per_image(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.device, non_blocking=True)[:, None, None, None]


def _without(name: str, x: Tensor) -> Tensor:
    """x (b, c, h, w) rid of what an enhancement adds to: black, grey, flat grey, or smooth with the border as it is."""
    from torchvision.transforms.v2 import functional as library

    if name == "brightness":
        return torch.zeros_like(x)
    if name == "sharpness":
        kernel = torch.ones(3, 3, device=x.device)
        kernel[1, 1] = 5
        smooth = x.clone()
        if min(x.shape[2:]) > 2:  # smaller images are border alone
            inner = functional.conv2d(x, (kernel / 13).expand(x.shape[1], 1, 3, 3), groups=x.shape[1])
            smooth[:, :, 1:-1, 1:-1] = inner
        return smooth
    grey: Tensor = library.rgb_to_grayscale(x)
    return grey if name == "color" else grey.mean((1, 2, 3), keepdim=True)
