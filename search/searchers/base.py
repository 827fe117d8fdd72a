"""What a searcher is: it proposes configurations and hears what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from bo_distill.methods.space import Searched

Space = Mapping[str, Searched]
Settings = dict[str, Any]

METRIC = "val_accuracy"  # that a search makes large; the score of another metric goes by this name, too
NAMED = 6  # significant digits that a number needs in a table; a grid's and a random draw's have no more


class Estimate(NamedTuple):
    """A value that was not observed, and the standard deviation of what it may be wrong by."""

    value: float
    deviation: float


class Length(NamedTuple):
    """Epochs of a training: those before its curve begins, and those of its curve, each of which has a value."""

    before: int
    curve: int


class Step(NamedTuple):
    """What a searcher that pauses trials wants trained.

    Attributes:
        trial_id: a paused trial's, or the id that it was asked with: then this is a new one.
        settings: its configuration.
        epochs: of its curve after which it pauses; all of them: it goes to its end.
    """

    trial_id: str
    settings: Settings
    epochs: int


class StageCost(NamedTuple):
    """What a trial pays for a stage, unless an earlier trial trained it with the same values of these fields.

    Attributes:
        fields: searched ones that the stage's result follows from.
        seconds: that it takes.
    """

    fields: tuple[str, ...]
    seconds: float


class Searcher(Protocol):
    """Proposes configurations of one space. The names are those of Ray Tune's searchers.

    Attributes:
        FINISHED: what `suggest` returns where there are no more.
        reason: why there are no more, in words that end a sentence; empty until then.
    """

    FINISHED: str
    reason: str

    def suggest(self, trial_id: str) -> Any:
        """The configuration to try next; None where that is not known until another trial has ended; FINISHED."""
        ...

    def on_trial_complete(self, trial_id: str, result: Settings | None = None, error: bool = False) -> None:
        """Hear what came of a trial: `result[METRIC]`; nothing where it ended without a value; `error` if it failed."""
        ...

    def on_trial_stopped(self, trial_id: str, estimate: Estimate | None) -> None:
        """Hear that a trial was stopped early and what it would have reached, None where that is not known.

        This takes the place of `on_trial_complete`, and comes again with every better estimate.
        """
        ...

    def add_evaluated_point(self, parameters: Settings, value: float | None, error: bool = False) -> None:
        """Take a trial that another searcher asked for."""
        ...

    def save_state(self) -> Settings:
        """All that later proposals follow from, as JSON."""
        ...

    def restore_state(self, state: Settings) -> None:
        """Go on where `save_state` was called; this searcher is a fresh one of the same seed.

        Raises:
            ValueError: the state is of another space, or cannot be gone on from.
        """
        ...


class WeighingSearcher(Searcher, Protocol):
    """A searcher that can seek what promises most per second instead of per trial."""

    def weigh(self, costs: Sequence[StageCost]) -> None:
        """Hear what trials pay for, as far as that is known by now."""
        ...


class LearningSearcher(Searcher, Protocol):
    """A searcher that can begin with what other searches found."""

    def learn_from(self, trials: Sequence[tuple[Settings, float | None]]) -> None:
        """Take another search's configurations of this space and their scores, None where one failed, as a prior."""
        ...


class PausingSearcher(Searcher, Protocol):
    """A searcher whose `suggest` returns a `Step` where others return a configuration."""

    def on_trial_paused(self, trial_id: str, curve: Mapping[int, float]) -> None:
        """Hear the values of a trial, by epoch of its curve, that was trained as far as was asked."""
        ...

    def estimates(self) -> Mapping[str, Estimate]:
        """Of each trial that was begun: what another training of its configuration would reach at its end."""
        ...


def describe(space: Space) -> list[str]:
    """A space in words that tell it from any other."""
    return [f"{name}: {domain!r}" for name, domain in space.items()]


def check_same(saved: Sequence[str] | None, here: Sequence[str]) -> None:
    """Refuse to go on with a search whose ranges have changed, since its trials would be of two searches."""
    if saved is None:
        raise ValueError("the saved search is of an earlier version")
    if list(saved) != list(here):
        changed = [f"{old}, now {new}" for old, new in zip(saved, here, strict=False) if old != new]
        raise ValueError(f"the saved search is of another space: {'; '.join(changed) or f'{saved}, now {here}'}")


class IndexedSearch:
    """Configurations that follow from their number alone, whatever came of the others.

    Args:
        space: what is searched.
        point: number, from 0 -> configuration, or None when there are no more.
    """

    FINISHED = "FINISHED"

    def __init__(self, space: Space, point: Callable[[int], Settings | None]) -> None:
        self.space, self.point = space, point
        self.asked, self.reason = 0, ""

    def suggest(self, trial_id: str) -> Any:
        """The next configuration, or FINISHED, and `reason` says why."""
        settings = self.point(self.asked)
        if settings is None:
            self.reason = "every configuration was tried"
            return self.FINISHED
        self.asked += 1
        return settings

    def on_trial_complete(self, trial_id: str, result: Settings | None = None, error: bool = False) -> None:
        """What came of a trial changes nothing here."""

    def on_trial_stopped(self, trial_id: str, estimate: Estimate | None) -> None:
        """Nor does what it would have reached."""

    def add_evaluated_point(self, parameters: Settings, value: float | None, error: bool = False) -> None:
        """A point of an earlier search takes the place of one of these."""
        self.asked += 1

    def save_state(self) -> Settings:
        """What `restore_state` goes on from, as JSON."""
        return {"space": describe(self.space), "asked": self.asked, "reason": self.reason}

    def restore_state(self, state: Settings) -> None:
        """Go on from a saved state; ValueError if it is of another space."""
        check_same(state.get("space"), describe(self.space))
        self.asked, self.reason = state["asked"], state.get("reason", "")
