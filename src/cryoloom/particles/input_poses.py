"""Poses given with the particles; they enter the program only here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from cryoloom.particles.errors import BadInput, listed
from cryoloom.particles.table import ParticleTable
from cryoloom.physics.rotations import nearest_rotation


@dataclass(frozen=True, slots=True)
class InputPoses:
    """Poses that came with the particles: R [N, 3, 3] and t [N, 2] (angstrom, (x, y); content moved by +t), float64."""

    R: Float64[Tensor, "N 3 3"]
    t: Float64[Tensor, "N 2"]

    @staticmethod
    def from_matrices(
        R: Float64[Tensor, "N 3 3"], t: Float64[Tensor, "N 2"], path: Path, tolerance: float = 1e-2
    ) -> InputPoses:
        """Poses from matrices that a file holds, projected to the nearest rotation where rounding spoilt them.

        Raises:
            BadInput: for matrices further than `tolerance` from orthonormal, not finite, or reflections, with rows.
        """
        error = (R @ R.mT - torch.eye(3, dtype=R.dtype)).abs().amax((-2, -1))
        for bad, what, fix in (
            (~(error <= tolerance), "are not rotations: their columns are not orthonormal", "export the poses again"),
            (torch.linalg.det(R) < 0, "are reflections, not rotations", "was an axis flipped? export the poses again"),
        ):
            rows = torch.nonzero(bad)[:, 0].numpy()
            if len(rows):
                raise BadInput.report(
                    f"{len(rows)} orientation matrices {what}.",
                    file=path,
                    where=f"row {listed(list(rows + 1))}",
                    found=f"{R[rows[0]].tolist()}",
                    fix=fix,
                )
        return InputPoses(nearest_rotation(R), t)

    @staticmethod
    def of_table(table: ParticleTable, pixel_size: np.ndarray) -> InputPoses:
        """Poses of a table's file.

        Args:
            pixel_size: pixel size of each image in its file, angstrom, [N]; for shifts in pixels.

        Raises:
            BadInput: if orientations or shifts are absent or not numbers.
        """
        poses = table.poses
        if poses.rotations is None:
            raise BadInput.report(
                "The particles come without poses.",
                file=table.path,
                found=f"no {listed(poses.missing)}",
                fix="use the particle file of a refinement, or let the poses be found",
            )
        if poses.shifts is None:
            raise BadInput.report(
                "The particles come with orientations but without shifts.",
                file=table.path,
                expected=" or ".join(poses.missing),
            )
        t = poses.shifts(table.rows)
        if poses.shifts_in_pixels:
            t = t * pixel_size[:, None]
        R = torch.from_numpy(np.ascontiguousarray(poses.rotations(table.rows), dtype=np.float64))
        return InputPoses(R, torch.from_numpy(np.ascontiguousarray(t, dtype=np.float64)))
