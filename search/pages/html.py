"""HTML of a page: blocks, tables, pictures, style."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from search.pages import charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


CONFIDENCE = 0.95


@dataclass
class Page:
    """The page so far.

    Attributes:
        body: HTML.
        pictures: file name -> PNG.
        contents: (anchor, title) of the sections.
    """

    body: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    contents: list[tuple[str, str]] = field(default_factory=list)
    prefix: str = ""

    def section(self, title: str, level: int = 2) -> None:
        anchor = self.prefix + re.sub(r"\W+", "-", title.lower()).strip("-")
        self.contents.append((anchor, title))
        self.body.append(f'<h{level} id="{escape(anchor)}">{escape(title)}</h{level}>')

    def say(self, *sentences: str) -> None:
        self.body.append(f"<p>{escape(' '.join(sentences))}</p>")

    def chart(self, name: str, figure: Figure, title: str, caption: str = "") -> None:
        """A chart of ours: SVG in the page's colours, PNG beside the page. Called inside `charts.style`."""
        name = self.prefix + name
        self.pictures[f"{name}.png"] = charts.png(figure)
        drawn = charts.svg(figure, name, title)
        self.body.append(f"<figure>{drawn}<figcaption>{escape(caption or title)}</figcaption></figure>")

    def picture(self, name: str, figure: Figure, caption: str) -> None:
        """A method's own figure, on the white that it was drawn for."""
        content = charts.png(figure)
        self.pictures[f"{self.prefix}{name}.png"] = content
        data = base64.b64encode(content).decode()
        width, words = int(figure.get_figwidth() * 96), escape(caption)
        self.body.append(
            f'<figure><img class="sheet" width="{width}" alt="{words}" src="data:image/png;base64,{data}">'
            f"<figcaption>{words}</figcaption></figure>"
        )

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", mark: int = -1) -> None:
        """`mark` is the row that stands out. Columns of numbers are set right."""
        right = [
            bool(rows) and all(isinstance(row[i], int | float) or re.match(r"[-+–\d.]|$", str(row[i])) for row in rows)
            for i in range(len(columns))
        ]
        side = [' class="n"' if is_right else "" for is_right in right]
        head = "".join(f'<th scope="col"{s}>{escape(c)}</th>' for c, s in zip(columns, side, strict=True))
        lines = "".join(
            f"<tr{' class=best' if number == mark else ''}>"
            + "".join(f"<td{s}>{escape(short(v))}</td>" for v, s in zip(row, side, strict=True))
            + "</tr>"
            for number, row in enumerate(rows)
        )
        words = f"<caption>{escape(caption)}</caption>" if caption else ""
        table = f"<table>{words}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
        self.body.append(f'<div class="scroll">{table}</div>')

    def folded(self, title: str, start: int) -> None:
        """Fold what was added since `start` behind a title."""
        inside = "".join(self.body[start:])
        self.body[start:] = [f"<details><summary>{escape(title)}</summary>{inside}</details>"]

    def html(self, title: str) -> str:
        variables = ["".join(f"--{name}: {pair[theme]};" for name, pair in charts.COLOURS.items()) for theme in (0, 1)]
        links = "".join(f'<a href="#{escape(a)}">{escape(t)}</a>' for a, t in self.contents)
        style = STYLE.replace("LIGHT", variables[0]).replace("DARK", variables[1])
        turn = f"<script>{TURN}</script>" if any("<canvas" in part for part in self.body) else ""
        # The policy is the proof: a browser refuses whatever this file does not hold.
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{escape(title)}</title><style>{style}</style></head>"
            f"<body><main><h1>{escape(title)}</h1><nav>{links}</nav>{''.join(self.body)}</main>{turn}</body></html>\n"
        )


def escape(text: str) -> str:
    return html.escape(str(text), quote=True)


def short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95% interval of the mean; None for one value."""
    from scipy import stats

    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, mean, error)
    return float(low), float(high)


def share(values: Sequence[float]) -> tuple[float, float] | None:
    """The interval of a mean accuracy, which ends at 0 and 1 whatever Student says."""
    pair = interval(values)
    return pair and (max(pair[0], 0.0), min(pair[1], 1.0))


def between(pair: tuple[float, float] | None) -> str:
    return "–" if pair is None else f"{percent(pair[0])} to {percent(pair[1])}"


STYLE = """
:root { color-scheme: light dark; LIGHT --sans: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) { :root { DARK } }
* { box-sizing: border-box; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--sans); }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--grid); }
p { max-width: 46rem; margin: .75rem 0; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; font-size: .9rem; }
a { color: var(--c1); text-underline-offset: .2em; }
figure { margin: 1.5rem 0; }
figure > svg { display: block; width: 100%; height: auto; }
figcaption, caption { color: var(--muted); font-size: .875rem; text-align: left; max-width: 46rem; padding: .4rem 0; }
img.sheet { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; padding: 8px;
  border: 1px solid var(--grid); }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1.1rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid); }
