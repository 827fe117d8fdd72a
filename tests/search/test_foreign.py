"""Ray Tune's searchers of others, Optuna's among them, in our commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from bo_distill.distributed.storage import Storage
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.errors import UsageError
from bo_distill.methods.outside import trust
from bo_distill.methods.space import Choice, Integer, Real
from bo_distill.search.replay import main as replay
from bo_distill.search.searchers.base import Length
from bo_distill.search.searchers.registry import SEARCHERS, entry_of, make_searcher
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Outcome, Plan, Task, Trial
from helpers.carrying import carried
from helpers.running import TRIVIAL
from helpers.trivial import METHOD, accuracy

MIXED = {"lr": Real(1e-4, 1e-1, True), "width": Real(-1.0, 1.0), "n": Integer(1, 30, True), "act": Choice(("a", "b"))}
OURS = "bo_distill.search.bayes:BayesSearch"
trust(OURS)
trust(__name__)


class Unseeded(Searcher):
    """A searcher of somebody's that takes no seed."""

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        return {"lr": 0.01, "width": 0.0, "n": 3, "act": "a"}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        pass


def value(settings: dict[str, Any]) -> float:
    return float(-abs(settings["width"] - 0.3) + 0.1 * (settings["act"] == "a"))


@pytest.mark.parametrize("word", ["optuna", OURS])
def test_a_foreign_searcher_goes_on_from_what_it_was_told(word: str) -> None:
    pytest.importorskip("optuna")
    whole, cut = make_searcher(word, MIXED, 3, 20), make_searcher(word, MIXED, 3, 20)
    for number in range(14):
        if number == 9:
            state = json.loads(json.dumps(cut.save_state()))
            cut = make_searcher(word, MIXED, 3, 20)
            cut.restore_state(state)
        settings = whole.suggest(str(number))
        assert cut.suggest(str(number)) == settings
        for name, domain in MIXED.items():
            assert domain.check(settings[name]) == settings[name]
        for searcher in (whole, cut):
            failed = number == 4
            searcher.on_trial_complete(str(number), None if failed else {"val_accuracy": value(settings)}, error=failed)


def test_what_a_foreign_searcher_cannot_do_is_refused_in_one_line() -> None:
    here = f"{__name__}:Unseeded"
    searcher = make_searcher(here, MIXED, 0, 3)
    assert searcher.suggest("0")["n"] == 3
    with pytest.raises(ValueError, match="takes no seed"):
        make_searcher(here, MIXED, 0, 3).restore_state(searcher.save_state())
    with pytest.raises(UsageError, match="under way"):
        make_searcher(here, MIXED, 0, 3, [{"lr": 0.01}])
    with pytest.raises(UsageError, match="cannot take what another searcher found"):
        searcher.add_evaluated_point({"lr": 0.01, "width": 0.0, "n": 3, "act": "a"}, 0.5)
    other = make_searcher(OURS, MIXED, 0, 3)
    other.suggest("0")
    with pytest.raises(ValueError, match="another space"):
        make_searcher(OURS, {**MIXED, "n": Integer(1, 9)}, 0, 3).restore_state(other.save_state())
    for word in ("nonsense", "json:JSONDecoder", "no.such.module:Thing", "bo_distill.search.bayes:Nothing"):
        with pytest.raises(UsageError, match=word):
            make_searcher(word, MIXED, 0, 3)


def test_a_package_that_is_lacking_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="the extra optuna"):
        make_searcher("optuna", MIXED, 0, 3)
    assert entry_of("grid").lacking == "" and entry_of("bo").lacking == "bayesian-optimization"


def begin(storage: Storage, searcher: str, trials: int, seeds: int = 0) -> Study:
    task = Task("s", TRIVIAL, "quick", DataSpec("digits"), {}, storage.uri, 0, "float32")
    study = Study(storage, Plan(task, searcher, ("only.x", "only.y"), trials, seeds=seeds, controls=False))
    study.save_plan()
    return study


def carry_on(study: Study, stop: int | None = None) -> None:
    def outcome(trial: Trial) -> Outcome:
        found = accuracy({"only.x": 0.5, "only.y": 0.5, **trial.job.settings})
        test = {"accuracy": found} if trial.job.phase == "final" else {}
        return Outcome(val={"accuracy": found}, test=test, started=1.0, seconds=1.0)

    carried(study, outcome, stop)


def test_a_study_by_optuna_is_a_study_like_any_other(tmp_path: Path) -> None:
    """Budget, the ledger, going on after a cut, the retraining of the winner and the lock on test."""
    pytest.importorskip("optuna")
    whole = begin(Storage(tmp_path / "whole"), "optuna", 8, seeds=1)
    carry_on(whole)
    assert whole.complete and len(whole.of_phase("search")) == 8 and len(whole.of_phase("final")) == 1
    assert [note.event for note in whole.test_notes()] == ["opened"]
    storage = Storage(tmp_path / "cut")
    carry_on(begin(storage, "optuna", 8, seeds=1), stop=5)
    again = Study.open(storage, "s")
    carry_on(again)
    assert [t.job.settings for t in again.trials] == [t.job.settings for t in whole.trials]
    assert METHOD.name == again.method.name


def test_replay_takes_foreign_searchers(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    words = ["branin", f"--searchers=optuna,{OURS}", "--studies=2", "--trials=4", "--jobs=1", "--json"]
    assert replay(words) == 0
    assert set(json.loads(capsys.readouterr().out)["searchers"]) == {"optuna", OURS}


def test_every_searcher_has_what_commands_ask_of_it() -> None:
    for word, entry in SEARCHERS.items():
        if entry.lacking:
            continue
        searcher = make_searcher(word, MIXED, 0, 100, length=Length(0, 9))
        settings = searcher.suggest("0").settings if entry.pauses else searcher.suggest("0")
        searcher.on_trial_complete("0", {"val_accuracy": 0.5})
        assert settings.keys() == MIXED.keys() and json.dumps(searcher.save_state()) and searcher.reason == ""
