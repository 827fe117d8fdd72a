"""Labels and probabilities from a trained network, and the network in forms that other programs run.

    python -m search.predict results/studies/NAME picture.png folder/ --top 3
    python -m search.predict NAME sentences.txt --json
    python -m search.predict NAME --export onnx model.onnx

MODEL is a study (its name under --storage, or its folder) or a folder with model.json. Images are brought to the size
that the network was trained on as an image folder's are; a text file holds one sentence a line, blank lines left out.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bo_distill.methods.errors import UsageError
from bo_distill.search.command.shell import FAILED, OK, SOME_FAILED, Parser, carry_out, trust_option

if TYPE_CHECKING:
    from torch import Tensor

    from bo_distill.search.study.winner import Deployed

ROWS = 256  # that are held and answered at once
TOLERANCE = 1e-4  # of an exported network's logits, times the largest of them where that is above 1


def parser() -> Parser:
    """The command's options."""
    p = Parser(prog="python -m search.predict", description="Use a study's winner.", allow_abbrev=False)
    p.add_argument("model", metavar="MODEL", help="a study's name or folder, or a folder with model.json")
    p.add_argument("inputs", nargs="*", metavar="INPUT", help="images, folders of images, or text files")
    p.add_argument("--top", type=int, default=1, metavar="K", help="print the K most probable labels (default 1)")
    p.add_argument("--json", action="store_true", help="print one JSON list with all probabilities")
    p.add_argument("--export", nargs=2, metavar=("FORMAT", "FILE"), help="write the network as torch or onnx")
    p.add_argument("--storage", default="results", metavar="DIR", help="where studies lie (default results)")
    trust_option(p)
    return p


def open_model(name: str, storage_uri: str) -> Deployed:
    """The network of a folder, of a study's folder or of a study's name.

    Raises:
        UsageError: there is none.
    """
    from bo_distill.distributed.storage import Storage
    from bo_distill.search.study.kept import check_name
    from bo_distill.search.study.winner import load_model

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
    """What to answer, in parts: (name of each row, the rows as a `Split` holds them).

    Args:
        bad: grows by a line for each image that cannot be read.

    Raises:
        UsageError: an input is missing or cannot be read, or holds nothing.
    """
    read = _images if deployed.info.kind == "image" else _sentences
    for name in inputs:
        path = Path(name).expanduser()
        if not path.exists():
            raise UsageError(f"{name}: there is no such file")
        yield from read(path, deployed, bad)


def _images(path: Path, deployed: Deployed, bad: list[str]) -> Iterator[tuple[list[str], Tensor]]:
    import torch

    from bo_distill.methods.data.images.pixels import SUFFIXES, Pixels, Unreadable, own_limit, read

    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise UsageError(f"{path}: there is no image in this folder ({' '.join(SUFFIXES)}); give another")
    channels, height, width = deployed.info.shape
    if channels not in (1, 3):
        raise UsageError(f"{path}: this network takes {channels} channels, which no image file holds")
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


def _sentences(path: Path, deployed: Deployed, bad: list[str]) -> Iterator[tuple[list[str], Tensor]]:
    from bo_distill.methods.data.characters import encode
    from bo_distill.methods.data.texts.encodings import utf8
    from bo_distill.methods.data.texts.sentences import tidy
    from bo_distill.methods.data.texts.tables import Layout, columns, kind_of

    reading = dict(deployed.info.reading)
    column = reading.pop("text_column", "text")
    if kind_of(path):  # a table: its rows are counted without the header
        layout = Layout(**{**reading, "columns": tuple(reading.get("columns", ()))})
        (lines,) = columns(str(path), path, (column,), layout)
    else:  # lines as an editor counts them: Python's splitlines breaks at more characters
        text = utf8(str(path), path, reading.get("encoding")).decode()
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    numbered = [(n, tidy(line)) for n, line in enumerate(lines, 1)]
    numbered = [(n, line) for n, line in numbered if line]
    if not numbered:
        raise UsageError(f"{path}: there is no sentence in it; give a file with one a line")
    for start in range(0, len(numbered), ROWS):
        some = numbered[start : start + ROWS]
        x = encode([line for _, line in some], deployed.info.vocabulary, deployed.info.shape[0])
        yield [f"{path}:{n}" for n, _ in some], x


def ready(x: Tensor) -> Tensor:
    """Rows of a `Split` as a network takes them."""
    import torch

    return x.float() / 255 if x.dtype == torch.uint8 else x.long()


