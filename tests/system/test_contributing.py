"""What CONTRIBUTING says, done to a copy as it is written there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from helpers.copy import copy_to, insert, run_in
from helpers.running import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_files_that_it_names_are_there() -> None:
    named = {word for word in re.findall(r"`([\w./]+/[\w./]*)`", TEXT) if "NAME" not in word}
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_a_method_joins_by_its_folder_and_two_lines(tmp_path: Path) -> None:
    copy = copy_to(tmp_path)
    asked = set(re.findall(r"`(\w+\.\w+)`", TEXT.partition("A folder `methods/NAME/` with")[2].partition("2. ")[0]))
    source, mine = copy / "methods" / "center_loss", copy / "methods" / "mine"
    shutil.copytree(source, mine)
    assert asked - {"search.reproduce"} == {file.name for file in mine.iterdir()}
    for file in mine.glob("*.py"):
        file.write_text(file.read_text().replace("center_loss", "mine"))
    insert(
        copy / "methods" / "__init__.py",
        '    "fsp": "bo_distill.methods.fsp',
        '    "mine": "bo_distill.methods.mine.method",\n',
    )
    tiny = '    "mine": {"joint.epochs": 2, "joint.batch_size": 32, "joint.lr": 0.01, "joint.begin": 1},\n'
    insert(copy / "tests" / "helpers" / "tiny.py", '    "fsp": {\n', tiny)
    assert "mine" in run_in(copy, "-m", "search.run", "--help")
    chosen = "methods_know_nothing or (mine and (corners or valid_configuration or tiny_data_trains or logits))"
    found = run_in(
        copy, "-m", "pytest", "tests/system/test_imports.py", "tests/system/test_conformance.py", "-k", chosen
    )
    assert "....." in found, found


def test_a_searcher_joins_by_its_file_and_a_line(tmp_path: Path) -> None:
    copy = copy_to(tmp_path)
    (copy / "search" / "searchers" / "corner.py").write_text(
        "from bo_distill.search.searchers.base import IndexedSearch\n\n\n"
        "def make(word, space, seed, trials, first=()):\n"
        "    lowest = {name: domain.from_unit(0.0) for name, domain in space.items()}\n"
        "    return IndexedSearch(space, lambda number: dict(lowest))\n"
    )
    registry = copy / "search" / "searchers" / "registry.py"
    insert(registry, '        Entry("random", ', '        Entry("corner", "The lowest corner", "corner"),\n')
    look = """
from bo_distill.search.command.asking import make_plan
from bo_distill.search.run import parser
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.conductor import Conductor
from bo_distill.distributed.storage import Storage
plan = make_plan(parser().parse_args(["center_loss", "--searcher", "corner", "--data", "digits"]))
assert plan.searcher == "corner"
study = Study(Storage("kept"), plan)
trial = Conductor(study).ask()
assert trial.job.settings == {name: domain.from_unit(0.0) for name, domain in study.space.items()}, trial
"""
    run_in(copy, "-c", look)
