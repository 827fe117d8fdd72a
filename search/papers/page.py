"""A method's page under docs/results: the claims first, then all lines, then what differs from the paper."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bo_distill.methods.errors import counted
from bo_distill.methods.method import flatten
from bo_distill.methods.published import Claim, PaperTable
from bo_distill.methods.space import Choice
from bo_distill.search.evidence.advice import end_of
from bo_distill.search.evidence.statistics import student
from bo_distill.search.evidence.words import NONE, duration, percent, short
from bo_distill.search.papers.lines import Reproduction
from bo_distill.search.papers.scores import Finding, Line, corrected, findings, lines_of
from bo_distill.search.rows.export import literal, markdown
from bo_distill.search.rows.row import Row


def page(
    one: Reproduction,
    claims: Sequence[Claim],
    rows: Sequence[Row],
    own: Mapping[str, Mapping[str, Any]],
    pictures: Sequence[str],
    others: Mapping[str, str],
) -> str:
    """One scale's page, in Markdown.

    Args:
        rows: of all studies of this scale.
        own: the method's own tables, of the lines that are shown.
        pictures: names of the figures' files.
        others: scale -> file of its page.
    """
    parts = [
        f"# {one.method.name}, scale `{one.word}`\n",
        f"{one.method.paper}. Made by `python -m search.reproduce {one.method.name} --scale {one.word} "
        "--data-dir DIR`; the same command goes on with what is missing."
        + "".join(f" Scale `{word}`: [{file}]({file})." for word, file in others.items())
        + "\n",
        "## What the paper says, and what is found here\n",
        "An answer is by the interval of its own difference; p in the tables below is corrected for all of a table.\n",
        *(claimed(finding) for finding in findings(one, claims, rows)),
        "## All lines\n",
        "Test accuracy, scored once for each training; validation chose whatever was chosen. Intervals are Student's, "
        "at 95 %; differences are paired by seed. A line that no search chose has the scale's settings, and so has its "
        "control.\n",
        *(paper_table(one, table, rows) for table in one.tables),
        *filter(None, [winners(one, rows)]),
        "## What differs from the paper\n",
        departures(one) + "\n",
        "## How it was made\n",
        made(rows) + "\n",
    ]
    for line, tables in own.items():
        parts.append(f"## The method's own tables: {line}, first seed, on test unless the table says validation\n")
        for table in tables.values():
            body = [[literal(short(cell)) for cell in row] for row in table["rows"]]
            parts.append(f"{table['caption']}\n\n" + markdown(table["columns"], body))
    if pictures:
        parts.append(f"## Figures: {one.scale.shown[0]}, first seed, on validation\n")
        parts += [f"![{name.partition('.')[0].replace('_', ' ')}]({name})\n" for name in pictures]
    return "\n".join(parts)


def claimed(finding: Finding) -> str:
    """A question, what the paper says, its figure and ours beside the control's, and the answer."""
    body = [
        (line.cell.name, number(line.cell.printed), number(line.mean), span_of(line), str(len(line.scores)))
        for line in (finding.line, finding.control)
    ]
    says = f"The paper: {finding.claim.paper}." if finding.claim.paper else "The paper does not ask."
    return f"**{finding.claim.text}** {says} Here: {finding.sentence}\n\n" + markdown(
        ("", "paper %", "here %", "95% interval", "n"), body
    )


def departures(one: Reproduction) -> str:
    """How a scale differs from the paper: in words, then field by field, without those in which the headline's lines
    differ."""
    paper = flatten(one.method.configure("paper"))
    alike: dict[str, list[str]] = {}
    for word, data in one.scale.data.items():
        stages: dict[str, list[str]] = {}
        for name, value in _shared(one, word).items():
            if value != paper[name]:
                stage, _, field = name.partition(".")
                stages.setdefault(stage, []).append(f"{field} {_value(value)} ({_value(paper[name])})")
        listed = [f"- `{stage}`: {', '.join(fields)}" for stage, fields in stages.items()]
        listed += [f"- {data.train_size:,} training rows"] if data.train_size else []
        if listed:
            alike.setdefault("\n".join(listed), []).append(word)
    if not alike:
        return one.scale.words or "Nothing but what the method's card says."
    words = one.scale.words + "\n\n" if one.scale.words else ""
    several = len(one.scale.data) > 1
    lists = [f"{', '.join(names)}:\n\n{listed}" if several else listed for listed, names in alike.items()]
    return f"{words}Field by field, the paper's value in brackets:\n\n" + "\n\n".join(lists)


