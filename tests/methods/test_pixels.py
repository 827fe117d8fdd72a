"""One image file as pixels: greys by their range, transparency on a ground, upright, and nothing that is no image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bo_distill.methods.data.images import pixels as decoding
from bo_distill.methods.data.images.pixels import Pixels, Unreadable, own_limit, read
from bo_distill.methods.errors import UsageError

RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64)


def pixels(path: Path, **how: Any) -> np.ndarray:
    with own_limit():
        return read(path, Pixels(**{"height": 16, "width": 16, **how}))[0]


def saved(path: Path, image: Image.Image, **words: Any) -> Path:
    image.save(path, **words)
    return path


def test_deep_greys_by_the_range_of_their_type(tmp_path: Path) -> None:
    whole = RAMP.astype(np.uint16)
    files = [saved(tmp_path / f"16.{end}", Image.fromarray(whole)) for end in ("png", "tif")]
    (tmp_path / "16.pgm").write_bytes(b"P5 64 64 65535\n" + whole.astype(">u2").tobytes())
    (tmp_path / "12.pgm").write_bytes(b"P5 64 64 4095\n" + (whole // 16).astype(">u2").tobytes())
    files += [tmp_path / "16.pgm", tmp_path / "12.pgm"]
    files.append(saved(tmp_path / "32.tif", Image.fromarray(RAMP.astype(np.int32))))
    files.append(saved(tmp_path / "wide.tif", Image.fromarray((RAMP * 32767).astype(np.int32))))
    for number, top in enumerate((1, 255, 65535)):
        float_image = Image.fromarray((RAMP / 65535 * top).astype(np.float32))
        files.append(saved(tmp_path / f"f{number}.tif", float_image))
    for file in files:
        found = pixels(file)
        assert found.mean() == pytest.approx(127.5, abs=1), file
        assert found.min() < 8 and found.max() > 247, file


def test_twelve_bits_in_sixteen_are_what_was_said_to_be_white(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.png", Image.fromarray((RAMP / 16).astype(np.uint16)))
    assert pixels(file).max() <= 16
    assert pixels(file, white=4095.0).mean() == pytest.approx(127.5, abs=1)
    with own_limit():
        assert read(file, Pixels(16, 16))[1] == pytest.approx(1 / 16, abs=1e-3)


@pytest.mark.parametrize("kind", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "F"])
def test_an_image_is_the_same_in_bands(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 4), dtype=np.uint8)
    deep = {"I;16": noise[..., 0].astype(np.uint16) * 257, "F": noise[..., 0] / np.float32(255)}
    image = Image.fromarray(deep[kind]) if kind in deep else Image.fromarray(noise).convert("RGB").convert(kind)
    words: dict[str, Any] = {"1": {"transparency": 0}, "L": {"transparency": 9}, "I;16": {"transparency": 9 * 257},
                             "P": {"transparency": bytes(range(256))}, "RGB": {"transparency": (9, 9, 9)}}  # fmt: skip
    if kind in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(noise[..., 3]))
    file = saved(tmp_path / f"a.{'tif' if kind == 'F' else 'png'}", image, **words.get(kind, {}))
    found = []
    for size in (1, 200, 1 << 20):
        monkeypatch.setattr(decoding, "BAND", size)
        found.append(pixels(file, ground="#10f020"))
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all() and len(np.unique(found[0])) > 2


def test_a_float_image_of_unknown_range_is_not_guessed_at(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.tif", Image.fromarray((RAMP * 9).astype(np.float32)))
    with pytest.raises(Unreadable, match="give --white"):
        pixels(file)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_is_laid_on_the_ground(mode: str, tmp_path: Path) -> None:
    icon = Image.new("RGBA", (16, 16))
    icon.paste((0, 0, 0, 255), (4, 4, 12, 12))
    if mode in ("P", "PA"):
        palette = Image.new("P", (16, 16), 1)
        palette.putpalette([0, 0, 0, 0, 0, 0])
        palette.paste(0, (4, 4, 12, 12))
        file = saved(tmp_path / "a.png", palette, transparency=1)
    else:
        file = saved(tmp_path / "a.png", icon.convert(mode))
    on_white, on_red = pixels(file), pixels(file, ground="#ff0000")
    assert on_white[:, 0, 0].tolist() == [255] * 3 and on_white[:, 8, 8].tolist() == [0] * 3
    assert on_red[:, 0, 0].tolist() == [255, 0, 0]


def test_a_transparent_grey_of_sixteen_bits(tmp_path: Path) -> None:
    values = np.full((16, 16), 40000, dtype=np.uint16)
    values[:8] = 7
    found = pixels(saved(tmp_path / "a.png", Image.fromarray(values), transparency=7))
    assert found[0, 0, 0] == 255 and found[0, 12, 0] == pytest.approx(40000 / 257, abs=1)


@pytest.mark.parametrize("tag", [{0x011A: (-1, 0)}, {0x0100: "wide"}, {}])
def test_exif_turns_the_pixels_and_nothing_else_of_it_matters(tag: dict[int, Any], tmp_path: Path) -> None:
    sideways = Image.new("RGB", (16, 16))
    sideways.paste((255, 255, 255), (0, 0, 8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes()
    if tag:  # an entry of its own that Pillow would not write: count 1, a type that does not fit
        ((number, _),) = tag.items()
        entry = number.to_bytes(2, "big") + (10).to_bytes(2, "big") + (1).to_bytes(4, "big") + (26).to_bytes(4, "big")
        turn = bytes.fromhex("0112 0003 00000001 00060000".replace(" ", ""))
        both = sorted([turn, entry])
        content = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x02" + b"".join(both) + b"\0\0\0\0" + b"\xff\xff\xff\xff\0\0\0\0"
    file = saved(tmp_path / "a.jpg", sideways, exif=content, quality=100)
    found = pixels(file)
    assert found[0, 2].mean() > 250 and found[0, 13].mean() < 5


def test_palette_cmyk_and_one_bit(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    for file in (
        saved(tmp_path / "a.gif", red.convert("P")),
        saved(tmp_path / "a.jpg", red.convert("CMYK"), quality=100),
        saved(tmp_path / "a.bmp", red),
        saved(tmp_path / "a.webp", red, lossless=True),
    ):
        assert pixels(file)[:, 8, 8].tolist() == pytest.approx([255, 0, 0], abs=6), file
    assert pixels(saved(tmp_path / "b.tif", Image.new("1", (16, 16), 1), compression="group4")).min() == 255


def test_a_large_jpeg_is_reduced_by_its_own_means_to_nearly_the_same(tmp_path: Path) -> None:
    from PIL import ImageOps

    random = np.random.RandomState(0)
    smooth = Image.fromarray(random.randint(0, 255, (8, 8, 3), dtype=np.uint8)).resize((640, 480), 3)
    file = saved(tmp_path / "a.jpg", smooth, quality=95)
    whole = np.asarray(ImageOps.fit(Image.open(file), (16, 16), Image.Resampling.BICUBIC), dtype=float)
    assert abs(pixels(file).transpose(1, 2, 0) - whole).mean() < 1


def test_what_is_no_image_is_not_read(tmp_path: Path) -> None:
    large = saved(tmp_path / "large.png", Image.new("1", (2000, 1500)))
    with pytest.raises(Unreadable, match="3 megapixels; raise --max-megapixels 2"):
        pixels(large, max_megapixels=2)
    pixels(large, max_megapixels=3)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "page.png").write_text("<html>")
    (tmp_path / "empty.png").touch()
    saved(tmp_path / "other.png", Image.new("RGB", (8, 8)), format="PCX")  # a decoder that is not documented
    whole = large.read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name in ("pipe", "page", "empty", "other", "cut", "nothing"):
        with pytest.raises(Unreadable):
            pixels(tmp_path / f"{name}.png")


def test_pillows_own_limit_is_back_afterwards(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    pixels(saved(tmp_path / "a.png", Image.new("RGB", (9, 9))))
    assert before == Image.MAX_IMAGE_PIXELS


def test_bad_options() -> None:
    with pytest.raises(UsageError, match="--ground grass: no such colour"):
        Pixels(8, 8, ground="grass")
    with pytest.raises(UsageError, match="--white 0: give a number above 0"):
        Pixels(8, 8, white=0)
