"""Classes and clusters as rows of a table, each with its colour."""

from __future__ import annotations

from typing import Any

from cryoloom.jobs.class_table import ClassRow
from cryoloom.report.png import hex_colour
from cryoloom.report.text import angstrom, number

# told apart by people with any kind of colour vision, on white and on black (after Okabe and Ito, 2008)
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c7a00", "#8a8f98")


def class_colour(index: int, count: int) -> str:
    """Colour of a class, index from 0: a colour of its own among few, a place on a scale among many."""
    return PALETTE[index] if count <= len(PALETTE) else hex_colour(index / max(1, count - 1))


def class_rows(classes: tuple[ClassRow, ...]) -> list[dict[str, Any]]:
    """What the template of the table shows."""
    return [
        {
            "name": row.name,
            "particles": number(row.particles),
            "share": f"{100 * row.share:.1f}\u202f%",
            "width": f"{100 * row.share:.1f}",
            "resolution": angstrom(row.resolution_angstrom),
            "colour": class_colour(i, len(classes)),
        }
        for i, row in enumerate(classes)
    ]