def _shared(one: Reproduction, data: str) -> dict[str, Any]:
    """The settings that a data set's lines have in common: those of the headline, or of all where it has none."""
    cells = [cell for table in one.tables if table.data == data for cell in table.cells]
    lines = [cell.settings for cell in cells if cell.headline] or [cell.settings for cell in cells]
    own = {name: lines[0][name] for name in set.intersection(*map(set, lines))} if lines else {}
    settings = {**one.scale.settings, **one.scale.each.get(data, {}), **own}
    configs = flatten(one.method.configure(one.scale.recipe, settings))
    varied = {name for name, value in own.items() if any(line[name] != value for line in lines)}
    return {name: value for name, value in configs.items() if name not in varied}


def made(rows: Sequence[Row]) -> str:
    """On which machines, in which precision, in how much processor time, from which commits."""
    if not rows:
        return "No training of this scale is published yet."
    places: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        device = row.processor or row.device
        places.setdefault((device if row.device == "cpu" else row.device, row.precision), []).append(row)
    body = []
    for (device, precision), own in sorted(places.items()):
        times = [row.cpu_seconds if row.device == "cpu" else row.seconds for row in own]
        spent = [seconds for seconds in times if seconds is not None]
        commits = sorted({(row.commit or "unknown")[:9] + ("+" if row.dirty else "") for row in own})
        first, last = min(row.started for row in own), max(row.finished for row in own)
        body.append(
            (
                device,
                precision,
                str(len(own)),
                duration(sum(spent)) if spent else NONE,
                f"{first:%Y-%m-%d} to {last:%Y-%m-%d}",
                ", ".join(commits),
            )
        )
    heads = ("processor", "precision", "trainings", "CPU time, or time on the GPU", "when", "commit")
    notes = "\nTimes leave out the stages that a training found, which another or an earlier sitting had made.\n"
    if any(row.dirty for row in rows):
        notes += "\n+ : with changes that were not committed.\n"
    return markdown(heads, body) + notes


