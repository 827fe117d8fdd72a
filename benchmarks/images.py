"""What a folder of large JPEGs costs: the first command that reads it, later ones, and an epoch; torchvision beside.

    python -m benchmarks.images [--images 5000] [--photo 1920x1080] [--size 64] [--epochs 2]

Made-up photos in ten classes lie in a temporary folder. Each measurement is a process of its own:

    bare loop     Pillow alone, one thread: open, draft, fit; what a core can do
    first         `load` with an empty cache: the folder is decoded into a file of uint8 rows
    second        `load` with that file; and how much memory the process takes, once it has touched all rows
    train_size    `load` of 300 training rows with an empty cache
    ImageFolder   torchvision's ImageFolder and DataLoader, one worker a core, the same size, epoch by epoch
    ours          the same epochs from the mapped rows, in random order

Images per second and per CPU second: on a machine that others use only the second means something.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

BASES = 20  # pictures that are encoded
CLASSES = 10
BATCH = 128
QUANTISED = b"\xff\xdb\x00\x43"  # begins a table of 64 quantisation steps, that of the mean first


def photos(folder: Path, count: int, width: int, height: int) -> None:
    """Write JPEGs. They differ in the quantisation of brightness and colour, so that each is another
    image, takes as long to decode as a photo, and is written without being encoded."""
    random = np.random.default_rng(0)
    bases = []
    for _ in range(BASES):
        coarse = Image.fromarray(random.integers(0, 256, (68, 120, 3), dtype=np.uint8)).resize((width, height))
        grain = random.integers(-12, 13, (height, width, 1), dtype=np.int16)
        picture = Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        bases.append(file.getvalue())
    for number in range(count):
        content = bytearray(bases[number % BASES])
        kind = number // BASES
        steps = (2 + kind % 24, 2 + kind // 24)
        at = -1
        for step in steps:
            at = content.index(QUANTISED, at + 1)
            content[at + len(QUANTISED) + 1] = step
        place = folder / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06d}.jpg").write_bytes(content)


def spent() -> float:
    """CPU seconds of this process and of its children that have ended."""
    every = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in every)


def resident() -> int:
    """Bytes of memory that this process has in use, shared ones too."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def timed(rounds: Iterator[int]) -> list[tuple[int, float, float]]:
    """(images, seconds, CPU seconds) of each round."""
    found, wall, cpu = [], time.monotonic(), spent()
    for images in rounds:
        found.append((images, time.monotonic() - wall, spent() - cpu))
        wall, cpu = time.monotonic(), spent()
    return found


def bare(folder: str, size: int, most: int) -> list[tuple[int, float, float]]:
    """Decode some of the files with Pillow alone."""

    def rounds() -> Iterator[int]:
        files = sorted(Path(folder).rglob("*.jpg"))[:most]
        for file in files:
            with Image.open(file) as image:
                image.draft(None, (2 * size, 2 * size))
                np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))
        yield len(files)

    return timed(rounds())


def ours(
    folder: str, size: int, cache: str, train_size: int | None, epochs: int
) -> tuple[list[tuple[int, float, float]], float]:
    """`load`, then epochs over the training rows; and the memory that touching all rows took, as a share of them."""
    os.environ["XDG_CACHE_HOME"] = cache
    import torch

    from bo_distill.methods.data import load, load_test
    from bo_distill.methods.data.dataset import DataSpec

    torch.set_num_threads(1)
    before = resident()
    spec = DataSpec(f"imagefolder:{folder}", image_size=size, train_size=train_size)

    def rounds() -> Iterator[int]:
        data, test = load(spec), load_test(spec)
        parts = [data.train.x, data.val.x, test.x]
        yield sum(map(len, parts))
        for _ in range(epochs):
            for rows in torch.randperm(len(parts[0])).split(BATCH):
                parts[0][rows].float().div_(255)
            yield len(parts[0])
        for part in parts:
            part.max()  # reads every row
        shares.append((resident() - before) / sum(x.numel() for x in parts))

    shares: list[float] = []
    return timed(rounds()), shares[0]


def theirs(folder: str, size: int, epochs: int) -> list[tuple[int, float, float]]:
    """The same epochs by torchvision, whose workers live for one epoch, so that their CPU time is known."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    data: Any = ImageFolder(folder, Compose([Resize(size), CenterCrop(size), ToTensor()]))

    def rounds() -> Iterator[int]:
        for _ in range(epochs):
            yield sum(len(y) for _, y in DataLoader(data, BATCH, shuffle=True, num_workers=cores()))

    return timed(rounds())


def cores() -> int:
    return len(os.sched_getaffinity(0))


def alone(measure: Callable[..., Any], *words: Any) -> Any:
    """What `measure` finds in a process of its own. It may have children: DataLoader's workers."""
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_answer, args=(its, measure, words))
    process.start()
    its.close()
    found = mine.recv()
    process.join()
    return found


def _answer(line: Any, measure: Callable[..., Any], words: tuple[Any, ...]) -> None:
    line.send(measure(*words))


def said(name: str, images: int, wall: float, cpu: float) -> None:
    print(
        f"{name:28} {images:6,d} images  {wall:7.1f} s {images / wall:9,.0f}/s  {images / max(cpu, 1e-9):9,.0f}/CPU s",
        flush=True,
    )


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--images", type=int, default=5000)
    words.add_argument("--photo", default="1920x1080", metavar="WIDTHxHEIGHT")
    words.add_argument("--size", type=int, default=64)
    words.add_argument("--epochs", type=int, default=2)
    args = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="images-") as scratch:
        folder, cache, size = f"{scratch}/photos", f"{scratch}/cache", args.size
        photos(Path(folder), args.images, *map(int, args.photo.split("x")))
        (loop,) = alone(bare, folder, size, 500)
        said("bare loop, one thread", *loop)
        (first, *_), _ = alone(ours, folder, size, cache, None, 0)
        said("first command", *first)
        (second, *epochs), share = alone(ours, folder, size, cache, None, args.epochs)
        said("second command", *second)
        few = min(300, args.images // 2)
        (some, *_), _ = alone(ours, folder, size, f"{scratch}/other", few, 0)
        said(f"--train-size {few}, first", *some)
        for number, each in enumerate(epochs, 1):
            said(f"our epoch {number}", *each)
        for number, each in enumerate(alone(theirs, folder, size, args.epochs), 1):
            said(f"ImageFolder's epoch {number}", *each)
    rates = [images / cpu for images, _, cpu in (first, loop)]
    print(f"decoding: {rates[0] / rates[1]:.2f} of the bare loop per CPU second, on {cores()} cores")
    print(f"second command: {second[1]:.2f} s; memory of a process: {share:.2f} of the rows that it touches")


if __name__ == "__main__":
    main()
