"""The learning curve that a trial is judged by while it trains, and what one that ends early has trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bo_distill.methods.data import Info
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import Configs, Method
from bo_distill.search.searchers.base import Length
from bo_distill.search.searchers.curves import Curve
from bo_distill.search.study.records import Outcome, Trial


def curve_of(outcome: Outcome) -> Curve:
    """Accuracy on validation by stage and number of the epoch among those of the stage that have one."""
    curve: dict[tuple[str, int], float] = {}
    counts = Counter[str]()
    for row in outcome.history:
        if "val_accuracy" in row:
            curve[row["stage"], counts[row["stage"]]] = row["val_accuracy"]
            counts[row["stage"]] += 1
    return curve


def length_of(method: Method, configs: Configs) -> tuple[str, Length]:
    """The stage whose epochs are a trial's curve, the last of its own that trains, and how long a training is.

    Raises:
        UsageError: no stage of its own trains in epochs, or the last that does says nothing of the trial's accuracy.
    """
    own = [(stage, getattr(configs[stage.name], "epochs", 0)) for stage in method.stages if not stage.shared]
    trained = [(stage, epochs) for stage, epochs in own if epochs]
    words = f"no stage of {method.name} trains in epochs that trials do not share"
    if trained and not trained[-1][0].judged:
        words = f"while {trained[-1][0].name} trains, nobody knows how accurate a trial of {method.name} will be"
    if not trained or not trained[-1][0].judged:
        raise UsageError(f"--curves, --asha: {words}; leave them out")
    (*earlier, (stage, epochs)) = trained
    return stage.name, Length(sum(count for _, count in earlier), epochs)


def spent(trials: Sequence[Trial], length: Length) -> float:
    """What trials that pause were asked to train, in whole trainings."""
    asked = (trial.job.until for trial in trials)
    return sum(1.0 if until is None else (length.before + until) / sum(length) for until in asked)


def trained_macs(method: Method, info: Info, configs: Configs, outcome: Outcome) -> int | None:
    """Multiply-adds of all stages, found ones too; of a trial that was stopped or failed, up to its last epoch."""
    if outcome.status == "done":
        return method.macs(configs, info)
    if not outcome.history:  # its process was lost, or it failed in its first epoch
        return None
    macs = {stage.name: stage.macs(configs, info) for stage in method.stages}
    last, names = outcome.history[-1], list(macs)
    before = sum(macs[name] for name in names[: names.index(last["stage"])])
    share = last["epoch"] / max(getattr(configs[last["stage"]], "epochs", 0), last["epoch"])
    return before + round(macs[last["stage"]] * share)


def reached(history: Sequence[Mapping[str, Any]], stage: str) -> dict[int, float]:
    """Accuracy on validation by epoch, from 1, of the curve's stage."""
    values = [row["val_accuracy"] for row in history if row["stage"] == stage and "val_accuracy" in row]
    return dict(enumerate(values, 1))
