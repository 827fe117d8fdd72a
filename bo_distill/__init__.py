"""Distributed hyperparameter search and training for five published classification methods.

    import bo_distill
    study = bo_distill.run("fsp", data=(images, labels), searcher="bo", trials=12)

In a checkout its packages lie beside this folder: `methods` are the papers, `distributed` trains, `search` chooses
configurations and keeps what came of them. Installed they lie inside it, so that they meet no other project's names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bo_distill.methods.errors import UsageError
    from bo_distill.search.api.calls import open, run
    from bo_distill.search.api.view import Report, Result, Score, StudyView
    from bo_distill.search.command.fields import fields

__all__ = ["Report", "Result", "Score", "StudyView", "UsageError", "fields", "open", "run"]

_PLACES = {
    "run": "search.api.calls",
    "open": "search.api.calls",
    "fields": "search.command.fields",
    "StudyView": "search.api.view",
    "Result": "search.api.view",
    "Score": "search.api.view",
    "Report": "search.api.view",
    "UsageError": "methods.errors",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: workers and commands import this package all the time."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
