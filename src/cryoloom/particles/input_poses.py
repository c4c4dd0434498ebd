"""Poses in particle files: the one door by which they come in, and the columns in which they go out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cryoloom.particles.errors import BadInput, listed
from cryoloom.physics.rotations import nearest_rotation, to_euler


@dataclass(frozen=True, slots=True)
class InputPoses:
    """Poses that came with the particles: R [N, 3, 3] and t [N, 2] (angstrom, (x, y); content moved by +t), float64."""

    R: Float64[Tensor, "N 3 3"]
    t: Float64[Tensor, "N 2"]

    @staticmethod
    def from_matrices(
        R: Float64[Tensor, "N 3 3"], t: Float64[Tensor, "N 2"], path: Path, tolerance: float = 1e-2
    ) -> InputPoses:
        """Poses from matrices that a file holds, projected to the nearest rotation where rounding made them less.

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


def pose_columns(R: Float[Tensor, "N 3 3"], t: Float[Tensor, "N 2"]) -> dict[str, np.ndarray]:
    """RELION's columns of poses: angles in degrees, origins in angstrom (the opposite of the shift t)."""
    euler, origin = to_euler(R.double()).numpy(), -t.double().numpy()
    return {
        "rlnAngleRot": euler[:, 0],
        "rlnAngleTilt": euler[:, 1],
        "rlnAnglePsi": euler[:, 2],
        "rlnOriginXAngst": origin[:, 0],
        "rlnOriginYAngst": origin[:, 1],
    }
