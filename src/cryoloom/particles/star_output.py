"""From any particle set to the two tables of a RELION 3.1 STAR file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from cryoloom.particles.particle_set import ParticleSet


def _texts(values: np.ndarray) -> list[str]:
    """Six decimals, or six digits for what is too small for them; integers, flags as 0 and 1, and text."""
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return [f"{v:.6f}" if v == 0 or abs(v) >= 1e-3 else f"{v:.6e}" for v in values]
    return [str(v) for v in (values.astype(int) if values.dtype.kind == "b" else values)]


def relion31_tables(
    path: Path, particles: ParticleSet, columns: dict[str, np.ndarray], rows: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Optics and particle tables (text) for a STAR file at `path`.

    Image names are rewritten relative to its folder only where they would not be found from there. Shifts in pixels,
    which RELION 3.1 ignores, are replaced by shifts in angstrom.
    """
    table = _convert_origins(particles, particles.table.iloc[rows].reset_index(drop=True), columns, rows)
    table["rlnImageName"] = _image_names(path, particles, rows)
    optics = _optics(particles)
    if particles.optics is None:
        table["rlnOpticsGroup"] = _texts(particles.group[rows] + 1)
    for name, values in columns.items():
        if len(values) != len(rows):
            raise ValueError(f"column {name} has {len(values)} values for the {len(rows)} rows written")
        if np.asarray(values).dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"column {name} is {values[row]} in row {row + 1} of {path}: expected finite numbers")
        table[name] = _texts(values)
    return optics, table


def _convert_origins(
    particles: ParticleSet, table: pd.DataFrame, columns: dict[str, np.ndarray], rows: np.ndarray
) -> pd.DataFrame:
    pixels = [c for c in ("rlnOriginX", "rlnOriginY") if c in table]
    if not {"rlnOriginXAngst", "rlnOriginYAngst"} & {*table, *columns} and len(pixels) == 2:
        origin = -particles.input_poses().t.numpy()[rows]
        table["rlnOriginXAngst"], table["rlnOriginYAngst"] = _texts(origin[:, 0]), _texts(origin[:, 1])
    return table.drop(columns=pixels)


def _image_names(path: Path, particles: ParticleSet, rows: np.ndarray) -> list[str]:
    folder = path.resolve().parent
    names = particles.table["rlnImageName"].to_numpy()[rows]
    out = []
    prefix: dict[int, str] = {}
    for name, s, i in zip(names, particles.places.stack[rows], particles.places.index[rows], strict=True):
        if s not in prefix:
            stack = particles.places.stacks[s].path.resolve()
            written = name.rpartition("@")[2] if "@" in name else name
            same = (folder / written).resolve() == stack
            prefix[s] = "" if same else os.path.relpath(stack, folder)
        out.append(name if not prefix[s] else f"{i + 1:06d}@{prefix[s]}")
    return out


def _optics(particles: ParticleSet) -> pd.DataFrame:
    """The optics table as it was, with what RELION 3.1 needs added, and what the user stated put in."""
    count = len(particles.group_names)
    first = [int(np.flatnonzero(particles.group == g)[0]) if (particles.group == g).any() else -1 for g in range(count)]
    if particles.optics is None:
        names = list(particles.group_names)
        optics = pd.DataFrame({"rlnOpticsGroup": _texts(np.arange(count) + 1), "rlnOpticsGroupName": names})
    else:
        optics = particles.optics.copy()
    given, ctf, has_ctf = particles.stated, particles.ctf, particles.has_ctf
    wanted = (
        ("rlnVoltage", given.voltage_kv, ctf.voltage_kv.numpy(), has_ctf),
        ("rlnSphericalAberration", given.spherical_aberration_mm, ctf.spherical_aberration_mm.numpy(), has_ctf),
        ("rlnAmplitudeContrast", given.amplitude_contrast, ctf.amplitude_contrast.numpy(), has_ctf),
        ("rlnImagePixelSize", given.pixel_size, particles.file_pixel_sizes(), True),
        ("rlnImageSize", None, particles.file_boxes(), True),
    )
    for name, stated, values, known in wanted:
        if known and (stated is not None or name not in optics):
            optics[name] = _texts(np.array([values[i] if i >= 0 else 0 for i in first]))
    if "rlnImageDimensionality" not in optics:
        optics["rlnImageDimensionality"] = "2"
    return optics
