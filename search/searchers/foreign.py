"""A Ray Tune searcher of others, such as Optuna's, as one of ours. This is the one searcher that imports Ray."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.search import Searcher as TuneSearcher

from bo_distill.methods.errors import UsageError
from bo_distill.methods.outside import resolve, trust
from bo_distill.methods.space import Choice, Integer, Real, Searched
from bo_distill.search.searchers.base import METRIC, Estimate, Settings, Space, check_same, describe

WORDS = {"optuna": "ray.tune.search.optuna:OptunaSearch"}
SEEDS = ("seed", "random_state_seed", "random_state")  # as the searchers that Ray has call it


def make(word: str, space: Space, seed: int, trials: int | None, first: Sequence[Settings]) -> ForeignSearch:
    """The searcher that `word` names; it tries the configurations of `first` before its own."""
    return ForeignSearch(word, space, seed, first)


class ForeignSearch:
    """Asks and tells a Tune searcher, and keeps what was asked and told.

    A Tune searcher has no state that is JSON. Ours is the list of all that was asked and told: to go on, a fresh
    searcher of the same seed is asked and told the same again, which only one that takes a seed can answer alike.

    Args:
        word: of `WORDS`, or package.module:Class.
        space: what is searched.
        seed: for the searcher, where its constructor takes one.
        first: to be tried first.

    Raises:
        UsageError: there is no such class, it is no Tune searcher, or it cannot search this space.
    """

    FINISHED = "FINISHED"

    def __init__(self, word: str, space: Space, seed: int, first: Sequence[Settings] = ()) -> None:
        self.word, self.space, self.seed, self.reason = word, space, seed, ""
        self.kind = _class_of(word)
        self._begin([dict(point) for point in first])

    def _begin(self, first: list[Settings]) -> None:
        logging.getLogger("optuna").setLevel(logging.WARNING)  # it greets every study on stderr
        takes = inspect.signature(self.kind.__init__).parameters
        options: Settings = {name: self.seed for name in SEEDS if name in takes}
        self.repeats = bool(options)
        if first:
            if "points_to_evaluate" not in takes:
                raise UsageError(f"--searcher {self.word}: cannot take over trials that are under way")
            options["points_to_evaluate"] = first
        try:
            self.inner = self.kind(**options)
            self.inner.set_search_properties(METRIC, "max", {n: _tuned(d) for n, d in self.space.items()})
        except Exception as error:  # whatever stands in the way of a searcher of others
            raise UsageError(
                f"--searcher {self.word}: {' '.join(str(error).split()) or type(error).__name__}"
            ) from error
        self.first, self.events = first, list[list[Any]]()

    def suggest(self, trial_id: str) -> Any:
        """The next configuration; None if there is none yet, FINISHED if there will be none."""
        config = self.inner.suggest(trial_id)
        if config is None:
            return None
        if config == self.FINISHED:
            self.reason = f"{self.word} has no more"
            return self.FINISHED
        settings = {name: _value(domain, config[name]) for name, domain in self.space.items()}
        self.events.append(["suggest", trial_id, settings])
        return settings

    def on_trial_complete(self, trial_id: str, result: Settings | None = None, error: bool = False) -> None:
        """Tell the searcher a trial's value, or that there is none, and keep the event."""
        value = (result or {}).get(METRIC)
        self.inner.on_trial_complete(trial_id, None if value is None else {METRIC: value}, error)
        self.events.append(["complete", trial_id, value, error])

    def on_trial_stopped(self, trial_id: str, estimate: Estimate | None) -> None:
        """Tell the searcher the first estimate, or that there is no value: a Tune searcher takes nothing back."""
        if not any(event[:2] == ["complete", trial_id] for event in self.events):
            self.on_trial_complete(trial_id, None if estimate is None else {METRIC: estimate.value})

    def add_evaluated_point(self, parameters: Settings, value: float | None, error: bool = False) -> None:
        """Take a trial that another searcher asked for; of one that failed nothing can be told.

        Raises:
            UsageError: this searcher cannot.
        """
        if value is None or error:
            return
        try:
            self.inner.add_evaluated_point(parameters, value)
        except NotImplementedError:
            raise UsageError(f"--searcher {self.word}: cannot take what another searcher found") from None
        self.events.append(["known", parameters, value])

    def save_state(self) -> Settings:
        """All that was asked and told, as JSON."""
        return {"space": describe(self.space), "first": self.first, "events": self.events, "reason": self.reason}

    def restore_state(self, state: Settings) -> None:
        """Ask and tell anew all that was; ValueError if the searcher proposes otherwise this time."""
        check_same(state.get("space"), describe(self.space))
        if not self.repeats and state["events"]:
            raise ValueError(f"{self.word} takes no seed, so it cannot repeat what it proposed before")
        self._begin(state["first"])
        for what, *words in state["events"]:
            if what == "suggest":
                trial_id, settings = words
                if self.suggest(trial_id) != settings:
                    raise ValueError(f"{self.word} does not repeat what it proposed before")
            elif what == "complete":
                trial_id, value, error = words
                self.on_trial_complete(trial_id, None if value is None else {METRIC: value}, error)
            else:
                self.add_evaluated_point(*words)
        self.reason = state.get("reason", "")


def _class_of(word: str) -> Any:
    if word in WORDS:
        trust(WORDS[word])
    kind = resolve(WORDS.get(word, word))
    if not (inspect.isclass(kind) and issubclass(kind, TuneSearcher)):
        raise UsageError(f"--searcher {word}: is not a ray.tune.search.Searcher")
    return kind


def _tuned(domain: Searched) -> Any:
    """A domain as Tune has it."""
    match domain:
        case Real(low, high, log):
            return tune.loguniform(low, high) if log else tune.uniform(low, high)
        case Integer(low, high, log):
            return tune.lograndint(low, high + 1) if log else tune.randint(low, high + 1)
        case Choice(options):
            return tune.choice(list(options))


def _value(domain: Searched, value: Any) -> Any:
    """A proposed value as the domain holds it; a float that a searcher rounded past an end is that end."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(domain, Real):
        value = min(max(float(value), domain.low), domain.high)
    elif isinstance(domain, Integer):
        value = min(max(round(value), domain.low), domain.high)
    return domain.check(value)
