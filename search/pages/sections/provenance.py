"""The section that says what a study ran on, and how to run it again."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time

from bo_distill.search.command.config import command
from bo_distill.search.pages.findings import Findings
from bo_distill.search.pages.page import Page
from bo_distill.search.pages.sections.reading import add_reading
from bo_distill.search.searchers.registry import NONE


def add_provenance(page: Page, f: Findings) -> None:
    page.section("Provenance")
    page.add("facts", entries=_facts(f))
    if f.study.plan.searcher != NONE and f.study.plan.seeds:  # not a part of a comparison or of a paper's tables
        page.add("command", title="The same search:", words=[*map(shlex.quote, shlex.split(command(f.study.plan)))])
    if best := f.study.best():
        config = json.loads(f.rows[best.job.number]["config"]) if best.job.number in f.rows else best.job.settings
        known = f.study.method.fields()
        with page.folded("All settings of the winner"):
            page.table(
                ("setting", "winner's value", "allowed", "searched"),
                [
                    (
                        name,
                        value,
                        str(f.study.space.get(name, known[name].limits)) if name in known else None,
                        "yes" if name in f.fields else "",
                    )
                    for name, value in config.items()
                ],
            )
    if account := f.study.account:
        with page.folded("What was read of the data"):
            add_reading(page, account)
    with page.folded("study.json"):
        page.add("code", text=json.dumps(dataclasses.asdict(f.study.plan), indent=1))


def _facts(f: Findings) -> list[tuple[str, str]]:
    plan, rows = f.study.plan, list(f.rows.values())

    def all_of(column: str) -> str:
        return ", ".join(dict.fromkeys(str(row[column]) for row in rows if row[column] is not None)) or "–"

    dirty = any(row["dirty"] for row in rows)
    started = min((row["started"] for row in rows), default=None)
    seeds = sorted({t.job.seed for t in f.done("final")})
    nodes = dict.fromkeys(node for row in rows for node in row["nodes"] or ())
    return [
        ("study", f.name),
        ("commit", all_of("commit") + (" and changes that were not committed" if dirty else "")),
        (
            "versions",
            f"Python {all_of('python')}, torch {all_of('torch')}, ray {all_of('ray')}, bo-distill {all_of('version')}",
        ),
        ("data", f"{plan.task.data.name}, fingerprint {all_of('data_fingerprint')}"),
        *([("learned from", ", ".join(plan.warm))] if plan.warm else []),
        ("seeds", f"search {plan.task.seed}; retraining {', '.join(map(str, seeds)) or 'none'}"),
        (
            "machine",
            f"{all_of('device')}, {all_of('precision')}; workers a trial: {plan.task.workers}, nodes: {len(nodes)}",
        ),
        *(
            (f"test split {note.event}", f"{note.time[:16].replace('T', ' ')} UTC, {note}")
            for note in f.study.test_notes()
        ),
        ("started", f"{started:%Y-%m-%d %H:%M} UTC" if started else "–"),
        ("report made", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
    ]
