"""What a winner's network answers to images and sentences, from files or handed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bo_distill.methods.errors import UsageError
from bo_distill.search.api.own_data import are_all, as_images

if TYPE_CHECKING:
    from torch import Tensor

    from bo_distill.search.study.winner import Deployed

ROWS = 256  # that are held and answered at once


def open_model(name: str, storage_uri: str) -> Deployed:
    """The network of a folder, of a study's folder, of a study's name or of an ONNX file.

    Raises:
        UsageError: there is none.
    """
    from bo_distill.distributed.storage import Storage
    from bo_distill.search.study.kept import check_name
    from bo_distill.search.study.ledger import Study
    from bo_distill.search.study.winner import load_model, winners_model

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
        root, inside, study = here.uri.rstrip("/").rpartition("/studies/")
        if inside and here.exists("study.json"):
            return winners_model(Study.open(Storage(root), study))
        return load_model(here, "model")
    if here:
        raise UsageError(f"{name}: there is no model.json in it, nor in its model folder; give a study that has ended")
    storage = Storage(storage_uri)
    if "/" not in name:
        check_name("MODEL", name)
    if "/" in name.strip("/") or not storage.exists(f"studies/{name}"):
        raise UsageError(f"{name}: no such folder, nor a study under {storage.uri}; give MODEL or --storage")
    if storage.exists(f"studies/{name}/model/model.json") and storage.exists(f"studies/{name}/study.json"):
        return winners_model(Study.open(storage, name))
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
    """The image files that an input names: itself, or those in a folder that training would read."""
    from bo_distill.methods.data.images.folder import images_under
    from bo_distill.methods.data.images.pixels import SUFFIXES

    path = _existing(name)
    if not path.is_dir():
        return [path]
    files = images_under(name, path, Counter())
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
        except UsageError as error:
            bad.append(str(error))
            continue
        except OSError as error:
            bad.append(f"{path}: {error.strerror}; give a table or a text file")
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


def handed_over(x: Any, deployed: Deployed) -> Tensor:
    """Images or sentences of a program as rows of a `Split`.

    Args:
        x: as `bo_distill.run` takes the rows of data; for a network of images also names of files and folders.

    Raises:
        UsageError: they are not what the network was trained on, or a file cannot be read.
    """
    import torch

    from bo_distill.methods.data.characters import encode
    from bo_distill.methods.data.texts.sentences import tidy

    info = deployed.info
    some = [x] if isinstance(x, str | Path) else x
    if info.kind == "text":
        if not are_all(some, str, "predict", "text"):
            raise UsageError("predict: this network takes sentences; give text, or a list of it")
        return encode([tidy(str(text)) for text in some], info.vocabulary, info.shape[0])
    if not hasattr(some, "ndim") and are_all(some, str | Path, "predict", "files"):
        bad: list[str] = []
        rows = [part for _, part in rows_of([*map(str, some)], deployed, bad)]
        if bad:
            raise UsageError(f"predict: {bad[0]}")
        return torch.cat(rows)
    images = as_images(some, "predict")
    if images.shape[1:] != info.shape:
        (_, *size), (channels, *taken) = images.shape[1:], info.shape
        raise UsageError(
            f"predict: images of {size[0]} x {size[1]} pixels; this network takes {taken[0]} x {taken[1]}, "
            f"{channels} channels: resize them, or hand over files, which are resized"
        )
    return torch.from_numpy(images)
