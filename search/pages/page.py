"""A page as parts: what it says is put together here, how it looks is in `template/`."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bo_distill.search.evidence.words import short
from bo_distill.search.pages.charts import look

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Part:
    """A part of a page: the macro of `template/parts.html.jinja` that writes it, and the macro's arguments."""

    macro: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        text: what is read.
        value: what a column is sorted by, and what is exported, in the column's unit.
        link: where the text leads; empty where it is only read.
    """

    text: str
    value: Any
    link: str = ""


@dataclass(frozen=True)
class Live:
    """Of a page that follows a search.

    Attributes:
        version: grows with each change.
        words: where the search stands.
    """

    version: int
    words: str


@dataclass
class Page:
    """The page so far.

    Attributes:
        parts: in order.
        pictures: file name -> PNG, to lie beside the page.
        alone: make no pictures.
        contents: (anchor, title) of the sections.
        prefix: of anchors and names; each of several studies on a page has its own.
    """

    parts: list[Part] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    alone: bool = False
    contents: list[tuple[str, str]] = field(default_factory=list)
    prefix: str = ""

    def add(self, macro: str, **values: Any) -> None:
        self.parts.append(Part(macro, values))

    def section(self, title: str, level: int = 2) -> None:
        anchor = self.prefix + re.sub(r"\W+", "-", title.lower()).strip("-")
        self.contents.append((anchor, title))
        self.add("heading", title=title, anchor=anchor, level=level)

    def say(self, *sentences: str) -> None:
        self.add("paragraph", text=" ".join(filter(None, sentences)))

    def chart(self, name: str, draw: Callable[[bool], Figure], title: str, caption: str = "") -> None:
        """A chart of ours: SVG in the page's colours, PNG beside the page. Called inside `look.style`.

        Args:
            draw: given whether it is for a phone's width.
        """
        name, wide = self.prefix + name, draw(False)
        if not self.alone:
            self.pictures[f"{name}.png"] = look.png(wide)
        drawn = [
            (kind, *look.svg(figure, f"{name}-{kind}")) for kind, figure in (("wide", wide), ("narrow", draw(True)))
        ]
        self.add("chart", drawn=drawn, title=title, caption=caption or title)

    def picture(self, name: str, figure: Figure, caption: str) -> None:
        """A method's own figure, on the white that it was drawn for."""
        content = look.png(figure)
        self.pictures[f"{self.prefix}{name}.png"] = content
        data = base64.b64encode(content).decode()
        self.add("picture", data=data, width=int(figure.get_figwidth() * 96), caption=caption)

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        caption: str = "",
        mark: int = -1,
        trials: Sequence[int] = (),
    ) -> None:
        """A table; columns of numbers are set right.

        Args:
            rows: of values, which are written in short, or of `Cell`s.
            mark: the row that stands out.
            trials: the number of the trial that each row is of; such a table is sorted, filtered and exported, and a
                click on a row shows its trial.
        """
        cells = [[value if isinstance(value, Cell) else Cell(short(value), value) for value in row] for row in rows]
        right = [all(re.match(r"[-+–\d.]|$", line[i].text) for line in cells) for i in range(len(columns))]
        self.add("table", columns=columns, right=right, rows=cells, caption=caption, mark=mark, trials=trials)

    @contextmanager
    def study(self, name: str, trials: Mapping[str, Any]) -> Iterator[None]:
        """What is added inside is of this study; `trials` is what the script knows of them (`details`)."""
        with self._inside("study", name=name, key=self.prefix, trials=trials):
            yield

    @contextmanager
    def folded(self, title: str, open: bool = False) -> Iterator[None]:
        """What is added inside is folded behind a title."""
        with self._inside("folded", title=title, open=open):
            yield

    @contextmanager
    def _inside(self, macro: str, **values: Any) -> Iterator[None]:
        outer, self.parts = self.parts, []
        try:
            yield
        finally:
            inner, self.parts = self.parts, outer
        self.add(macro, parts=inner, **values)

    def html(self, title: str, live: Live | None = None) -> str:
        """The whole page: one file that fetches nothing, unless it is live."""
        template = _environment().get_template("page.html.jinja")
        return template.render(title=title, page=self, colours=look.COLOURS, live=live)


@cache
def _environment() -> Environment:
    """Templates, style sheet and scripts; `source` puts one of the latter two into a page as it is."""
    loader = PackageLoader("bo_distill.search.pages", "template")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["source"] = lambda name: Markup(loader.get_source(environment, name)[0])
    return environment
