"""Settings of the recipes: what a user may choose, and the method's constants with the reason for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class AbInitSettings:
    """Ab initio by online EM with frequency marching."""

    restarts: int = 4
    """Most independent random starts; fewer are made as soon as two agree."""

    considered: int = 50_000
    """Images, drawn at random, of which the most informative ones are used."""

    share: float = 0.3
    """Of them, those that the CTF left most signal at low resolution. On a 70S ribosome at SNR 0.05, starts on all
    images rarely succeeded and starts on these 30 % always did."""

    least_used: int = 1500
    """Images that are used at least."""

    levels: tuple[float, ...] = (3.75, 4.5, 6.0)
    """Radii of the scouting levels, Fourier pixels of a box as large as the particle: resolution = diameter / level.
    On a 70S ribosome of 0.75 box sides these are r = 5, 6, 8 of the box."""

    final_level: float = 7.5
    """Radius to which the best start is carried on where no two starts agree."""

    nside: tuple[int, ...] = (3, 3, 4, 4)
    """HEALPix nside of the rotation grid of each level (3 is 20 degrees, 4 is 15)."""

    batch: tuple[int, ...] = (200, 200, 300, 400)
    """Images a step."""

    rate: tuple[float, ...] = (0.6, 0.5, 0.4, 0.25)
    """Weight of the newest batch in the running statistics."""

    least_steps: tuple[int, ...] = (20, 25, 15, 10)
    """Steps of each level before it may end; the lowest ones are cheap, and shape is decided there."""

    most_steps: int = 40
    """Steps after which a level ends in any case."""

    held_out: int = 300
    """Images that no start learns from: they judge the starts (fewer where the set is small)."""

    agreement: float = 0.75
    """Correlation of two aligned maps, weighted by shells, above which two starts agree."""


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """Refinement by Levenberg-Marquardt on every candidate, half sets apart."""

    candidates: int = 4
    """Starts kept for each image."""

    coarse_level: float = 6.0
    """Radius of the first, coarse match in Fourier pixels of a box as large as the particle."""

    fine_levels: tuple[float, ...] = (7.5, 9.75, 12.0)
    """Radius of the fine match of each global search (the first, the second, all later ones), likewise, as far as the
    map's resolution allows."""

    most_iterations: int = 10
    """Iterations after which refinement ends in any case."""

    least_iterations: int = 3
    """Iterations before it may end."""


@dataclass(frozen=True, slots=True)
class InputSettings:
    """The particles and what the user states in place of their file; see `particles.particle_set.open_particles`."""

    particles: str
    """STAR file, absolute."""

    datadir: str | None = None
    pixel_size: float | None = None
    voltage_kv: float | None = None
    spherical_aberration_mm: float | None = None
    amplitude_contrast: float | None = None
    no_ctf: bool = False
    on_bad: Literal["error", "drop"] = "error"
    on_duplicates: Literal["error", "keep", "drop"] = "error"


@dataclass(frozen=True, slots=True)
class ReconstructSettings:
    """The whole main job, or one of its halves."""

    input: InputSettings

    job: Literal["reconstruct", "abinit", "refine"] = "reconstruct"
    """Both stages, the first alone, or the second alone."""

    start: str | None = None
    """Of refine: "poses" for those in the STAR file, else a map (absolute path)."""

    low_pass_angstrom: float | None = None
    """Of refine from a map: resolution to which it is cut before the first search."""

    symmetry: str = "C1"
    """Point group imposed after its axes are found: C1, Cn, Dn, T, O, I."""

    particle_diameter_angstrom: float | None = None
    """Longest extent of the particle; estimated when None."""

    box: int | None = None
    """Working box in pixels, to which images are Fourier-cropped; that of the images when None."""

    seed: int = 1
    """Of all randomness."""

    flip: bool = False
    """Give the mirror image: the hand can't be told from the images."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where it is computed."""

    threads: int = 1
    """Results are the same, bit by bit, for the same number of threads only."""

    cache_bytes: int = 384 << 20
    """Memory for images kept as coefficients; the rest is read again in every pass."""

    abinit: AbInitSettings = field(default_factory=AbInitSettings)
    refine: RefineSettings = field(default_factory=RefineSettings)
