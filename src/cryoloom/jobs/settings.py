"""Settings of the recipes: what a user may choose, and the method's constants with the reason for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cryoloom.recipes.abinit import AbInitSettings
from cryoloom.recipes.amortized import AmortizedSettings
from cryoloom.recipes.pca import SubspaceSettings
from cryoloom.recipes.pca_with_poses import TurnsSettings
from cryoloom.recipes.refine import RefineSettings
from cryoloom.recipes.vae import NetworkSettings
from cryoloom.recipes.wake_sleep import WakeSleepSettings


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

    poses: Literal["search", "amortized", "hybrid"] = "search"
    """How poses are found: by search from ab initio's map; by an encoder and a volume that learn together from random
    networks; or by an encoder that learns from ab initio's map and proposes, which is then polished."""

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
    amortized: AmortizedSettings = field(default_factory=AmortizedSettings)
    wake_sleep: WakeSleepSettings = field(default_factory=WakeSleepSettings)


@dataclass(frozen=True, slots=True)
class HeteroSettings:
    """A run of `cryoloom hetero`."""

    input: InputSettings

    method: Literal["pca", "vae", "classes", "autodecoder"] = "pca"
    """How conformations are found."""

    poses: Literal["given", "search"] = "given"
    """Those of the STAR file (or of the run that it belongs to), or found first, without a starting model."""

    classes: int = 3
    """K, of the method classes."""

    mask: str | None = None
    """Map (absolute path) of 0 to 1 within which conformations may differ; the particle's sphere when None."""

    particle_diameter_angstrom: float | None = None
    """Longest extent of the particle; estimated when None."""

    box: int | None = None
    """Working box in pixels; that of the images when None."""

    seed: int = 1
    """Of all randomness."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where it is computed."""

    threads: int = 1
    """Results are the same, bit by bit, for the same number of threads only."""

    cache_bytes: int = 384 << 20
    """Memory for images kept as coefficients; the rest is read again in every pass."""

    subspace: SubspaceSettings = field(default_factory=SubspaceSettings)
    turns: TurnsSettings = field(default_factory=TurnsSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    abinit: AbInitSettings = field(default_factory=AbInitSettings)
    refine: RefineSettings = field(default_factory=RefineSettings)
