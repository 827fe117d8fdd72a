"""Stage results by content: what was computed once is found again, by any trial, study or machine.

The key of a result is a hash of everything that it follows from: the stage, its configuration, the keys of the
stages before it, the data's fingerprint, the seed, the kind of device, the precision, torch's major and minor version
and the code that the stage runs; and the number of ranks where each normalises by its own rows. Versions of other
libraries are no part of it, nor what a method reads besides. A result is one file, written by `torch.save` and read
with `weights_only=True`: it is there whole or not at all, and no code comes out of it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import json
import logging
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from bo_distill.distributed.locks import Lock, LockLost, locked
from bo_distill.distributed.storage import Storage
from bo_distill.methods.method import State

log = logging.getLogger(__name__)

PACKAGES = ("bo_distill.methods", "bo_distill.distributed")
# What training runs through whatever the method. The rest follows from a stage's own imports.
ALWAYS = (
    "bo_distill.distributed.loop",
    "bo_distill.distributed.worker",
    "bo_distill.distributed.norm",
    "bo_distill.methods.data.augment",
)
# Drawing, and the records and ranges that every method is declared with: training computes nothing with these.
LEFT_OUT = (
    "bo_distill.methods.method",
    "bo_distill.methods.space",
    "bo_distill.methods.errors",
    "bo_distill.methods.published",
)
DRAWING = ("figures", "pictures")
# A configuration's field: its default, range and help. Its value stands in the key itself.
DECLARATIONS = ("real", "integer", "choice", "numbers")


@cache
def code_digest(module: str) -> str:
    """Hash of a module's code and of all code of its own that it imports, as `Code` leaves it.

    Followed are imports from this project, from the module's own package, and from modules that lie beside that package
    (unless it is installed among everybody else's). Imports for annotations alone are not.
    """
    seen: dict[str, str] = {}
    waiting = [module, *ALWAYS]
    while waiting:
        name = waiting.pop()
        drawing = name.startswith(PACKAGES) and name.rpartition(".")[2] in DRAWING  # a person's own may compute
        if name in seen or name in LEFT_OUT or drawing:
            continue
        source = _source(name)
        if source is None:
            continue
        tree = Code().visit(ast.parse(source))
        seen[name] = ast.dump(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names if _own(alias.name, module)]
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                base = importlib.util.resolve_name(base, _package(name)) if node.level else base
                if _own(base, module):
                    waiting += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return hashlib.sha256(json.dumps(sorted(seen.items())).encode()).hexdigest()


class Code(ast.NodeTransformer):
    """Leaves of a module what it computes: no docstrings, annotations, imports for annotations, declared ranges.

    Comments and layout are gone before, in parsing.
    """

    def visit_Expr(self, node: ast.Expr) -> Any:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else self.generic_visit(node)

    def visit_FunctionDef(self, node: Any) -> Any:
        node.returns = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        node.annotation = ast.Constant(None)  # the name stays: it may be a dataclass's field
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(call := field.value, ast.Call):
                declared = isinstance(call.func, ast.Name) and call.func.id in DECLARATIONS
                field.value = None if declared else call
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        typing = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if typing and not node.orelse else self.generic_visit(node)


def _own(name: str, module: str) -> bool:
    """Whether code of this name belongs to what `module` runs: the project's, its own package's, or beside that."""
    top, home = name.partition(".")[0], module.partition(".")[0]
    if top == "bo_distill":
        return name.startswith(PACKAGES)
    if top == home:
        return True
    folder = _folder(home)
    return folder is not None and folder not in _installed() and _folder(top) == folder


@cache
def _folder(top: str) -> Path | None:
    """Where a top-level module or package lies; None for what is built in or missing."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    file = Path(spec.origin).resolve()
    return file.parent.parent if spec.submodule_search_locations else file.parent


@cache
def _installed() -> frozenset[Path]:
    """The folders of the standard library and of installed packages."""
    return frozenset(
        Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")
    )


def _package(name: str) -> str:
    """The package that a module's relative imports start from."""
    spec = importlib.util.find_spec(name)
    assert spec
    return name if spec.submodule_search_locations else name.rpartition(".")[0]


def _source(name: str) -> str | None:
    """Source of a module by its name, or None where there is no such module. Imports no more than its parents."""
    try:
        spec = sys.modules[name].__spec__ if name == "__main__" else importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):  # `from methods.cost import count` also names methods.cost.count
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
    device: str,
    precision: str,
    ranks: int,
) -> str:
    """The name of a stage's result, 20 hex digits; equal exactly where the arguments, the code of `module` and torch's
    minor version are.

    Args:
        stage: "method.stage".
        module: that runs it, whose code counts.
        config: of the stage, as plain JSON.
        upstream: keys of the stages that it needs.
        data: the fingerprint.
        ranks: that share a batch. These change rounding only, and count where `config` has `norm` "local".
    """
    parts = {
        "stage": stage,
        "code": code_digest(module),
        "config": dict(config),
        "upstream": dict(upstream),
        "data": data,
        "seed": seed,
        "device": device,
        "precision": precision,
        "torch": torch.__version__.split(".")[:2],
    }
    if ranks > 1 and config.get("norm") == "local":
        parts["ranks"] = ranks
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


