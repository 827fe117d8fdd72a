"""`imagefolder:PATH`: a folder with one folder of images per class, maybe inside one folder per part."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from bo_distill.methods.data.account import LeftOut, some
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.data.images.pixels import SUFFIXES, Pixels
from bo_distill.methods.data.images.rows import decode, identical, shown
from bo_distill.methods.data.labels import normal
from bo_distill.methods.data.parts import named_parts, part_of
from bo_distill.methods.data.source import Source, classed
from bo_distill.methods.errors import UsageError


def read(spec: DataSpec) -> Source:
    """Images (n, 3, s, s) with s = `spec.image_size`: the shorter side is brought to s and the centre kept.

    Divided as the folders for training, validation and test say (`methods.data.parts`), where there is one for
    training. Whatever of the three has no image is drawn from training: 15% validation, 15% test, stratified.
    Of files with the same bytes one is used; images with the same pixels leave training, see `images.rows.decode`.

    Raises:
        UsageError: no folder, no classes, an empty class, a class too small to divide, part folders that are not
            understood, a folder that cannot be looked into.
    """
    root = Path(spec.name.partition(":")[2]).expanduser()
    if not root.is_dir():
        raise UsageError(f"{spec.name}: {root} is not a folder; name one that holds a folder of images per class")
    how = pixels_of(spec)
    places = _places(spec, root)
    beside: Counter[str] = Counter()
    files: list[Path] = []
    labels: list[str] = []
    words: list[str] = []
    for part, place in places.items():
        for label, images in _classes(spec, place, beside):
            files += images
            labels += [label] * len(images)
            words += [part] * len(images)
    kept, given, source = classed(
        spec, identical(files), labels, words, lambda row: shown(files[row], root), "class folders"
    )
    files, left = [files[row] for row in kept], source.left_out
    if beside:
        what = ", ".join(f"{count:,} {kind}" for kind, count in sorted(beside.items()))
        left += (LeftOut("not looked into", sum(beside.values()), what),)
    return replace(
        source,
        left_out=left,
        decode=partial(decode, spec, how, files, root, given),
        reading={"ground": spec.ground, "white": spec.white, "max_megapixels": spec.max_megapixels},
    )


def pixels_of(spec: DataSpec) -> Pixels:
    """How the images of a folder are read."""
    return Pixels(spec.image_size, spec.image_size, 3, spec.ground, spec.white, spec.max_megapixels)


def _places(spec: DataSpec, root: Path) -> dict[str, Path]:
    """Part -> the folder that holds its class folders; training alone, which is the whole folder, if there are none.

    A class may be called "train" or "test": only a folder of folders is a part.
    """
    children = {folder.name: folder for folder in _folders(spec, root)}
    of_folders = {name for name, folder in children.items() if any(_inside(spec, folder))}
    parts = named_parts(spec.name, of_folders, "folder")
    flat = sorted(name for name in children.keys() - of_folders if part_of(name))
    if not parts:
        if len(flat) > 1 or len(flat) == len(children):
            raise UsageError(
                f"{spec.name}: {some(flat)} hold no class folders; put each image into a folder named after its class"
            )
        return {"train": root}
    if others := sorted(children.keys() - parts.keys()):
        raise UsageError(
            f"{spec.name}: {others[0]} is no part beside {some(parts)}; name it train, val or test and put "
            "class folders into it, or move it away"
        )
    found = {part: children[name] for name, part in parts.items()}
    if "train" not in found:
        raise UsageError(f"{spec.name}: {some(parts)} but no folder train; add it, or name one of them so")
    return {part: found[part] for part in ("train", "val", "test") if part in found}


def _inside(spec: DataSpec, folder: Path) -> Iterator[Path]:
    """Folders in a folder, hidden ones left out."""
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{spec.name}: folder {folder}: {error.strerror}; permit it or move it away") from None
    for path in inside:
        try:
            path.name.encode()
        except UnicodeEncodeError:
            name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
            raise UsageError(f"{spec.name}: the name of folder {name} is not UTF-8; rename it") from None
    return iter(inside)


def _folders(spec: DataSpec, root: Path) -> list[Path]:
    folders = list(_inside(spec, root))
    if not folders:
        raise UsageError(
            f"{spec.name}: no class folders in {root}; a class folder is named after its class and holds its images"
        )
    return folders


def _classes(spec: DataSpec, place: Path, beside: Counter[str]) -> Iterator[tuple[str, list[Path]]]:
    """(label, images in order) of each class folder; counts in `beside` what is not looked into."""
    folders = _folders(spec, place)
    for path in place.iterdir():
        if path not in folders:
            beside[_kind(path) if not path.is_dir() else "hidden folders"] += 1
    for folder in folders:
        images = images_under(spec.name, folder, beside)
        if not images:
            raise UsageError(
                f"{spec.name}: class folder {folder} holds no image ({' '.join(SUFFIXES)}); fill it or remove it"
            )
        yield normal(folder.name), images


def images_under(name: str, folder: Path, beside: Counter[str]) -> list[Path]:
    """Images in a folder and its folders, in order; counts in `beside` what is not looked into.

    Args:
        name: what the folder is called in an error.

    Raises:
        UsageError: a folder that cannot be looked into.
    """
    images = []
    for path in _walk(name, folder, beside):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            images.append(path)
        else:
            beside[_kind(path)] += 1
    return sorted(images)


def _kind(path: Path) -> str:
    if path.name.startswith(".") or path.name == "Thumbs.db":
        return "hidden files"
    return path.suffix.lower() or "without suffix"


def _walk(name: str, folder: Path, beside: Counter[str]) -> Iterator[Path]:
    """Files under a folder, links followed but never round a circle."""
    above: dict[str, frozenset[str]] = {str(folder): frozenset()}

    def refuse(error: OSError) -> None:
        raise UsageError(f"{name}: folder {error.filename}: {error.strerror}; permit it or move it away")

    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in above[place]:
            folders.clear()
            continue
        if hidden := sum(inner.startswith(".") for inner in folders):
            beside["hidden folders"] += hidden
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        for inner in folders:
            above[os.path.join(place, inner)] = above[place] | {real}
        yield from (Path(place, file) for file in files)
