"""What every command shares: exit codes, one-line errors, signals."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bo_distill.distributed.storage import DEFAULT
from bo_distill.methods.errors import UsageError
from bo_distill.methods.outside import trust
from bo_distill.search.command.interruption import Interruption
from bo_distill.search.command.terminal import outlive_reader
from bo_distill.search.rows.export import printable

OK, FAILED, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes. SOME_FAILED: it finished, but something in it failed: a trial, a method, a training, an input."""


PROGRAM = "bo-distill"  # the console command, which has every other as its first word


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line.

    Attributes:
        said: what the command line itself gives, without any file.
        more: where to read on, in what is said of a wrong word.
    """

    said: argparse.Namespace
    more = "see --help"

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.groups: dict[str, argparse._ArgumentGroup] = {}
        if Path(sys.argv[0]).name == PROGRAM:
            self.prog = self.prog.replace("python -m search.", f"{PROGRAM} ")

    def group(self, title: str) -> argparse._ArgumentGroup:
        """The options under a heading of --help, which is made when it is first asked for."""
        if title not in self.groups:
            self.groups[title] = self.add_argument_group(title)
        return self.groups[title]

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The command line; options may stand between positional words, but where a command has verbs."""
        self.said = self.parse_args(argv) if self._subparsers else self.parse_intermixed_args(argv)
        return self.said

    def error(self, message: str) -> Any:
        """Raise what is wrong, in one line."""
        raise UsageError(f"{message}; {self.more}")


def carry_out(parser: Parser, act: Callable[[argparse.Namespace], int], argv: Sequence[str] | None) -> int:
    """Parse the command line and carry it out; returns the exit code. Bad usage is one line on stderr."""
    outlive_reader()
    interruption = Interruption()
    with interruption.heeded(INTERRUPTED):
        try:
            args = parser.parse(argv)
            for word in _own_words(parser.said):
                trust(word)
            return act(args)
        except UsageError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return USAGE
        except KeyboardInterrupt:
            interruption.say()
        except (Exception, SystemExit):
            if not interruption.asked:  # else a Ray or a terminal that was ended by the same signal
                raise
            interruption.say()
        return INTERRUPTED


def _own_words(args: argparse.Namespace) -> Iterator[str]:
    """Modules from outside that the person names on this very command line."""
    yield from getattr(args, "trust", ())
    for option in ("method", "searcher", "searchers"):
        yield from (word for word in (getattr(args, option, None) or "").split(",") if ":" in word)


def storage_option(p: argparse._ActionsContainer, default: str = DEFAULT) -> None:
    """What every command takes that reads or writes a storage."""
    told = f"folder, or s3://bucket/prefix (default {DEFAULT})"
    p.add_argument("--storage", default=default, metavar="DIR", help=told)


def trust_option(p: argparse.ArgumentParser) -> None:
    """What every command takes that reads the word of a method from a file."""
    p.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="let a method or searcher from outside this project, which a file names, run its code",
    )


def positive(name: str, value: int | None, least: int = 1) -> None:
    """UsageError unless the option, where given, is at least `least`."""
    if value is not None and value < least:
        raise UsageError(f"{name} {value}: give at least {least}")
