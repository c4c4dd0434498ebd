"""Writes any particle table as a RELION 3.1 STAR file with optics and particles."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cryoloom.particles.formats.relion import beam_tilt, image_names
from cryoloom.particles.formats.relion.columns import (
    ANGLES,
    COLUMNS,
    GROUP_QUANTITIES,
    INTEGERS,
    ORIGINS,
    ORIGINS_IN_PIXELS,
    relion_name,
)
from cryoloom.particles.formats.relion.reader import RelionTables
from cryoloom.particles.formats.relion.star_writer import write_star
from cryoloom.particles.table import ImageResults, OpticsGroup, ParticleTable, Quantity
from cryoloom.particles.texts import Texts

# relative difference below which two values of an optics group count as equal
_SAME = 1e-6


def write(path: Path, table: ParticleTable) -> None:
    """Write a RELION 3.1 STAR file, every column and the row order kept.

    Image names are rewritten relative to the new file's folder only where they would not be found from there. Shifts
    in pixels, which RELION 3.1 ignores, are replaced by shifts in angstrom, and a beam tilt of single particles
    (RELION 3.0) by that of optics groups.

    Raises:
        OSError: if the file can't be written.
        ValueError: for results of the wrong length, or that are not finite.
    """
    table.results.check(len(table), path)
    original = table.original if isinstance(table.original, RelionTables) else None
    columns = _neutral_columns(table) if original is None else {n: table.texts(n) for n in table.columns}
    found = pose_columns(table.results) | _result_columns(table.results)
    for quantity, column in table.corrected.items():
        columns[relion_name(quantity)] = number_texts(column.read(table.rows) / COLUMNS[quantity][1])
    _convert_origins(table, columns, found)
    if table.stack_paths or original is None:
        columns[image_names.COLUMN] = _image_names(path, table, columns.get(image_names.COLUMN))
    has_optics = original is not None and original.optics is not None
    tilt: dict[str, Texts] = {}
    if not has_optics:
        table, columns, tilt = beam_tilt.in_optics_groups(table, columns)
    optics = _optics(table, original, columns) | tilt
    if not has_optics:
        columns["rlnOpticsGroup"] = number_texts(table.group + 1)
    columns |= {name: number_texts(values) for name, values in found.items()}
    write_star(path, [("optics", optics), ("particles", columns)])


def number_texts(values: np.ndarray) -> Texts:
    """Values as text: floats with six decimals (below 0.001 in exponential notation), flags as 0 and 1."""
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return Texts.of(f"{v:.6f}" if v == 0 or abs(v) >= 1e-3 else f"{v:.6e}" for v in values.tolist())
    return Texts.of(str(v) for v in (values.astype(int) if values.dtype.kind == "b" else values).tolist())


def pose_columns(results: ImageResults) -> dict[str, np.ndarray]:
    """RELION's columns of poses: angles in degrees, origins in angstrom (the opposite of the shift t)."""
    if results.R is None or results.t is None:
        return {}
    import torch

    from cryoloom.physics.rotations import to_euler

    euler = to_euler(torch.from_numpy(np.asarray(results.R, dtype=np.float64))).numpy()
    origin = 0.0 - np.asarray(results.t, dtype=np.float64)
    return dict(zip((*ANGLES, *ORIGINS), (*euler.T, *origin.T), strict=True))


def _result_columns(results: ImageResults) -> dict[str, np.ndarray]:
    own = {
        relion_name(quantity): values
        for quantity in COLUMNS
        if (values := getattr(results, quantity, None)) is not None
    }
    return own | dict(results.further)


def _neutral_columns(table: ParticleTable) -> dict[str, Texts]:
    """Columns of a table from another format, including those without a RELION name."""
    columns: dict[str, Texts] = {}
    for quantity in table.numbers:
        values = table.values(quantity)
        if values is not None and quantity not in GROUP_QUANTITIES:
            values = values.astype(np.int64) if quantity in INTEGERS else values / COLUMNS[quantity][1]
            columns[relion_name(quantity)] = number_texts(values)
    poses = table.poses
    if poses.rotations is not None and poses.shifts is not None:
        t = poses.shifts(table.rows) * (_pixel_sizes(table) if poses.shifts_in_pixels else 1.0)
        given = pose_columns(ImageResults(R=poses.rotations(table.rows), t=t))
        columns |= {name: number_texts(values) for name, values in given.items()}
    known = {table.label(quantity) for quantity in table.numbers}
    return columns | {n: table.texts(n) for n in table.columns if n not in known and n not in columns}


