"""The section that says what was read of a data set, and the page of a data set by itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bo_distill.methods.data.account import Account
from bo_distill.methods.data.dataset import Data
from bo_distill.search.pages.charts import look
from bo_distill.search.pages.page import Page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = 100  # shown one by one
SHOWN = 10  # images or sentences of a class
SIDE = 64  # pixels of an image on a sheet, at least


def add_reading(page: Page, account: Account) -> None:
    """Rows per part and class, and what was left out."""
    parts = list(account.rows)
    classes = list(next(iter(account.rows.values()), {}))
    page.table(
        ("class", *parts),
        [(name, *(account.rows[part][name] for part in parts)) for name in classes[:CLASSES]]
        + [(f"all {len(classes)} classes", *(sum(account.rows[part].values()) for part in parts))],
        "Rows that are used, by the first label" + (f"; {CLASSES} classes shown" if len(classes) > CLASSES else ""),
    )
    for line in account.lines() or ["Nothing was left out."]:
        page.say(line)


def dataset_page(data: Data) -> str:
    """A data set on a page: counts, balance, what was left out, and training rows of each class."""
    info, page = data.info, Page()
    page.section("What was read")
    facts = [
        ("kind", info.kind),
        ("shape of a row", " x ".join(map(str, info.shape))),
        ("fingerprint", info.fingerprint),
    ]
    page.add("facts", entries=facts)
    add_reading(page, info.account)
    page.section("Balance")
    with look.style():
        page.chart("balance", lambda narrow: _balance(data, narrow), "Training rows of each class, most frequent first")
    page.section("Training rows of each class")
    if info.kind == "image":
        page.add(
            "picture",
            data=base64.b64encode(contact_sheet(data)).decode(),
            width=max(SIDE, info.shape[-1]) * SHOWN,
            caption=f"A class a line, in order: {', '.join(info.classes[:CLASSES])}",
        )
    else:
        page.table(("class", "sentences"), [(name, " | ".join(some)) for name, some in sample_sentences(data)])
    return page.html(info.name)


def _rows_of(data: Data, label: int, most: int) -> list[int]:
    y = data.train.y if data.train.y.dim() == 1 else data.train.y[:, 0]
    rows: list[int] = (y == label).nonzero().squeeze(1)[:most].tolist()
    return rows


def sample_sentences(data: Data, most: int = 3) -> list[tuple[str, Sequence[str]]]:
    """(class, a few of its training sentences) of each class."""
    return [
        (name, [data.train.texts[row] for row in _rows_of(data, label, most)])
        for label, name in enumerate(data.info.classes[:CLASSES])
    ]


def contact_sheet(data: Data) -> bytes:
    """A PNG with a line of training images for each class."""
    channels, height, width = data.info.shape
    times = max(1, -(-SIDE // width))
    classes = data.info.classes[:CLASSES]
    sheet = Image.new("RGB", (SHOWN * width * times, len(classes) * height * times), "white")
    for label in range(len(classes)):
        for column, row in enumerate(_rows_of(data, label, SHOWN)):
            pixels = np.broadcast_to(data.train.x[row].numpy(), (max(channels, 3), height, width))
            tile = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)[..., :3]))
            tile = tile.resize((width * times, height * times), Image.Resampling.NEAREST)
            sheet.paste(tile, (column * width * times, label * height * times))
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def _balance(data: Data, narrow: bool) -> Figure:
    import matplotlib.pyplot as plt

    counts = sorted(data.info.account.rows["train"].values(), reverse=True)
    figure, axes = plt.subplots(figsize=(3.6 if narrow else 7, 2.4))
    axes.bar(range(len(counts)), counts, color=look.C1, width=0.8)
    axes.set_xlabel("class, by size")
    axes.set_ylabel("training rows")
    return figure
