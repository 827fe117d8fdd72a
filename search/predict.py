"""Labels and probabilities from a trained network, and the network in forms that other programs run.

    python -m search.predict results/studies/NAME picture.png folder/ --top 3
    python -m search.predict NAME sentences.txt --json
    python -m search.predict NAME --export onnx model.onnx
    python -m search.predict model.onnx picture.png

MODEL is a study (its name under --storage, or its folder), a folder with model.json, or an ONNX file of --export.
Inputs are read as training read its own: images by the same decoder and at the same size; of a table the column of
sentences, with or without a first line of names; any other text file holds one sentence a line, blank lines left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bo_distill.methods.errors import UsageError
from bo_distill.search.api.answers import open_model, probabilities, rows_of
from bo_distill.search.command.data import add_data_options, given_data
from bo_distill.search.command.shell import FAILED, OK, SOME_FAILED, Parser, carry_out, storage_option, trust_option
from bo_distill.search.command.terminal import named_file, write_named
from bo_distill.search.rows.export import printable

if TYPE_CHECKING:
    from bo_distill.search.study.winner import Deployed

READING = {"image": ("ground", "white", "max_megapixels"), "text": ("text_column", "delimiter", "columns", "encoding")}
"""Kind of data -> the fields of `DataSpec` that say how a row is read (`methods.data.Info.reading`)."""


def parser() -> Parser:
    """The command's options."""
    p = Parser(prog="python -m search.predict", description="Use a study's winner.", allow_abbrev=False)
    p.add_argument("model", metavar="MODEL", help="a study's name or folder, a folder with model.json, an ONNX file")
    p.add_argument("inputs", nargs="*", metavar="INPUT", help="images, folders of images, tables or text files")
    p.add_argument("--top", type=int, default=1, metavar="K", help="print the K most probable labels (default 1)")
    p.add_argument("--json", action="store_true", help="print one JSON list with all probabilities")
    p.add_argument("--export", nargs=2, metavar=("FORMAT", "FILE"), help="write the network as torch or onnx")
    storage_option(p)
    reading = p.group("reading the inputs (default: as the training's)")
    add_data_options(reading, [name for names in READING.values() for name in names])
    trust_option(p)
    return p


def read_as(deployed: Deployed, given: Mapping[str, Any]) -> Deployed:
    """The network with what a command says of how its inputs are read.

    Args:
        given: fields of `DataSpec`.

    Raises:
        UsageError: inputs of its kind are not read by one of them.
    """
    info = deployed.info
    for name in given:
        if name not in READING[info.kind]:
            raise UsageError(f"--{name.replace('_', '-')}: this network reads {info.kind}s; leave it out")
    said = {name: tuple(value.split(",")) if name == "columns" else value for name, value in given.items()}
    return replace(deployed, info=replace(info, reading={**info.reading, **said}))


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    if args.top < 1:
        raise UsageError(f"--top {args.top}: give at least 1")
    if not args.inputs and not args.export:
        raise UsageError("no INPUT; give images, a folder of images or a text file, or --export")
    deployed = read_as(open_model(args.model, args.storage), given_data(args))
    if args.export:
        form, file = args.export
        named_file(f"--export {form}", file)
        if args.model.lower().endswith(".onnx"):
            raise UsageError(f"--export {form}: {args.model} is an export; give the study that it is of")
        from bo_distill.search.study.exported import export

        content, worst, tolerance = export(deployed, form)
        words = f"logits differ from the original's by {worst:.1e} at most (tolerance {tolerance:.1e})"
        if not worst <= tolerance:
            print(f"error: --export {form}: {words}; nothing was written", file=sys.stderr)
            return FAILED
        write_named(f"--export {form}", file, content)
        print(f"{file}: {words}", file=sys.stderr)
    return answer(args, deployed)


def answer(args: argparse.Namespace, deployed: Deployed) -> int:
    """Print an answer for each row as it is found; what cannot be read is named at the end."""
    bad, comma = list[str](), "["
    for names, x in rows_of(args.inputs, deployed, bad):
        found = probabilities(deployed, x)
        for row, name in enumerate(names):
            shares = {task: every[row].tolist() for task, every in found.items()}
            if args.json:
                print(comma + json.dumps({"input": name, **as_json(deployed.tasks, shares)}), end="")
                comma = ",\n"
            else:
                print(
                    *(
                        printable(word).replace("\n", "\\n")
                        for word in (name, *in_words(deployed.tasks, shares, args.top))
                    ),
                    sep="\t",
                )
    if args.json and args.inputs:
        print("]" if comma != "[" else "[]")
    for line in bad:
        print(f"error: {printable(line)}", file=sys.stderr)
    return SOME_FAILED if bad else OK


Tasks = Mapping[str, Sequence[str]]
"""Each task that is answered -> the names of its classes."""


def as_json(tasks: Tasks, shares: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A row's answer: that of the first task, and where there are several each under its name in "tasks"."""
    every = {
        task: {
            "label": classes[own.index(max(own))],
            "probability": max(own),
            "probabilities": dict(zip(classes, own, strict=True)),
        }
        for (task, classes), own in zip(tasks.items(), shares.values(), strict=True)
    }
    first, *others = every.values()
    return {**first, "tasks": every} if others else first


def in_words(tasks: Tasks, shares: Mapping[str, Sequence[float]], most: int) -> Iterator[str]:
    """A row's most probable labels with their probabilities, of each task; with its name where there are several."""
    for task, own in shares.items():
        for k in sorted(range(len(own)), key=lambda k: -own[k])[:most]:
            yield f"{f'{task}=' if len(shares) > 1 else ''}{tasks[task][k]} {own[k]:.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
