"""What a search found, in words, on standard output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from bo_distill.methods.errors import counted
from bo_distill.search.command.terminal import print_table
from bo_distill.search.evidence.words import duration, percent, short, span
from bo_distill.search.rows.export import printable
from bo_distill.search.study.metrics import ACCURACY, METRICS


def print_summary(found: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Print `search.evidence.summary.summarise` for a person, on standard output or into a file. Nothing is cut, at any
    width; text of others is text."""
    searched = [trial for trial in found["trials"] if trial["phase"] == "search"]
    metrics = [METRICS[word] for word in found["metrics"]]
    began = f", begun with what {', '.join(found['warm'])} found" if found["warm"] else ""
    what = (
        f"{found['method']} on {found['data']['name']}, {found['searcher']}: {counted(len(searched), 'trial')}{began}"
    )
    print(printable(what), file=file)
    print_table(
        ("trial", *found["searched"], *(metric.head for metric in metrics), "seconds", "status"),
        [
            (
                str(trial["trial"]),
                *(short(trial["config"].get(name)) for name in found["searched"]),
                *(metric.text(trial["metrics"][metric.word]).rstrip("%") for metric in metrics),
                f"{trial['seconds']:.1f}",
                trial["status"] + (f": {trial['reason']}" if trial["reason"] else ""),
            )
            for trial in searched
        ],
        file,
    )
    print("Cost of one inference:", file=file)
    print_table(
        ("network", "MACs", "parameters", "not counted"),
        [
            (name, f"{macs:,}", f"{found['params'][name]:,}", ", ".join(sorted(found["uncounted"][name])) or "nothing")
            for name, macs in found["macs"].items()
        ],
        file,
    )
    for line in _words(found):
        print(printable(line), file=file)


def _words(found: Mapping[str, Any]) -> Iterator[str]:
    """Winner, verdicts, what to do next, where everything is."""
    best = found["best"]
    if best is None:
        yield "No trial was finished, so there is no winner."
    else:
        metrics = [METRICS[word] for word in found["metrics"]]
        told = ", ".join(metric.told(best["metrics"][metric.word]) for metric in metrics)
        if best["confirmed"]:
            told += (
                f", {metrics[0].text(best['confirmed']['mean'])} over {counted(best['confirmed']['n'], 'fresh seed')}"
            )
        first = f", the best in {metrics[0].title}" if found["front"] else ""
        yield f"The winner is trial {best['trial']}{first}, {told}:"
        for name in found["searched"]:
            yield f"  {name} = {_exact(best['config'][name])}"
        done = sum(trial["phase"] == "search" and trial["status"] == "done" for trial in found["trials"])
        if done > 1 and metrics[0].unit != "count":
            yield f"It was chosen among {done} by its figures on validation, which therefore flatter it."
        if found["front"]:
            yield found["front"]["words"]
            trials = {trial["trial"]: trial for trial in found["trials"]}
            for number in found["front"]["trials"]:
                each = [metric.text(trials[number]["metrics"][metric.word]) for metric in metrics]
                yield f"  trial {number}: {', '.join(each)}"
    if found["test"]:
        where = "On test" if found["metrics"][0] == ACCURACY else "Accuracy on test"
        yield f"{where}, scored once: {_scored(found['test'])}."
        for control, scored in found["controls"].items():
            if scored:
                own = ", ".join(f"{name} = {_exact(value)}" for name, value in found["tuned"].get(control, {}).items())
                searched = f"; by a search of its own, {own}" if own else ""
                yield f"  {control.replace('_', ' ')}: {_scored(scored)}{searched}."
    yield from found["verdicts"]
    if found["ended"]:
        yield f"{found['ended'][0].upper()}{found['ended'][1:]}."
    if found["advice"]:
        yield ""
        yield "Next:"
        yield from (f"- {sentence}" for sentence in found["advice"])
    yield ""
    for name in ("study", "leaderboard", "model", "report"):
        if found[name]:
            yield f"{name:<12} {found[name]}"
    yield f"{'time':<12} {duration(found['seconds'])}"


def _scored(scored: Mapping[str, Any]) -> str:
    seeds = f"mean of {scored['n']} seeds" if scored["n"] > 1 else "one seed"
    interval = f", 95% interval {span(scored['interval'])}" if scored["interval"] else ""
    return f"{percent(scored['mean'])}% ({seeds}{interval})"


def _exact(value: Any) -> str:
    """A setting as it can be given again."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
