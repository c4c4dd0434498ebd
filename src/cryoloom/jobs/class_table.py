"""Table of the classes or clusters of a run: number of images, share and resolution of each."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from cryoloom.files.durable import write_durably

COLUMNS = ("name", "particles", "share", "resolution_angstrom")


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: number of particles, (expected) share of the images, and the resolution of its map if known."""

    name: str
    particles: int
    share: float
    resolution_angstrom: float | None


def write_class_table(path: Path, rows: tuple[ClassRow, ...]) -> None:
    """Write classes.csv; an unknown resolution is left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        resolution = "" if row.resolution_angstrom is None else f"{row.resolution_angstrom:.4f}"
        writer.writerow([row.name, row.particles, f"{row.share:.6f}", resolution])
    write_durably(Path(path), text.getvalue().encode("utf-8"))


def read_class_table(path: Path) -> tuple[ClassRow, ...]:
    """classes.csv as `write_class_table` writes it; empty where there is none.

    Raises:
        ValueError: for other columns or values that are not numbers.
    """
    if not path.is_file():
        return ()
    with open(path, newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    try:
        return tuple(_row(line) for line in lines)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a table of classes ({error}); expected columns {', '.join(COLUMNS)}") from None


def _row(line: dict[str, str]) -> ClassRow:
    share = float(line["share"])
    resolution = float(line["resolution_angstrom"]) if line["resolution_angstrom"] else None
    if not 0 <= share <= 1 or (resolution is not None and not (math.isfinite(resolution) and resolution > 0)):
        raise ValueError(f"share {share}, resolution {resolution}")
    return ClassRow(line["name"], int(line["particles"]), share, resolution)
