"""A search as a file: every option of `search.run` by its long name, in TOML. Each study keeps its own.

    method = "fsp"
    searcher = "bo"
    trials = 24
    no-controls = true
    data = "imagefolder:/data/cats"

    [set]
    "finetune.distill" = 0.5

    [range]
    "transfer.lr" = "1e-5:1:log"

Options of the command line win over those of the file; --set and --range add to the file's.
"""

from __future__ import annotations

import argparse
import difflib
import json
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bo_distill.methods.errors import UsageError
from bo_distill.search.command.data import data_options
from bo_distill.search.command.shell import Parser
from bo_distill.search.searchers.registry import entry_of
from bo_distill.search.study.metrics import ACCURACY

if TYPE_CHECKING:
    from bo_distill.search.study.records import Plan

ADDED = ("set", "range")  # to those of the file
ELSEWHERE = ("config", "trust", "help")  # what a file may not say: which file, whose code runs


class FileParser(Parser):
    """A parser that also takes its options from a file, by --config."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.add_argument("--config", metavar="FILE", help="options from a TOML file; those of the command line win")

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The options of the command line, laid over the file's.

        Raises:
            UsageError: the file cannot be read, or holds what is no option.
        """
        own = super().parse(argv)
        if own.config is None:
            return own
        filed = self.parse_intermixed_args(list(self._filed(own.config)))
        method = filed.method
        if own.controls:
            filed.no_controls = False
        if own.no_controls:
            filed.controls = None
        for word, action in self.options.items():
            if isinstance(action, argparse._AppendAction) and word not in ADDED and getattr(own, action.dest):
                setattr(filed, action.dest, action.default)  # else argparse would add to the file's list
        both = self.parse_intermixed_args(argv, filed)
        both.method = own.method or method
        return both

    def _filed(self, file: str) -> Iterator[str]:
        """The words of a command line that says what a file says."""
        given, known = read_toml(file), {"method", *self.options} - set(ELSEWHERE)
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else "see --help"
                raise UsageError(f"--config {file}: {name}: no option that a file may give; {hint}")
        return self.words_for(given)

    @property
    def options(self) -> dict[str, argparse.Action]:
        """Long names of the options, without dashes."""
        return {word[2:]: action for action in self._actions for word in action.option_strings if word[:2] == "--"}

    def words_for(self, given: Mapping[str, Any]) -> Iterator[str]:
        """The words of a command line that says the same as these: "method" or an option's long name -> its value."""
        options = self.options
        for name, value in given.items():
            if name == "method":
                yield str(value)
            elif isinstance(value, bool) and not value and f"no-{name}" not in options:
                continue
            else:
                many = isinstance(options[name], argparse._AppendAction)
                yield from words_of({name: value if many or not isinstance(value, list) else _text(value)})


def read_toml(file: str) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        UsageError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {file}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # TOML's and UTF-8's
        raise UsageError(f"--config {file}: this is no TOML: {error}") from None


def options_of(plan: Plan) -> dict[str, Any]:
    """What asks for the same search: long name of an option -> its value, "method" first."""
    task = plan.task
    budget = {
        "trials": plan.trials,
        "time": None if plan.seconds is None else f"{plan.seconds:.12g}s",
        "patience": plan.patience,
        "confirm": plan.confirm or None,
        "workers": task.workers if task.workers != 1 else None,
    }
    return {
        "method": task.method,
        "searcher": plan.searcher,
        **data_options(task.data),
        "recipe": task.recipe,
        "search": ",".join(plan.space),
        **({"metric": ",".join(plan.metrics)} if plan.metrics != (ACCURACY,) else {}),
        **{name: value for name, value in budget.items() if value is not None},
        **({"warm": ",".join(plan.warm)} if plan.warm and entry_of(plan.searcher).warms else {}),
        **({"asha": True} if plan.asha else {}),
        **({} if plan.controls else {"no-controls": True}),
        **({"tune-controls": True} if plan.tune_controls else {}),
        **({"controls": ",".join(plan.against)} if plan.against else {}),
        "seed": task.seed,
        "seeds": plan.seeds,
        "precision": task.precision,
        **({"set": dict(task.settings)} if task.settings else {}),
        **({"range": dict(plan.ranges)} if plan.ranges else {}),
    }


def words_of(options: Mapping[str, Any]) -> Iterator[str]:
    """Options as words of a command line: a list repeats its option, a table gives FIELD=VALUE for each entry."""
    for name, value in options.items():
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        elif isinstance(value, Mapping):
            yield from (f"--{name}={field}={_text(one)}" for field, one in value.items())
        else:
            yield from (f"--{name}={_text(one)}" for one in (value if isinstance(value, list) else [value]))


def command(plan: Plan) -> str:
    """The command that asks for the same search."""
    options = options_of(plan)
    method, searcher = options.pop("method"), entry_of(options.pop("searcher"))
    words = [one for word in words_of(options) for one in word.split("=", 1)]
    return shlex.join(["bo-distill", "run", method, *searcher.option, *words])


def toml_of(plan: Plan) -> str:
    """The file that asks for the same search."""
    options = options_of(plan)
    tables = {name: value for name, value in options.items() if isinstance(value, dict)}
    lines = [f"# The same search again: bo-distill run --config THIS_FILE{plan.trusting}"]
    lines += [f"{name} = {_toml(value)}" for name, value in options.items() if name not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{_toml(field)} = {_toml(value)}" for field, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Text, a number, a flag or a list of them, in TOML."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def _text(value: Any) -> str:
    """A value as a command line has it."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
