"""Poses read from STAR files, and which row of the truth each estimated row is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch

from cryoloom.particles.checks import particle_rows
from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.optics import Rows
from cryoloom.particles.star import read_star
from cryoloom.physics.rotations import from_euler


@dataclass(frozen=True, slots=True)
class PoseTable:
    """Poses of N images; the images themselves are not needed.

    Attributes:
        path: of the STAR file.
        images: number in the stack (from 1) and parts of the stack's path, of each row.
        R: float64 [N, 3, 3].
        t_angstrom: float64 [N, 2] (x, y); minus RELION's origin.
        pixel_size: angstrom, float64 [N], or None where the file does not say.
        state: rlnClassNumber, int64 [N], or None.
        score: rlnLogLikeliContribution, float64 [N], or None.
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
    """Poses of a RELION STAR file (3.0 to 5); a file without origins has them at 0.

    Raises:
        BadInput: for a file without angles or image names, or with values that are not numbers.
    """
    rows = particle_rows(read_star(path))
    angles = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    missing = [column for column in angles if not rows.has(column)]
    if missing:
        raise BadInput.report(
            "The STAR file holds no poses.",
            file=path,
            found=f"no {listed(missing)}",
            fix="give the particles.star of a run, or a simulated set's truth.star",
        )
    R = from_euler(torch.from_numpy(np.stack([rows.numbers(column) for column in angles], -1))).numpy()
    pixel_size = _pixel_size(rows)
    return PoseTable(
        path=Path(path),
        images=_images(rows),
        R=R,
        t_angstrom=-_origin(rows, pixel_size),
        pixel_size=pixel_size,
        state=rows.numbers("rlnClassNumber").astype(np.int64) if rows.has("rlnClassNumber") else None,
        score=rows.numbers("rlnLogLikeliContribution") if rows.has("rlnLogLikeliContribution") else None,
    )


def _images(rows: Rows) -> tuple[tuple[int, tuple[str, ...]], ...]:
    if not rows.has("rlnImageName"):
        raise BadInput.report("The particle table has no column rlnImageName.", file=rows.path)
    images = []
    for i, name in enumerate(rows.table["rlnImageName"]):
        number, at, stack = name.partition("@")
        if not (at and number.isascii() and number.isdigit()):
            raise BadInput.report(
                "An image name can't be read.",
                file=rows.path,
                where=f"column rlnImageName, {rows.place(np.array([i]))}",
                found=repr(name),
                expected="number@stack, e.g. 000001@particles.mrcs",
            )
        images.append((int(number), PurePath(stack).parts))
    return tuple(images)


def _pixel_size(rows: Rows) -> np.ndarray | None:
    if rows.has("rlnImagePixelSize"):
        return rows.numbers("rlnImagePixelSize")
    if rows.has("rlnDetectorPixelSize") and rows.has("rlnMagnification"):
        return rows.numbers("rlnDetectorPixelSize") * 1e4 / rows.numbers("rlnMagnification")
    return None


def _origin(rows: Rows, pixel_size: np.ndarray | None) -> np.ndarray:
    if rows.has("rlnOriginXAngst") and rows.has("rlnOriginYAngst"):
        return np.stack([rows.numbers("rlnOriginXAngst"), rows.numbers("rlnOriginYAngst")], -1)
    if not (rows.has("rlnOriginX") and rows.has("rlnOriginY")):
        return np.zeros((len(rows.table), 2))
    origin = np.stack([rows.numbers("rlnOriginX"), rows.numbers("rlnOriginY")], -1)
    if pixel_size is None:
        raise BadInput.report(
            "Origins are in pixels and the pixel size is not known.",
            file=rows.path,
            expected="rlnImagePixelSize, or rlnDetectorPixelSize and rlnMagnification",
        )
    return origin * pixel_size[:, None]


def match_rows(truth: PoseTable, estimate: PoseTable) -> np.ndarray:
    """Row of the truth for each estimated row, int64.

    Images are known by their number and by as much of the end of the stack's path as tells the truth's stacks apart,
    for the two files may stand in different folders.

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
        "A STAR file names an image twice.",
        file=table.path,
        where=f"row {row + 1}",
        found=_name(table, row),
        expected="each image once",
    )
