"""Which data, as a command line names it. Imports no torch: from here every command takes its flags.

A field of `DataSpec` is a data option. Its flag, its help, what it refuses, its place in `--resume`, in the command
that a report prints and in the leaderboard's column `data_spec` follow from it (`search.command.data`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """How a command offers a field of `DataSpec`.

    Attributes:
        help: one line, without the default.
        flag: "" for the field's name with dashes.
        metavar: of the flag's value.
        choices: the only values; empty where there are others.
        least: of a number.
        path: the value is a path, which is made absolute: workers have working directories of their own.
        changeable: `--resume` may change it, as it says where the data lies and not what it is.
    """

    help: str
    flag: str = ""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    path: bool = False
    changeable: bool = False


def option(help: str, default: Any = MISSING, **how: Any) -> Any:
    """A field of `DataSpec`: its default, and how a command offers it (see `Option`).

    The field's type says how the flag is read: text, a whole number, a number, a flag without a value (bool), or a flag
    that may be repeated (a tuple of text).
    """
    return dataclasses.field(default=default, metadata={"option": Option(help, **how)})


@dataclass(frozen=True)
class DataSpec:
    """Which data; small enough to travel to any worker. Each field's help says what it means."""

    name: str = option("digits, glyphs, docstrings, cifar10, cifar100, imagefolder:PATH or text:PATH", flag="--data")
    directory: str | None = option(
        "where the CIFAR sets lie or are downloaded to", None, flag="--data-dir", metavar="DIR", path=True,
        changeable=True,
    )  # fmt: skip
    train_size: int | None = option("a stratified subset of the training rows", None, metavar="N", least=1)
    val_size: int | None = option("a stratified subset of the validation rows", None, metavar="N", least=1)
    image_size: int = option("side of an image folder's images", 32, metavar="PX", least=1)
    text_column: str = option("column of a text file that holds the sentences", "text", metavar="NAME")
    label_columns: tuple[str, ...] = option(
        "label column of a text file; repeat for several tasks; rating:bad=1-4,good=9-10 makes classes of numbers",
        ("label",), flag="--label-column", metavar="NAME",
    )  # fmt: skip
    split_column: str | None = option("column of a text file that says train, val or test", None, metavar="NAME")
    max_length: int = option("characters of a sentence that are kept", 132, metavar="N", least=1)
