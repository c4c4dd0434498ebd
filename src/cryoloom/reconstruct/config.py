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

    climb_steps: int = 5
    """Of every candidate in an iteration; 0 weighs the poses that there are and leaves them in place."""

    most_iterations: int = 10
    """Iterations after which refinement ends in any case."""

    least_iterations: int = 3
    """Iterations before it may end."""


@dataclass(frozen=True, slots=True)
class WakeSleepSettings:
    """An encoder learnt from dreams of ab initio's map: `--poses hybrid`."""

    rounds: int = 100
    """Of training; the learning rate falls to zero over them."""

    updates: int = 20
    """Steps of the optimiser a round."""

    batch: int = 128
    """Dreams a step: 256,000 images with rounds and updates as they are."""

    learning_rate: float = 2e-3
    """Of Adam, at its highest."""

    wake_every: int = 5
    """Rounds between two waking steps, in which the volume learns from real images."""

    wake_batch: int = 500
    """Real images a waking step."""

    wake_rate: float = 0.4
    """Weight of the newest images in the volume's statistics."""

    candidates: int = 8
    """Poses proposed for an image. Measured on a 70S ribosome (SNR 0.1) after 150 CPU-s: the best of 1, 2, 4, 8 lies
    within 15 degrees for 72, 81, 86, 88 % of the images."""

    nside: int = 4
    """HEALPix grid of viewing directions (4 is 15 degrees); offsets within cells are learnt."""

    rings: int = 16
    """Radii at which images are read."""

    angles: int = 48
    """In-plane angles."""

    channels: int = 128
    """Width of the network."""

    layers: int = 4
    """Its depth."""


@dataclass(frozen=True, slots=True)
class AmortizedSettings:
    """Encoder and volume learnt together from random networks: `--poses amortized`."""

    encoder: Literal["paper", "compact"] = "compact"
    """VGG16-like as published, or a narrow one for CPUs."""

    filters: int = 5
    """Gaussian low-pass filters in front of it."""

    heads: int = 1
    """Hypotheses of the encoder."""

    mixed_precision: bool = False
    """Whether the encoder's layers compute in bfloat16 (for a GPU); the physics stays float32."""

    symmetrised: bool = True
    """Whether an image and its half-turn are both tried, the better one counts."""

    volume: Literal["fouriernet", "voxel", "real"] = "fouriernet"
    """A network in Fourier space, a grid of Fourier coefficients, or densities (transformed at every step)."""

    width: int = 64
    """Of FourierNet's layers (256 as published)."""

    hidden: int = 2
    """Their number."""

    w0: float = 30.0
    """Frequency of its sines."""

    net_reach: float = 0.33
    """Of its first layer: the plane waves it begins with, in radii of the particle. From the whole
    radius volumes are learnt more slowly (docs/amortized.md)."""

    first_level: float = 5.0
    """Radius at which training begins, Fourier pixels of a box as large as the particle. Cold starts
    from lower levels converged more slowly (docs/amortized.md)."""

    last_level: float = 8.0
    """Radius at which it ends."""

    march: float = 1.0
    """Share of the rounds over which the radius grows."""

    rounds: int = 300
    """Of training."""

    updates: int = 50
    """Minibatches a round."""

    batch: int = 32
    """Images a minibatch."""

    encoder_rate: float = 1e-3
    """Learning rate of the encoder."""

    volume_rate: float = 1e-3
    """Learning rate of the volume."""

    noise_rate: float = 0.02
    """Of the learnt noise spectrum, an update; with 0 all that the images hold counts as noise to the end."""

    polish: bool = False
    """Whether the poses that the encoder gives are refined afterwards."""


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
class TurnsSettings:
    """Conformations and poses found in turns: `--poses search`.

    Measured on adenylate kinase's path (10,000 images, SNR 0.1): three quarters of the poses found on one map are
    right to 10 degrees and the latents' rank correlation with the state is 0.90; afterwards 98 % and 0.957.
    """

    components: int = 4
    """Directions of the family that poses are found along with."""

    iterations: int = 12
    """Of EM over all images, in either half."""

    held: int = 8
    """Iterations at low resolution, where large motions are seen and searches are cheap."""

    march: int = 3
    """Iterations over which the radius then grows to `SubspaceSettings.last_level`."""

    first_climb: int = 2
    """Iteration from which poses climb along with the latents."""

    climb_steps: int = 2
    """Of every pose in an iteration."""

    searches: tuple[int, ...] = (2, 5, 9)
    """Iterations in which images are also searched globally."""

    search_all: int = 2
    """In so many of the first searches all images take part, then those whose pose is in doubt."""

    points: int = 3
    """Of the latent space whose maps images are searched against; 5 find no more."""

    coarse_level: float = 6.0
    """Radius of a search's coarse match, Fourier pixels of a box as large as the particle."""

    level: float = 7.5
    """Radius of its fine match and of the iterations at low resolution, likewise."""


