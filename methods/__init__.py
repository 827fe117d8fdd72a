"""Published classification methods, each in a folder of its own. To add one, add its line to `METHODS`.

A method that lives elsewhere goes by "package.module:NAME".
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from methods.errors import UsageError

if TYPE_CHECKING:
    from methods.method import Method

# Word on the command line -> module that holds its METHOD. Names, not objects: a command's --help imports no torch.
METHODS = {
    "fsp": "methods.fsp.method",
    "max_entropy": "methods.max_entropy.method",
    "label_embedding": "methods.label_embedding.method",
    "center_loss": "methods.center_loss.method",
    "res_ic": "methods.res_ic.method",
}


def get(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: there is none.
    """
    module, _, variable = METHODS.get(name, name).partition(":")
    if name not in METHODS and not variable:
        raise UsageError(f"{name}: no such method; there are {', '.join(METHODS)}")
    try:
        method: Method = getattr(importlib.import_module(module), variable or "METHOD")
    except (ModuleNotFoundError, AttributeError) as error:
        if name in METHODS:
            raise
        raise UsageError(f"{name}: {error}; give package.module:NAME") from None
    return method
