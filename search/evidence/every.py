"""Which of several methods helped: each one's winner against its own plain training, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bo_distill.methods.paired import holm
from bo_distill.search.evidence.advice import SEEDS
from bo_distill.search.evidence.statistics import ALPHA, Paired
from bo_distill.search.evidence.verdicts import scores
from bo_distill.search.evidence.words import percent, points, span
from bo_distill.search.study.ledger import Study


@dataclass(frozen=True)
class Held:
    """A method's winner against plain training, which is the first of its controls.

    Attributes:
        control: its name.
        won, plain: seed -> accuracy on test.
        difference: winner minus plain training, paired by seed; None where no seed has both.
        p: after Holm's correction over all methods; None where the difference has no test.
        trials, epochs: of the search; epochs of shared stages are counted once.
    """

    study: Study
    control: str
    won: Mapping[int, float]
    plain: Mapping[int, float]
    difference: Paired | None
    p: float | None
    trials: int
    epochs: int

    @property
    def method(self) -> str:
        """Its name."""
        return self.study.method.name

    @property
    def shown(self) -> bool:
        """Whether a difference is shown."""
        return self.p is not None and self.p <= ALPHA

    def sentence(self) -> str:
        """What was found, in one sentence."""
        name, found = self.method, self.difference
        plain = f"plain training ({self.control.replace('_', ' ')})"
        if found is None:
            return f"{name}: no seed has both the winner and {plain}, so nothing is said."
        if found.interval is None or self.p is None:
            return found.sentence(name, plain)
        told = (
            f"{points(found.mean)} points on test, 95% interval {span(found.interval, signed=True)}, "
            f"{found.n} seeds, p = {self.p:.2g} after Holm's correction"
        )
        if not self.shown:
            return f"{name}: no difference from {plain} is shown ({told})."
        return f"{name} {'helped' if found.mean > 0 else 'hurt'}: {told}, against {plain}."


def held(studies: Sequence[Study]) -> list[Held]:
    """Each study against its plain training, the largest gain first."""
    found = []
    for study in studies:
        control = next(iter(study.controls), "")
        won, plain = scores(study, "final", None), scores(study, "control", control) if control else {}
        found.append((study, control, won, plain, Paired.of(won, plain)))
    tested = [pair.p for *_, pair in found if pair and pair.p is not None]
    corrected = iter(holm(np.array(tested)).tolist() if tested else ())
    every = [
        Held(study, control, won, plain, pair, next(corrected) if pair and pair.p is not None else None, *_spent(study))
        for study, control, won, plain, pair in found
    ]
    return sorted(every, key=lambda one: -one.difference.mean if one.difference else float("inf"))


def few_seeds(every: Sequence[Held]) -> str:
    """How large a difference would have been shown, where none is over few seeds; else empty."""
    unsure = [one for one in every if not one.shown and one.difference and one.difference.n < SEEDS]
    least = {one.method: one.difference.visible(one.difference.n) for one in unsure if one.difference}
    told = [f"{method} {100 * points:.1f}" for method, points in least.items() if points is not None]
    if not told:
        return ""
    return (
        "So few seeds show large differences only: in four of five cases, and before Holm's correction, those of so "
        f"many points: {', '.join(told)}. The same command with --seeds {SEEDS} shows smaller ones; what is trained "
        "already comes from the cache."
    )


def _spent(study: Study) -> tuple[int, int]:
    """Trials and trained epochs of the search."""
    shared = {stage.name for stage in study.method.stages if stage.shared}
    histories = [study.outcome(t.job.number).history for t in study.of_phase("search") if t.finished]
    own = sum(row["stage"] not in shared for rows in histories for row in rows)
    return len(histories), own + max((sum(row["stage"] in shared for row in rows) for rows in histories), default=0)


def verdict(every: Sequence[Held]) -> str:
    """Which methods helped, in one sentence."""
    helped = [one.method for one in every if one.shown and one.difference and one.difference.mean > 0]
    hurt = [one.method for one in every if one.shown and one.difference and one.difference.mean < 0]
    rest = [one.method for one in every if not one.shown and one.difference]
    unknown = [one.method for one in every if not one.difference]
    said = [f"{', '.join(helped)} helped"] if helped else []
    said += [f"{', '.join(hurt)} hurt"] if hurt else []
    if rest:
        said.append(f"{'no' if said else 'No'} difference from plain training is shown for {', '.join(rest)}")
    if unknown:
        said.append(
            f"{'nothing' if said else 'Nothing'} is said of {', '.join(unknown)}, whose seeds lack one of the two"
        )
    if not said:
        return "No method was carried through, so nothing is said."
    best = max(every, key=lambda one: float(np.mean([*one.won.values()] or [0.0])))
    top = f" The highest accuracy on test is {best.method}'s, {percent(float(np.mean([*best.won.values()])))}%"
    top += f": being the best of {len(every)} there, it flatters." if len(every) > 1 else "."
    return f"{'; '.join(said)}.{top if best.won else ''}"
