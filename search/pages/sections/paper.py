"""The section with the paper's own tables and figures, and a finished trial brought back to draw them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bo_distill.distributed.worker import LocalWorker, best_runtime
from bo_distill.methods.data import load, stage_running
from bo_distill.methods.errors import UsageError
from bo_distill.methods.method import Trained
from bo_distill.search.pages.findings import Findings
from bo_distill.search.pages.page import Page
from bo_distill.search.study.ledger import Study
from bo_distill.search.study.records import Trial
from bo_distill.search.study.winner import stored_states, winner

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LEFT_OUT = "Left out here: the whole page has it, which the search writes at its end and bo-distill report at any time."


def add_paper(page: Page, f: Findings, draw: bool) -> None:
    """
    Args:
        draw: also draw the method's figures, which runs the winner's network.
    """
    page.section("The paper's tables and figures")
    chosen = winner(f.study)
    if chosen is None:
        page.say("No trial has finished.")
        return
    tables = f.outcomes[chosen.job.number].tables
    for table in tables.values():
        page.table(table["columns"], table["rows"], table["caption"])
    if tables:
        page.say(
            f"Tables are of trial {chosen.job.number} (seed {chosen.job.seed}), on test, as noted when it was scored."
        )
    if not f.study.method.figures or not draw:
        page.say(LEFT_OUT if f.study.method.figures else "The method has no figures.")
        return
    try:
        figures, turnables = drawn(f.study, chosen)
    except UsageError as error:
        page.say(f"The method's figures cannot be drawn: {error}.")
        return
    for name, figure in figures.items():
        page.picture(f"method-{name}", figure, f"{name.replace('_', ' ')}, on validation")
    for name, points in turnables.items():
        words = f"{name}: {len(points['points'])} rows in three dimensions. Drag or use the arrow keys to turn it."
        page.add("turnable", points=points, words=words)


def rebuilt(study: Study, trial: Trial) -> Trained:
    """A finished trial on validation, from its stages' states.

    Raises:
        UsageError: the data or a stage's state is no longer there.
    """
    configs, states = stored_states(study, trial)
    data = load(study.plan.task.data)
    worker = LocalWorker(data, seed=trial.job.seed, runtime=best_runtime(study.plan.task.precision))
    return Trained(worker, configs, states, data.val)


def drawn(study: Study, trial: Trial) -> tuple[dict[str, Figure], dict[str, Any]]:
    """The method's figures of a trial on validation, and its points to be turned. The test split is locked.

    Raises:
        UsageError: as `rebuilt`.
    """
    import matplotlib

    with stage_running(), matplotlib.rc_context(matplotlib.rcParamsDefault):
        run = rebuilt(study, trial)
        module = importlib.import_module(study.method.figures)
        turnables = module.turnables(run) if hasattr(module, "turnables") else {}
        return dict(module.figures(run)), dict(turnables)
