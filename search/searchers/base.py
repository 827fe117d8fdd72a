"""Searchers whose configurations follow from their number alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from methods.space import Searched

Space = Mapping[str, Searched]
Settings = dict[str, Any]

NAMED = 6  # significant digits that a number needs in a table; a grid's and a random draw's have no more


class IndexedSearch:
    """Settings that follow from their number alone, whatever came of the others.

    Args:
        point: number, from 0 -> settings, or None when there are no more.
    """

    FINISHED = "FINISHED"  # as Tune's searchers have it

    def __init__(self, point: Callable[[int], Settings | None]) -> None:
        self.point = point
        self.asked = 0

    def suggest(self, trial_id: str) -> Any:
        settings = self.point(self.asked)
        if settings is None:
            return self.FINISHED
        self.asked += 1
        return settings

    def on_trial_complete(self, trial_id: str, result: Settings | None = None, error: bool = False) -> None:
        """What came of a trial changes nothing here."""

    def add_evaluated_point(self, parameters: Settings, value: float | None, error: bool = False) -> None:
        """A point of an earlier search takes the place of one of these."""
        self.asked += 1

    def save_state(self) -> Settings:
        return {"asked": self.asked}

    def restore_state(self, state: Settings) -> None:
        self.asked = state["asked"]
