"""What a search found, as one object and as a table."""

from __future__ import annotations

import statistics
from typing import Any

from methods.cost import count
from methods.method import flatten
from search.study.ledger import Study
from search.study.records import Trial


def summary_of(accuracies: list[float]) -> dict[str, Any] | None:
    """Mean, standard deviation and number of test accuracies."""
    if not accuracies:
        return None
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    return {"mean": statistics.fmean(accuracies), "sd": spread, "n": len(accuracies)}


def summarise(study: Study, seconds: float) -> dict[str, Any]:
    """The object that `--json` prints; accuracies are shares from 0 to 1, times seconds."""
    plan, method, info, best = study.plan, study.method, study.info, study.best()

    def scored(phase: str, control: str | None) -> dict[str, Any] | None:
        done = [t for t in study.of_phase(phase) if t.job.control == control and t.status == "done"]
        return summary_of([study.outcome(t.job.number).test["accuracy"] for t in done])

    def line(trial: Trial) -> dict[str, Any]:
        return {
            "trial": trial.job.number,
            "phase": trial.job.phase,
            "control": trial.job.control,
            "config": {name: trial.job.settings[name] for name in plan.space if name in trial.job.settings},
            "val_accuracy": trial.val_accuracy,
            "status": trial.status,
            "reason": trial.reason,
            "seconds": trial.seconds,
        }

    configs = method.configure(plan.task.recipe, best.job.settings if best else plan.task.settings)
    costs = {name: count(net, info) for name, net in method.costs(configs, info).items()}
    return {
        "study": plan.task.study,
        "method": method.name,
        "searcher": plan.searcher,
        "data": {"name": info.name, "fingerprint": info.fingerprint, "train": info.train_size, "val": info.val_size},
        "best": best
        and {
            "config": flatten(configs),
            "val_accuracy": best.val_accuracy,
            "confirmed": summary_of(study.confirmed(best)),
            "trial": best.job.number,
        },
        "searched": list(plan.space),
        "test": scored("final", None),
        "controls": {name: scored("control", name) for name in (method.controls if plan.controls else {})},
        "trials": [line(trial) for trial in study.trials],
        "macs": {name: cost.macs for name, cost in costs.items()},
        "params": {name: cost.params for name, cost in costs.items()},
        "uncounted": {name: dict(cost.uncounted) for name, cost in costs.items()},
        "seconds": seconds,
        "ended": ended(study),
        "leaderboard": f"{study.storage.uri}/leaderboard",
        "report": f"{study.storage.uri}/{study.folder}/report.html",
    }


def ended(study: Study) -> str | None:
    """Why a search proposed fewer trials than it was given, and what else they can be spent on; None if it did not."""
    plan, asked = study.plan, len(study.of_phase("search"))
    reason = (study.searcher_state or {}).get("reason")
    if not reason or not plan.searched or asked >= plan.searched:
        return None
    words = f"the search ended after {asked} of {plan.searched} trials: {reason}"
    return words if plan.confirm else f"{words}; --confirm K spends trials on running the K best again"


def print_summary(summary: dict[str, Any]) -> None:
    """Print the object of `summarise` for a person, on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    title = f"{summary['method']} on {summary['data']['name']}, {summary['searcher']}: trials of the search"
    table = Table(title=title, title_justify="left")
    table.add_column("trial", justify="right")
    for name in summary["searched"]:
        table.add_column(name, justify="right")
    for name in ("validation %", "seconds", "status"):
        table.add_column(name, justify="right")
    best = summary["best"] or {}
    for trial in summary["trials"]:
        if trial["phase"] != "search":
            continue
        values = [_short(trial["config"].get(name)) for name in summary["searched"]]
        style = "bold" if trial["trial"] == best.get("trial") else None
        status = trial["status"] + (f": {trial['reason']}" if trial["status"] == "failed" else "")
        table.add_row(
            str(trial["trial"]),
            *values,
            _percent(trial["val_accuracy"]),
            f"{trial['seconds']:.1f}",
            status,
            style=style,
        )
    console.print(table)
    if best:
        own = {name: best["config"][name] for name in summary["searched"]}
        settings = ", ".join(f"{name} {_short(value)}" for name, value in own.items())
        confirmed = best["confirmed"]
        again = f"; mean of {confirmed['n']} fresh seeds {_percent(confirmed['mean'])}%" if confirmed else ""
        score = f"{_percent(best['val_accuracy'])}% on validation{again}"
        console.print(f"winner: trial {best['trial']}, {score}, with {settings}", highlight=False)
    if summary["test"]:
        table = Table(title="Scored on test, once, over fresh seeds", title_justify="left")
        for name in ("", "test %", "sd", "n"):
            table.add_column(name, justify="right" if name else "left")
        for name, scored in {"winner": summary["test"], **summary["controls"]}.items():
            if scored:
                table.add_row(
                    name.replace("_", " "), _percent(scored["mean"]), _percent(scored["sd"]), str(scored["n"])
                )
        console.print(table)
    table = Table(title="Cost of one inference (fvcore)", title_justify="left")
    for name in ("network", "MACs", "parameters", "not counted"):
        table.add_column(name, justify="right" if name in ("MACs", "parameters") else "left")
    for name, macs in summary["macs"].items():
        others = ", ".join(sorted(summary["uncounted"][name]))
        table.add_row(name, f"{macs:,}", f"{summary['params'][name]:,}", others)
    console.print(table)
    if summary["ended"]:
        console.print(summary["ended"], highlight=False)
    for name in ("study", "leaderboard", "report"):
        console.print(f"{name:<12} {summary[name]}", highlight=False, soft_wrap=True)
    console.print(f"{'seconds':<12} {summary['seconds']:.1f}", highlight=False)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
