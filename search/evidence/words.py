"""How figures are written for people, on pages and on the terminal alike."""

from __future__ import annotations

from typing import Any

NONE = "–"


def percent(share: float | None, digits: int = 2) -> str:
    """A share from 0 to 1 as per cent, without the sign."""
    return NONE if share is None else f"{100 * share:.{digits}f}"


def points(difference: float | None) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return NONE if difference is None else f"{100 * difference:+.2f}"


def span(pair: tuple[float, float] | None, signed: bool = False) -> str:
    """An interval of shares (per cent), or of differences of shares (points, `signed`)."""
    write = points if signed else percent
    return NONE if pair is None else f"{write(pair[0])} to {write(pair[1])}"


def duration(seconds: float) -> str:
    """Seconds up to two minutes, minutes up to two hours, then hours."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def short(value: Any) -> str:
    """A setting or a number in few characters: four significant digits of a float, thousands marked from 10,000 on."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(short, value)) or "none"
    return str(value)
