"""A study's winner against its controls on test, over the seeds that both have."""

from __future__ import annotations

from bo_distill.search.evidence.statistics import Paired
from bo_distill.search.study.ledger import Study


def scores(study: Study, phase: str, control: str | None) -> dict[int, float]:
    """Seed -> test accuracy of the finished runs of a phase."""
    done = [t for t in study.of_phase(phase) if t.job.control == control and t.status == "done"]
    return {t.job.seed: study.outcome(t.job.number).test["accuracy"] for t in done}


def against_controls(study: Study) -> dict[str, Paired]:
    """Control -> the winner minus it; those alone that have a seed in common with the winner."""
    won = scores(study, "final", None)
    names = dict.fromkeys(trial.job.control for trial in study.of_phase("control"))
    found = {name: Paired.of(won, scores(study, "control", name)) for name in names if name}
    return {name: pair for name, pair in found.items() if pair}


def verdicts(study: Study) -> list[str]:
    """The winner against each control, a sentence for each."""
    return [pair.sentence("the winner", control.replace("_", " ")) for control, pair in against_controls(study).items()]
