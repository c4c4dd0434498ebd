"""Estimates of each particle of a run, from particles.star, with its images where they can still be opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryoloom.particles.errors import BadInput
from cryoloom.particles.particle_set import ParticleSet, open_particles, read_table
from cryoloom.particles.stated import StatedInput
from cryoloom.particles.table import Quantity
from cryoloom.physics.rotations import to_euler


@dataclass(frozen=True, slots=True)
class ParticleEstimates:
    """Columns of particles.star, float64 [N] each; None where the file has no such column.

    Attributes:
        count: N; names: of the images, [N]; classes: rlnClassNumber, int64 [N], from 1.
        particles: the set with its images, None if they can't be opened; `why_no_images` then says why.
        rot_degrees, tilt_degrees: viewing direction.
        shift_angstrom: length of the shift.
        angular_error_degrees, shift_error_angstrom: estimated for each particle.
        log_likelihood, best_weight: log-likelihood and posterior weight of the best pose.
    """

    count: int
    names: np.ndarray | None
    classes: np.ndarray | None
    particles: ParticleSet | None
    why_no_images: str | None
    rot_degrees: np.ndarray | None
    tilt_degrees: np.ndarray | None
    shift_angstrom: np.ndarray | None
    angular_error_degrees: np.ndarray | None
    shift_error_angstrom: np.ndarray | None
    log_likelihood: np.ndarray | None
    best_weight: np.ndarray | None


def read_particle_estimates(path: Path, no_ctf: bool) -> ParticleEstimates | None:
    """particles.star of a run, None if there is none. The images need not exist any more; costs a parse of the file.

    Raises:
        BadInput: for a file that is not a STAR file with a particle table, or a column with values that are not
            numbers.
    """
    if not path.is_file():
        return None
    particles, why = None, None
    try:
        # pixels were checked by the run; duplicates were accepted by it
        particles = open_particles(path, StatedInput(no_ctf=no_ctf, on_duplicates="keep"), scan=False)
        table = particles.table
    except BadInput as error:
        why = str(error)
        table = read_table(path)
    poses, classes = table.poses, table.values("class_number")
    angles = None if poses.rotations is None else to_euler(torch.from_numpy(poses.rotations(table.rows))).numpy()
    # shifts in pixels, of RELION 3.0, are not written by any run
    shifts = None if poses.shifts is None or poses.shifts_in_pixels else poses.shifts(table.rows)

    def found(quantity: Quantity) -> np.ndarray | None:
        """NaN where the file has no number: a quantity may be unknown for some images."""
        column = table.numbers.get(quantity)
        return None if column is None else table.texts(column.label).numbers()

    return ParticleEstimates(
        count=len(table),
        names=np.array([table.image_name(i) for i in range(len(table))], dtype=object),
        classes=None if classes is None else classes.astype(np.int64),
        particles=particles,
        why_no_images=why,
        rot_degrees=None if angles is None else angles[:, 0],
        tilt_degrees=None if angles is None else angles[:, 1],
        shift_angstrom=None if shifts is None else np.hypot(*shifts.T),
        angular_error_degrees=found("angular_error_degrees"),
        shift_error_angstrom=found("shift_error_angstrom"),
        log_likelihood=found("log_likelihood"),
        best_weight=found("probability"),
    )
