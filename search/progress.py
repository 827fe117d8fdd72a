"""What a person sees while a search runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TextIO

from ray.tune import Callback

from search.study import Study


class Progress(Callback):
    """One line on the terminal, redrawn: trials done, the best so far, what is running, time left. Silent elsewhere."""

    def __init__(self, study: Study, terminal: TextIO, total: int | None) -> None:
        from rich.console import Console
        from rich.status import Status

        self.study, self.total = study, total
        self.started, self.found = time.monotonic(), sum(t.finished for t in study.trials)
        self.running: dict[str, str] = {}
        console = Console(file=terminal)
        self.status = Status("starting Ray", console=console) if console.is_terminal else None
        if self.status:
            self.status.start()

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
        if not self.status:
            return
        done = sum(t.finished for t in self.study.trials)
        parts = [f"{done}{f' of {self.total}' if self.total else ''} trials"]
        if best := self.study.best():
            parts.append(f"best {100 * (best.val_accuracy or 0):.2f}% on validation")
        if self.running:
            parts.append(", ".join(sorted(self.running.values())))
        spent, fresh = time.monotonic() - self.started, done - self.found
        if self.total and fresh:
            parts.append(f"about {spent / fresh * (self.total - done):.0f} s left")
        self.status.update(" | ".join(parts))
