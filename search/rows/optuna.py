"""The leaderboard as studies of Optuna, which optuna-dashboard and Optuna's own plots open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bo_distill.methods.errors import UsageError
from bo_distill.search.rows.row import Row, from_table

if TYPE_CHECKING:
    import pyarrow as pa


def to_optuna(table: pa.Table, url: str) -> int:
    """Write the search trials of every study of the table; returns how many.

    Parameters are the settings in which a study's trials differ; what else a row says of a trial is in its user
    attributes.

    Args:
        url: of an Optuna storage, such as sqlite:///rows.db.

    Raises:
        UsageError: Optuna is not installed, or a study of that name is there already.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise UsageError("export optuna: Optuna is not installed; pip install 'bo-distill[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    studies: dict[str, list[Row]] = {}
    for row in from_table(table):
        if row.phase == "search":
            studies.setdefault(row.study, []).append(row)
    try:
        storage = optuna.storages.get_storage(url)
    except Exception as error:  # of SQLAlchemy and its drivers, of many kinds
        raise UsageError(f"export optuna {url}: {' '.join(str(error).split())[:150]}; give sqlite:///FILE") from None
    for name, rows in studies.items():
        try:
            study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        except optuna.exceptions.DuplicatedStudyError:
            raise UsageError(f"export optuna {url}: it has a study {name} already; give another file") from None
        varied = sorted(k for k in rows[0].config if len({json.dumps(row.config.get(k)) for row in rows}) > 1)
        options = {k: sorted({_plain(row.config[k]) for row in rows}, key=str) for k in varied}
        for row in sorted(rows, key=lambda row: row.trial):
            study.add_trial(_trial(row, {k: _distribution(v) for k, v in options.items()}))
    return sum(map(len, studies.values()))


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) or value is None else json.dumps(value)


def _distribution(values: list[Any]) -> Any:
    """The narrowest distribution that holds what was tried; the leaderboard does not keep the searched ranges."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return IntDistribution(min(values), max(values))
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        low, high = float(min(values)), float(max(values))
        return FloatDistribution(low, high, log=low > 0 and high / low > 100)
    return CategoricalDistribution(values)


def _trial(row: Row, distributions: Mapping[str, Any]) -> Any:
    from optuna.trial import TrialState, create_trial

    done = row.status == "done" and row.val_accuracy is not None
    return create_trial(
        state=TrialState.COMPLETE if done else TrialState.FAIL,
        value=row.val_accuracy if done else None,
        params={name: _plain(row.config[name]) for name in distributions},
        distributions=dict(distributions),
        user_attrs={"trial": row.trial, "status": row.status, "seconds": row.seconds, "reason": row.reason},
    )
