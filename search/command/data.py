"""Data options: each field of `methods.data_spec.DataSpec` as a flag, and flags as a `DataSpec`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import types
import typing
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from bo_distill.methods.data_spec import DataSpec, Option
from bo_distill.methods.errors import UsageError, check_utf8


@dataclass(frozen=True)
class DataFlag:
    """A field of `DataSpec` with its flag.

    Attributes:
        field: its name.
        word: the flag, such as "--data-dir".
        kind: the type of one value: str, int, float or bool.
        many: whether the flag may be repeated.
        default: None where the flag has to be given.
    """

    field: str
    word: str
    kind: type
    many: bool
    default: Any
    option: Option

    @property
    def dest(self) -> str:
        """Where argparse keeps the flag's value."""
        return self.word.removeprefix("--").replace("-", "_")

    def given(self, args: argparse.Namespace) -> Any:
        """What the command line says, checked; None where it says nothing.

        Raises:
            UsageError: the number is too small, or the text is not UTF-8.
        """
        value = getattr(args, self.dest, None)
        if value is None:
            return None
        least = self.option.least
        if least is not None and not value >= least:
            raise UsageError(f"{self.word} {value:g}: give at least {least:g}")
        for text in value if self.many else [value]:
            if isinstance(text, str):
                check_utf8(self.word, text)
        if self.many:
            return tuple(value)
        return absolute(value) if self.option.path else value


def absolute(path: str) -> str:
    """A path that means the same in every process; a URI is one already."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def data_flags(spec: type[DataSpec] = DataSpec) -> Iterator[DataFlag]:
    """The fields of `DataSpec` as flags, in their order."""
    hints = typing.get_type_hints(spec)
    for field in dataclasses.fields(spec):
        option = field.metadata["option"]
        word = option.flag or "--" + field.name.replace("_", "-")
        kind, default = hints[field.name], None if field.default is dataclasses.MISSING else field.default
        if isinstance(kind, types.UnionType):  # int | None
            (kind,) = (one for one in typing.get_args(kind) if one is not types.NoneType)
        many = typing.get_origin(kind) is tuple
        yield DataFlag(field.name, word, typing.get_args(kind)[0] if many else kind, many, default, option)


def add_data_options(p: argparse._ActionsContainer, only: Collection[str] = ()) -> None:
    """One flag for each field of `DataSpec`, or for some of them. A flag that is not given is None."""
    for flag in data_flags():
        if only and flag.field not in only:
            continue
        option = flag.option
        plain = flag.default in (None, (), False, "")
        default = "" if plain else f" (default {' '.join(flag.default) if flag.many else flag.default})"
        how: dict[str, Any] = {"help": option.help + default, "default": None}
        if flag.kind is bool:
            how["action"] = argparse.BooleanOptionalAction
        else:
            how |= {"type": flag.kind, "metavar": option.metavar, "choices": option.choices or None}
            how |= {"action": "append"} if flag.many else {}
        p.add_argument(flag.word, **how)


def given_data(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `DataSpec` that a command line gives, with their values.

    Raises:
        UsageError: a value that cannot be.
    """
    given = {flag.field: value for flag in data_flags() if (value := flag.given(args)) is not None}
    if "name" in given:
        kind, colon, path = given["name"].partition(":")
        given["name"] = kind + colon + (absolute(path) if path and kind != "arrays" else path)  # those go by content
    return given


def settle_paths(args: argparse.Namespace) -> None:
    """Make the paths of a command line mean the same in every folder.

    Raises:
        UsageError: a value that cannot be.
    """
    given = given_data(args)
    for flag in data_flags():
        if flag.field in given and not flag.many:
            setattr(args, flag.dest, given[flag.field])


def data_of(args: argparse.Namespace, usual: DataSpec) -> DataSpec:
    """The data that a command asks for.

    Args:
        usual: the recipe's, where the command names none.

    Raises:
        UsageError: a value that cannot be.
    """
    given = given_data(args)
    return DataSpec(**given) if "name" in given else dataclasses.replace(usual, **given)


def resumed_data(args: argparse.Namespace, kept: DataSpec) -> DataSpec:
    """A study's data with what a command that goes on with it changes: where it lies.

    Raises:
        UsageError: it asks for other data.
    """
    given = given_data(args)
    for flag in data_flags():
        if flag.field in given and not flag.option.changeable:
            same(flag.word, given[flag.field], getattr(kept, flag.field))
    return dataclasses.replace(kept, **given)


def same(word: str, given: Any, kept: Any) -> None:
    """See that a command which goes on with a study asks for what the study has.

    Raises:
        UsageError: it does not.
    """
    if given != kept:
        raise UsageError(f"{word} {_text(given)}: the study has {_text(kept)}, which its trials share; leave it out")


def _text(value: Any) -> str:
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple | list) else str(value)


def data_options(data: DataSpec) -> dict[str, Any]:
    """The options that ask for this data, by their long names: text, a number, a flag or a list of them."""
    values = {flag: getattr(data, flag.field) for flag in data_flags()}
    return {
        flag.word[2:]: list(value) if flag.many else value for flag, value in values.items() if value != flag.default
    }
