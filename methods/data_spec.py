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

    name: str = option(
        "digits, glyphs, docstrings, cifar10, cifar100, imagefolder:PATH, text:PATH, or arrays:DIGEST, which "
        "bo_distill.run makes of arrays", flag="--data", changeable=True,
    )  # fmt: skip
    directory: str | None = option(
        "where CIFAR lies or is downloaded to (default: search-methods in the user's cache), or arrays are kept",
        None, flag="--data-dir", metavar="DIR", path=True, changeable=True,
    )  # fmt: skip
    train_size: int | None = option("a stratified subset of the training rows", None, metavar="N", least=1)
    val_size: int | None = option("a stratified subset of the validation rows", None, metavar="N", least=1)
    image_size: int = option("side of an image folder's images", 32, metavar="PX", least=1)
    ground: str = option("colour under transparent pixels of an image folder, by name or #rrggbb", "white",
                         metavar="COLOUR")  # fmt: skip
    white: float | None = option(
        "value that is white in images of more than 8 bits (default: the end of their type's range)", None, metavar="X"
    )
    max_megapixels: int = option("an image folder's images may be so large", 100, metavar="N", least=1)
    unreadable: str = option("images that cannot be read", "refuse", choices=("refuse", "drop"))
    text_column: str = option("column of a text file that holds the sentences", "text", metavar="NAME")
    label_columns: tuple[str, ...] = option(
        "label column of a text file; repeat for several tasks; rating:bad=1-4,good=9-10 makes classes of numbers",
        ("label",), flag="--label-column", metavar="NAME",
    )  # fmt: skip
    split_column: str | None = option(
        "column of a text file that says train, val or test; split:train=train,val=dev+eval says what its values mean",
        None, metavar="NAME",
    )  # fmt: skip
    max_length: int = option("characters of a sentence that are kept", 132, metavar="N", least=1)
    delimiter: str | None = option(
        "between the columns of a text file (default: found in the first line)", None, metavar="CHARACTER"
    )
    columns: str | None = option("names of a headerless text file's columns, by commas", None, metavar="NAMES")
    encoding: str | None = option("of a text file (default utf-8)", None, metavar="NAME")
    conflicts: str = option("rows whose content stands under two labels", "drop", choices=("drop", "refuse"))
