"""Small image folders and text files, made by the tests that read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bo_distill.methods.data import DataSpec, load
from bo_distill.methods.errors import UsageError


def refusal(spec: DataSpec) -> str:
    """The message with which a set is refused; it is always one line that names the set."""
    with pytest.raises(UsageError) as caught:
        load(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert spec.name in message
    return message


def image(path: Path, value: int, size: tuple[int, int] = (20, 12)) -> None:
    """A file of one colour; its red is `value`."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 255 - value, 7)).save(path)


def folder(root: Path, classes: dict[str, int], side: tuple[int, int] = (20, 12), first: int = 0) -> DataSpec:
    """So many images of each class, all different; the red of the first is `first`."""
    for number, (name, count) in enumerate(classes.items()):
        for index in range(count):
            image(root / name / f"{index}.png", first + 40 * number + index, side)
    return DataSpec(f"imagefolder:{root}", image_size=8)


ROWS = [(f"sentence number {index} of {label}", label) for label in ("no", "yes") for index in range(20)]


def table(path: Path, rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ("text", "label")) -> DataSpec:
    """A file of these rows in the format of its suffix."""
    import csv
    import json

    import pyarrow
    from pyarrow import parquet

    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([header, *rows])
        elif path.suffix == ".tsv":
            file.writelines("\t".join(row) + "\n" for row in [header, *rows])
        elif path.suffix == ".jsonl":
            file.writelines(json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
        else:
            parquet.write_table(pyarrow.table(dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))), path)
    return DataSpec(f"text:{path}")
