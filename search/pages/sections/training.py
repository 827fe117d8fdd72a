"""The section with the training curves of each stage."""

from __future__ import annotations

from typing import Any

from bo_distill.search.pages.charts.training import training
from bo_distill.search.pages.findings import Findings
from bo_distill.search.pages.page import Page
from bo_distill.search.study.winner import winner


def add_training(page: Page, f: Findings) -> None:
    page.section("Training")
    chosen = winner(f.study)
    if chosen is None:
        page.say("No trial has finished.")
        return
    stages: dict[str, list[tuple[bool, list[dict[str, Any]]]]] = {}
    seen = set()
    for t in [chosen, *(t for t in f.done("search") if t != chosen)]:
        outcome = f.outcomes[t.job.number]
        for stage in dict.fromkeys(row["stage"] for row in outcome.history):
            key = (stage, outcome.stage_keys.get(stage, str(t.job.number)))
            if key not in seen:  # a stage that trials share is drawn once
                seen.add(key)
                rows = [row for row in outcome.history if row["stage"] == stage]
                stages.setdefault(stage, []).append((t == chosen, rows))
    if not stages:
        page.say("No epoch was recorded.")
        return
    what = "the winner, retrained with a fresh seed" if chosen.job.phase == "final" else "the best trial"
    page.chart(
        "training",
        lambda narrow: training(stages, narrow),
        "Training curves of each stage",
        f"Training curves of each stage: thick, {what} (trial {chosen.job.number}); thin, the search's trials. Loss: "
        "solid on validation, dashed in training.",
    )
