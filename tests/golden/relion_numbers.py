"""Numbers computed by RELION 3.1.3, frozen. `freeze_relion_numbers.py` beside this file makes them again.

Euler angles and defocus angles in degrees, origins and defocus in angstrom, frequencies (ix, iy) in units of 1 / (box
pixel_size). RELION's `relion_project` drew the images; their coefficients were read off with the explicit DFT of
`numpy_reference`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Projection:
    """One image of the golden cloud (box 40, 3 angstrom), without CTF."""

    angles: tuple[float, float, float]  # rot, tilt, psi
    origin: tuple[float, float]  # rlnOriginXAngst, rlnOriginYAngst
    coefficients: tuple[complex, ...]  # at PROJECTION_INDEX


@dataclass(frozen=True)
class ContrastTransfer:
    """One image of a single bright voxel in the middle (box 64, 2 angstrom), with CTF: the CTF itself."""

    defocus_u: float
    defocus_v: float
    angle: float
    phase_shift: float
    b_factor: float
    voltage: float
    cs: float
    amplitude_contrast: float
    values: tuple[float, ...]  # at CTF_INDEX


# rot, tilt, psi of a RELION file and the matrix A that cryoDRGN's RELION-compatible parser made of them
# (first rows of FinalRefinement-OriginalParticles-PfCRT.star and of pose.star.pkl in cryoDRGN's test data)
EULER_ANGLES = (16.093530, 86.352776, 98.225690)
EULER_MATRIX = (
    (-0.28309893, 0.94840288, 0.14278294),
    (-0.02083069, -0.15491828, 0.98770765),
    (0.95886447, 0.27664471, 0.06361309),
)

PROJECTION_BOX, PROJECTION_PIXEL_SIZE = 40, 3.0
PROJECTION_INDEX = ((1, 0), (0, 2), (2, 1), (1, -3), (3, 2), (2, -4), (5, 0), (4, 3), (0, -5))
CTF_BOX, CTF_PIXEL_SIZE = 64, 2.0
CTF_INDEX = ((0, 0), (5, 0), (0, 7), (9, 6), (9, -6), (3, -11), (14, 10), (17, -8), (1, 20), (22, -14))

PROJECTIONS = (
    Projection(
        (35.0, 50.0, -110.0),
        (0.0, 0.0),
        (
            (4.8856 + 1.6918j),
            (3.3415 + 0.0973j),
            (1.2268 + 1.0607j),
            (0.8394 + 0.552j),
            (-0.5992 - 0.0472j),
            (0.6786 + 0.2268j),
            (1.0324 - 0.115j),
            (-0.0177 + 0.0752j),
            (0.4032 - 0.5543j),
        ),
    ),
    Projection(
        (-120.0, 100.0, 75.0),
        (4.5, -7.5),
        (
            (4.944 + 2.2736j),
            (2.5985 + 0.4409j),
            (-0.0479 + 1.7925j),
            (1.5174 - 0.9426j),
            (-2.9168 + 0.5963j),
            (1.1158 - 1.2646j),
            (-0.7835 + 0.2857j),
            (-1.7661 - 0.4485j),
            (-0.2853 - 0.0362j),
        ),
    ),
    Projection(
        (160.0, 15.0, 20.0),
        (-9.0, 2.0),
        (
            (4.1284 - 2.8998j),
            (1.3952 + 1.6771j),
            (1.3402 - 0.356j),
            (0.1244 + 0.0986j),
            (1.1181 + 1.1137j),
            (0.5792 - 0.3743j),
            (0.0177 + 0.4603j),
            (0.8663 - 0.1751j),
            (0.3619 + 0.8716j),
        ),
    ),
)
CONTRAST_TRANSFER = (
    ContrastTransfer(
        defocus_u=17000.0,
        defocus_v=14000.0,
        angle=25.0,
        phase_shift=0.0,
        b_factor=0.0,
        voltage=300.0,
        cs=2.7,
        amplitude_contrast=0.1,
        values=(0.1, 0.9966, 0.34808, 0.95767, 0.33523, 0.65137, 0.02892, 0.98453, -0.10004, 0.00881),
    ),
    ContrastTransfer(
        defocus_u=12500.0,
        defocus_v=13400.0,
        angle=-60.0,
        phase_shift=0.0,
        b_factor=80.0,
        voltage=200.0,
        cs=2.0,
        amplitude_contrast=0.07,
        values=(0.07, 0.96668, 0.07291, 0.83507, 0.6759, 0.85271, 0.08408, 0.27337, -0.41499, 0.05205),
    ),
    ContrastTransfer(
        defocus_u=9000.0,
        defocus_v=8000.0,
        angle=110.0,
        phase_shift=60.0,
        b_factor=30.0,
        voltage=300.0,
        cs=2.7,
        amplitude_contrast=0.1,
        values=(0.91168, 0.93141, 0.33893, -0.94759, -0.92097, -0.63724, -0.51904, -0.20018, 0.81367, -0.49903),
    ),
    ContrastTransfer(
        defocus_u=-4000.0,
        defocus_v=-5000.0,
        angle=40.0,
        phase_shift=0.0,
        b_factor=0.0,
        voltage=300.0,
        cs=2.7,
        amplitude_contrast=0.1,
        values=(0.1, -0.3118, -0.68251, -0.99309, -0.86826, -0.75364, 0.97355, -0.19417, -0.62803, -0.47351),
    ),
)
