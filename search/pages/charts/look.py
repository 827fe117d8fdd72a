"""How charts look, and a Figure as SVG that takes its colours from the page it stands in.

Colours are Okabe and Ito's and never tell anything alone: what differs in colour differs in marker or line too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# name -> (light, dark). Light is what PNGs have, and is replaced by the page's variable in SVG: keep each one unique.
COLOURS = {
    "ink": ("#1b1b1f", "#ededf2"),
    "muted": ("#6a6a74", "#a3a3af"),
    "faint": ("#b9b9c2", "#5c5c68"),
    "grid": ("#e2e2e7", "#34343c"),
    "paper": ("#fdfdfe", "#17171b"),
    "c1": ("#0072b2", "#56b4e9"),
    "c2": ("#d55e00", "#f59a4c"),
    "c3": ("#009e73", "#3ccfa4"),
    "c4": ("#cc79a7", "#e6a5c8"),
    "c5": ("#e69f00", "#f2c14e"),
}


INK, MUTED, FAINT, GRID, PAPER, C1, C2, C3, C4, C5 = (light for light, _ in COLOURS.values())


LINES = ((C1, "-", "o"), (C2, "--", "s"), (C3, "-.", "^"), (C4, ":", "D"), (C5, (0, (5, 1, 1, 1, 1, 1)), "v"))


STATUS = {"done": ("o", "finished"), "pruned": ("v", "stopped early"), "failed": ("x", "failed")}


# Inches. A page has each chart twice and shows the one that fits, as text that shrinks with a chart cannot be read.
WIDE, NARROW = 7.6, 3.9


@contextmanager
def style() -> Iterator[None]:
    """Everything below is drawn and saved inside."""
    import matplotlib

    look: Any = {
        "font.size": 9.5,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.edgecolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "svg.fonttype": "none",
    }
    with matplotlib.rc_context(look):
        yield


def blank(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def mark(artist: Any, trials: Sequence[int]) -> None:
    """Say which trials the points of an artist stand for, so that a page can show them."""
    artist.set_gid("trials_" + "_".join(map(str, trials)))


def png(figure: Figure, dpi: int = 144) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def svg(figure: Figure, name: str) -> tuple[Markup, int]:
    """An `<svg>` element for a page that defines the COLOURS as variables, and its natural width in CSS pixels.

    Args:
        name: unique on the page; ids begin with it.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", text, flags=re.S)
    text = re.sub(r'\bid="trials_([\d_]+)"', lambda m: f'class="trials" data-trials="{m[1].replace("_", " ")}"', text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'(xlink:href|\bhref)="#', rf'\1="#{name}-', text)
    text = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    for variable, (light, _) in COLOURS.items():
        text = re.sub(light, f"var(--{variable})", text, flags=re.I)
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1)
    return Markup(text), round(1.6 * 72 * figure.get_figwidth())
