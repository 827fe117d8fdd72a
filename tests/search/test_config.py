"""A search as a file, and the console command."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bo_distill.methods import outside
from bo_distill.search import run
from bo_distill.search.command.asking import make_plan
from bo_distill.search.command.config import command, toml_of
from bo_distill.search.command.main import COMMANDS, main
from bo_distill.search.study.records import Plan
from helpers.running import ROOT

WORDS = [
    "fsp", "--random", "--data=digits", "--label-column=a", "--label-column=b", "--recipe=quick", "--trials=7",
    "--time=90s", "--patience=5", "--no-controls", "--asha", "--seed=3", "--seeds=0", "--workers=2",
    "--set=transfer.milestones=1,2", "--set=distill=0.25", "--set=finetune.standardise=true", "--set=finetune.soft=dkd",
    "--range=transfer.lr=1e-5:1:log", "--range=transfer.depth=8,14", "--precision=float32",
]  # fmt: skip


def plan_of(*words: str) -> Plan:
    """The plan that a command line asks for, under a name that is the same each time."""
    plan = make_plan(run.parser().parse(words))
    return dataclasses.replace(plan, task=dataclasses.replace(plan.task, study="s"))


@pytest.mark.parametrize("words", [WORDS, ["max_entropy"], ["center_loss", "--grid", "--confirm=2", "--asha"]])
def test_the_file_and_the_command_of_a_study_ask_for_it_again(words: list[str], tmp_path: Path) -> None:
    plan, file = plan_of(*words), tmp_path / "config.toml"
    file.write_text(toml_of(plan))
    assert plan_of(f"--config={file}") == plan
    assert plan_of(*command(plan).split()[2:]) == plan


def test_what_a_study_went_on_with_asks_for_it_too(tmp_path: Path) -> None:
    """A long time in seconds, and a searcher that learns from no other study, though the one before did."""
    plan, file = plan_of("fsp", "--time=300h", "--warm=other"), tmp_path / "config.toml"
    file.write_text(toml_of(dataclasses.replace(plan, searcher="random")))
    assert plan_of(f"--config={file}") == dataclasses.replace(plan, searcher="random", warm=())


def test_the_command_line_wins_and_fields_add_up(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(toml_of(plan_of(*WORDS)))
    plan = plan_of("--bo", f"--config={file}", "--trials", "9", "--set=distill=0.5", "--set=beta=2", "--seeds=1")
    assert (plan.searcher, plan.trials, plan.seeds, plan.patience) == ("bo", 9, 1, 5)
    assert plan.task.settings["finetune.distill"] == 0.5 and plan.task.settings["finetune.beta"] == 2
    assert plan.task.settings["finetune.soft"] == "dkd" and plan.ranges["transfer.lr"] == "1e-5:1:log"
    assert plan.task.data.label_columns == ("a", "b")
    assert plan_of(f"--config={file}", "--label-column=c").task.data.label_columns == ("c",), "no field: it wins"
    file.write_text(
        'method = "fsp"\nset = ["distill=0.5", "beta=2"]\nsearch = ["weight", "transfer.lr"]\nasha = false\n'
    )
    assert plan_of(f"--config={file}").task.settings == {"finetune.distill": 0.5, "finetune.beta": 2}
    assert plan_of(f"--config={file}").space == ("transfer.weight", "transfer.lr")
    file.write_text('method = "fsp"\nno-controls = true\n')
    plan = plan_of(f"--config={file}", "--controls=equal_epochs")
    assert plan.controls and plan.against == ("equal_epochs",)
    file.write_text('method = "fsp"\ncontrols = "equal_epochs"\n')
    assert not plan_of(f"--config={file}", "--no-controls").controls
    file.write_text('method = "fsp"\ntrials = 7\n')
    plan = plan_of("res_ic", f"--config={file}")
    assert (plan.task.method, plan.trials) == ("res_ic", 7)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("trails = 3\n", "trails: no option that a file may give; did you mean trials?"),
        ('trust = ["os"]\n', "trust: no option that a file may give"),
        ('config = "other.toml"\n', "config: no option that a file may give"),
        ("trials = \n", "this is no TOML"),
        (None, "cannot be read"),
        ('method = "fsp"\nseed = "often"\n', "seed"),
    ],
)
def test_a_file_that_cannot_be_is_one_line(
    content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    if content is not None:
        file.write_text(content)
    assert run.main(["--config", str(file)]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_a_file_lets_no_code_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method from outside that a file names runs only if the command line says so."""
    monkeypatch.setattr(outside, "_trusted", set())
    file = tmp_path / "config.toml"
    file.write_text('method = "tests.helpers.trivial:METHOD"\n')
    assert run.main(["--config", str(file), "--fields"]) == 2
    assert "let it run by --trust tests.helpers.trivial" in capsys.readouterr().err
    assert run.main(["--config", str(file), "--fields", "--trust=tests.helpers.trivial"]) == 0


def test_one_command_has_every_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in COMMANDS)
    here = Path(run.__file__).parent
    assert set(COMMANDS) == {file.stem for file in here.glob("*.py")} - {"__init__", "bayes"}
    assert all(callable(importlib.import_module(f"bo_distill.search.{name}").main) for name in COMMANDS)
    assert main(["run", "fsp", "--fields"]) == 0
    assert "transfer.weight" in capsys.readouterr().out
    assert main(["runn", "fsp"]) == 2
    assert capsys.readouterr().err.startswith("error: runn: no such command; there are run, compare")


def test_its_help_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/bo-distill", "run"])
    assert "usage: bo-distill run METHOD" in run.parser().format_help()


@pytest.mark.parametrize("words", ["--help", "run --help", "leaderboard show --help", "storage --help", ""])
def test_help_that_nobody_reads_to_its_end_is_no_error(words: str) -> None:
    """As `bo-distill --help | head -1` leaves it."""
    reads, writes = os.pipe()
    os.close(reads)
    ask = "import sys; from bo_distill.search.command.main import console; sys.argv[0] = 'bo-distill'; console()"
    command = [sys.executable, "-c", ask, *words.split()]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(writes)
    assert (done.returncode, done.stderr) == (0 if words else 2, "")


def test_a_shell_completes_commands_verbs_and_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    asks = "".join(
        f"COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}; COMPREPLY=()\n"
        '_shtab_bo_distill; echo "${COMPREPLY[@]}"\n'
        for words in ("bo-distill le", "bo-distill run --tri", "bo-distill leaderboard sh")
    )
    told = subprocess.run(["bash", "-c", f"source {script}\n{asks}"], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["leaderboard", "--trials", "show"]
    assert main(["completion", "fish"]) == 2
    assert "give one of bash, zsh, tcsh" in capsys.readouterr().err


def test_help_is_quick_to_load() -> None:
    """What takes long to import is imported once the command line is known to be right."""
    look = """
import sys
from bo_distill.search import run
run.parser().format_help()
assert not {'numpy', 'torch'} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", look], check=True, cwd=Path(run.__file__).resolve().parents[1])
