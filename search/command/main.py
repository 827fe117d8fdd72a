"""The console command: `bo-distill run fsp --bo` is `python -m search.run fsp --bo`, and so for every command."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from search.command.shell import INTERRUPTED, OK, PROGRAM, USAGE

COMMANDS = {
    "run": "search a method's hyperparameters, retrain the winner, score it on test once",
    "compare": "compare searchers at equal budget",
    "report": "write a study's page again",
    "leaderboard": "show, list, export, compare and query what the studies found",
    "predict": "use a study's winner on images or sentences, or export it",
    "data": "say what is in a data set",
    "replay": "try searchers on recorded or made-up surfaces, without training",
    "reproduce": "make the papers' tables again",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the words to the command that the first one names; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return OK if words else USAGE
    if words[0] not in COMMANDS:
        print(f"error: {words[0]}: no such command; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return USAGE
    code: int = importlib.import_module(f"search.{words[0]}").main(words[1:])
    return code


def usage() -> str:
    """What --help says: a line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [f"usage: {PROGRAM} COMMAND ...", "", *lines, "", f"{PROGRAM} COMMAND --help says what a command takes."]
    )


def console() -> None:
    """What the installed command calls."""
    code = main()
    sys.stdout.flush()
    # After an interruption Ray's threads may still wait; there is nothing left to keep.
    os._exit(code) if code == INTERRUPTED else sys.exit(code)