SEAL = b"sha256 "


def sealed(content: bytes) -> bytes:
    """`content` with its digest before it: a line of text that `unsealed` checks."""
    return b"%b%b\n%b" % (SEAL, hashlib.sha256(content).hexdigest().encode(), content)


def unsealed(content: bytes) -> bytes:
    """What `sealed` was given.

    Raises:
        ValueError: this is something else by now.
    """
    line, _, inner = content.partition(b"\n")
    if line != SEAL + hashlib.sha256(inner).hexdigest().encode():
        raise ValueError("its content is not what was written")
    return inner


def digest(state: State) -> str:
    """Which result this is: the same where all its tensors are, to the bit."""
    seen = hashlib.sha256()
    for name, tensor in sorted(state.tensors.items()):
        seen.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        seen.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()[:16]


def encode(state: State) -> bytes:
    """A state as one file: its digest, its tensors, and all else as JSON."""
    words = {"spec": dict(state.spec), "metrics": dict(state.metrics), "history": [dict(r) for r in state.history]}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.tensors.items()}
    file = io.BytesIO()
    torch.save({"tensors": tensors, "state": json.dumps(words)}, file)
    return sealed(file.getvalue())


def decode(content: bytes) -> State:
    """The state in a file's content.

    Raises:
        ValueError: the bytes are not a whole state.
    """
    try:
        kept = torch.load(io.BytesIO(unsealed(content)), weights_only=True)
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
        self.storage.delete_folder(self._progress(stage, key))

    def checkpoints(self, stage: str, key: str, lock: Lock) -> StageCheckpoints:
        """Where a stage that is not finished keeps its checkpoints, as long as this process holds its lock."""
        return StageCheckpoints(self.storage, self._progress(stage, key), lock)

    def _progress(self, stage: str, key: str) -> str:
        return f"stages/{stage}-{key}.progress"

    def lock(self, stage: str, key: str) -> AbstractContextManager[Lock]:
        """One process computes, others wait for it."""
        return locked(self.storage, f"stages/.{stage}-{key}.lock", wait=True, what=f"stage {stage}")


class StageCheckpoints:
    """The checkpoints of one stage under way (`distributed.worker.Checkpoints`)."""

    def __init__(self, storage: Storage, folder: str, lock: Lock) -> None:
        self.storage, self.folder, self.lock = storage, folder, lock

    def load(self, name: str) -> bytes | None:
        file = f"{self.folder}/{name}.pt"
        if not self.storage.exists(file):
            return None
        try:
            return unsealed(self.storage.read_bytes(file))
        except ValueError as error:
            log.warning("checkpoint %s is set aside (%s): training starts over", file, error)
            self.storage.delete(file)
            return None

    def save(self, name: str, content: bytes) -> None:
        with suppress(LockLost):  # the checkpoints are another process's now
            self.lock.check()
            self.storage.write_bytes(f"{self.folder}/{name}.pt", sealed(content))
