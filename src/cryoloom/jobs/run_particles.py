"""The particles of a finished run: what particles.star says of each, with the images where they can still be opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoloom.particles.errors import BadInput
from cryoloom.particles.particle_set import ParticleSet, open_particles
from cryoloom.particles.star import read_star
from cryoloom.particles.stated import StatedInput


@dataclass(frozen=True, slots=True)
class RunParticles:
    """Columns of particles.star, float64 [N] each; None where the file has no such column.

    Attributes:
        count: N; names: of the images, [N]; classes: rlnClassNumber, int64 [N], from 1.
        particles: the set with its images, None if they can't be opened; `why_no_images` then says why.
        rot_degrees, tilt_degrees: viewing direction.
        shift_angstrom: length of the shift.
        angular_error_degrees, shift_error_angstrom: estimated for each particle.
        log_likelihood, best_weight: of the best pose.
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


def read_run_particles(path: Path, no_ctf: bool) -> RunParticles | None:
    """particles.star of a run, None if there is none. The images need not exist any more; costs a parse of the file.

    Raises:
        BadInput: for a file that is no STAR file with a particle table, or a column with values that are no numbers.
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
        block = read_star(path).block("particles")
        if block is None:
            raise
        table = block.table

    def column(name: str) -> np.ndarray | None:
        if name not in table:
            return None
        try:
            return np.asarray(table[name], dtype=np.float64)
        except ValueError as error:
            raise BadInput.report(
                "A column of the particles holds no numbers.", file=path, where=f"column {name}", found=str(error)
            ) from None

    x, y = column("rlnOriginXAngst"), column("rlnOriginYAngst")
    classes = column("rlnClassNumber")
    return RunParticles(
        count=len(table),
        names=table["rlnImageName"].to_numpy() if "rlnImageName" in table else None,
        classes=None if classes is None else classes.astype(np.int64),
        particles=particles,
        why_no_images=why,
        rot_degrees=column("rlnAngleRot"),
        tilt_degrees=column("rlnAngleTilt"),
        shift_angstrom=None if x is None or y is None else np.hypot(x, y),
        angular_error_degrees=column("cryoloomAngularErrorDegrees"),
        shift_error_angstrom=column("cryoloomShiftErrorAngst"),
        log_likelihood=column("rlnLogLikeliContribution"),
        best_weight=column("rlnMaxValueProbDistribution"),
    )
