"""Texts and labels as rows of a data set: cleaned, each once, divided."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from bo_distill.methods.data.account import LeftOut, some
from bo_distill.methods.data.dataset import DataSpec
from bo_distill.methods.data.labels import alike_notes, in_order, normal
from bo_distill.methods.data.source import Indices, Source, divide, once
from bo_distill.methods.errors import UsageError


def tidy(text: str) -> str:
    """A sentence as networks see it: Unicode NFC, white space folded."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def sentences(
    spec: DataSpec,
    tasks: Sequence[str],
    texts: Sequence[str],
    labels: Sequence[Sequence[str]],
    given: Sequence[str] | None = None,
    left_out: tuple[LeftOut, ...] = (),
) -> Source:
    """Rows of text with one label per task, cleaned and divided.

    Texts are tidied and cut at `spec.max_length`; those that then differ in case only are equal, and equal texts stand
    in one part only and under one label (`methods.data.source.once`). Without given parts the rows are divided
    80/10/10, stratified by the first label; a part that has no rows is drawn from training, 10% of it.

    Args:
        spec: names the data in messages and says where texts are cut.
        tasks: names of the tasks.
        texts: (n).
        labels: per task (n).
        given: (n) the part of each row; "" for rows that are not used.
        left_out: what is known already not to be used.

    Raises:
        UsageError: labels that cannot be learned (one class, a class with too few rows), no training row.
    """
    parts = given if given is not None else ["train"] * len(texts)
    rows = [tidy(text) for text in texts]
    answers = list(zip(*([normal(label) for label in own] for own in labels), strict=True))
    known = [row for row, part in enumerate(parts) if part]
    usable = [row for row in known if rows[row] and all(answers[row])]
    if len(usable) < len(known):
        left_out += (LeftOut("empty", len(known) - len(usable)),)
    published = tuple({parts[row] for row in usable} - {"train"})
    cut = [rows[row][: spec.max_length] for row in usable]
    keep, equal = once(
        spec,
        [text.casefold() for text in cut],
        [answers[row] for row in usable],
        [parts[row] for row in usable],
        published,
        lambda number: f"{cut[number][:40]!r} ({', '.join(answers[usable[number]])})",
    )
    used = [usable[number] for number in np.flatnonzero(keep)]
    if not any(parts[row] == "train" for row in used):
        raise UsageError(f"{spec.name}: no training row is left{_because((*left_out, *equal))}; add rows or mend them")
    y, named = _numbered(spec, tasks, [answers[row] for row in used])
    of_row = np.array([parts[row] for row in used])
    divided = {str(part): np.flatnonzero(of_row == part) for part in np.unique(of_row)}
    divided = divide(spec.name, y[:, 0], named[0][1], divided, val=0.1, test=0.1)
    kept = tuple(rows[row][: spec.max_length] for row in used)
    notes = [note for own in zip(*(answers[row] for row in used), strict=True) for note in alike_notes(own)]
    drawn = [part for part in ("val", "test") if part not in of_row]
    if drawn and given is not None:
        notes.append(f"no {' and no '.join(drawn)} row is given: drawn from training, 10% each")
    notes += _absent_notes(y[divided["train"]], named)
    shortened = sum(len(rows[row]) > spec.max_length for row in used)
    if shortened:
        notes.append(f"{shortened:,} of {len(used):,} texts cut at {spec.max_length} characters (--max-length)")
    notes += _near(kept, divided)
    return Source(kept, y, named, divided, (*left_out, *equal), tuple(notes))


def _absent_notes(y: Indices, named: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[str]:
    """Says of each task but the first how many of its classes the labels `y` (n, tasks) of training lack."""
    for task, (name, classes) in enumerate(named[1:], start=1):
        absent = len(classes) - len(np.unique(y[:, task]))
        if absent:
            yield f"no training row for {absent} of the {len(classes)} classes of {name}"


def _because(left_out: Sequence[LeftOut]) -> str:
    return f" ({'; '.join(map(str, left_out))})" if left_out else ""


def _numbered(
    spec: DataSpec, tasks: Sequence[str], answers: Sequence[tuple[str, ...]]
) -> tuple[Indices, tuple[tuple[str, tuple[str, ...]], ...]]:
    """Labels as numbers (n, tasks), and the classes of each task."""
    y = np.empty((len(answers), len(tasks)), dtype=np.int64)
    named = []
    for task, name in enumerate(tasks):
        values = [answer[task] for answer in answers]
        classes = in_order(values)
        if len(classes) < 2:
            raise UsageError(f"{spec.name}: column {name} holds {some(classes)} only; a classifier needs two classes")
        number = {value: index for index, value in enumerate(classes)}
        y[:, task] = [number[value] for value in values]
        named.append((name, classes))
    return y, tuple(named)


def _near(texts: Sequence[str], parts: dict[str, Indices]) -> list[str]:
    """How many rows of validation and test differ from a training row in punctuation and spaces only."""

    def letters(text: str) -> str:
        return "".join(filter(str.isalnum, text.casefold()))

    trained = {letters(texts[row]) for row in parts["train"]} - {""}
    notes = []
    for part in ("val", "test"):
        near = sum(letters(texts[row]) in trained for row in parts[part])
        if near:
            notes.append(
                f"{near:,} of {len(parts[part]):,} {part} rows differ from a training row in punctuation only; "
                "they are kept"
            )
    return notes
