"""What a person sees while a search runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any, TextIO

from ray.tune import Callback

from bo_distill.methods.errors import counted
from bo_distill.search.evidence.words import duration
from bo_distill.search.rows.export import printable
from bo_distill.search.searchers.registry import pauses
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.metrics import METRICS
from bo_distill.search.study.records import Outcome, Trial
from bo_distill.search.study.searches import later_runs

BESIDE = 1.0  # seconds of a run that no epoch counts: Ray, the ledger, the searcher


class ProgressLines(Callback):
    """On a terminal one line, redrawn: trials done, the best so far, what is running, time left. Elsewhere, in a log
    perhaps, a line when the search starts and one for each run that ends.

    Args:
        terminal: None to say nothing.
        width: runs side by side.
    """

    def __init__(self, study: Study, terminal: TextIO | None, width: int) -> None:
        from rich.console import Console
        from rich.status import Status

        self.study, self.terminal = study, terminal
        self.shared = {stage.name for stage in study.method.stages if stage.shared}
        self.work: list[float] = []  # processor time of each run that ended, in what later runs do again
        self.pace = 1.0  # seconds that a second of it took in the last run: other work on the machine, or a GPU's
        self.width = width
        self.running: dict[str, str] = {}
        self.status: Status | None = None
        study.listeners.append(self.ended)
        if terminal is not None and terminal.isatty():
            self.status = Status("starting Ray", console=Console(file=terminal))
            self.status.start()
            return
        plan = study.plan
        trials = counted(plan.searched, "trial") if plan.searched else "trials"
        if pauses(plan.searcher):
            trials = f"the epochs of {trials}"
        if plan.seconds:
            trials += f" for {duration(plan.seconds)}"
        later = f", then {counted(runs, 'later run')}" if (runs := later_runs(study)) else ""
        self.say(f"{plan.task.study}: {trials}{later}; {width} at a time")

    def say(self, line: str) -> None:
        """A line where there is no terminal to redraw one on. That nobody reads it ends no search."""
        if self.terminal is not None and self.status is None:
            with contextlib.suppress(OSError):
                print(line, file=self.terminal, flush=True)

    def warn(self, line: str) -> None:
        """A line that stays, above the one that is redrawn."""
        if self.status is None:
            self.say(printable(line))
            return
        with contextlib.suppress(OSError):
            self.status.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """Print a line for a trial that ended."""
        self._learn(outcome)
        values = [(METRICS[word], self.study.value(trial, word)) for word in self.study.plan.metrics]
        known = [metric.told(value) for metric, value in values if value is not None]
        said = ", ".join(known) or trial.status
        reason = f" ({trial.reason})" if trial.reason else ""
        phase = trial.job.control or trial.job.phase
        phase += ", its search" if trial.job.phase == "tune" else ""
        line = f"trial {trial.job.number}, {phase.replace('_', ' ')}: {said}{reason}, {trial.seconds:.1f} s"
        self.say(printable(" | ".join([line, *self.parts()])))

    def _learn(self, outcome: Outcome) -> None:
        """Take what a run cost, without stages that all share: the first run, which made them, tells of no other."""
        rows = [row for row in outcome.history if row["stage"] not in self.shared and row.get("cpu_seconds")]
        if not rows:
            self.work.append(outcome.seconds)
            return
        spent = sum(row["cpu_seconds"] for row in rows)
        self.work.append(spent)
        if not set(outcome.cached) & {row["stage"] for row in rows}:  # else they were trained at another time
            self.pace = sum(row["seconds"] for row in rows) / spent

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a resuming of its own, and a terminal cannot be pickled."""
        return {}

    def close(self) -> None:
        """Take the line away and listen no longer."""
        self.study.listeners.remove(self.ended)
        if self.status:
            with contextlib.suppress(OSError):  # the terminal was closed
                self.status.stop()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        """Show the epoch that the trial is at, or what it warns of."""
        if "said" in result:
            self.warn(f"trial {trial.config['job']['number']}: {result['said']}")
        if "stage" in result:
            number = trial.config["job"]["number"]
            self.running[trial.trial_id] = f"{number}: {result['stage']} epoch {result['epoch']}"
        self.draw()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Show that the trial runs no longer."""
        self.running.pop(trial.trial_id, None)
        self.draw()

    on_trial_error = on_trial_complete

    def draw(self) -> None:
        """Redraw the line, on a terminal."""
        from rich.text import Text

        if self.status:
            # On one line: a line that breaks cannot be redrawn in place.
            self.status.update(
                Text(" | ".join([*self.parts(), *sorted(self.running.values())]), no_wrap=True, overflow="ellipsis")
            )

    def parts(self) -> Iterator[str]:
        """What the line says, the most important first."""
        plan = self.study.plan
        searched = sum(t.finished for t in self.study.of_phase("search"))
        total = None if pauses(plan.searcher) else plan.searched  # epochs are its budget, not trials
        done = sum(t.finished for t in self.study.trials)
        yield f"{searched} of {counted(total, 'trial')}" if total else counted(searched, "trial")
        later = later_runs(self.study)
        if done > searched:
            yield f"{done - searched} of {counted(later, 'later run')}"
        if best := self.study.best():
            yield f"best {self.study.metric.told(self.study.value(best))}"
        left = (max(total - searched, 0) if total and done == searched else 0) + later - (done - searched)
        if self.work and left > 0 and (total or done > searched):
            each = fmean(self.work) * self.pace + BESIDE
            yield f"about {duration(-(-left // self.width) * each)} left"
