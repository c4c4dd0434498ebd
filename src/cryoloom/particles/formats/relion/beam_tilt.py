"""Beam tilt of RELION 3.0, a column of the particles, as RELION 3.1 has it: one value for each optics group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cryoloom.particles.table import ParticleTable
from cryoloom.particles.texts import Texts

COLUMNS = ("rlnBeamTiltX", "rlnBeamTiltY")


def tilts(columns: Mapping[str, Texts]) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Index of each row's beam tilt, int64 [N], and the distinct tilts, a text for each of the columns that exist."""
    present = [columns[name] for name in COLUMNS if name in columns]
    label = np.zeros(len(present[0]) if present else 0, dtype=np.int64)
    for texts in present:
        values, distinct = texts.factorize()
        first_of: dict[float | str, int] = {}  # 0.5 and 0.50 are one
        place = np.array([first_of.setdefault(_number(text), i) for i, text in enumerate(distinct)], dtype=np.int64)
        label = label * max(1, len(distinct)) + place[values]
        label = np.unique(label, return_inverse=True)[1].reshape(-1)
    _, first = np.unique(label, return_index=True)
    return label, [tuple(texts[i] for texts in present) for i in first]


def in_optics_groups(
    table: ParticleTable, columns: Mapping[str, Texts]
) -> tuple[ParticleTable, dict[str, Texts], dict[str, Texts]]:
    """Optics groups split so that each has one beam tilt, as `relion_convert_star` does; for files of RELION 3.0.

    Args:
        columns: of the particles, which RELION 3.1 does not look at for a beam tilt.

    Returns:
        The table with groups numbered by first use, the columns without the tilt, and the tilt of each group by column.
        The group's other values, and those that the groups had in the run, stay.
    """
    present = [name for name in COLUMNS if name in columns]
    if not present:
        return table, dict(columns), {}
    label, distinct = tilts(columns)
    pairs, first, inverse = np.unique(np.stack([table.group, label], 1), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    group = np.argsort(order, kind="stable")[inverse.reshape(-1)]
    used = pairs[order]
    optics = tuple(replace(table.optics[g], name=f"opticsGroup{i}") for i, g in enumerate(used[:, 0], 1))
    tilt = {name: Texts.of(distinct[i][c] for i in used[:, 1]) for c, name in enumerate(present)}
    kept = {name: texts for name, texts in columns.items() if name not in present}
    return replace(table, group=group, optics=optics), kept, tilt


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
