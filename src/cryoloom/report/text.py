"""Numbers, times and foreign names as text for people."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any


def plain(text: str) -> str:
    """Text without control and formatting characters, which could hide or reverse what a name says."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not unicodedata.category(c).startswith("C") else "\ufffd" for c in text)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, an en dash where there is none; large counts with thin spaces."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == round(value) and abs(value) < 1e15:
        return f"{round(value):,}".replace(",", "\u202f").replace("-", "\u2212")
    return f"{value:.{digits}g}".replace("-", "\u2212") if abs(value) < 10**digits else number(round(value))


def angstrom(value: float | None) -> str:
    """A resolution: '8.29 Å', '24.1 Å'."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.2f}\u202fÅ" if value < 10 else f"{value:.1f}\u202fÅ"


def duration(seconds: float) -> str:
    """'8.2 s', '3 min 05 s', '2 h 10 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if seconds < 3570:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def file_size(count: int) -> str:
    """'812 B', '1.0 MB'."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (name, value) with dotted names."""
    out: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            out += flat(value, f"{prefix}{name}.")
        else:
            out.append((f"{prefix}{name}", _shown(value)))
    return out


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(v) for v in value)
    return str(value)


def day(stamp: str) -> str:
    """An ISO 8601 time to the minute."""
    return stamp.replace("T", " ")[:16]
