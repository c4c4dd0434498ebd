"""Settings of a simulation, and the truth of each image: pose, shift, state, optics and contrast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cryoloom.physics.ctf import CTFParameters
from cryoloom.physics.rotations import from_euler

TOP_VIEW_DEGREES = 20.0  # preferred views lie within this angle of the top view
LOWEST_CONTRAST = 0.2


@dataclass(frozen=True, slots=True)
class Microscope:
    """Optics of a microscope: voltage (kV), spherical aberration (mm), amplitude contrast (fraction)."""

    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float


# a Krios, a 200-kV instrument, a Cs-corrected one
MICROSCOPES = (Microscope(300.0, 2.7, 0.1), Microscope(200.0, 2.0, 0.07), Microscope(300.0, 0.01, 0.1))


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """Properties of a simulated set; the defaults give a clean, easy one.

    Attributes:
        count: number of images.
        snr: mean variance of the clean, CTF-modulated images of molecules in the whole box over the variance of the
            noise.
        seed: seed of all random draws.
        shares: shares of the states; equal if empty.
        shift_px: standard deviation of the shift along each axis, pixels.
        defocus_angstrom: range of the mean defocus, drawn for each micrograph.
        astigmatism_angstrom: difference of defocus U - V; its angle is drawn for each micrograph.
        phase_shift_degrees: phase shift of a phase plate.
        ctf_b_factor_angstrom2: B-factor of the envelope exp(-B k^2 / 4).
        optics_groups: number of optics groups; micrographs cycle through the groups, groups through `MICROSCOPES`.
        images_per_micrograph: number of images that share a defocus.
        noise_colour: c in the noise power 1 + c exp(-(k / 0.1 Nyquist)^2), scaled to variance 1.
        contrast: standard deviation of the factor, around 1, on the signal of each image.
        preferred: share of views within 20 degrees of the top view; the rest are uniform.
        junk: share of images that show a random smooth blob instead of a molecule.
        noise_only: whether all images are noise.
        dtype: type of the pixels, "float32" or "float16".
    """

    count: int = 5000
    snr: float = 0.1
    seed: int = 1
    shares: tuple[float, ...] = ()
    shift_px: float = 1.5
    defocus_angstrom: tuple[float, float] = (10000.0, 25000.0)
    astigmatism_angstrom: float = 0.0
    phase_shift_degrees: float = 0.0
    ctf_b_factor_angstrom2: float = 0.0
    optics_groups: int = 1
    images_per_micrograph: int = 100
    noise_colour: float = 0.0
    contrast: float = 0.0
    preferred: float = 0.0
    junk: float = 0.0
    noise_only: bool = False
    dtype: str = "float32"

    def check(self, states: int) -> None:
        """Raises ValueError naming the first setting that is impossible for that number of states."""
        low, high = self.defocus_angstrom
        shares_right = not self.shares or (
            len(self.shares) == states and min(self.shares) >= 0 and sum(self.shares) > 0
        )
        rules = (
            (self.count >= 1, "count", self.count, "at least 1 image"),
            (0 < self.snr < 1e9, "snr", self.snr, "a positive ratio; for no signal use noise only"),
            (self.seed >= 0, "seed", self.seed, "0 or more"),
            (shares_right, "shares", self.shares, f"one number >= 0 for each of the {states} states, not all 0"),
            (self.shift_px >= 0, "shift", self.shift_px, "0 or more pixels"),
            (0 < low <= high, "defocus", self.defocus_angstrom, "a range of underfocus in angstrom, low to high"),
            (low > 200, "defocus", self.defocus_angstrom, "angstrom, not micrometres: 1 um = 10000"),
            (2 * low > abs(self.astigmatism_angstrom), "astigmatism", self.astigmatism_angstrom, "below 2 x defocus"),
            (self.optics_groups >= 1, "optics groups", self.optics_groups, "at least 1"),
            (self.images_per_micrograph >= 1, "images per micrograph", self.images_per_micrograph, "at least 1"),
            (self.noise_colour >= 0, "noise colour", self.noise_colour, "0 (white) or more"),
            (self.contrast >= 0, "contrast", self.contrast, "0 or more"),
            (0 <= self.preferred <= 1, "preferred", self.preferred, "a share from 0 to 1"),
            (0 <= self.junk < 1, "junk", self.junk, "a share from 0 to below 1"),
            (self.dtype in ("float32", "float16"), "dtype", self.dtype, "float32 or float16"),
        )
        for right, name, value, expected in rules:
            if not right:
                raise ValueError(f"simulation setting {name} is {value}; expected {expected}")


@dataclass(frozen=True, slots=True)
class Truth:
    """The truth of N images.

    Attributes:
        euler_degrees: Euler angles (rot, tilt, psi) as RELION writes them, [N, 3].
        t_angstrom: shift of the content (x, y), [N, 2]; the negative of RELION's origin.
        state: state from 1, or 0 for junk, [N].
        contrast: factor on the signal, [N].
        micrograph, group: indices of micrograph and optics group from 0, [N].
        ctf: CTFs of the N images, float64.
    """

    euler_degrees: np.ndarray
    t_angstrom: np.ndarray
    state: np.ndarray
    contrast: np.ndarray
    micrograph: np.ndarray
    group: np.ndarray
    ctf: CTFParameters

    def __len__(self) -> int:
        return len(self.state)

    def rotations(self, rows: np.ndarray) -> torch.Tensor:
        """Poses R [B, 3, 3], float64."""
        return from_euler(torch.from_numpy(self.euler_degrees[rows]))


def draw_truth(settings: SimulationSettings, states: int, pixel_size: float, rng: np.random.Generator) -> Truth:
    """Draws poses, shifts, states, optics and contrasts of all images, rounded to the 6 decimals of the STAR file."""
    n = settings.count
    micrograph = np.arange(n) // settings.images_per_micrograph
    group = micrograph % settings.optics_groups
    mean = rng.uniform(*settings.defocus_angstrom, micrograph[-1] + 1)[micrograph]
    axis = rng.uniform(0, 180, micrograph[-1] + 1)[micrograph]
    top = np.cos(np.radians(TOP_VIEW_DEGREES))
    cosine = np.where(rng.random(n) < settings.preferred, rng.uniform(top, 1, n), rng.uniform(-1, 1, n))
    euler = np.stack([rng.uniform(-180, 180, n), np.degrees(np.arccos(cosine)), rng.uniform(-180, 180, n)], -1)
    t = rng.normal(0, settings.shift_px * pixel_size, (n, 2))
    shares = np.array(settings.shares or (1.0,) * states)
    state = rng.choice(states, n, p=shares / shares.sum()) + 1
    state[rng.random(n) < settings.junk] = 0
    contrast = np.clip(1 + settings.contrast * rng.standard_normal(n), LOWEST_CONTRAST, None)
    optics = [MICROSCOPES[g % len(MICROSCOPES)] for g in range(settings.optics_groups)]
    half = settings.astigmatism_angstrom / 2
    values = (
        np.round(mean + half, 6),
        np.round(mean - half, 6),
        np.radians(np.round(axis, 6)),
        np.radians(settings.phase_shift_degrees),
        settings.ctf_b_factor_angstrom2,
        np.array([o.voltage_kv for o in optics])[group],
        np.array([o.spherical_aberration_mm for o in optics])[group],
        np.array([o.amplitude_contrast for o in optics])[group],
        1.0,
    )
    ctf = CTFParameters(*(torch.from_numpy(np.broadcast_to(np.asarray(v, np.float64), n).copy()) for v in values))
    return Truth(
        euler_degrees=np.round(euler, 6),
        t_angstrom=np.round(t, 6),
        state=state,
        contrast=contrast,
        micrograph=micrograph,
        group=group,
        ctf=ctf,
    )
