"""The leaderboard as studies of Optuna, which optuna-dashboard and Optuna's own plots open."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bo_distill.methods.errors import UsageError
from bo_distill.search.rows.row import Row, from_table
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.metrics import ACCURACY, METRICS, Metric

if TYPE_CHECKING:
    import pyarrow as pa

    from bo_distill.distributed.storage import Storage


def to_optuna(table: pa.Table, storage: Storage, url: str) -> int:
    """Write the search trials of every study of the table; returns how many.

    Values are of the metrics that the study chose by, each with its direction. Parameters are the settings in which a
    study's trials differ; what else a row says of a trial is in its user attributes.

    Args:
        storage: that holds the studies. One that is gone is taken to have chosen by validation accuracy.
        url: of an Optuna storage, such as sqlite:///rows.db.

    Raises:
        UsageError: Optuna is not installed, or a study of that name is there already.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise UsageError("export optuna: Optuna is not installed; pip install -e '.[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    studies: dict[str, list[Row]] = {}
    for row in from_table(table):
        if row.phase == "search":
            studies.setdefault(row.study, []).append(row)
    try:
        database = optuna.storages.get_storage(url)
        there = {study.study_name for study in database.get_all_studies()}
    except Exception as error:  # of SQLAlchemy and its drivers, of many kinds
        raise UsageError(f"export optuna {url}: {' '.join(str(error).split())[:150]}; give sqlite:///FILE") from None
    if twice := there & set(studies):
        raise UsageError(f"export optuna {url}: it has a study {min(twice)} already; give another file")
    for name, rows in studies.items():
        metrics = _metrics(storage, name)
        better = optuna.study.StudyDirection
        directions = [better.MAXIMIZE if metric.higher else better.MINIMIZE for metric in metrics]
        study = optuna.create_study(storage=database, study_name=name, directions=directions)
        fields = sorted({k for row in rows for k in row.config})
        varied = [k for k in fields if len({json.dumps(row.config.get(k)) for row in rows}) > 1]
        options = {k: sorted({_plain(row.config[k]) for row in rows if k in row.config}, key=str) for k in varied}
        for row in sorted(rows, key=lambda row: row.trial):
            study.add_trial(_trial(row, metrics, {k: _distribution(v) for k, v in options.items()}))
        study.set_user_attr("metrics", [metric.word for metric in metrics])  # its own names for them are experimental
    return sum(map(len, studies.values()))


def _metrics(storage: Storage, name: str) -> list[Metric]:
    try:
        words = Study.open(storage, name).plan.metrics
    except UsageError:
        words = (ACCURACY,)
    return [METRICS[word] for word in words]


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


def _trial(row: Row, metrics: Sequence[Metric], distributions: Mapping[str, Any]) -> Any:
    from optuna.trial import TrialState, create_trial

    values = [value for metric in metrics if (value := metric.of(row)) is not None]
    done = row.status == "done" and len(values) == len(metrics)
    tried = [name for name in distributions if name in row.config]  # a row of an earlier version may lack a field
    stopped = TrialState.PRUNED if row.status == "pruned" else TrialState.FAIL
    return create_trial(
        state=TrialState.COMPLETE if done else stopped,
        values=values if done else None,
        params={name: _plain(row.config[name]) for name in tried},
        distributions={name: distributions[name] for name in tried},
        user_attrs={"trial": row.trial, "status": row.status, "seconds": row.seconds, "reason": row.reason},
    )