@dataclass(frozen=True, slots=True)
class SubspaceSettings:
    """Conformations as a mean and a few directions around it: `--method pca`."""

    components: int | None = None
    """Directions that are kept; chosen by the likelihood of held-out images when None."""

    most_components: int = 8
    """At most so many are looked for."""

    iterations: int = 12
    """Of EM over all images, in either half."""

    first_level: float = 6.0
    """Radius of the first iterations, Fourier pixels of a box as large as the particle."""

    last_level: float = 16.0
    """Radius of the last ones. Measured on three states of a ribosome (9,000 images, SNR 0.1): classes agree with the
    truth to 0.85, 0.88, 0.87 (adjusted Rand index) with 12, 16, 24, at 1, 2 and 6 times the cost."""

    contrast_sigma: float = 0.15
    """S.d. of the images' contrast around 1 to begin with, then learnt; 0: all alike."""

    turns: TurnsSettings = field(default_factory=TurnsSettings)
    """Of poses that are found along with conformations."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Conformations by a network in Fourier space: `--method vae` and `--method autodecoder`."""

    latent: int = 8
    """Z: coordinates of a conformation."""

    encoder: Literal["mlp", "cnn"] = "mlp"
    """Of images to latents (vae)."""

    encoder_width: int = 256
    """Of its layers (1024 in `paper`)."""

    encoder_layers: int = 3
    """Their number."""

    encoder_level: float = 8.0
    """Radius of what it sees, Fourier pixels of a box as large as the particle."""

    decoder_width: int = 128
    """Of the decoder's residual layers (1024 in `paper`)."""

    decoder_layers: int = 3
    """Their number."""

    frequencies: Literal["gaussian", "geometric"] = "gaussian"
    """Of the positional encoding: random, normally distributed; or those of cryoDRGN's equation."""

    reach: float = 0.25
    """S.d. along each axis of the points whose plane waves the random frequencies are, in radii of the particle; from
    farther out (0.4, 0.7) conformations are learnt more slowly. cryoDRGN has a quarter of the box."""

    level: float = 16.0
    """Radius to which images are compared, Fourier pixels of a box as large as the particle. Latents are told from 10
    on; beyond this radius maps of conformations hold the mean's details."""

    coefficients: int = 300
    """Of an image in an update, drawn anew each time, oftener where the mean is strong (all where there are fewer)."""

    epochs: int = 20
    """Passes over the images."""

    batch: int = 32
    """Images an update."""

    rate: float = 2e-3
    """Learning rate of Adam (1e-4 in `paper`), which falls over the second half of the updates."""

    table_rate: float = 0.3
    """Of the latents of single images (autodecoder)."""

    pose_rate: float = 0.05
    """Of poses where they are learnt along, pixels at the particle's rim."""

    noise_rate: float = 0.1
    """Of the noise spectrum, learnt from the residuals of 2000 images at a time; 0: it stays as it is given."""

    beta: float = 1.0
    """Weight of the divergence from the prior; 1 is the evidence's lower bound."""

    warm_up: float = 0.1
    """Share of the epochs over which beta grows from 0."""

    refine_poses: bool = False
    """Whether poses are learnt along, image by image."""


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
    network: NetworkSettings = field(default_factory=NetworkSettings)
    abinit: AbInitSettings = field(default_factory=AbInitSettings)
    refine: RefineSettings = field(default_factory=RefineSettings)
