"""Hyperparameters by name: ends of names, a table of them, a person's own ranges."""

from __future__ import annotations

import json

import pytest

from bo_distill.methods import METHODS, get
from bo_distill.methods.errors import UsageError
from bo_distill.methods.space import Choice, Integer, Real, ranged
from bo_distill.search.command.asking import make_plan
from bo_distill.search.run import main, parser

FSP = get("fsp")


def test_the_end_of_a_name_names_a_field_where_only_one_ends_so() -> None:
    assert FSP.check({"distill": "0.5", "transfer.lr": 0.1}) == {"finetune.distill": 0.5, "transfer.lr": 0.1}
    assert list(FSP.space(["weight"])) == ["transfer.weight"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lr", "lr: several fields of fsp end so; give teacher.lr, transfer.lr or finetune.lr"),
        ("distil", "distil: fsp has no such field; did you mean distill?"),
        ("transfer.wieght", "transfer.wieght: fsp has no such field; did you mean transfer.weight?"),
        ("epochss", "epochss: fsp has no such field; --fields lists them"),  # not epochs, which several end in
        ("zzz", "zzz: fsp has no such field; --fields lists them"),
    ],
)
@pytest.mark.parametrize("option", ["--set", "--search", "--range"])
def test_another_name_is_one_line_with_candidates(
    word: str, said: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fsp", option, word if option == "--search" else f"{word}=0.1"]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["res_ic", "--search=policy.threshold"],
            "--search policy.threshold: changes nothing with policy.goal=controlled",
        ),
        (
            ["res_ic", "--search=threshold", "--set=goal=given", "--set=rule=last"],
            "--search policy.threshold: changes nothing with policy.rule=last",
        ),
        (["fsp", "--range=beta=1:8"], "--range finetune.beta: changes nothing with finetune.distill=0.0"),
        (["fsp", "--search=finetune.momentum", "--set=finetune.optimizer=adam"], "--search finetune.momentum: changes"),
        (
            ["center_loss", "--search=margin", "--set=term=pull"],
            "--search joint.margin: changes nothing with joint.term",
        ),
    ],
)
def test_a_search_that_would_change_nothing_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}") and error.count("\n") == 1 and "or leave it out" in error


def test_what_a_search_moves_of_its_own_accord_changes_something() -> None:
    def space(*words: str) -> tuple[str, ...]:
        return make_plan(parser().parse_args(list(words))).space

    assert space("center_loss", "--set", "joint.term=none") == ("joint.lr",)
    assert space("center_loss", "--set", "joint.term=pull") == ("joint.lr", "joint.weight")
    assert "backbone.exit_weight" not in space("res_ic", "--set", "weighting=none")
    assert space("res_ic", "--search", "policy.threshold,policy.goal") == ("policy.threshold", "policy.goal")
    assert space("fsp", "--search", "distill,beta,soft") == ("finetune.distill", "finetune.beta", "finetune.soft")


@pytest.mark.parametrize("name", METHODS)
def test_fields_are_listed_with_the_recipes_defaults(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    method = get(name)
    assert main([name, "--fields", "--recipe=paper"]) == 0
    table = capsys.readouterr().out
    assert all(field in table for field in method.fields())
    assert main([name, "--fields", "--json", "--recipe=paper"]) == 0
    found = {one["field"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(found) == list(method.fields())
    for field, value in method.recipes["paper"].settings.items():
        assert found[field]["default"] == (list(value) if isinstance(value, tuple) else value)
    assert [one["field"] for one in found.values() if one["searched"]] == [
        field for field, known in method.fields().items() if known.searched
    ]


def test_what_a_field_is_stands_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fsp", "--fields"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "transfer.weight " in line)
    assert line.split() == [
        *("transfer.weight", "number", "1", "0.01:10:log", "1e-05:10000:log", "yes", "lambda", "of", "eq.", "(1)")
    ]
    assert main(["--fields"]) == 2
    assert main(["fsp", "--dry-run", "--json"]) == 2


@pytest.mark.parametrize(
    ("field", "text", "domain"),
    [
        ("transfer.lr", "1e-5:1:log", Real(1e-5, 1.0, True)),
        ("transfer.lr", "1e-5:1", Real(1e-5, 1.0, True)),
        ("transfer.lr", "0.1:0.5:linear", Real(0.1, 0.5)),
        ("transfer.lr", "0.1:0.5:0.2", Choice((0.1, 0.3, 0.5))),
        ("transfer.lr", "0.01, 0.1,1", Choice((0.01, 0.1, 1.0))),
        ("finetune.momentum", "0:0.9", Real(0.0, 0.9)),
        ("transfer.batch_size", "16:64", Integer(16, 64, True)),
        ("transfer.epochs", "1:4", Integer(1, 4)),
        ("transfer.epochs", "1:4:2", Choice((1, 3))),
        ("transfer.depth", "8,20", Choice((8, 20))),
        ("finetune.standardise", "true,false", Choice((True, False))),
    ],
)
def test_a_persons_range(field: str, text: str, domain: object) -> None:
    assert FSP.space([field], {field: text}) == {field: domain}


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("transfer.lr", "1e-9:1", "transfer.lr=1e-9: give a number from 1e-06 to 10"),
        ("transfer.lr", "1:0.1", "the first end is to be below the second"),
        ("transfer.lr", "0.1", "give LOW:HIGH, or at least two values"),
        ("transfer.lr", "0.1:1:log:3", "give LOW:HIGH, LOW:HIGH:log, LOW:HIGH:STEP or A,B,C"),
        ("transfer.lr", "0.1:1:often", "give log, linear, or a step"),
        ("transfer.lr", "0.1:1:5", "give a step above 0 that makes 2 to 1000 values"),
        ("transfer.lr", "0.1:1:-1", "give a step above 0"),
        ("transfer.lr", "0.1:1:nan", "give log, linear, or a step"),
        ("finetune.momentum", "0:0.9:log", "a log scale has no 0"),
        ("finetune.momentum", "0:1", "give a number from 0 to 0.999"),
        ("transfer.epochs", "1:4:0.5", "give log, linear, or a step"),
        ("transfer.depth", "8:20", "give values by commas"),
        ("transfer.depth", "8,9", "transfer.depth=9: give one of"),
        ("transfer.milestones", "1:2", "cannot be searched"),
    ],
)
def test_a_range_that_cannot_be_is_one_line(field: str, text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        ranged(field, FSP.fields()[field], text)
    assert said in str(refused.value) and field in str(refused.value)


def test_a_value_may_leave_the_range_that_is_searched_but_not_its_limits() -> None:
    assert FSP.check({"transfer.lr": 1.0, "weight": 1000}) == {"transfer.lr": 1.0, "transfer.weight": 1000.0}
    for bad in ({"transfer.lr": 11.0}, {"weight": 1e5}, {"distill": 1.5}):
        with pytest.raises(UsageError, match="give a number from"):
            FSP.check(bad)
