"""The console command: `bo-distill run fsp --bo` is `python -m search.run fsp --bo`, and so for every command.

bo-distill completion bash >> ~/.bash_completion     # also zsh and tcsh; needs shtab
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from bo_distill.search.command.shell import INTERRUPTED, OK, PROGRAM, USAGE
from bo_distill.search.command.terminal import outlive_reader

COMMANDS = {
    "run": "search a method's hyperparameters, retrain the winner, score it on test once",
    "compare": "compare searchers at equal budget",
    "report": "write a study's page again",
    "leaderboard": "show, list, export, compare and query what the studies found",
    "predict": "use a study's winner on images or sentences, or export it",
    "data": "say what is in a data set",
    "replay": "try searchers on recorded or made-up surfaces, without training",
    "storage": "show what a storage holds, and clean it of what nobody needs",
    "reproduce": "make the papers' tables again",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the words to the command that the first one names; returns its exit code."""
    outlive_reader()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return OK if words else USAGE
    if words[0] == "completion":
        return print_completion(words[1:])
    if words[0] not in COMMANDS:
        print(f"error: {words[0]}: no such command; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return USAGE
    code: int = importlib.import_module(f"bo_distill.search.{words[0]}").main(words[1:])
    return code


def usage() -> str:
    """What --help says: a line for each command."""
    known = {**COMMANDS, "completion": "print what makes bash, zsh or tcsh complete all this"}
    width = max(map(len, known))
    lines = "".join(f"  {name:<{width}}  {what}\n" for name, what in known.items())
    return f"usage: {PROGRAM} COMMAND ...\n\n{lines}\n{PROGRAM} COMMAND --help says what a command takes."


def print_completion(words: Sequence[str]) -> int:
    """Print what makes a shell complete commands and options; returns the exit code."""
    shells = ("bash", "zsh", "tcsh")
    if len(words) != 1 or words[0] not in shells:
        print(f"error: completion {' '.join(words)}: give one of {', '.join(shells)}", file=sys.stderr)
        return USAGE
    try:
        import shtab
    except ModuleNotFoundError:
        print("error: completion: shtab is missing; pip install -e '.[completion]'", file=sys.stderr)
        return USAGE
    whole = argparse.ArgumentParser(prog=PROGRAM)
    commands = whole.add_subparsers()
    for name, what in COMMANDS.items():
        parser = importlib.import_module(f"bo_distill.search.{name}").parser()
        commands.add_parser(name, parents=[parser], add_help=False, help=what)
    print(shtab.complete(whole, words[0]))
    return OK


def console() -> None:
    """What the installed command calls."""
    code = main()
    sys.stdout.flush()
    # After an interruption Ray's threads may still wait; there is nothing left to keep.
    os._exit(code) if code == INTERRUPTED else sys.exit(code)
