"""Published classification methods, each in a folder of its own. To add one, add its line to `METHODS`.

A method that lives elsewhere goes by "package.module:NAME", once `methods.outside.trust` was told of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bo_distill.methods.errors import UsageError
from bo_distill.methods.outside import resolve

if TYPE_CHECKING:
    from bo_distill.methods.method import Method

# Word on the command line -> module that holds its METHOD. Names, not objects: a command's --help imports no torch.
METHODS = {
    "fsp": "bo_distill.methods.fsp.method",
    "max_entropy": "bo_distill.methods.max_entropy.method",
    "label_embedding": "bo_distill.methods.label_embedding.method",
    "center_loss": "bo_distill.methods.center_loss.method",
    "res_ic": "bo_distill.methods.res_ic.method",
}


def get(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: there is none, or it lies outside and is not trusted.
    """
    if name in METHODS:
        method: Method = importlib.import_module(METHODS[name]).METHOD
        return method
    if ":" not in name:
        raise UsageError(f"{name}: no such method; there are {', '.join(METHODS)}")
    found = resolve(name)
    if type(found).__name__ != "Method":
        raise UsageError(f"{name}: this is no method; give package.module:NAME of a methods.method.Method")
    outside: Method = found
    return outside
