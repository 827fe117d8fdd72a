"""A method's hyperparameters as a table or as JSON: what `--set`, `--search` and `--range` may name."""

from __future__ import annotations

import argparse
from typing import Any

from bo_distill.methods.errors import UsageError
from bo_distill.methods.space import Choice, Domain, Field, Integer, Numbers
from bo_distill.search.command.shell import OK
from bo_distill.search.command.terminal import print_table
from bo_distill.search.evidence.words import short
from bo_distill.search.rows.export import json_text


def list_fields(args: argparse.Namespace) -> int:
    """Print the fields of the method that a command names, with the defaults of its recipe; returns the exit code.

    Raises:
        UsageError: it names no method, or an unknown recipe.
    """
    from bo_distill.methods import METHODS

    if args.method is None:
        raise UsageError(f"--fields: which method? give one of {', '.join(METHODS)}")
    found = fields(args.method, args.recipe or "quick")
    if args.json:
        print(json_text(found))
        return OK
    print_table(
        ("field", "type", "default", "range", "limits", "searched", "meaning"),
        [
            (
                one["field"],
                one["type"],
                short(one["default"]),
                one["range"],
                one["limits"] if one["limits"] != one["range"] else "",
                "yes" if one["searched"] else "",
                one["help"],
            )
            for one in found
        ],
    )
    print("--set and --range may reach as far as the limits; where none are given, as far as the range.")
    return OK


def fields(method: str, recipe: str = "quick") -> list[dict[str, Any]]:
    """What can be set and searched of a method: a record for each hyperparameter.

    Args:
        method: its word, such as "fsp".
        recipe: whose defaults are given.

    Returns:
        "field" ("stage.field"), "type", "default", "range" (as `range` takes it), "limits" (how far a range of your own
        may reach), "searched" (whether it is searched unless told otherwise) and "help".

    Raises:
        UsageError: no such method or recipe.
    """
    from bo_distill.methods import get
    from bo_distill.methods.method import flatten

    found = get(method)
    defaults = flatten(found.configure(recipe))
    return [_record(name, field, defaults[name]) for name, field in found.fields().items()]


def _record(name: str, field: Field, default: Any) -> dict[str, Any]:
    return {
        "field": name,
        "type": _kind(field.domain),
        "default": default,
        "range": _ends(field.domain),
        "limits": _ends(field.limits),
        "searched": field.searched,
        "help": field.help,
    }


def _kind(domain: Domain) -> str:
    match domain:
        case Choice(options):
            return "flag" if set(options) == {True, False} and isinstance(options[0], bool) else "choice"
        case Numbers():
            return "numbers"
    return "whole number" if isinstance(domain, Integer) else "number"


def _ends(domain: Domain) -> str:
    """A domain as --range takes it."""
    if isinstance(domain, Choice):
        return ",".join(map(str, domain.options))
    return f"{domain.low:g}:{domain.high:g}" + (":log" if not isinstance(domain, Numbers) and domain.log else "")
