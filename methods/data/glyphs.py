"""`glyphs`: 100 printed characters in the typefaces that matplotlib ships, divided by typeface.

Drawn, not downloaded: 32x32, random inks, rotated, sheared, scaled, shifted, some blurred, all noisy. Characters that
look alike (0 O o, l I 1 |, v and nu) are told apart by little, and the typefaces of validation and test are never
seen in training. Only integer and correctly rounded arithmetic is used, so that the same releases of Pillow and
matplotlib draw the same bytes on every machine.
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.data.source import SEED, Source

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase + string.punctuation + "αβλνρω"

FONTS = {
    "train": (
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-Oblique",
        "DejaVuSans-BoldOblique",
        "DejaVuSerif",
        "DejaVuSerif-Bold",
        "DejaVuSerif-Italic",
        "DejaVuSerif-BoldItalic",
    ),
    "val": ("DejaVuSansMono", "DejaVuSansMono-BoldOblique", "STIXGeneral", "STIXGeneralBolIta"),
    "test": ("DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "STIXGeneralBol", "STIXGeneralItalic"),
}
"""Every font of matplotlib's folder that has all the characters.

Training has two typefaces to itself. The other two are shared by validation and test, a font to one of them only, so
that what validation chooses is chosen for images of the same kind as the test's.
"""

DRAWINGS = {"train": 80, "val": 20, "test": 20}
"""Images of each character."""

SIDE = 32
CANVAS = 2 * SIDE  # drawn at twice the size, then averaged


def read(spec: DataSpec) -> Source:
    """Images (12000, 3, 32, 32): 8,000 train, 2,000 validation, 2,000 test, 100 classes named by their character."""
    random = np.random.RandomState(SEED)
    rows = np.concatenate([_draw(masks, DRAWINGS[part], random) for part, masks in _masks().items()])
    y = np.concatenate([np.repeat(np.arange(len(CHARACTERS)), count) for count in DRAWINGS.values()])
    ends = np.cumsum([0, *(count * len(CHARACTERS) for count in DRAWINGS.values())])
    parts = {part: np.arange(start, end) for part, start, end in zip(DRAWINGS, ends, ends[1:], strict=False)}
    return Source(torch.from_numpy(rows), y[:, None], (("class", tuple(CHARACTERS)),), parts)


def _masks() -> dict[str, NDArray[np.uint8]]:
    """Part -> (characters, fonts, CANVAS, CANVAS): how much ink a pixel has."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    masks = {}
    for part, fonts in FONTS.items():
        masks[part] = np.zeros((len(CHARACTERS), len(fonts), CANVAS, CANVAS), dtype=np.uint8)
        for column, name in enumerate(fonts):
            font = ImageFont.truetype(str(folder / f"{name}.ttf"), 44, layout_engine=ImageFont.Layout.BASIC)
            for row, character in enumerate(CHARACTERS):
                image = Image.new("L", (CANVAS, CANVAS))
                ImageDraw.Draw(image).text((CANVAS // 2, 46), character, fill=255, font=font, anchor="ms")
                masks[part][row, column] = np.asarray(image)
    return masks


def _draw(masks: NDArray[np.uint8], count: int, random: np.random.RandomState) -> NDArray[np.uint8]:
    """(characters, fonts, CANVAS, CANVAS) -> (characters * count, 3, SIDE, SIDE), the fonts in turn."""
    from PIL import Image

    images = np.empty((len(masks), count, 3, SIDE, SIDE), dtype=np.uint8)
    for fonts, drawn in zip(masks, images, strict=True):
        upright = [Image.fromarray(font) for font in fonts]
        ink = np.empty((count, CANVAS, CANVAS), dtype=np.uint8)
        for number, matrix in enumerate(_transforms(count, random)):
            image = upright[number % len(fonts)]
            image = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            ink[number] = np.asarray(image)
        share = ink.reshape(count, SIDE, 2, SIDE, 2).sum((2, 4), dtype=np.int32)
        blurred = random.randint(2, size=count).astype(bool)
        share[blurred] = _blur(share[blurred])
        share = share[:, None] // 4  # (count, 1, SIDE, SIDE), 0 to 255
        # Dark on light, both coloured: with inks of either polarity a laptop's network learns nothing in minutes.
        paper = random.randint(170, 256, size=(count, 3, 1, 1), dtype=np.int32)
        colour = random.randint(0, 91, size=paper.shape, dtype=np.int32)
        noise = random.randint(-20, 21, size=drawn.shape, dtype=np.int32)
        drawn[:] = (paper + (colour - paper) * share // 255 + noise).clip(0, 255)
    return images.reshape(-1, 3, SIDE, SIDE)


def _transforms(count: int, random: np.random.RandomState) -> NDArray[np.float64]:
    """(count, 6) affine maps of the canvas, from the drawn image back to the upright one, as Pillow takes them."""
    tangent, shear, right, down = random.uniform((-0.3, -0.2, -7, -7), (0.3, 0.2, 7, 7), size=(count, 4)).T
    width, height = random.uniform(0.8, 1.35, size=(2, count))
    cosine = 1 / np.sqrt(1 + tangent**2)  # the library's own cosine differs between machines in the last bit
    a, b = cosine * (width - shear * tangent), cosine * (width * tangent + shear)
    d, e = -cosine * height * tangent, cosine * height
    middle = CANVAS / 2
    return np.stack([a, b, middle * (1 - a - b) + right, d, e, middle * (1 - d - e) + down], axis=1)


def _blur(images: NDArray[np.int32]) -> NDArray[np.int32]:
    """(n, h, w) with the binomial kernel 1 2 1 both ways; outside is zero."""
    for axis in (1, 2):
        wide = np.pad(images, [(1, 1) if axis == other else (0, 0) for other in range(3)])
        low, middle, high = (wide.take(range(k, k + images.shape[axis]), axis) for k in range(3))
        images = (low + 2 * middle + high) // 4
    return images
