"""A data option is one field: everything else follows from it."""

from __future__ import annotations

from pathlib import Path

from helpers.copy import copy_to, insert, run_in

FIELD = '    folds: int = option("parts of the data that take turns", 5, metavar="N", least=2)\n'

LOOK = """
import dataclasses, json
import pytest
from bo_distill.methods.data_spec import DataSpec
from bo_distill.methods.errors import UsageError
from bo_distill.methods.records import decoded
from bo_distill.search.command.config import command
from bo_distill.search.command.asking import make_plan, resumed
from bo_distill.search.run import parser
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Plan

words = " ".join(parser().format_help().split())
assert "--folds N parts of the data that take turns (default 5)" in words, words

def asked(*more):
    return parser().parse_args(["fsp", "--data", "digits", *more])

plan = make_plan(asked("--folds", "7"))
assert plan.task.data.folds == 7 and make_plan(asked()).task.data.folds == 5
with pytest.raises(UsageError, match="--folds 1: give at least 2"):
    make_plan(asked("--folds", "1"))
kept = json.loads(json.dumps(dataclasses.asdict(plan)))
assert decoded(Plan, kept) == plan
assert "--folds 7" in command(plan) and "--folds" not in command(make_plan(asked()))
study = Study(None, plan)
assert resumed(parser().parse_args(["--resume", "s", "--folds", "7"]), study).task.data.folds == 7
with pytest.raises(UsageError, match="--folds 6: the study has 7.*leave it out"):
    resumed(parser().parse_args(["--resume", "s", "--folds", "6"]), study)
"""


def test_a_data_option_is_one_field(tmp_path: Path) -> None:
    copy_to(tmp_path)
    insert(tmp_path / "methods" / "data_spec.py", "    max_length: int = option(", FIELD)
    run_in(tmp_path, "-c", LOOK)


def test_a_data_option_that_was_added_later_has_its_default_in_an_older_study() -> None:
    from bo_distill.methods.data_spec import DataSpec
    from bo_distill.methods.records import decoded

    assert decoded(DataSpec, {"name": "digits"}) == DataSpec("digits")


def test_a_list_of_numbers_can_be_fixed_but_not_searched() -> None:
    import pytest

    from bo_distill.methods import get
    from bo_distill.methods.errors import UsageError

    assert get("fsp").check({"teacher.milestones": "1,2"}) == {"teacher.milestones": (1.0, 2.0)}
    with pytest.raises(UsageError, match="cannot be searched"):
        get("fsp").space(["teacher.milestones"])


def test_what_is_known_of_data_is_a_key_of_what_is_counted_once() -> None:
    from bo_distill.methods.data import DataSpec, load

    assert hash(load(DataSpec("digits")).info) == hash(load(DataSpec("digits")).info)
