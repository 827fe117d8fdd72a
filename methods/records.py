"""Plain JSON as dataclasses, checked: what is read back from a file is what was written, or is refused."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class Malformed(ValueError):
    """A value is not of the declared type. The message says where and what it is."""


def decoded(kind: type[T], value: Any, where: str = "") -> T:
    """A JSON value as `kind`: a dataclass, or what a dataclass's fields may be declared as.

    Lists become tuples where a tuple is declared, and whole numbers floats. A field that is missing has its default.

    Args:
        where: the value's place in the file, for messages.

    Raises:
        Malformed: a value of another type, a field that is missing or unknown.
    """
    result: T = _decoded(kind, value, where)
    return result


def _decoded(kind: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _one_of(inner, value, where)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    if origin is Literal:
        if not any(value == option and type(value) is type(option) for option in inner):
            raise _wrong(where, value, f"one of {', '.join(map(str, inner))}")
        return value
    container = origin or kind
    if container in (list, tuple):
        if not isinstance(value, list | tuple):
            raise _wrong(where, value, "a list")
        kinds = _kinds_of(inner, len(value)) if inner else [Any] * len(value)
        if len(kinds) != len(value):
            raise _wrong(where, value, f"a list of {len(kinds)}")
        items = (_decoded(one, item, f"{where}[{n}]") for n, (one, item) in enumerate(zip(kinds, value, strict=True)))
        return container(items)
    if container in (dict, Mapping) or typing.is_typeddict(container):
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "an object")
        of = inner[1] if inner else Any
        return {name: _decoded(of, item, f"{where}.{name}".lstrip(".")) for name, item in value.items()}
    return _scalar(kind, value, where)


def _kinds_of(inner: tuple[Any, ...], length: int) -> list[Any]:
    """The type of each item of list[X], tuple[X, ...] or tuple[X, Y]."""
    if len(inner) == 1 or inner[-1] is Ellipsis:
        return [inner[0]] * length
    return list(inner)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    problem: Malformed | None = None
    for kind in kinds:
        try:
            return _decoded(kind, value, where)
        except Malformed as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(where, value, "an object")
    hints, given = _hints(kind), {}
    known = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name, item in value.items():
        if name not in known:
            raise Malformed(f"{where or 'it'} has an unknown field {name}")
        given[name] = _decoded(hints[name], item, f"{where}.{name}".lstrip("."))
    for name, field in known.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in given:
            raise Malformed(f"{where or 'it'} has no {name}")
    return kind(**given)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind in (None, types.NoneType):
        if value is not None:
            raise _wrong(where, value, "null")
    elif kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(where, value, "a number")
        try:
            return float(value)
        except OverflowError:
            raise _wrong(where, value, "a number") from None
    elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong(where, value, {str: "text", int: "a whole number", bool: "true or false"}.get(kind, str(kind)))
    return value


def _wrong(where: str, value: Any, expected: str) -> Malformed:
    shown = repr(value)
    return Malformed(f"{where or 'it'} is {shown if len(shown) <= 40 else shown[:37] + '...'}, not {expected}")
