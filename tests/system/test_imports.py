"""Rules of import that no list of names has to follow."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from helpers.running import ROOT

METHODS = ROOT / "methods"


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def strangers(methods: Path) -> list[str]:
    """Files under methods/ that import a method other than the one whose folder they lie in."""
    folders = {paper.parent.name for paper in methods.glob("*/paper.py")}
    return [
        f"{file.relative_to(methods)} imports {name}"
        for file in sorted(methods.rglob("*.py"))
        for name in imported(file)
        for folder in folders - {file.relative_to(methods).parts[0]}
        if f"{name}.".startswith(f"bo_distill.methods.{folder}.")
    ]


def test_methods_know_nothing_of_one_another() -> None:
    assert strangers(METHODS) == []


def test_a_method_that_borrows_from_another_is_found(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "paper.py").write_text("")
    (tmp_path / "one" / "nets.py").write_text(
        "from bo_distill.methods.nets import cifar\nfrom bo_distill.methods.one import paper\n"
    )
    (tmp_path / "two" / "nets.py").write_text("def f():\n    from bo_distill.methods import one\n")
    (tmp_path / "shared.py").write_text("import bo_distill.methods.two.paper\n")
    assert strangers(tmp_path) == [
        "shared.py imports bo_distill.methods.two.paper",
        "two/nets.py imports bo_distill.methods.one",
    ]


def test_what_ray_does_not_call_public_is_used_in_one_module() -> None:
    private = re.compile(r"\bray\._|\bray\.core\b|\bfrom ray import _|_raylet\b")
    files = [file for room in ("methods", "distributed", "search") for file in sorted((ROOT / room).rglob("*.py"))]
    assert [file.name for file in files if private.search(file.read_text(encoding="utf-8"))] == ["private.py"]
