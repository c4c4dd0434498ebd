"""What a run left in its folder, read for the report: nothing here computes, and what is absent is named."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoloom.jobs.verdict import Verdict
from cryoloom.particles.errors import BadInput
from cryoloom.particles.particle_set import ParticleSet, open_particles
from cryoloom.particles.star import read_star
from cryoloom.particles.stated import StatedInput
from cryoloom.runs.metrics_log import LoggedStep, read_metrics
from cryoloom.runs.record import RunRecord, from_json

FSC_COLUMNS = ("frequency_per_angstrom", "unmasked", "masked", "randomised", "corrected")


@dataclass(frozen=True, slots=True)
class FSCCurves:
    """Columns of fsc.csv, float64 [S], shell 0 first; `nyquist` is the largest frequency in the file, 1/angstrom."""

    frequency: np.ndarray
    unmasked: np.ndarray
    masked: np.ndarray
    randomised: np.ndarray
    corrected: np.ndarray

    @property
    def nyquist(self) -> float:
        """1/angstrom."""
        return float(self.frequency[-1])


@dataclass(frozen=True, slots=True)
class ParticleResults:
    """Columns of particles.star, float64 [N] each; None where the file has no such column.

    Attributes:
        particles: the set with its images, None where they can't be opened; `why_no_images` then says why.
        rot_degrees, tilt_degrees: viewing direction.
        shift_angstrom: length of the shift.
        angular_error_degrees, shift_error_angstrom: estimated for each particle.
        log_likelihood, best_weight: of the best pose.
    """

    count: int
    particles: ParticleSet | None
    why_no_images: str | None
    rot_degrees: np.ndarray | None
    tilt_degrees: np.ndarray | None
    shift_angstrom: np.ndarray | None
    angular_error_degrees: np.ndarray | None
    shift_error_angstrom: np.ndarray | None
    log_likelihood: np.ndarray | None
    best_weight: np.ndarray | None


def read_verdict(record: RunRecord, where: str) -> Verdict | None:
    """The verdict of a run, None while there is none.

    Raises:
        BadRunFolder: for a field that is missing, unknown or of another type.
    """
    return None if record.verdict is None else from_json(Verdict, dict(record.verdict), f"{where}, verdict")


def read_fsc(path: Path) -> FSCCurves | None:
    """fsc.csv of a run, None where there is none.

    Raises:
        ValueError: for a file without the expected columns or with values that are not numbers.
    """
    if not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        columns = [np.array([float(row[name]) for row in rows]) for name in FSC_COLUMNS]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not an FSC table ({error}); expected columns {', '.join(FSC_COLUMNS)}") from None
    if len(rows) < 3 or not (math.isfinite(columns[0][-1]) and columns[0][-1] > 0):
        raise ValueError(f"{path}: {len(rows)} shells; expected 3 or more, and frequencies that rise from 0")
    return FSCCurves(*columns)


def read_steps(path: Path) -> tuple[LoggedStep, ...]:
    """metrics.jsonl of a run; empty where there is none."""
    return read_metrics(path) if path.is_file() else ()


def read_particles(path: Path, no_ctf: bool) -> ParticleResults | None:
    """particles.star of a run, None where there is none. Images need not be there any more; costs a parse of the file.

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
    return ParticleResults(
        count=len(table),
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
