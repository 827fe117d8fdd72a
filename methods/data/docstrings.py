"""`docstrings`: sentences from the documentation strings of installed packages, with two labels each.

Two tasks on one sentence, as in the internal-classifier paper: `package` (many classes, very unequal) and `kind` (is
it a module, a class, a function, a method or a property that is described). Sources are parsed, nothing is imported.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from bo_distill.methods.data.cache import directory
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.data.source import Source
from bo_distill.methods.data.texts.sentences import sentences
from bo_distill.methods.errors import UsageError

if TYPE_CHECKING:
    import pyarrow

PACKAGES = (
    "torch",
    "ray",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "networkx",
    "numpy",
    "fonttools",
    "duckdb",
    "torchvision",
    "jinja2",
    "rich",
    "pillow",
    "fsspec",
    "pyarrow",
    "joblib",
    "fvcore",
    "bayesian-optimization",
    "threadpoolctl",
    "contourpy",
)
"""Distributions that this project needs, or that those need."""

TASKS = ("package", "kind")


def read(spec: DataSpec) -> Source:
    """Sentences of 12 to 132 characters, each once; 80/10/10, stratified by the first label.

    The rows depend on the installed versions of PACKAGES, and so does the fingerprint. The first call of a machine
    reads every source file; its result is kept in the cache directory.

    Raises:
        UsageError: a label column other than `package` and `kind`.
    """
    tasks = TASKS if spec.label_columns == ("label",) else spec.label_columns
    for task in tasks:
        if task not in TASKS:
            raise UsageError(f"{spec.name}: no label column {task}; give {' or '.join(TASKS)}")
    table = _table()
    return sentences(spec, tasks, table["text"].to_pylist(), [table[task].to_pylist() for task in tasks])


def _table() -> pyarrow.Table:
    """Columns text, package, kind: from the cache, or scanned and put there."""
    import pyarrow
    from pyarrow import parquet

    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
    versions = {name: package.version for name, package in found.items()}
    key = hashlib.sha256(json.dumps(versions).encode() + Path(__file__).read_bytes()).hexdigest()[:16]
    path = directory() / f"docstrings-{key}.parquet"
    try:
        return parquet.read_table(path)
    except (OSError, pyarrow.ArrowException):  # not there yet, or cut short
        pass
    scanned = [list(_scan(name, package)) for name, package in found.items()]
    rows = [row for package in scanned for row in package if len(package) >= 20]  # fewer cannot be divided in three
    table = pyarrow.table(dict(zip(("text", *TASKS), zip(*rows, strict=True), strict=True)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as aside:
            parquet.write_table(table, aside)
        os.replace(aside.name, path)
    except OSError:  # a home that cannot be written to costs time, nothing else
        pass
    return table


def _scan(name: str, package: metadata.Distribution) -> Iterator[tuple[str, str, str]]:
    """(sentence, package, kind) of every docstring's first paragraph, in the order of file and line."""
    files = sorted(file for file in package.files or () if file.suffix == ".py" and not _is_test(file.parts))
    gc_was_on = gc.isenabled()
    gc.disable()  # a syntax tree is a million small objects without cycles
    try:
        for file in files:
            try:
                tree = ast.parse(Path(str(package.locate_file(file))).read_bytes())
            except (OSError, SyntaxError, ValueError):  # templates, other versions' syntax
                continue
            for kind, docstring in _docstrings(tree, "module"):
                for sentence in _sentences(docstring):
                    yield sentence, name, kind
    finally:
        if gc_was_on:
            gc.enable()


def _is_test(parts: tuple[str, ...]) -> bool:
    return any(part in ("test", "tests", "testing") or part.startswith("test_") for part in parts)


def _docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, kind: str
) -> Iterator[tuple[str, str]]:
    """(kind, docstring) of a module or class and of what it defines, in order."""
    docstring = ast.get_docstring(node)
    if docstring:
        yield kind, docstring
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _docstrings(child, "class")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in child.decorator_list}
            inside = "property" if decorators & {"property", "cached_property"} else "method"
            yield from _docstrings(child, inside if isinstance(node, ast.ClassDef) else "function")


def _sentences(docstring: str) -> Iterator[str]:
    """The whole sentences of the first paragraph."""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    for sentence in re.split(r"(?<=[.!?]) (?=[A-Z`'\"])", paragraph):
        if 12 <= len(sentence) <= 132 and sentence[-1] in ".!?" and sentence.count(" ") >= 2:
            yield sentence
