"""README and docs: every command is one that works, every Python block runs, the API page is the docstrings'.

A block that a machine alone cannot run says so: <!-- not run: WHY --> stands above it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bo_distill
from bo_distill.distributed.storage import Storage
from bo_distill.search.api import calls, own_data
from bo_distill.search.api.view import StudyView
from bo_distill.search.command.asking import make_plan
from bo_distill.search.command.main import COMMANDS
from bo_distill.search.study.winner import save_winner
from helpers.made_up import made_up
from helpers.running import ROOT

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/results/README.md",
    *(str(file.relative_to(ROOT)) for file in sorted((ROOT / "docs").glob("*.md")) if file.name != "LOG.md"),
    *(str(file.relative_to(ROOT)) for file in sorted(ROOT.glob("methods/*/README.md"))),
]
OURS = re.compile(r"(?:\S*python|\$PYTHON) -m (?:bo_distill\.)?search\.(\w+)|(?:\S*/)?bo-distill (\w+)")
ELSEWHERE = {
    "network": ("python3.11 -m venv", "pip install", ".venv/bin/pip install", "git clone", "docker "),
    "cluster": ("ray ", "export RAY_", "kubectl "),
    "tests of its own": ("python -m pytest", ".venv/bin/python -m pytest"),
    "nothing to test": (". .venv/bin/activate", "cd ", "scripts/api", "jupyter "),
}
"""What else a block may hold, by why it is not tried."""


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(language, content) of the code blocks of a page that are not marked; indented ones have no language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"<!-- not run: [^>]+ -->\n+(```.*?\n```|(?:    .*\n)+)", "", text, flags=re.S)
    for language, content in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.S | re.M):
        yield language, content
    text = re.sub(r"^```(\w*)\n(.*?)^```", "", text, flags=re.S | re.M)
    for content in re.findall(r"(?:^|\n\n|:\n|\n#[^\n]*\n)((?:    \S.*\n)+)", text):
        yield "", content


def commands(page: str) -> Iterator[tuple[str, bool]]:
    """Lines of blocks in a page, continued ones whole, without comments; whether the block says that it is shell."""
    for language, content in blocks(page):
        if language in ("", "sh"):
            for line in re.sub(r"\\\n\s*", "", content).splitlines():
                for part in re.sub(r"(^|\s+)#.*", "", line).split("&&"):
                    if part.strip():
                        yield part.strip(), language == "sh"


def tried(line: str) -> str | None:
    """The words of our own command in a line, in a quoted one for another machine too; None for what is not ours."""
    found = OURS.search(line)
    return line[found.start() :].rstrip("'\"") if found else None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_works(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")
    for line, shell in commands(page):
        ours = tried(line)
        if ours is None:
            known = any(line.startswith(start) for starts in ELSEWHERE.values() for start in starts)
            assert known or not shell, f"{page}: {line}: say above the block why it is not run, or list it"
            continue
        _, name, words = parsed(ours)
        assert name in COMMANDS, line
        if name == "run" and not {"--resume", "--extend", "--config", "--fields"} & set(words):
            args = importlib.import_module("bo_distill.search.run").parser().parse(words)
            if args.method:
                for word in (args.method, args.searcher or ""):
                    calls.let_run(word) if ":" in word else None
                make_plan(args)


def parsed(ours: str) -> tuple[argparse.Namespace, str, list[str]]:
    """A command of ours, its name and its words, taken by its own parser."""
    found = OURS.search(ours)
    assert found
    name = found[1] or found[2]
    words = [word for word in shlex.split(ours[found.end() :]) if word not in ("[options]", "...")]
    text = ours[found.end() :]
    if "METHOD" in text.split() or "[" in text:  # the form of a command, not a command
        return argparse.Namespace(), name, ["--fields"]
    return importlib.import_module(f"bo_distill.search.{name}").parser().parse(words), name, words


def test_a_command_that_does_not_work_is_found() -> None:
    for wrong in ("python -m search.run fsp --trails 3", "bo-distill report", "bo-distill leaderboard shew"):
        with pytest.raises((bo_distill.UsageError, SystemExit)):
            parsed(wrong)


# Python


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks take for granted."""
    study = made_up(Storage(tmp_path_factory.mktemp("docs")))
    save_winner(study)
    x = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    y = ["a", "b", "c"] * 4
    return {
        "images": x, "labels": y, "test_images": x, "test_labels": y, "more_images": x, "new_images": x,
        "sentences": [f"sentence {n}" for n in range(12)], "topics": y, "tones": y,
        "NAME": study.plan.task.study, "_view": StudyView(study), "train": lambda config: {"acc": 0.0},
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_every_python_block_runs(page: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a search that is asked for as it stands and not run."""
    from ray import tune

    def run(method: str | None = None, *, data: Any = None, callbacks: Any = (), **options: Any) -> StudyView:
        if data is not None and not isinstance(data, str):
            assert own_data.rows_of(data).parts
            data = "docstrings" if own_data.rows_of(data).texts else "digits"
        args = calls._parsed(method, data, options)
        if not (args.resume or args.extend):
            make_plan(args)
        view: StudyView = names["_view"]
        return view

    monkeypatch.setitem(vars(bo_distill), "run", run)
    monkeypatch.setitem(vars(bo_distill), "open", lambda name, storage="results": names["_view"])
    monkeypatch.setattr(StudyView, "report", lambda self, figures=True: None)
    monkeypatch.setattr(tune.Tuner, "fit", lambda self: None)
    for language, content in blocks(page):
        if language == "python":
            exec(compile(content, page, "exec"), dict(names))


def test_the_api_page_is_the_docstrings() -> None:
    made = subprocess.run([sys.executable, "scripts/api"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == made, "run scripts/api > docs/api.md"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            if "://" not in target:
                assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_the_citation_is_of_this_version() -> None:
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version and f"\nversion: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()


# Examples


def test_the_example_of_a_method_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains on two ranks as on one, and beats its start."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    from own_method import METHOD, network  # type: ignore[import-not-found]

    from bo_distill.distributed.worker import LocalWorker
    from helpers.tiny import tiny_images

    data = tiny_images()
    configs = METHOD.configure("quick", {"train.epochs": 3, "train.batch_size": 32})
    state = METHOD.stages[0].run(LocalWorker(data, seed=0), configs["train"], {})
    assert state.metrics["val_accuracy"] > 0.5
    net = METHOD.model(configs, {"train": state}, data.info)
    assert net(data.val.x[:2].float()).shape == (2, 4) and type(net) is type(network(data.info))
    assert METHOD.controls["no_penalty"]({}) == {"train.penalty": 0.0}


def test_the_example_of_a_searcher_steps_from_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    from bo_distill.methods import get
    from bo_distill.methods.outside import trust
    from bo_distill.search.searchers.foreign import ForeignSearch

    trust("own_searcher")
    space = get("fsp").space(["transfer.lr", "transfer.weight"])
    search, asked = ForeignSearch("own_searcher:Stepping", space, 1), []
    for number in range(30):
        asked.append(search.suggest(str(number)))
        search.on_trial_complete(str(number), {"val_accuracy": -asked[-1]["transfer.lr"]})
    best = min(asked[:20], key=lambda one: one["transfer.lr"])
    assert any(one != best and sum(one[k] == best[k] for k in space) == 1 for one in asked[20:])
    again = ForeignSearch("own_searcher:Stepping", space, 1)
    again.restore_state(json.loads(json.dumps(search.save_state())))
    assert again.suggest("30") == search.suggest("30")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    shutil.copy(ROOT / "examples" / "own_images.ipynb", tmp_path)
    words = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output", "done", "own_images.ipynb"]
    path = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=tmp_path, env={**os.environ, **path}, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "done.ipynb").read_text())["cells"]
    shown = [out for cell in cells for out in cell.get("outputs", [])]
    assert any("iframe" in "".join(out.get("data", {}).get("text/html", "")) for out in shown)
    words_of = "".join("".join(out.get("data", {}).get("text/plain", "")) for out in shown)
    assert "The winner is trial" in words_of and "circle" in words_of
