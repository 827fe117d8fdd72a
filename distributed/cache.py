"""Stage results by content: what was computed once is found again, by any trial, study or machine.

The key of a result is a hash of everything that it follows from: the stage, its configuration, the keys of the
stages before it, the data's fingerprint, the seed, the precision and the code that the stage runs. A result is one
file, written by `torch.save` and read with `weights_only=True`: it is there whole or not at all, and no code comes
out of it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import json
import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache
from pickle import UnpicklingError
from typing import Any

import torch

from distributed.locks import Lock, locked
from distributed.storage import Storage
from methods.method import State

log = logging.getLogger(__name__)

PACKAGES = ("methods", "distributed")
# What training runs through whatever the method. The rest follows from a stage's own imports.
ALWAYS = ("distributed.loop", "distributed.worker", "distributed.norm", "methods.data.augment")
# These draw what was trained. To change a picture is no reason to train again.
DRAWING = ("figures", "pictures")


@cache
def code_digest(module: str) -> str:
    """Hash of a module's source and of all project modules that it imports, comments and layout left out.

    A method from outside the project brings its own package along.
    """
    packages = {*PACKAGES, module.partition(".")[0]}
    seen: dict[str, str] = {}
    waiting = [module, *ALWAYS]
    while waiting:
        name = waiting.pop()
        if name in seen or name.rsplit(".", 1)[-1] in DRAWING:
            continue
        source = _source(name)
        if source is None:
            continue
        tree = ast.parse(source)
        seen[name] = ast.dump(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names if alias.name.partition(".")[0] in packages]
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                base = importlib.util.resolve_name(base, _package(name)) if node.level else base
                if base.partition(".")[0] in packages:
                    waiting += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return hashlib.sha256(json.dumps(sorted(seen.items())).encode()).hexdigest()


def _package(name: str) -> str:
    """The package that a module's relative imports start from."""
    spec = importlib.util.find_spec(name)
    assert spec
    return name if spec.submodule_search_locations else name.rpartition(".")[0]


def _source(name: str) -> str | None:
    """Source of a module by its name, or None where there is no such module. Imports no more than its parents."""
    if name == "__main__" or ("." not in name and name not in PACKAGES):
        spec = getattr(sys.modules.get(name), "__spec__", None)
    else:
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # `from methods.cost import count` also names methods.cost.count
            return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    with open(spec.origin, encoding="utf-8") as file:
        return file.read()


def stage_key(
    stage: str,
    module: str,
    config: Mapping[str, Any],
    upstream: Mapping[str, str],
    data: str,
    seed: int,
    precision: str,
) -> str:
    """The name of a stage's result, 20 hex digits; equal exactly when everything that it follows from is."""
    parts = {
        "stage": stage,
        "code": code_digest(module),
        "config": dict(config),
        "upstream": dict(upstream),
        "data": data,
        "seed": seed,
        "precision": precision,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def encode(state: State) -> bytes:
    """A state as one file: its tensors, and all else as JSON."""
    words = {"spec": dict(state.spec), "metrics": dict(state.metrics), "history": [dict(r) for r in state.history]}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.tensors.items()}
    file = io.BytesIO()
    torch.save({"tensors": tensors, "state": json.dumps(words)}, file)
    return file.getvalue()


def decode(content: bytes) -> State:
    """The state in a file's content.

    Raises:
        ValueError: the bytes are not a whole state.
    """
    try:
        kept = torch.load(io.BytesIO(content), weights_only=True)
        words = json.loads(kept["state"])
        return State(kept["tensors"], words["spec"], words["metrics"], tuple(words["history"]))
    except (RuntimeError, UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a stage's state: {str(error).partition(chr(10))[0]}") from None


class StageCache:
    """Stage results in a storage, each under its key."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def name(self, stage: str, key: str) -> str:
        """Where a result lies in the storage."""
        return f"stages/{stage}-{key}.pt"

    def holds(self, stage: str, key: str) -> bool:
        return self.storage.exists(self.name(stage, key))

    def get(self, stage: str, key: str) -> bytes | None:
        """The encoded state, or None. A file that cannot be read is said, removed and made anew."""
        name = self.name(stage, key)
        if not self.holds(stage, key):
            return None
        content = self.storage.read_bytes(name)
        try:
            decode(content)
        except ValueError as error:
            log.warning("%s is set aside (%s): the stage is computed again", name, error)
            self.storage.delete(name)
            return None
        return content

    def put(self, stage: str, key: str, content: bytes) -> None:
        """Keep a result, and drop the progress that led to it."""
        self.storage.write_bytes(self.name(stage, key), content)
        for name in self.storage.list(self.progress(stage, key).folder):
            self.storage.delete(name)

    def progress(self, stage: str, key: str) -> Progress:
        """Where a stage that is not finished keeps its checkpoints."""
        return Progress(self.storage, f"stages/{stage}-{key}.progress")

    def lock(self, stage: str, key: str) -> AbstractContextManager[Lock]:
        """One process computes, others wait for it."""
        return locked(self.storage, f"stages/.{stage}-{key}.lock", wait=True)


class Progress:
    """The checkpoints of one stage under way (`distributed.worker.Checkpoints`)."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self.storage, self.folder = storage, folder

    def load(self, name: str) -> bytes | None:
        file = f"{self.folder}/{name}.pt"
        return self.storage.read_bytes(file) if self.storage.exists(file) else None

    def save(self, name: str, content: bytes) -> None:
        self.storage.write_bytes(f"{self.folder}/{name}.pt", content)
