"""Code from outside this project, by a word such as package.module:NAME. Only a person's own word runs it.

Words also stand in files: a study's plan, a model's card, a row. Whoever wrote the file is not who runs the command, so
a module is imported only after `trust` has named it: a command does so for what its own command line says.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from bo_distill.methods.errors import UsageError

_trusted: set[str] = set()


def trust(word: str) -> None:
    """Let `resolve` import a module.

    Args:
        word: package.module, or package.module:NAME.
    """
    _trusted.add(word.partition(":")[0])


def resolve(word: str) -> Any:
    """What package.module:NAME names.

    Raises:
        UsageError: nobody said on the command line that the module may run, or there is no such thing.
    """
    module, _, name = word.partition(":")
    if module not in _trusted:
        raise UsageError(f"{word}: code from outside this project; if you know it, let it run by --trust {module}")
    if os.getcwd() not in sys.path:  # `python -m` has it there; a console command and Ray's workers do not
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise UsageError(f"{word}: {error}; give package.module:NAME") from None
