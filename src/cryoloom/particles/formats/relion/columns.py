"""What RELION calls the quantities of the neutral table, and in which units it writes them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cryoloom.particles.table import Quantity

DEGREE = np.pi / 180

# name in a STAR file, and factor from its unit to that of the table; the first name is the one written
COLUMNS: Mapping[Quantity, tuple[tuple[str, ...], float]] = {
    "pixel_size": (("rlnImagePixelSize",), 1.0),
    "box": (("rlnImageSize",), 1.0),
    "voltage_kv": (("rlnVoltage",), 1.0),
    "spherical_aberration_mm": (("rlnSphericalAberration",), 1.0),
    "amplitude_contrast": (("rlnAmplitudeContrast",), 1.0),
    "defocus_u_angstrom": (("rlnDefocusU",), 1.0),
    "defocus_v_angstrom": (("rlnDefocusV",), 1.0),
    "astigmatism_radian": (("rlnDefocusAngle",), DEGREE),
    "phase_shift_radian": (("rlnPhaseShift",), DEGREE),
    "b_factor_angstrom2": (("rlnCtfBfactor",), 1.0),
    "scale": (("rlnCtfScalefactor",), 1.0),
    "ctf_premultiplied": (("rlnCtfDataAreCtfPremultiplied", "rlnCtfPremultiplied"), 1.0),
    "phase_flipped": (("rlnCtfDataArePhaseFlipped",), 1.0),
    "half_set": (("rlnRandomSubset",), 1.0),
    "log_likelihood": (("rlnLogLikeliContribution",), 1.0),
    "probability": (("rlnMaxValueProbDistribution",), 1.0),
    "angular_error_degrees": (("cryoloomAngularErrorDegrees",), 1.0),
    "shift_error_angstrom": (("cryoloomShiftErrorAngst",), 1.0),
    "misfit": (("cryoloomMisfit",), 1.0),
    "class_number": (("rlnClassNumber",), 1.0),
}

# quantities of each optics group in RELION 3.1 and later
GROUP_QUANTITIES: tuple[Quantity, ...] = (
    "voltage_kv",
    "spherical_aberration_mm",
    "amplitude_contrast",
    "pixel_size",
    "box",
)

INTEGERS: tuple[Quantity, ...] = ("half_set", "class_number", "ctf_premultiplied", "phase_flipped")

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
ORIGINS_IN_PIXELS = ("rlnOriginX", "rlnOriginY")
# RELION 3.0: detector pixel size in um, and magnification, which together give the pixel size
DETECTOR = ("rlnDetectorPixelSize", "rlnMagnification")

# columns of RELION 3.0 that RELION 3.1 moved to the optics table; rows with equal values form a group
SHARED_IN_A_GROUP = (
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnDetectorPixelSize",
    "rlnMagnification",
    "rlnImagePixelSize",
)


def relion_name(quantity: Quantity) -> str:
    """The column that RELION writes a quantity to."""
    return COLUMNS[quantity][0][0]
