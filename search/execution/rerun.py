"""A row of the leaderboard, trained again from what the row itself says, in this process and without Ray.

Nothing is read from the storage's stage cache and nothing is written to the storage. The test split stays shut: a row
that was scored on test is compared by its validation accuracy, like any other.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bo_distill.distributed.storage import Storage
from bo_distill.methods import get
from bo_distill.methods.data import DataSpec, load
from bo_distill.methods.errors import UsageError
from bo_distill.methods.records import Malformed, decoded
from bo_distill.search.execution.trial import perform
from bo_distill.search.rows.provenance import provenance
from bo_distill.search.rows.row import Row
from bo_distill.search.rows.sql import query
from bo_distill.search.study.records import Job, Outcome, Task

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Verdict:
    """Whether an accuracy came back.

    Attributes:
        noise: the largest difference that two runs of these settings show in 95 of 100 pairs; None where it is not
            known.
        verdict: one sentence.
    """

    same: bool
    noise: float | None
    verdict: str


def judge(row: float, again: float, exact: bool, others: Sequence[float]) -> Verdict:
    """Compare a row's accuracy with that of its second training.

    Seeds say how far apart two trainings of the same settings lie; that is the most that rounding, which a training
    amplifies, can do to a run of the same seed. Without other seeds the noise of these settings is not known, and only
    the same accuracy counts as come back.

    Args:
        exact: the losses are equal too.
        others: accuracies of the same settings and data with other seeds.
    """
    from scipy import stats

    difference = again - row
    if difference == 0:
        return Verdict(True, 0.0, "it comes back" + (" to the last bit" if exact else "; the loss differs by rounding"))
    points = f"{abs(100 * difference):.2f} points {'more' if difference > 0 else 'less'}"
    if len(others) < 2:
        return Verdict(False, None, f"it does not come back: {points}, and no other seeds tell how much is noise")
    # A row and its repetition are two draws, hence the root of 2.
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(others) - 1))
    noise = t * math.sqrt(2) * statistics.stdev(others)
    same = abs(difference) <= noise
    found = "it comes back within noise" if same else "it does not come back"
    return Verdict(same, noise, f"{found}: {points}; {len(others)} other seeds allow {100 * noise:.2f}")


def differences(row: Row, outcome: Outcome, fingerprint: str) -> dict[str, tuple[str, str]]:
    """What a second training had otherwise than the row: name -> (then, now). Uncommitted changes are a difference."""
    now = provenance()

    def code(commit: str | None, dirty: bool | None) -> str:
        """The commit in short, and whether files differ from it."""
        return f"{commit[:12] if commit else 'unknown'}{' and changes' if dirty else ''}"

    pairs = {
        "data": (row.data_fingerprint, fingerprint),
        "commit": (code(row.commit, row.dirty), code(now["commit"], now["dirty"])),
        **{name: (getattr(row, name), now[name]) for name in ("version", "python", "torch")},
        "device": (row.device, outcome.device),
        "workers": (str(row.workers), "1"),
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] or (row.dirty and name == "commit")}


def rerun(storage: Storage, row: Row, data_dir: str | None = None) -> dict[str, Any]:
    """Train a row again and compare.

    Args:
        data_dir: where the data lies now, if not where the row says.

    Returns:
        A JSON object: the row's id, `differences`, `row` and `again` (validation metrics), `others` (accuracies of
        other seeds), `noise`, `same`, `verdict`, `seconds`.

    Raises:
        UsageError: the row does not say enough, did not end well, or its data or settings are no longer there.
    """
    if row.status != "done" or row.val_accuracy is None:
        raise UsageError(f"{row.id}: its status is {row.status}; only a trial that was done can be run again")
    get(row.method)  # refused here where it lies outside: a trial's process takes the task's word for it
    if not row.data_spec or row.shared_seed is None or row.threads is None:
        raise UsageError(f"{row.id}: a row of schema 1 does not say what its data was read by; run its study again")
    try:
        spec = decoded(DataSpec, row.data_spec)
    except Malformed as error:
        raise UsageError(f"{row.id}: its data_spec is of another version ({error}); use the row's commit") from None
    if data_dir:
        spec = dataclasses.replace(spec, directory=data_dir)
    with tempfile.TemporaryDirectory() as scratch:
        task = Task(
            study=row.study,
            method=row.method,
            recipe=row.recipe,
            data=spec,
            settings={},
            storage=scratch,
            seed=row.shared_seed,
            precision=row.precision,
            cpus=row.threads,
        )
        # Whatever the row's phase was: a trial of the search reads no test split.
        outcome = perform(task, Job(row.trial, "search", row.config, row.seed), lambda epoch: None)
    found = query(
        storage,
        "SELECT avg(val_accuracy) FROM leaderboard WHERE method = ? AND config_hash = ? AND data_fingerprint = ? "
        "AND precision = ? AND status = 'done' AND seed <> ? AND val_accuracy IS NOT NULL GROUP BY seed ORDER BY seed",
        (row.method, row.config_hash, row.data_fingerprint, row.precision, row.seed),
    )
    others = [float(value) for value in found.column(0).to_pylist()]
    before = {"accuracy": row.val_accuracy, "loss": row.val_loss, **row.val_metrics}
    after = outcome.val
    if outcome.status == "done":
        verdict = judge(row.val_accuracy, after["accuracy"], after.get("loss") == row.val_loss, others)
    else:
        verdict = Verdict(False, None, f"it does not come back: {outcome.reason}")
    return {
        "id": row.id,
        "differences": differences(row, outcome, load(spec).info.fingerprint),
        "row": {name: value for name, value in before.items() if value is not None},
        "again": after,
        "others": others,
        **dataclasses.asdict(verdict),
        "seconds": outcome.seconds,
    }
