"""One image file as pixels, the same for training and for prediction.

formats        PNG, JPEG, BMP, GIF, PPM (PGM, PBM), TIFF, WebP; the first frame; no other decoder is tried
greys          16-bit, 32-bit and float values by the range of their type, or by `white`
transparency   laid on `ground`
orientation    EXIF's is applied; nothing else of EXIF is looked at
size           the shorter side is brought to the asked one and the centre kept; JPEGs by their own reduction first

Decoded, an image takes 1 to 4 bytes a pixel, and up to 4 more each where depth or transparency is undone and where it
is turned upright: about 1.2 GB at the default of 100 megapixels, for each core that decodes, however small its file is.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps

from bo_distill.methods.errors import UsageError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff",
            ".webp")  # fmt: skip
"""Of a folder's files, those that are taken for images."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what turns the pixels upright."""
ORIENTATION = 0x0112
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
BAND = 1 << 20
"""Pixels that are computed with at a time, since that takes up to 32 bytes for each."""


class Unreadable(ValueError):
    """A file is no image, or not a whole one, or not one that may be read; the message says which."""


@dataclass(frozen=True)
class Pixels:
    """How an image becomes a row.

    Attributes:
        height, width: of the row.
        channels: 1 or 3.
        ground: colour under transparent pixels, by name or #rrggbb.
        white: value of white in images of more than 8 bits, or None for that of their type.
        max_megapixels: larger images are refused.
    """

    height: int
    width: int
    channels: int = 3
    ground: str = "white"
    white: float | None = None
    max_megapixels: int = 100

    def __post_init__(self) -> None:
        try:
            ImageColor.getrgb(self.ground)
        except ValueError:
            raise UsageError(f"--ground {self.ground}: no such colour; give a name or #rrggbb") from None
        if self.white is not None and not self.white > 0:
            raise UsageError(f"--white {self.white}: give a number above 0")


@contextmanager
def own_limit() -> Iterator[None]:
    """Within it Pillow's own limit of an image's size is off, since `read` has one that a person can raise."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def read(path: Path, how: Pixels) -> tuple[NDArray[np.uint8], float]:
    """Pixels (channels, height, width) of an image file, and its largest value as a share of white (1 for 8 bits).

    To be called inside `own_limit`.

    Raises:
        Unreadable: see there.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Unreadable("not a regular file")  # a pipe or a device would be read for ever
        with Image.open(path, formats=FORMATS) as image:
            million = image.width * image.height / 1e6
            if million > how.max_megapixels:
                raise Unreadable(f"{million:.0f} megapixels; raise --max-megapixels {how.max_megapixels}")
            image.draft(None, (2 * how.width, 2 * how.height))  # twice the size leaves the resampling its say
            image.load()
            turn = _turn(image)
            flat, peak = _flat(image, how)
    except Unreadable:
        raise
    except MemoryError:
        raise Unreadable("it does not fit into memory") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and more
        raise Unreadable(" ".join(str(error).split())[:100] or type(error).__name__) from None
    upright = flat.transpose(turn) if turn is not None else flat
    fitted = ImageOps.fit(upright, (how.width, how.height), Image.Resampling.BICUBIC)
    pixels = np.array(fitted, dtype=np.uint8).reshape(how.height, how.width, how.channels)
    return pixels.transpose(2, 0, 1), peak


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns a loaded image upright. EXIF that cannot be parsed says nothing."""
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # any kind of garbage may stand there
        return None


def _flat(image: Image.Image, how: Pixels) -> tuple[Image.Image, float]:
    """A loaded image as 8-bit grey or RGB without transparency, and its largest value as a share of white."""
    peak = 1.0
    transparent = image.has_transparency_data
    if image.mode in DEEP:
        image, peak = _grey(image, how)
    mode = "L" if how.channels == 1 else "RGB"
    if (transparent and image.mode not in ("L", "RGB")) or "transparency" in image.info:
        image = _laid(image, (*ImageColor.getrgb(how.ground)[:3], 255))
    return image if image.mode == mode else image.convert(mode), peak


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of whole lines that make up an image, of `BAND` pixels or a line each."""
    lines = max(1, BAND // image.width)
    for top in range(0, image.height, lines):
        yield 0, top, image.width, min(top + lines, image.height)


def _laid(image: Image.Image, ground: tuple[int, ...]) -> Image.Image:
    """A transparent image on a ground (red, green, blue, 255), as RGB."""
    flat = Image.new("RGB", image.size)
    for box in _bands(image):
        above = image.crop(box).convert("RGBA")
        flat.paste(Image.alpha_composite(Image.new("RGBA", above.size, ground), above).convert("RGB"), box)
    return flat


def _grey(image: Image.Image, how: Pixels) -> tuple[Image.Image, float]:
    """A deep grey image with 8 bits, black at 0 and white at the end of the range, and its largest value as a share of
    that. What it has as transparent is so, too.

    The range is what was given as `white`; else 65,535 for 16 bits; for 32 bits, whose use differs, 65,535 if that
    holds all values, else the type's end; for floats the first of 1, 255 and 65,535 that holds all values.
    """
    values, key = np.asarray(image), image.info.get("transparency")

    def of(box: tuple[int, int, int, int]) -> NDArray[np.float64]:
        """The values of a band (h, w)."""
        return np.nan_to_num(values[box[1] : box[3]].astype(np.float64), nan=0.0, posinf=3e38, neginf=0.0)

    most = max(0.0, *(float(of(box).max()) for box in _bands(image)))
    if how.white is not None:
        white = how.white
    elif image.mode == "F":
        white = next((end for end in (1.0, 255.0, 65535.0) if most <= end), 0.0)
        if not white:
            raise Unreadable(f"float values up to {most:.3g}, whose white is not known; give --white")
    elif image.mode == "I" and most > 65535:
        white = float(2**31 - 1)
    else:
        white = 65535.0
    grey, alpha = np.empty(values.shape, dtype=np.uint8), np.empty(values.shape, dtype=np.uint8)
    for box in _bands(image):
        lines, own = slice(box[1], box[3]), of(box)
        grey[lines] = np.clip(own * (255 / white), 0, 255).round()
        if isinstance(key, int):
            alpha[lines] = np.where(own == key, 0, 255)
    found = Image.fromarray(grey, "L")
    if isinstance(key, int):
        found.putalpha(Image.fromarray(alpha, "L"))
    return found, min(most / white, 1.0)
