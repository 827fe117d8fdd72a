"""A study's winner against its controls on test, over the seeds that both have, and what its reader must know."""

from __future__ import annotations

from collections import defaultdict

from bo_distill.methods.errors import counted
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
    """The winner against each control, a sentence for each, and what they do not say by themselves."""
    found = against_controls(study)
    said = [pair.sentence("the winner", control.replace("_", " ")) for control, pair in found.items()]
    if sum(pair.interval is not None for pair in found.values()) > 1:
        said.append("Each of these is by its own interval, not corrected for their number.")
    return said + cautions(study)


def cautions(study: Study) -> list[str]:
    """What figures on test do not say, a sentence for each: retrainings that failed, stages that all seeds share,
    earlier looks at the split."""
    said, runs = [], defaultdict[str, list[str]](list)
    for trial in study.of_phase("final") + study.of_phase("control"):
        runs[(trial.job.control or "the winner").replace("_", " ")].append(trial.status)
    for who, ended in runs.items():
        if failed := ended.count("failed"):
            many = counted(len(ended), "retraining")
            said.append(f"{failed} of {many} of {who} failed, which its figures on test leave out.")
    won = [trial for trial in study.of_phase("final") if trial.status == "done"]
    if len(won) > 1:
        trained = {row.get("stage") for row in study.outcome(won[0].job.number).history}
        said += [
            f"Stage {stage.name} was trained once for all seeds: no interval covers what another training of it would "
            "change."
            for stage in study.method.stages
            if stage.shared and stage.name in trained
        ]
    return said + [f"The test split was {note.before}." for note in study.test_notes() if note.earlier]