th { font-weight: 600; border-bottom-color: var(--muted); }
.n { text-align: right; }
tr.best td { font-weight: 650; }
.verdict { font-size: 1.15rem; line-height: 1.45; padding: .8rem 1rem; border-left: 4px solid var(--c1); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tiles div { border: 1px solid var(--grid); border-radius: 8px; padding: .7rem .9rem; }
dt, small { color: var(--muted); font-size: .85rem; }
dd { margin: .1rem 0; font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--c1); }
pre { overflow-x: auto; padding: .75rem 1rem; border: 1px solid var(--grid); border-radius: 8px; font-size: .82rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
canvas { width: 100%; max-width: 34rem; height: 26rem; touch-action: none; cursor: grab; border-radius: 8px;
  border: 1px solid var(--grid); }
.key { display: flex; flex-wrap: wrap; gap: .2rem .5rem; margin-top: .5rem; }
.key button { font: inherit; font-size: .85rem; color: var(--ink); background: none; border: 1px solid var(--grid);
  border-radius: 6px; padding: .1rem .6rem; cursor: pointer; }
.key button[aria-pressed="true"] { border-color: var(--ink); font-weight: 650; }
@media print { nav { display: none; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""


TURN = """
'use strict';
for (const figure of document.querySelectorAll('figure.turn')) {
  const canvas = figure.querySelector('canvas'), key = figure.querySelector('.key');
  const data = JSON.parse(figure.querySelector('script').textContent);
  const marks = [...'\\u25cf\\u25a0\\u25b2\\u25c6\\u2716\\u25bc\\u271a\\u25cb\\u25a1\\u25b3'];
  const names = ['c1', 'c2', 'c3', 'c4', 'c5', 'ink', 'muted'];
  let yaw = 0.6, pitch = 0.4, only = -1, held = null;
  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    return names.map(name => style.getPropertyValue('--' + name).trim());
  };
  const draw = () => {
    const scale = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
    canvas.width = box.width * scale; canvas.height = box.height * scale;
    const pen = canvas.getContext('2d'), paint = colours(), half = Math.min(box.width, box.height) / 2;
    pen.scale(scale, scale); pen.translate(box.width / 2, box.height / 2);
    pen.textAlign = 'center'; pen.textBaseline = 'middle';
    const cy = Math.cos(yaw), sy = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch);
    const turned = ([x, y, z]) => {
      const u = cy * x + sy * z, w = cy * z - sy * x, v = cp * y - sp * w, d = sp * y + cp * w;
      const near = 6 / (6 + d);
      return [half * 0.52 * u * near, -half * 0.52 * v * near, d, near];
    };
    pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue('--grid');
    const corner = i => [(i & 1) * 2 - 1, (i >> 1 & 1) * 2 - 1, (i >> 2 & 1) * 2 - 1];
    for (let i = 0; i < 8; i++) for (const bit of [1, 2, 4]) if (!(i & bit)) {
      const a = turned(corner(i)), b = turned(corner(i | bit));
      pen.beginPath(); pen.moveTo(a[0], a[1]); pen.lineTo(b[0], b[1]); pen.stroke();
    }
    const all = data.points.map((point, i) => [...turned(point), data.labels[i]]).sort((a, b) => b[2] - a[2]);
    for (const [x, y, , near, label] of all) {
      pen.globalAlpha = only < 0 || only === label ? Math.min(1, 0.35 + 0.5 * near) : 0.08;
      pen.fillStyle = paint[label % paint.length];
      pen.font = `${(9 * near).toFixed(1)}px sans-serif`;
      pen.fillText(marks[label % marks.length], x, y);
    }
  };
  data.classes.forEach((name, label) => {
    const button = document.createElement('button');
    button.type = 'button';
    const mark = document.createElement('span');
    mark.textContent = marks[label % marks.length];
    mark.style.color = `var(--${names[label % names.length]})`;
    button.append(mark, ' ' + name);
    button.setAttribute('aria-pressed', 'false');
    button.onclick = () => {
      only = only === label ? -1 : label;
      [...key.children].forEach((other, i) => other.setAttribute('aria-pressed', String(i === only)));
      draw();
    };
    key.append(button);
  });
  canvas.onpointerdown = event => { held = event; canvas.setPointerCapture(event.pointerId); };
  canvas.onpointerup = canvas.onpointercancel = () => { held = null; };
  canvas.onpointermove = event => {
    if (!held) return;
    yaw += (event.clientX - held.clientX) * 0.01; pitch += (event.clientY - held.clientY) * 0.01;
    held = event; draw();
  };
  canvas.onkeydown = event => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (!step) return;
    yaw += step[0]; pitch += step[1]; event.preventDefault(); draw();
  };
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  addEventListener('resize', draw);
  draw();
}
"""