def _pixel_sizes(table: ParticleTable) -> np.ndarray:
    """Angstrom per pixel of each image in its file, [N, 1]."""
    sizes = np.array([np.nan if g.pixel_size is None else g.pixel_size for g in table.optics])[table.group]
    if not np.isfinite(sizes).all():
        raise ValueError(f"shifts of {table.path} are in pixels, and the pixel size of its images is not known")
    return sizes[:, None]


def _convert_origins(table: ParticleTable, columns: dict[str, Texts], found: dict[str, np.ndarray]) -> None:
    """Remove shifts in pixels from `columns`, and add them in angstrom unless such shifts exist already."""
    pixels = [c for c in ORIGINS_IN_PIXELS if c in columns]
    if len(pixels) == 2 and not set(ORIGINS) & {*columns, *found} and table.poses.shifts is not None:
        origin = 0.0 - table.poses.shifts(table.rows) * _pixel_sizes(table)
        columns |= {name: number_texts(values) for name, values in zip(ORIGINS, origin.T, strict=True)}
    for name in pixels:
        del columns[name]


def _image_names(path: Path, table: ParticleTable, written: Texts | None) -> Texts:
    """Image names, unchanged if they are valid from the new file's folder, else relative to it."""
    folder = path.resolve().parent
    moved = np.ones(len(table.stacks), dtype=np.bool_)
    names = list(table.stacks)
    for s, name in enumerate(table.stacks):
        if not table.stack_paths:
            moved[s] = written is None
            continue
        stack = table.stack_paths[s].resolve()
        moved[s] = written is None or (folder / name).resolve() != stack
        if (folder / name).resolve() != stack:
            names[s] = os.path.relpath(stack, folder)
    if written is not None and not moved[table.stack].any():
        return written
    index = np.maximum(table.index, 0) + 1
    old = [None] * len(table) if written is None else list(written)
    rows = zip(old, table.stack.tolist(), index.tolist(), strict=True)
    return Texts.of(f"{i:06d}@{names[s]}" if text is None or moved[s] else text for text, s, i in rows)


def _optics(table: ParticleTable, original: RelionTables | None, particles: dict[str, Texts]) -> dict[str, Texts]:
    """The original optics table with the columns that RELION 3.1 needs and with changed values.

    If `particles` has a column of the same quantity, a changed value is written there, since it takes precedence.
    """
    if original is None or original.optics is None:
        count = len(table.optics)
        optics = {
            "rlnOpticsGroup": number_texts(np.arange(count) + 1),
            "rlnOpticsGroupName": Texts.of(g.name for g in table.optics),
        }
    else:
        optics = dict(original.optics.columns)
    for quantity in GROUP_QUANTITIES:
        values = [getattr(group, quantity) for group in table.optics]
        if all(value is None for value in values):
            continue
        name = relion_name(quantity)
        if name in particles:
            particles[name] = _replaced_by_image(table, quantity, particles[name])
        if name not in optics:
            optics[name] = number_texts(np.array([0 if v is None else v for v in values]))
        elif name not in particles:
            optics[name] = _replaced(optics[name], values)
    if "rlnImageDimensionality" not in optics:
        optics["rlnImageDimensionality"] = Texts.of(["2"] * len(table.optics))
    return optics


def _replaced(texts: Texts, values: list[float | None]) -> Texts:
    """The texts, with those replaced whose number differs from the value."""
    old = texts.numbers()
    new = [
        text if value is None or abs(number - value) <= _SAME * abs(value) else number_texts(np.array([value]))[0]
        for text, number, value in zip(texts, old, values, strict=True)
    ]
    return texts if new == list(texts) else Texts.of(new)


def _replaced_by_image(table: ParticleTable, quantity: Quantity, texts: Texts) -> Texts:
    """A column of `particles`, replaced in groups none of whose images has the group's value (stated by the user)."""
    old, new = texts.numbers(), list(texts)
    changed = False
    for g, group in enumerate(table.optics):
        value: float | None = _value(group, quantity)
        mine = np.flatnonzero(table.group == g)
        if value is None or not len(mine) or (np.abs(old[mine] - value) <= _SAME * abs(value)).any():
            continue
        changed = True
        for row in mine:
            new[row] = number_texts(np.array([value]))[0]
    return Texts.of(new) if changed else texts


def _value(group: OpticsGroup, quantity: Quantity) -> float | None:
    return getattr(group, quantity)