def _value(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "/".join(f"{entry:g}" for entry in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(value: float | None, unit: str = "%") -> str:
    """A mean or a spread in a table's unit."""
    return NONE if value is None else f"{value:.2f}" if unit == "%" else f"{value:.4g}"


def span_of(line: Line, unit: str = "%", within: tuple[float, float] = (0.0, 100.0)) -> str:
    """Student's 95% interval of a line's mean, which does not leave `within`."""
    span = student(list(line.scores.values()), *within)
    return f"{number(span[0], unit)} to {number(span[1], unit)}" if span else NONE


def paper_table(one: Reproduction, table: PaperTable, rows: Sequence[Row]) -> str:
    """A table of the paper with our column, what is not trained of it, and what its searches cost."""
    lines, unit = lines_of(one, table, rows), table.unit
    costly = any(line.macs for line in lines)
    p = corrected(lines)
    by_name = {line.cell.name: line for line in lines}
    body = [
        (
            line.cell.name,
            number(line.cell.printed, unit),
            number(line.mean, unit),
            number(line.spread, unit),
            str(len(line.scores)),
            span_of(line, unit, table.within),
            f"{line.over(by_name[line.cell.against], unit)} over {line.cell.against}" if line.cell.against else "",
            f"{p[line.cell.name]:.2g}" if line.cell.name in p else "",
            *([number(statistics.fmean(line.macs) if line.macs else None)] if costly else []),
        )
        for line in lines
        if line.scores
    ]
    columns = (
        "line",
        f"paper {unit}".strip(),
        f"here {unit}".strip(),
        "sd",
        "n",
        "95% interval",
        "difference",
        "p (Holm)",
        *(["MACs %"] if costly else []),
    )
    parts = [f"### {table.title}\n", f"{table.note}\n" if table.note else "", markdown(columns, body) if body else ""]
    if lacking := [line.cell for line in lines if not line.scores]:
        names = (c.name if c.printed is None else f"{c.name} (paper {number(c.printed, unit)})" for c in lacking)
        parts.append(f"Not trained yet: {'; '.join(names)}.\n")
    text = "\n".join(filter(None, parts))
    if any(line.searched and line.cell.printed_seconds for line in lines):
        text += "\n" + search_cost(lines)
    return text


def winners(one: Reproduction, rows: Sequence[Row]) -> str:
    """What each search chose, in a line; empty where none has ended."""
    said = {}
    for table in one.tables:
        for line in lines_of(one, table, rows):
            if line.cell.searcher and line.rows:
                said[one.run_of(table, line.cell).study] = f"- {winner(one, table, line)}\n"
    return "## What the searches chose\n\n" + "".join(said.values()) if said else ""


def winner(one: Reproduction, table: PaperTable, line: Line) -> str:
    """What a line's search chose, and where that lies at an end of its range."""
    said, ends = [], []
    for name, domain in one.space_of(table, line.cell).items():
        value = line.rows[0].config[name]
        said.append(f"{name} {short(value)}")
        if not isinstance(domain, Choice) and (end := end_of(domain, value)):
            lies = f"{name} lies at the {end} end of its range, {domain.low:g} to {domain.high:g}"
            ends.append(f"{lies}, beyond which a better value may lie")
    among = f" among {counted(len(line.searched), 'trial')}" if line.searched else ""
    return "; ".join((f"{line.cell.name}: validation chose {', '.join(said)}{among}", *ends)) + "."


def search_cost(lines: Sequence[Line]) -> str:
    """Figure 4 as a table: what each search cost, in all and until it was as good as the grid's best on validation.

    Multiply-adds are of its trials as if each had trained all its stages; seconds depend on what a cache held.
    """
    body = []
    by_name = {line.cell.name: line for line in lines}
    for line in lines:
        other = by_name.get(line.cell.against)
        grid = other or line
        best = max((row.val_accuracy or 0.0 for row in grid.searched), default=None)
        goal = best if grid.rows else None  # a grid whose winner is not retrained may not have ended
        printed, theirs = line.cell.printed_seconds, other and other.cell.printed_seconds
        (macs, _), (reached, seconds) = spent(line.searched), (0, 0.0) if goal is None else spent(line.searched, goal)
        body.append(
            (
                line.cell.name,
                str(len(line.searched)),
                percent(max((row.val_accuracy or 0.0 for row in line.searched), default=None)),
                f"{macs:.3g}",
                f"{reached:.3g}" if reached else "never" if goal and line.rows else NONE,
                duration(seconds) if seconds else NONE,
                f"{spent(grid.searched, goal)[0] / reached:.2f}" if other and reached else "",
                f"{printed:,.0f}" if printed else NONE,
                f"{theirs / printed:.2f}" if printed and theirs else "",
            )
        )
    columns = ("search", "trials", "best on validation %", "MACs", "MACs to the grid's best", "CPU time to it")
    said = (
        "Each is one search, and another seed's would cost otherwise; CPU time leaves out stages that were found.\n\n"
    )
    return said + markdown((*columns, "times cheaper", "paper's seconds", "paper's ratio"), body)


def spent(searched: Sequence[Row], goal: float | None = None) -> tuple[int, float]:
    """Multiply-adds and CPU seconds of trials up to the first that reaches `goal`; (0, 0) where none does."""
    macs, seconds = 0, 0.0
    for row in sorted(searched, key=lambda row: row.trial):
        macs, seconds = macs + (row.macs_train or 0), seconds + (row.cpu_seconds or 0.0)
        if goal is not None and (row.val_accuracy or 0.0) >= goal:
            return macs, seconds
    return (macs, seconds) if goal is None else (0, 0.0)
