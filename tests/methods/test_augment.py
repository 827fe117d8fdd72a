"""Augmentation: what it does to known images, that it equals the library's, and that ranks do not matter."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bo_distill.methods.data.augment import BINS, OPERATIONS, augment, crop, flip, operate, rotation, warp

KINDS = (
    "none",
    "crop",
    "flip",
    "crop_flip",
    "rotate_flip",
    "randaugment",
    "trivialaugment",
    "crop_flip_randaugment",
    "crop_trivialaugment",
)


def images(count: int = 16, side: int = 16) -> Tensor:
    """Smooth colour images in [0, 1] whose values are whole 255ths."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(count))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return (smooth * 255).round() / 255


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_the_number_of_ranks_does_not_matter(kind: str, dtype: torch.dtype) -> None:
    x = images() if dtype == torch.float32 else (images() * 255).byte()
    whole = augment(x, kind, 7, slice(0, 16), 16)
    parts = [augment(x[rows], kind, 7, rows, 16) for rows in (slice(0, 5), slice(5, 6), slice(6, 16))]
    assert whole.dtype == x.dtype
    assert whole.shape == x.shape
    assert torch.allclose(whole.float(), torch.cat(parts).float(), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides_and_the_input_stays(kind: str) -> None:
    x = images()
    before = x.clone()
    state = torch.get_rng_state()
    first = augment(x, kind, 1, slice(0, 16), 16)
    assert torch.equal(first, augment(x, kind, 1, slice(0, 16), 16))
    assert torch.equal(first, augment(x, kind, 2, slice(0, 16), 16)) == (kind == "none")
    assert torch.equal(x, before)
    assert torch.equal(state, torch.get_rng_state())
    assert first.min() >= 0
    assert first.max() <= 1


def test_an_unknown_step() -> None:
    with pytest.raises(ValueError, match="mixup"):
        augment(images(), "crop_mixup", 0, slice(0, 16), 16)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.integers(0, 2**31))
def test_crop_equals_a_loop(pad: int, seed: int) -> None:
    x = images(6)
    corner = torch.randint(2 * pad + 1, (6, 2), generator=torch.Generator().manual_seed(seed))
    for image, (row, column), got in zip(x, corner.tolist(), crop(x, corner, pad), strict=True):
        padded = torch.zeros(3, 16 + 2 * pad, 16 + 2 * pad)
        padded[:, pad : pad + 16, pad : pad + 16] = image
        assert torch.equal(got, padded[:, row : row + 16, column : column + 16])


def test_a_crop_of_white_loses_a_border_of_at_most_an_eighth() -> None:
    got = augment(torch.ones(64, 1, 32, 32), "crop", 3, slice(0, 64), 64)
    assert (got[:, :, 4:-4, 4:-4] == 1).all()
    lost = (got == 0).sum((1, 2, 3))
    assert lost.max() <= 32 * 32 - 28 * 28
    assert len(set(lost.tolist())) > 5
    # A shift in a direction blackens whole rows and columns: what is left is a rectangle.
    assert torch.equal(got, got.amax(2, keepdim=True) * got.amax(3, keepdim=True))


def test_flips_are_half_of_the_images_and_undo_themselves() -> None:
    x = images(400)
    which = (augment(x, "flip", 5, slice(0, 400), 400) != x).flatten(1).any(1)
    assert 150 < which.sum() < 250
    assert torch.equal(flip(flip(x, which), which), x)
    assert torch.equal(augment(augment(x, "flip", 5, slice(0, 400), 400), "flip", 5, slice(0, 400), 400), x)
    assert torch.equal(flip(x, which)[which], x[which].flip(3))


def test_crops_and_flips_of_bytes_are_those_of_floats() -> None:
    x = images()
    got = augment((x * 255).byte(), "crop_flip", 9, slice(0, 16), 16)
    assert torch.equal(got, (augment(x, "crop_flip", 9, slice(0, 16), 16) * 255).byte())


def test_rotation_turns_counter_clockwise_and_keeps_the_border() -> None:
    x = images(3)
    turned = warp(x, rotation(torch.tensor([90.0, 0.0, -90.0])), "bilinear", "border")
    want = torch.stack([x[0].rot90(1, (1, 2)), x[1], x[2].rot90(-1, (1, 2))])
    assert torch.allclose(turned, want, atol=1e-5)
    white = torch.ones(8, 3, 16, 16)
    assert torch.allclose(augment(white, "rotate", 0, slice(0, 8), 8), white)


