"""`imagefolder:PATH`: a folder with one folder of images per class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from methods.data.dataset import DataSpec
from methods.data.source import Indices, Source, divide
from methods.errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read(spec: DataSpec) -> Source:
    """Images (n, 3, s, s) with s = `spec.image_size`: the shorter side is brought to s and the centre kept.

    Divided as PATH/train, PATH/val (or valid) and PATH/test say, where there is a PATH/train with class folders.
    Whatever of the three is missing is drawn from the training images: 15% validation, 15% test, stratified.

    Raises:
        UsageError: no folder, no classes, an empty class, a class too small to divide, an image that does not decode.
    """
    root = Path(spec.name.partition(":")[2]).expanduser()
    if not root.is_dir():
        raise UsageError(f"{spec.name}: {root} is not a folder; name one that holds a folder of images per class")
    roots = {part: root / name for part, names in FOLDERS.items() for name in names if (root / name).is_dir()}
    # A class may be called "train" (or "test"): only a folder of folders is a part.
    if "train" not in roots or not any(child.is_dir() for child in roots["train"].iterdir()):
        roots = {"train": root}
    classes = tuple(folder.name for folder in _folders(spec, roots["train"]))
    if len(classes) < 2:
        raise UsageError(f"{spec.name}: {classes[0]} is the only class folder; a classifier needs two or more")

    files: list[Path] = []
    labels: list[int] = []
    given: dict[str, Indices] = {}
    for part, place in roots.items():
        start = len(files)
        for folder in _folders(spec, place):
            if folder.name not in classes:
                raise UsageError(f"{spec.name}: class {folder.name} of {part} is not one of train's; add it there")
            images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
            if not images:
                raise UsageError(
                    f"{spec.name}: class folder {folder} holds no image ({' '.join(SUFFIXES)}); fill it or remove it"
                )
            files += images
            labels += [classes.index(folder.name)] * len(images)
        given[part] = np.arange(start, len(files))
    y = np.array(labels, dtype=np.int64)
    parts = divide(spec.name, y, classes, given, val=0.15, test=0.15)
    drawn = ", ".join(sorted(parts.keys() - given.keys()))
    notes = [f"no folder for {drawn}: drawn from the training images, 15% each"] if drawn and len(roots) > 1 else []
    return Source(_decode(spec, files), y[:, None], (("class", classes),), parts, tuple(notes))


def _folders(spec: DataSpec, root: Path) -> Iterator[Path]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise UsageError(
            f"{spec.name}: no class folders in {root}; a class folder is named after its class and holds its images"
        )
    return iter(folders)


def _decode(spec: DataSpec, files: list[Path]) -> torch.Tensor:
    from PIL import Image, ImageOps

    side = spec.image_size
    rows = torch.empty(len(files), 3, side, side, dtype=torch.uint8)
    broken: list[Path] = []
    for row, path in zip(rows, files, strict=True):
        try:
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            broken.append(path)
            continue
        fitted = ImageOps.fit(upright, (side, side), Image.Resampling.BICUBIC)
        row.copy_(torch.from_numpy(np.array(fitted)).permute(2, 0, 1))
    if broken:
        some = ", ".join(map(str, broken[:3])) + (", ..." if len(broken) > 3 else "")
        raise UsageError(f"{spec.name}: {len(broken)} of {len(files)} images do not decode; mend or remove {some}")
    return rows
