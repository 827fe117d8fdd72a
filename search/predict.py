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
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bo_distill.methods.errors import UsageError
from bo_distill.search.command.data import add_data_options, given_data
from bo_distill.search.command.shell import FAILED, OK, SOME_FAILED, Parser, carry_out, trust_option
from bo_distill.search.rows.export import printable

if TYPE_CHECKING:
    from torch import Tensor

    from bo_distill.search.study.winner import Deployed

ROWS = 256  # that are held and answered at once
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
    p.add_argument("--storage", default="results", metavar="DIR", help="where studies lie (default results)")
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


def open_model(name: str, storage_uri: str) -> Deployed:
    """The network of a folder, of a study's folder, of a study's name or of an ONNX file.

    Raises:
        UsageError: there is none.
    """
    from bo_distill.distributed.storage import Storage
    from bo_distill.search.study.kept import check_name
    from bo_distill.search.study.winner import load_model

    if Path(name).suffix.lower() == ".onnx" and "://" not in name:
        from bo_distill.search.study.exported import loaded

        try:
            return loaded(name, Path(name).expanduser().read_bytes())
        except OSError as error:
            raise UsageError(f"{name}: {error.strerror}; give a file of --export onnx") from None
    here = Storage(name) if "://" in name or os.path.isdir(os.path.expanduser(name)) else None
    if here and here.exists("model.json"):
        return load_model(here)
    if here and here.exists("model/model.json"):
        return load_model(here, "model")
    if here:
        raise UsageError(f"{name}: there is no model.json in it, nor in its model folder; give a study that has ended")
    storage = Storage(storage_uri)
    if "/" not in name:
        check_name("MODEL", name)
    if "/" in name.strip("/") or not storage.exists(f"studies/{name}"):
        raise UsageError(f"{name}: no such folder, nor a study under {storage.uri}; give MODEL or --storage")
    return load_model(storage, f"studies/{name}/model")


def rows_of(inputs: Sequence[str], deployed: Deployed, bad: list[str]) -> Iterator[tuple[list[str], Tensor]]:
    """What to answer, in parts of at most `ROWS`: (name of each row, the rows as a `Split` holds them).

    Args:
        bad: grows by a line for each image that cannot be read.

    Raises:
        UsageError: an input is missing or cannot be read, or holds nothing.
    """
    image = deployed.info.kind == "image"
    if image and deployed.info.shape[0] not in (1, 3):
        raise UsageError(f"this network takes {deployed.info.shape[0]} channels, which no image file holds")
    # All are found before anything is answered.
    files = [file for name in inputs for file in (_images_in(name) if image else [_existing(name)])]
    yield from (_images if image else _sentences)(files, deployed, bad)


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        raise UsageError(f"{name}: there is no such file")
    return path


def _images_in(name: str) -> list[Path]:
    """The image files that an input names: itself, or those in a folder."""
    from bo_distill.methods.data.images.pixels import SUFFIXES

    path = _existing(name)
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise UsageError(f"{path}: there is no image in this folder ({' '.join(SUFFIXES)}); give another")
    return files


def _images(files: Sequence[Path], deployed: Deployed, bad: list[str]) -> Iterator[tuple[list[str], Tensor]]:
    import torch

    from bo_distill.methods.data.images.pixels import Pixels, Unreadable, own_limit, read

    channels, height, width = deployed.info.shape
    how = Pixels(height, width, channels, **deployed.info.reading)
    for start in range(0, len(files), ROWS):
        some = files[start : start + ROWS]
        names, rows = [], []
        for file in some:
            try:
                with own_limit():
                    rows.append(torch.from_numpy(read(file, how)[0]))
                names.append(str(file))
            except Unreadable as error:
                bad.append(f"{file}: this is not an image, or not a whole one ({error}); mend it")
        if rows:
            yield names, torch.stack(rows)


def _sentences(files: Sequence[Path], deployed: Deployed, bad: list[str]) -> Iterator[tuple[list[str], Tensor]]:
    from bo_distill.methods.data.characters import encode
    from bo_distill.methods.data.texts.sentences import tidy

    for path in files:
        try:
            lines = _lines(path, deployed.info.reading)
        except (UsageError, OSError) as error:
            bad.append(str(error))
            continue
        numbered = [(n, tidy(line)) for n, line in enumerate(lines, 1)]
        numbered = [(n, line) for n, line in numbered if line]
        if not numbered:
            bad.append(f"{path}: there is no sentence in it; give a file with one a line")
        for start in range(0, len(numbered), ROWS):
            some = numbered[start : start + ROWS]
            x = encode([line for _, line in some], deployed.info.vocabulary, deployed.info.shape[0])
            yield [f"{path}:{n}" for n, _ in some], x


def _lines(path: Path, reading: Mapping[str, Any]) -> list[str]:
    """The sentences of a table or a text file, blank ones too.

    Raises:
        UsageError: it is not readable as one. OSError: nor as a file.
    """
    from bo_distill.methods.data.texts.encodings import utf8
    from bo_distill.methods.data.texts.tables import Layout, columns, kind_of

    if kind_of(path):  # its rows are counted without the header
        layout = Layout(reading.get("delimiter"), tuple(reading.get("columns", ())), reading.get("encoding"))
        return columns(str(path), path, (reading.get("text_column", "text"),), layout)[0]
    # Lines as an editor counts them: Python's splitlines breaks at more characters.
    text = utf8(str(path), path, reading.get("encoding")).decode()
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def ready(x: Tensor) -> Tensor:
    """Rows of a `Split` as a network takes them."""
    import torch

    return x.float() / 255 if x.dtype == torch.uint8 else x.long()


def probabilities(deployed: Deployed, x: Tensor) -> dict[str, Tensor]:
    """Rows x as a `Split` holds them -> for each task (n, classes), each row's sum 1."""
    import torch

    with torch.inference_mode():
        return {task: net(ready(x)).float().softmax(1) for task, net in deployed.nets.items()}


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    if args.top < 1:
        raise UsageError(f"--top {args.top}: give at least 1")
    if not args.inputs and not args.export:
        raise UsageError("no INPUT; give images, a folder of images or a text file, or --export")
    deployed = read_as(open_model(args.model, args.storage), given_data(args))
    if args.export:
        form, file = args.export
        if not Path(file).absolute().parent.is_dir():
            raise UsageError(f"--export {form} {file}: there is no such folder; make it or give another")
        if args.model.lower().endswith(".onnx"):
            raise UsageError(f"--export {form}: {args.model} is an export; give the study that it is of")
        from bo_distill.search.study.exported import export

        content, worst, tolerance = export(deployed, form)
        words = f"logits differ from the original's by {worst:.1e} at most (tolerance {tolerance:.1e})"
        if not worst <= tolerance:
            print(f"error: --export {form}: {words}; nothing was written", file=sys.stderr)
            return FAILED
        try:
            Path(file).write_bytes(content)
        except OSError as error:
            raise UsageError(f"--export {form} {file}: cannot be written: {error.strerror}") from None
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
