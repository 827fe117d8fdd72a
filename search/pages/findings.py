"""All that a study left behind, read once for its page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bo_distill.methods.space import Choice, Searched
from bo_distill.search.rows.files import of_study
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Outcome, Trial


@dataclass
class Findings:
    """A study with what its trials left.

    Attributes:
        outcomes: trial's number -> what came of it, of finished trials.
        rows: trial's number -> its row of the leaderboard.
        fields: searched settings, each with its range.
    """

    study: Study
    outcomes: dict[int, Outcome]
    rows: dict[int, dict[str, Any]]
    fields: dict[str, Searched]

    @staticmethod
    def of(study: Study) -> Findings:
        """
        Raises:
            UsageError: the method has not these fields any more.
        """
        outcomes = {t.job.number: study.outcome(t.job.number) for t in study.trials if t.finished}
        rows = {row["trial"]: row for row in of_study(study.storage, study.plan.task.study).to_pylist()}
        searched = study.of_phase("search")
        fields = {
            name: _covering(domain, [t.job.settings[name] for t in searched]) for name, domain in study.space.items()
        }
        return Findings(study, outcomes, rows, fields)

    @property
    def name(self) -> str:
        return self.study.plan.task.study

    def done(self, phase: str, control: str | None = None) -> list[Trial]:
        return [t for t in self.study.of_phase(phase) if t.status == "done" and t.job.control == control]

    def tests(self, phase: str, control: str | None = None) -> dict[int, float]:
        """Seed -> test accuracy."""
        return {
            t.job.seed: self.outcomes[t.job.number].test["accuracy"]
            for t in self.done(phase, control)
            if "accuracy" in self.outcomes[t.job.number].test
        }


def _covering(domain: Searched, values: Sequence[Any]) -> Searched:
    """The domain, widened to all values that were tried: a study may be older than today's range."""
    if isinstance(domain, Choice):
        return Choice((*domain.options, *(v for v in dict.fromkeys(values) if v not in domain.options)))
    return dataclasses.replace(domain, low=min([domain.low, *values]), high=max([domain.high, *values]))
