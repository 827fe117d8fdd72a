"""What a person sees while a search runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from ray.tune import Callback

from search.study.ledger import Study


class StatusLine(Callback):
    """One line on the terminal, redrawn: trials done, the best so far, what is running, time left. Silent elsewhere.

    Args:
        later: runs that follow the search: the best again, the winner and its controls.
    """

    def __init__(self, study: Study, terminal: TextIO, later: int) -> None:
        from rich.console import Console
        from rich.status import Status

        self.study, self.later = study, later
        self.started, self.found = time.monotonic(), sum(t.finished for t in study.trials)
        self.running: dict[str, str] = {}
        console = Console(file=terminal)
        self.status = Status("starting Ray", console=console) if console.is_terminal else None
        if self.status:
            self.status.start()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a resuming of its own, and a terminal cannot be pickled."""
        return {}

    def close(self) -> None:
        if self.status:
            self.status.stop()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        if "stage" in result:
            number = trial.config["job"]["number"]
            self.running[trial.trial_id] = f"{number}: {result['stage']} epoch {result['epoch']}"
        self.draw()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.running.pop(trial.trial_id, None)
        self.draw()

    on_trial_error = on_trial_complete

    def draw(self) -> None:
        from rich.text import Text

        if self.status:
            # On one line: a line that breaks cannot be redrawn in place.
            self.status.update(Text(" | ".join(self.parts()), no_wrap=True, overflow="ellipsis"))

    def parts(self) -> Iterator[str]:
        """What the line says, the most important first."""
        searched, total = sum(t.finished for t in self.study.of_phase("search")), self.study.plan.searched
        done = sum(t.finished for t in self.study.trials)
        yield f"{searched}{f' of {total}' if total else ''} trials"
        if done > searched:
            yield f"{done - searched} of {self.later} retrainings"
        if best := self.study.best():
            yield f"best {100 * (best.val_accuracy or 0):.2f}% (val)"
        fresh = done - self.found
        if fresh and (total or done > searched):
            left = (max(total - searched, 0) if total and done == searched else 0) + self.later - (done - searched)
            yield f"about {(time.monotonic() - self.started) / fresh * left:.0f} s left"
        yield from sorted(self.running.values())
