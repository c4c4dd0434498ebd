"""fsc.csv: the FSC of a run's half maps by shell."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoloom.files.durable import write_durably
from cryoloom.maps.fsc import GoldStandard

CURVES = ("unmasked", "masked", "randomised", "corrected")
COLUMNS = ("shell", "frequency_per_angstrom", "resolution_angstrom", *CURVES)


@dataclass(frozen=True, slots=True)
class FSCTable:
    """Columns of fsc.csv, float64 [S], shell 0 first; frequencies in 1/angstrom."""

    frequency: np.ndarray
    unmasked: np.ndarray
    masked: np.ndarray
    randomised: np.ndarray
    corrected: np.ndarray

    @property
    def nyquist(self) -> float:
        """Largest frequency, 1/angstrom."""
        return float(self.frequency[-1])


def write_fsc_table(path: Path, gold: GoldStandard, side_angstrom: float) -> None:
    """Write the curves of half maps whose box is `side_angstrom` wide."""
    lines = [",".join(COLUMNS)]
    for shell in range(len(gold.corrected)):
        resolution = side_angstrom / shell if shell else math.inf
        curves = ",".join(f"{float(getattr(gold, name)[shell]):.5f}" for name in CURVES)
        lines.append(f"{shell},{shell / side_angstrom:.6f},{resolution:.3f},{curves}")
    write_durably(Path(path), ("\n".join(lines) + "\n").encode())


def read_fsc_table(path: Path) -> FSCTable | None:
    """fsc.csv as `write_fsc_table` writes it; None if there is none.

    Raises:
        ValueError: for a file without the expected columns or with values that are not numbers.
    """
    if not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        columns = [np.array([float(row[name]) for row in rows]) for name in ("frequency_per_angstrom", *CURVES)]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not an FSC table ({error}); expected columns {', '.join(COLUMNS)}") from None
    if len(rows) < 3 or not (math.isfinite(columns[0][-1]) and columns[0][-1] > 0):
        raise ValueError(f"{path}: {len(rows)} shells; expected 3 or more, and frequencies that rise from 0")
    return FSCTable(*columns)