def probabilities(deployed: Deployed, x: Tensor) -> Tensor:
    """Rows x as a `Split` holds them -> (n, classes), each row's sum 1."""
    import torch

    with torch.inference_mode():
        return torch.cat([deployed.net(ready(part)).float().softmax(1) for part in x.split(ROWS)])


def samples(info: Any, rows: int) -> Tensor:
    """Made-up rows as a network takes them, the same every time."""
    import torch

    generator = torch.Generator().manual_seed(rows)
    if info.kind == "image":
        return torch.rand(rows, *info.shape, generator=generator)
    x = torch.randint(1, 2 + len(info.vocabulary), (rows, *info.shape), generator=generator)
    length = torch.randint(1, info.shape[0] + 1, (rows, 1), generator=generator)
    return x * (torch.arange(info.shape[0]) < length)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' words on their own future and the graphs that they print when they fail."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export(deployed: Deployed, form: str) -> tuple[bytes, float, float]:
    """The network for any number of rows as a file of torch.export or ONNX, tried on 1, 2 and 7 made-up rows.

    Returns:
        (the file's content, largest difference of its logits from the original's, the tolerance)

    Raises:
        UsageError: no such form, the network cannot be exported, or a package is missing.
    """
    import torch

    if form not in ("torch", "onnx"):
        raise UsageError(f"--export {form}: give torch or onnx")
    try:
        with quiet(), torch.no_grad():
            rows = ({0: torch.export.Dim("rows", min=1)},)
            program = torch.export.export(deployed.net, (samples(deployed.info, 2),), dynamic_shapes=rows)
            if form == "torch":
                buffer = io.BytesIO()
                torch.export.save(program, buffer)
                content = buffer.getvalue()
                answer: Any = torch.export.load(io.BytesIO(content)).module()
            else:
                import onnxruntime
                import onnxscript

                assert onnxscript  # torch's exporter needs it
                written = torch.onnx.export(program, dynamo=True, verbose=False)
                assert written is not None
                content = written.model_proto.SerializeToString()
                session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
                (taken,) = session.get_inputs()

                def ran(x: Tensor) -> Tensor:
                    """The exported network's logits."""
                    return torch.from_numpy(session.run(None, {taken.name: x.numpy()})[0])

                answer = ran

            some = [samples(deployed.info, count) for count in (1, 2, 7)]
            expected = torch.cat([deployed.net(x).float() for x in some])
            off = (torch.cat([answer(x).float() for x in some]) - expected).abs().max()
    except ModuleNotFoundError as error:
        raise UsageError(f'--export {form}: {error.name} is missing; pip install "bo-distill[export]"') from None
    except Exception as error:  # the exporters raise many kinds
        reason = " ".join(str(error).split())[:120]
        raise UsageError(
            f"--export {form}: this network of {deployed.card.method} cannot be exported "
            f"({type(error).__name__}: {reason}); use model.safetensors"
        ) from None
    return content, float(off), TOLERANCE * max(1.0, float(expected.abs().max()))


def run(args: argparse.Namespace) -> int:
    """Do what the command says; returns the exit code."""
    if args.top < 1:
        raise UsageError(f"--top {args.top}: give at least 1")
    if not args.inputs and not args.export:
        raise UsageError("no INPUT; give images, a folder of images or a text file, or --export")
    deployed = open_model(args.model, args.storage)
    if args.export:
        form, file = args.export
        if not Path(file).absolute().parent.is_dir():
            raise UsageError(f"--export {form} {file}: there is no such folder; make it or give another")
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
    classes, bad, comma = deployed.info.classes, list[str](), "["
    for names, x in rows_of(args.inputs, deployed, bad):
        for name, row in zip(names, probabilities(deployed, x), strict=True):
            top = row.topk(min(args.top, len(classes)))
            best = [(classes[k], p) for p, k in zip(top.values.tolist(), top.indices.tolist(), strict=True)]
            if args.json:
                each = dict(zip(classes, row.tolist(), strict=True))
                said = {"input": name, "label": best[0][0], "probability": best[0][1], "probabilities": each}
                print(comma + json.dumps(said), end="")
                comma = ",\n"
            else:
                print(name, *(f"{label} {p:.4f}" for label, p in best), sep="\t")
    if args.json and args.inputs:
        print("]" if comma != "[" else "[]")
    for line in bad:
        print(f"error: {line}", file=sys.stderr)
    return SOME_FAILED if bad else OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return carry_out(parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
