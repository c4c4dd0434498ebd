"""A RELION STAR file as a neutral particle table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.formats.relion import beam_tilt, image_names
from cryoloom.particles.formats.relion.columns import (
    ANGLES,
    COLUMNS,
    DETECTOR,
    ORIGINS,
    ORIGINS_IN_PIXELS,
    SHARED_IN_A_GROUP,
    relion_name,
)
from cryoloom.particles.formats.relion.star import StarBlock, StarFile, read_star
from cryoloom.particles.formats.relion.unmodelled import unmodelled
from cryoloom.particles.table import Numbers, OpticsGroup, ParticleTable, PoseColumns, Quantity, place
from cryoloom.particles.texts import Texts


@dataclass(frozen=True, slots=True, eq=False)
class RelionTables:
    """The particle and optics tables of a STAR file.

    Attributes:
        path: path of the file.
        particles: particle table, one row per image.
        optics: optics table, one row per optics group, or None (RELION 3.0).
        group: row of `optics` of each image, int64 [N]; without an optics table, one group per microscope.
        group_names: names of the groups.
    """

    path: Path
    particles: StarBlock
    optics: StarBlock | None
    group: np.ndarray
    group_names: tuple[str, ...]

    def has(self, column: str) -> bool:
        """True where the particle or the optics table has the column."""
        return column in self.particles.columns or (self.optics is not None and column in self.optics.columns)

    def numbers(self, column: str, rows: np.ndarray) -> np.ndarray:
        """A column for some rows of the file, float64 [N], from the particle table or, by group, the optics table.

        Raises:
            BadInput: for values that are empty, NaN, infinite or not numbers, with row and column.
        """
        if column in self.particles.columns:
            texts = self.particles.columns[column].take(rows)
            return parse_numbers(texts, column, self.path, rows=rows, lines=self.particles.lines)
        if self.optics is None:
            raise ValueError(f"no column {column} in {self.path}: test with has() first")
        texts = self.optics.columns[column]
        return parse_numbers(texts, f"{column} of the optics table", self.path)[self.group[rows]]


def read(path: Path) -> ParticleTable:
    """The particles of a RELION STAR file (1.x to 5).

    The table is data_particles (RELION 3.1 and later) or else the only one with image names (3.0: data_images, data_).

    Raises:
        BadInput: for faults of the file (`read_star`), tomographic particles, missing or malformed image names, and
            rows that name no optics group.
    """
    star = read_star(path)
    tables = _tables(star)
    particles = tables.particles
    if image_names.COLUMN not in particles.columns:
        raise BadInput.report(
            f"The particle table has no column {image_names.COLUMN}.",
            file=path,
            found=listed(list(particles.columns), 30),
        )
    stacks, stack, index = image_names.split(particles.columns[image_names.COLUMN], path, particles.lines)
    return ParticleTable(
        path=path,
        format="relion",
        stacks=stacks,
        stack=stack,
        index=index,
        group=tables.group,
        optics=tuple(OpticsGroup(name) for name in tables.group_names),
        numbers=_numbers(tables),
        poses=_poses(tables),
        columns=particles.columns,
        rows=np.arange(len(particles)),
        lines=particles.lines,
        labels={quantity: relion_name(quantity) for quantity in COLUMNS},
        original=tables,
        unmodelled=unmodelled(particles, tables.optics),
        notes=(*star.notes, *_tilt_notes(tables)),
    )


def _tilt_notes(tables: RelionTables) -> tuple[str, ...]:
    columns = tables.particles.columns
    if tables.optics is not None or not set(beam_tilt.COLUMNS) & set(columns):
        return ()
    split = np.stack([tables.group, beam_tilt.tilts(columns)[0]], 1)
    count = len(np.unique(split, axis=0))
    if count == len(tables.group_names):
        return ()
    return (
        f"Files that are written have {count} optics groups instead of {len(tables.group_names)}, one for each beam "
        "tilt, as RELION 3.1 and later expect.",
    )


def parse_numbers(
    texts: Texts, column: str, path: Path, *, rows: np.ndarray | None = None, lines: np.ndarray | None = None
) -> np.ndarray:
    """Text to float64 [N]; BadInput names the first rows that hold no finite number.

    Args:
        rows: row in the file of each text; 0 to N - 1 if left out.
        lines: line in the file of each of its rows, or None.
    """
    numbers = texts.numbers()
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise BadInput.report(
            f"{len(bad)} value(s) of a required column are not numbers.",
            file=path,
            where=f"column {column}, {place(bad if rows is None else rows[bad], lines)}",
            found=listed([repr(texts[i]) for i in bad]),
            expected="a finite number",
            fix="remove these rows, or restore the values from the program that wrote the file",
        )
    return numbers


def _tables(star: StarFile) -> RelionTables:
    particles = star.block("particles") or _only_block_with_images(star)
    if "rlnTomoName" in particles.columns or "rlnTomoParticleName" in particles.columns:
        raise BadInput.report(
            "The STAR file describes tomographic particles, not single images.",
            file=star.path,
            found="rlnTomoName or rlnTomoParticleName",
            expected="one image for each row",
        )
    optics = star.block("optics")
    if optics is None:
        group, names = _groups_by_microscope(particles)
    else:
        group, names = _groups_of_optics(star.path, particles, optics)
    return RelionTables(star.path, particles, optics, group, names)


def _only_block_with_images(star: StarFile) -> StarBlock:
    found = [b for b in star.blocks if image_names.COLUMN in b.columns]
    if len(found) == 1:
        return found[0]
    raise BadInput.report(
        "The STAR file contains no particles."
        if not found
        else "The STAR file contains more than one table of images.",
        file=star.path,
        found="blocks " + listed([f"data_{b.name}" for b in star.blocks], 20),
        expected=f"data_particles, or one table with a column {image_names.COLUMN}",
    )


def _groups_by_microscope(particles: StarBlock) -> tuple[np.ndarray, tuple[str, ...]]:
    """Groups of a file without optics table (RELION 3.0): rows with the same microscope and pixel size."""
    label = np.zeros(len(particles), dtype=np.int64)
    for column in SHARED_IN_A_GROUP:
        if column in particles.columns:
            values, distinct = particles.columns[column].factorize()
            label = label * max(1, len(distinct)) + values
            # renumbered by first use, so that products stay small
            _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
            label = np.argsort(np.argsort(first, kind="stable"), kind="stable")[inverse.reshape(-1)]
    count = int(label.max()) + 1 if len(label) else 1
    return label, tuple(f"opticsGroup{i + 1}" for i in range(count))


def _groups_of_optics(path: Path, particles: StarBlock, optics: StarBlock) -> tuple[np.ndarray, tuple[str, ...]]:
    column = "rlnOpticsGroup"
    for kind, block in (("optics", optics), ("particle", particles)):
        if column not in block.columns:
            raise BadInput.report(
                f"The {kind} table has no column {column}.", file=path, found=listed(list(block.columns), 30)
            )
    numbers = parse_numbers(optics.columns[column], f"{column} of the optics table", path)
    if not len(numbers):
        raise BadInput.report("The optics table has no rows.", file=path)
    if len(set(numbers)) < len(numbers):
        raise BadInput.report(
            "An optics group appears twice in data_optics.", file=path, found=listed(numbers.tolist())
        )
    wanted = parse_numbers(particles.columns[column], column, path, lines=particles.lines)
    order = np.argsort(numbers)
    group = order[np.searchsorted(numbers[order], wanted).clip(max=len(numbers) - 1)]
    unknown = np.flatnonzero(numbers[group] != wanted)
    if len(unknown):
        raise BadInput.report(
            f"{len(unknown)} row(s) name an optics group that the optics table does not have.",
            file=path,
            where=f"column {column}, {place(unknown, particles.lines)}",
            found=f"group {listed(sorted({int(n) for n in wanted[unknown]}))}",
            expected=f"one of {listed([int(n) for n in numbers], 20)}",
            fix="add the group to data_optics, or correct the rows",
        )
    if "rlnOpticsGroupName" in optics.columns:
        return group.astype(np.int64), tuple(optics.columns["rlnOpticsGroupName"])
    return group.astype(np.int64), tuple(f"opticsGroup{int(n)}" for n in numbers)


def _numbers(tables: RelionTables) -> dict[Quantity, Numbers]:
    found: dict[Quantity, Numbers] = {}
    for quantity, (names, factor) in COLUMNS.items():
        column = next((name for name in names if tables.has(name)), None)
        if column is not None:
            found[quantity] = Numbers(column, partial(_scaled, tables, column, factor))
    if "pixel_size" not in found and all(tables.has(column) for column in DETECTOR):
        found["pixel_size"] = Numbers(" / ".join(DETECTOR), partial(_detector_pixel_size, tables))
    return found


def _scaled(tables: RelionTables, column: str, factor: float, rows: np.ndarray) -> np.ndarray:
    numbers = tables.numbers(column, rows)
    return numbers if factor == 1.0 else numbers * factor


def _detector_pixel_size(tables: RelionTables, rows: np.ndarray) -> np.ndarray:
    detector, magnification = (tables.numbers(column, rows) for column in DETECTOR)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(magnification > 0, detector * 1e4 / magnification, 0.0)


def _poses(tables: RelionTables) -> PoseColumns:
    columns = tables.particles.columns
    missing = [name for name in ANGLES if name not in columns]
    origins = next((pair for pair in (ORIGINS, ORIGINS_IN_PIXELS) if set(pair) <= set(columns)), None)
    if not missing and origins is None:
        missing = [f"{' and '.join(ORIGINS)} (RELION 3.1)", f"{' and '.join(ORIGINS_IN_PIXELS)} in pixels"]
    return PoseColumns(
        rotations=partial(_rotations, tables) if set(ANGLES) <= set(columns) else None,
        shifts=None if origins is None else partial(_shifts, tables, origins),
        shifts_in_pixels=origins == ORIGINS_IN_PIXELS,
        missing=tuple(missing),
    )


def _rotations(tables: RelionTables, rows: np.ndarray) -> np.ndarray:
    import torch

    from cryoloom.physics.rotations import from_euler

    angles = np.stack([tables.numbers(column, rows) for column in ANGLES], -1)
    return from_euler(torch.from_numpy(angles)).numpy()


def _shifts(tables: RelionTables, origins: tuple[str, ...], rows: np.ndarray) -> np.ndarray:
    return -np.stack([tables.numbers(column, rows) for column in origins], -1)