def _library(image: Tensor, name: str, magnitude: int, sign: int, wide: bool) -> Tensor:
    """One operation of `torchvision.transforms.v2`, with the magnitudes of its RandAugment or TrivialAugmentWide."""
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional

    policy = v2.TrivialAugmentWide() if wide else v2.RandAugment()
    operation = "".join(word.capitalize() for word in name.split("_"))
    operation = {"Autocontrast": "AutoContrast"}.get(operation, operation)
    magnitudes, signed = policy._AUGMENTATION_SPACE[operation]
    value = magnitudes(BINS, image.shape[-2], image.shape[-1])
    value = 0.0 if value is None else float(value[magnitude])
    if signed:
        value *= sign
    shears = {"shear_x": [math.degrees(math.atan(value)), 0.0], "shear_y": [0.0, math.degrees(math.atan(value))]}
    shifts = {"translate_x": [int(value), 0], "translate_y": [0, int(value)]}
    plain: dict[str, Callable[[], Tensor]] = {
        "rotate": lambda: functional.rotate(image, value),
        "brightness": lambda: functional.adjust_brightness(image, 1 + value),
        "color": lambda: functional.adjust_saturation(image, 1 + value),
        "contrast": lambda: functional.adjust_contrast(image, 1 + value),
        "sharpness": lambda: functional.adjust_sharpness(image, 1 + value),
        "posterize": lambda: functional.posterize(image, int(value)),
        "solarize": lambda: functional.solarize(image, value),
        "autocontrast": lambda: functional.autocontrast(image),
        "equalize": lambda: functional.equalize(image),
        "identity": lambda: image,
    }
    if name in shears:
        plain[name] = lambda: functional.affine(image, 0.0, [0, 0], 1.0, shears[name], center=[0.0, 0.0])
    if name in shifts:
        plain[name] = lambda: functional.affine(image, 0.0, shifts[name], 1.0, [0.0, 0.0])
    return plain[name]()


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_the_library_s(name: str, wide: bool) -> None:
    magnitude, sign = torch.tensor([0, 3, 9, 17, 30, 30]), torch.tensor([1, -1, -1, 1, 1, -1])
    x = images(6, side=32)
    operation = torch.full((6,), OPERATIONS.index(name))
    got = operate(x, operation, magnitude, sign, wide)
    want = [_library(*args, wide) for args in zip(x, [name] * 6, magnitude.tolist(), sign.tolist(), strict=True)]
    different = (got - torch.stack(want)).abs() > 1e-5
    assert different.float().mean() < 0.002  # the nearest pixel may be another one where two are equally near


def test_a_shift_is_of_its_own_side() -> None:
    x = images(6, side=64)[..., :16]
    for name in ("translate_x", "translate_y"):
        got = operate(x, torch.full((6,), OPERATIONS.index(name)), torch.full((6,), 9), torch.ones(6), wide=False)
        assert torch.allclose(got, torch.stack([_library(image, name, 9, 1, False) for image in x]), atol=1e-5)


def test_images_without_an_inside_are_not_sharpened() -> None:
    x = images(6, side=32)[:, :, :2]
    got = operate(x, torch.full((6,), OPERATIONS.index("sharpness")), torch.full((6,), 30), torch.ones(6), wide=True)
    torch.testing.assert_close(got, torch.stack([_library(image, "sharpness", 30, 1, True) for image in x]))


def test_every_operation_is_drawn() -> None:
    x = images(280)
    changed = augment(x, "trivialaugment", 0, slice(0, 280), 280)
    assert 0.6 < (changed != x).flatten(1).any(1).float().mean() < 0.99


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_without_waiting_for_it(kind: str) -> None:
    x = images().cuda()
    torch.cuda.synchronize()
    with warnings.catch_warnings(action="ignore"):  # that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        got = augment(x, kind, 3, slice(0, 16), 16)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(got.cpu(), augment(images(), kind, 3, slice(0, 16), 16), atol=1 / 255 + 1e-6)
