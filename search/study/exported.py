"""A winner's network as a file of torch.export or ONNX, and an ONNX file as a network.

Either file carries the model's card (`search.study.winner.Card`): classes, vocabulary, how an input is read. In an ONNX
file it is among the metadata, as `card`, beside `classes` and `preprocessing` for programs and people without this
project; in a file of torch.export it is the extra file `card.json`. Logits are `logits_TASK`, one output for each task.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bo_distill.methods.data import Info
from bo_distill.methods.errors import UsageError
from bo_distill.methods.records import Malformed, decoded
from bo_distill.search.study.kept import damaged, packed, unpacked
from bo_distill.search.study.winner import Card, Deployed

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TOLERANCE = 1e-4  # of an exported network's logits, times the largest of them where that is above 1
TRIED = (1, 2, 7)  # rows at once


class _Answers(nn.Module):
    """The networks of all tasks as one: x -> the logits of each."""

    def __init__(self, nets: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets.values())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """x as a `Batch` holds it -> (b, classes) for each task."""
        return tuple(net(x) for net in self.nets)


class _OfSession(nn.Module):
    """One output of an ONNX file as a network."""

    def __init__(self, session: InferenceSession, output: str) -> None:
        super().__init__()
        self.session, self.output = session, output
        (self.taken,) = session.get_inputs()

    def forward(self, x: Tensor) -> Tensor:
        """x as a `Batch` holds it -> (b, classes) logits."""
        return torch.from_numpy(self.session.run([self.output], {self.taken.name: x.numpy()})[0])


def preprocessing(info: Info) -> str:
    """How a row becomes the input of a network, in words."""
    if info.kind == "text":
        return (
            f"int64 (rows, {info.shape[0]}): Unicode NFC, white space folded, cut at {info.shape[0]} characters; each "
            "character is its place in the card's vocabulary plus 2, 1 if it is not in it; 0 fills the rest"
        )
    channels, height, width = info.shape
    return (
        f"float32 (rows, {channels}, {height}, {width}) of {'grey' if channels == 1 else 'RGB'} / 255: turned upright "
        f"by EXIF, the shorter side brought to {min(height, width)} by bicubic resampling, the centre kept; "
        "the network itself subtracts a mean"
    )


def export(deployed: Deployed, form: str) -> tuple[bytes, float, float]:
    """The network for any number of rows as a file of torch.export or ONNX, tried on `TRIED` made-up rows.

    Returns:
        (the file's content, largest difference of its logits from the original's, the tolerance)

    Raises:
        UsageError: no such form, the network cannot be exported, or a package is missing.
    """
    if form not in ("torch", "onnx"):
        raise UsageError(f"--export {form}: give torch or onnx")
    net, info = _Answers(deployed.nets).eval(), deployed.info
    try:
        with _quiet(), torch.no_grad():
            rows = ({0: torch.export.Dim("rows", min=1)},)
            program = torch.export.export(net, (_samples(info, 2),), dynamic_shapes=rows)
            card = packed(dataclasses.asdict(deployed.card)).decode()
            if form == "torch":
                buffer = io.BytesIO()
                torch.export.save(program, buffer, extra_files={"card.json": card})
                content = buffer.getvalue()
                answer: Any = torch.export.load(io.BytesIO(content)).module()
            else:
                content = _onnx(program, deployed, card)
                answer = _Answers(loaded("the exported file", content).nets)
            expected, found = (
                [logits.float() for count in TRIED for logits in one(_samples(info, count))] for one in (net, answer)
            )
    except ModuleNotFoundError as error:
        raise UsageError(f"--export {form}: {error.name} is missing; pip install -e '.[export]'") from None
    except Exception as error:  # the exporters raise many kinds
        reason = " ".join(str(error).split())[:120]
        raise UsageError(
            f"--export {form}: this network of {deployed.card.method} cannot be exported "
            f"({type(error).__name__}: {reason}); use model.safetensors"
        ) from None
    off = max(float((one - other).abs().max()) for one, other in zip(expected, found, strict=True))
    return content, off, TOLERANCE * max(1.0, *(float(one.abs().max()) for one in expected))


def _onnx(program: torch.export.ExportedProgram, deployed: Deployed, card: str) -> bytes:
    """An exported network as the content of an ONNX file with its metadata."""
    import onnxruntime
    import onnxscript

    assert onnxscript and onnxruntime  # torch's exporter needs the first, what is written is tried by the second
    outputs = [f"logits_{task}" for task in deployed.tasks]
    written = torch.onnx.export(program, dynamo=True, verbose=False, input_names=["x"], output_names=outputs)
    assert written is not None
    model = written.model_proto
    said = {"card": card, "classes": json.dumps(deployed.tasks), "preprocessing": preprocessing(deployed.info)}
    for key, value in said.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


def loaded(name: str, content: bytes) -> Deployed:
    """The network in an ONNX file that `export` wrote.

    Args:
        name: of the file, for messages.

    Raises:
        UsageError: it is not one, its card is damaged or does not fit its outputs, or onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise UsageError(f"{name}: onnxruntime is missing; pip install -e '.[export]'") from None
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        said = session.get_modelmeta().custom_metadata_map
        nets = {one.name.removeprefix("logits_"): _OfSession(session, one.name) for one in session.get_outputs()}
    except Exception as error:  # its own kinds, which derive from Exception alone
        raise damaged(name, error) from None
    if "card" not in said:
        raise UsageError(f"{name}: it does not say how its inputs are read; give a file of --export onnx")
    try:
        card = decoded(Card, unpacked(name, said["card"].encode())[1])
        deployed = Deployed(nets, card.info, card)
        with torch.inference_mode():
            answers = {task: net(_samples(card.info, 2)) for task, net in nets.items()}
    except Malformed as error:
        raise damaged(name, error) from None
    except UsageError:
        raise
    except Exception as error:
        raise damaged(name, error) from None
    known = dict(card.info.tasks) or {"class": card.info.classes}
    for task, logits in answers.items():
        if task not in known or logits.shape != (2, len(known[task])):
            raise damaged(name, f"its output logits_{task} does not answer what its card says")
    return deployed


def _samples(info: Info, rows: int) -> Tensor:
    """Made-up rows as a network takes them, the same every time."""
    generator = torch.Generator().manual_seed(rows)
    if info.kind == "image":
        return torch.rand(rows, *info.shape, generator=generator)
    x = torch.randint(1, 2 + len(info.vocabulary), (rows, *info.shape), generator=generator)
    length = torch.randint(1, info.shape[0] + 1, (rows, 1), generator=generator)
    return x * (torch.arange(info.shape[0]) < length)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' words on their own future and the graphs that they print when they fail."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
