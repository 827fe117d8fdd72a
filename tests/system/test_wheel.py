"""The wheel as a stranger installs it: one name of its own, beside Dask, away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from helpers.copy import copy_to
from helpers.running import ROOT

pytestmark = pytest.mark.slow

WORKERS_IMPORT = """
import bo_distill, sys
assert "site" in bo_distill.__file__, bo_distill.__file__
seen = []
study = bo_distill.run("own_method:METHOD", searcher="random", trials=2, seeds=1, workers=2, storage="results",
                       callbacks=seen.append, quiet=True)
print(study.complete, len(seen), study.path)
"""

DASK = """
import distributed, bo_distill.distributed
from distributed import Client, LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        print(client.submit(sum, [1, 2, 3]).result(timeout=60))
    print(distributed.__file__, bo_distill.distributed.__file__, sep="\\n")
"""


def run(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([*map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    copy_to(source)  # building leaves files behind
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_a_wheel_has_one_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"bo_distill"} and len(tops) == 2
    assert {"bo_distill/py.typed", "bo_distill/search/pages/template/report.css"} <= set(names)
    assert not [name for name in names if "test" in name.split("/")[1]]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with the wheel and Dask; what else they need is the running environment's, its own checkout left out."""
    site = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel, cwd=site)
    constraints = ["-c", ROOT / "requirements.lock"]  # what both need stays as the rest of the environment knows it
    run(sys.executable, "-m", "pip", "install", "-q", *constraints, "--target", site, "dask", "distributed", cwd=site)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return site, {**env, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}


def test_dask_beside_it_is_whole(installed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    site, env = installed
    (tmp_path / "both.py").write_text(DASK)
    answer, theirs, ours = run(sys.executable, "both.py", cwd=tmp_path, env=env).split()
    assert answer == "6"
    assert Path(theirs) == site / "distributed" / "__init__.py"
    assert Path(ours) == site / "bo_distill" / "distributed" / "__init__.py"


def test_a_search_away_from_the_checkout(installed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    site, env = installed
    text = (ROOT / "examples" / "own_method.py").read_text()
    # The method sees to it by itself that what trains is the wheel's, in each of the workers too.
    (tmp_path / "own_method.py").write_text(
        text + f"\nimport bo_distill\n\nassert bo_distill.__file__.startswith({str(site)!r}), bo_distill.__file__\n"
    )
    words = ["own_method:METHOD", "--random", "--trials=2", "--seeds=1", "--json"]
    found: Any = json.loads(run(site / "bin" / "bo-distill", "run", *words, cwd=tmp_path, env=env))
    assert {trial["status"] for trial in found["trials"]} == {"done"} and found["test"]["n"] == 1
    assert Path(found["model"]).is_relative_to(tmp_path)
    (tmp_path / "call.py").write_text(WORKERS_IMPORT)
    assert run(sys.executable, "call.py", cwd=tmp_path, env=env).split()[:2] == [
        "True",
        "4",
    ]  # two trials, the winner again, its control
