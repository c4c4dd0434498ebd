"""Poses read from particle files, and the row of the truth that each estimated row belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.particle_set import read_table
from cryoloom.particles.table import ParticleTable


@dataclass(frozen=True, slots=True)
class PoseTable:
    """Poses of N images; the images themselves are not needed.

    Attributes:
        path: path of the particle file.
        images: number in the stack (from 1) and parts of the stack's path for each row.
        R: float64 [N, 3, 3].
        t_angstrom: float64 [N, 2] (x, y; content moved by +t).
        pixel_size: angstrom, float64 [N], or None if the file does not give it.
        state: class number, int64 [N], or None.
        score: log likelihood, nats, float64 [N], or None.
    """

    path: Path
    images: tuple[tuple[int, tuple[str, ...]], ...]
    R: np.ndarray
    t_angstrom: np.ndarray
    pixel_size: np.ndarray | None
    state: np.ndarray | None
    score: np.ndarray | None

    def __len__(self) -> int:
        return len(self.images)


def read_poses(path: Path) -> PoseTable:
    """Poses of a particle file of any known format; a file without shifts has them at 0.

    Raises:
        BadInput: for a file without orientations or image numbers, or with values that are not numbers.
    """
    table = read_table(path)
    poses = table.poses
    if poses.rotations is None:
        raise BadInput.report(
            "The particle file contains no poses.",
            file=path,
            found=f"no {listed(poses.missing)}",
            fix="use the particles.star of a run, or the truth.star of a simulated set",
        )
    pixel_size, state = table.values("pixel_size"), table.values("class_number")
    return PoseTable(
        path=Path(path),
        images=_images(table),
        R=poses.rotations(table.rows),
        t_angstrom=_shifts(table, pixel_size),
        pixel_size=pixel_size,
        state=None if state is None else state.astype(np.int64),
        score=table.values("log_likelihood"),
    )


def _images(table: ParticleTable) -> tuple[tuple[int, tuple[str, ...]], ...]:
    unnumbered = np.flatnonzero(table.index == -1)
    if len(unnumbered):
        raise BadInput.report(
            "An image name has no image number.",
            file=table.path,
            where=table.place(unnumbered),
            found=repr(table.image_name(unnumbered[0])),
            expected="number@stack, e.g. 000001@particles.mrcs",
        )
    parts = [PurePath(name).parts for name in table.stacks]
    return tuple(
        (index + 1, parts[stack]) for index, stack in zip(table.index.tolist(), table.stack.tolist(), strict=True)
    )


def _shifts(table: ParticleTable, pixel_size: np.ndarray | None) -> np.ndarray:
    if table.poses.shifts is None:
        return np.zeros((len(table), 2))
    shifts = table.poses.shifts(table.rows)
    if not table.poses.shifts_in_pixels:
        return shifts
    if pixel_size is None:
        raise BadInput.report(
            "The shifts are in pixels and the pixel size is not known.",
            file=table.path,
            expected=f"{table.label('pixel_size')}, or other columns that give the pixel size",
        )
    return shifts * pixel_size[:, None]


def match_rows(truth: PoseTable, estimate: PoseTable) -> np.ndarray:
    """Row of the truth for each estimated row, int64.

    Images are identified by their number and by as much of the end of the stack's path as distinguishes the stacks of
    the truth, because the two files may be in different folders.

    Raises:
        BadInput: for an image that the truth does not have, or that either file names twice.
    """
    stacks = {parts for _, parts in truth.images}
    depth = 1
    while len({parts[-depth:] for parts in stacks}) < len(stacks):
        depth += 1
    known: dict[tuple[int, tuple[str, ...]], int] = {}
    for row, (number, parts) in enumerate(truth.images):
        if known.setdefault((number, parts[-depth:]), row) != row:
            raise _twice(truth, row)
    found = np.array([known.get((number, parts[-depth:]), -1) for number, parts in estimate.images], np.int64)
    if (found < 0).any():
        row = int(np.flatnonzero(found < 0)[0])
        raise BadInput.report(
            f"{int((found < 0).sum())} of {len(found)} estimated rows are not in the truth.",
            file=estimate.path,
            where=f"row {row + 1}",
            found=_name(estimate, row),
            expected=f"images of {truth.path}",
            fix="give the truth of the set that was reconstructed",
        )
    unique, first = np.unique(found, return_index=True)
    if len(unique) < len(found):
        raise _twice(estimate, int(np.setdiff1d(np.arange(len(found)), first)[0]))
    return found


def _name(table: PoseTable, row: int) -> str:
    number, parts = table.images[row]
    return f"{number}@{PurePath(*parts)}"


def _twice(table: PoseTable, row: int) -> BadInput:
    return BadInput.report(
        "A particle file names an image twice.",
        file=table.path,
        where=f"row {row + 1}",
        found=_name(table, row),
        expected="each image once",
    )
