"""A machine that has torch, torchvision, numpy, scikit-learn, scipy and pyarrow, and what those bring, and no more."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from pyarrow import parquet
from test_conformance import TINY_SETTINGS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
Made = tuple[Path, str, str]  # the pages; what was said, and what on a machine that has one package more
GIVEN = ("torch", "torchvision", "numpy", "scikit-learn", "scipy", "pyarrow")
REPRODUCE = """
import importlib, importlib.util, json, sys
from bo_distill.methods import get
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.published import Cell, PaperTable, Scale
from bo_distill.search import reproduce

if __name__ == "__main__":
    for name in ("ray", "fvcore", "duckdb", "matplotlib", "safetensors", "rich"):
        assert importlib.util.find_spec(name) is None, name
    folder, text, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    for name in settings:
        published = importlib.import_module(get(name).published)
        cells = (Cell("alone"),)
        if name == "fsp":
            cells += (Cell("grid", searcher="grid"), Cell("bo", searcher="bo"))
        data = DataSpec("digits" if get(name).kind == "image" else f"text:{text}", train_size=96)
        scale = Scale("quick", {"main": data}, settings[name], seeds=1, trials=2, shown=("alone",))
        published.SCALES = {"small": scale}
        published.tables = lambda scale: (PaperTable("Table 1", cells),)
        code = reproduce.main([name, "--storage", f"{folder}/storage", "--out", f"{folder}/out", "--processes", "1"])
        assert code == 0, name
"""


def site(folder: Path, *given: str) -> Path:
    """A folder of packages: those given and, link by link, all that they require."""
    folder.mkdir()
    seen: set[str] = set()
    waiting = list(given)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(str(distribution.locate_file(top)))
        required = map(Requirement, distribution.requires or ())
        waiting += [r.name for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("lean")
    (folder / "run.py").write_text(REPRODUCE)
    lines = [f"{'abcd'[i % 4]} sentence, number {i * i}\t{'wxyz'[i % 4]}" for i in range(240)]
    (folder / "few.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        name: {n: 1 if n.endswith(".epochs") else v for n, v in own.items()} for name, own in TINY_SETTINGS.items()
    }
    settings["center_loss"]["joint.begin"] = 0
    settings["max_entropy"]["augmenter.guard"] = "discriminator"
    lean, more = site(folder / "lean", *GIVEN), site(folder / "more", *GIVEN, "bayesian-optimization")
    said = reproduce(folder, lean, settings)
    return folder / "out", said, reproduce(folder, more, {"fsp": settings["fsp"]})


def reproduce(folder: Path, packages: Path, settings: dict[str, Any]) -> str:
    """Run the command where there is nothing but these packages; returns what it said."""
    words = [sys.executable, "-S", "run.py", str(folder), str(folder / "few.tsv"), json.dumps(settings)]
    path = os.pathsep.join(map(str, (packages, ROOT)))
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("name", TINY_SETTINGS)
def test_every_method_is_reproduced(name: str, made: Made) -> None:
    out, _, _ = made
    rows = parquet.read_table(out / name / "rows.parquet").to_pylist()
    assert {row["status"] for row in rows} == {"done"} and {row["method"] for row in rows} == {name}
    (alone,) = [row for row in rows if row["control"] == "alone"]
    assert 0 <= alone["test_accuracy"] <= 1 and alone["macs_forward"] > 0 and alone["macs_train"] > 0
    page = (out / name / "small.md").read_text(encoding="utf-8")
    assert f"| alone | – | {100 * alone['test_accuracy']:.2f} |" in page
    assert list((out / name).glob("*.png")) == []


def test_what_is_left_out_is_said_and_added_where_it_can_be(made: Made) -> None:
    out, lean, more = made
    assert "reproduce-fsp-small-bo is left out: bayesian-optimization not installed here" in lean
    assert lean.count("no figures: matplotlib is not installed here") == len(TINY_SETTINGS)
    assert "left out" not in more and "alone" not in more and "grid" not in more, "nothing is trained again"
    rows = parquet.read_table(out / "fsp" / "rows.parquet").to_pylist()
    assert {row["searcher"] for row in rows} == {"none", "grid", "bo"}
    assert [row["phase"] for row in rows if row["searcher"] == "bo"] == ["final", "search", "search"]
