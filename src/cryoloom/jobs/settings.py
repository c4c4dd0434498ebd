"""Settings of a whole run."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from cryoloom.particles.stated import StatedInput
from cryoloom.recipes.methods.mixture import MixtureSettings
from cryoloom.recipes.methods.pca import PCAWithPosesSettings
from cryoloom.recipes.methods.registry import conformation_method, pose_method
from cryoloom.recipes.methods.search import RefineSettings
from cryoloom.recipes.methods.settings import MethodSettings


@dataclass(frozen=True, slots=True)
class InputSettings:
    """The particles, and what the user states in place of their file."""

    particles: str
    """Particle file, absolute path."""

    stated: StatedInput = field(default_factory=StatedInput)
    """Values that replace those of the file, and what to do with images that can't be used."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Settings that all jobs share."""

    input: InputSettings
    """The particles."""

    particle_diameter_angstrom: float | None = None
    """Longest extent of the particle; estimated when None."""

    box: int | None = None
    """Working box in pixels, to which images are Fourier-cropped; that of the images when None."""

    seed: int = 1
    """Seed of all randomness."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Device on which the run computes."""

    threads: int = 1
    """Number of threads; results are bit-identical only for the same number."""

    cache_bytes: int = 1 << 30
    """Memory for images kept as Fourier coefficients; the others are read again in every pass."""

    memory_bytes: int | None = field(default=None, metadata={"may_change": True})
    """Memory that the run may use; `cache_bytes` and `refine.largest_radius` follow from it. None: none is stated."""

    refine: RefineSettings = field(default_factory=RefineSettings)
    """Refinement of poses."""

    methods: MethodSettings = field(default_factory=MethodSettings)
    """Settings of methods, by table."""

    @property
    def common(self) -> dict[str, Any]:
        """The shared settings by name, from which settings of another job can be made."""
        return {f.name: getattr(self, f.name) for f in fields(Common)}


@dataclass(frozen=True, kw_only=True)
class ReconstructSettings(Common):
    """The main job, or one of its halves."""

    job: Literal["reconstruct", "abinit", "refine"] = "reconstruct"
    """Both stages, the first alone, or the second alone."""

    poses: str = "search"
    """Pose method, by name (`recipes.methods.registry.POSE_METHODS`)."""

    start: str | None = None
    """Start of refine: "poses" for those in the particle file, else a map (absolute path)."""

    low_pass_angstrom: float | None = None
    """Resolution to which a given map is low-pass filtered before the first search."""

    symmetry: str = "C1"
    """Point group imposed after its axes are found: C1, Cn, Dn, T, O, I."""

    classes: int | Literal["auto"] | None = None
    """Number of classes, one for each molecule, or "auto" if it is to be found; None for a single molecule."""

    classes_from: tuple[str, ...] = ()
    """Maps (absolute paths) from which classes start, instead of random ones."""

    mixture: MixtureSettings = field(default_factory=MixtureSettings)
    """The search for several molecules."""

    pca_with_poses: PCAWithPosesSettings = field(default_factory=PCAWithPosesSettings)
    """Poses and conformations refined in alternation, of those of several molecules that move."""

    flip: bool = False
    """Write the mirror image: the hand can't be determined from the images."""

    def __post_init__(self) -> None:
        pose_method(self.poses)

    @property
    def several_molecules(self) -> bool:
        """Whether several molecules are sought."""
        return self.classes is not None or bool(self.classes_from)

    def of_moving_class(self, method: str = "pca", methods: MethodSettings | None = None) -> HeteroSettings:
        """Settings of the conformations of one of several molecules; `methods`: in place of those of this run."""
        common = {**self.common, "methods": self.methods if methods is None else methods}
        return HeteroSettings(**common, method=method, poses="search", pca_with_poses=self.pca_with_poses)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables of method settings that this run uses."""
        poses = () if self.job == "refine" else tuple(pose_method(self.poses).settings)
        # conformations of several molecules are sought, and ab initio is repeated for those whose poses are uncertain
        return (*poses, *conformation_method("pca").settings) if self.several_molecules else poses


@dataclass(frozen=True, kw_only=True)
class HeteroSettings(Common):
    """A run of `cryoloom hetero`."""

    method: str = "pca"
    """Conformation method, by name (`recipes.methods.registry.CONFORMATION_METHODS`)."""

    poses: str = "given"
    """"given" for the poses of the particle file (or of the run that it belongs to), else a pose method by name: poses
    are found first, then refined in alternation with the conformations."""

    mask: str | None = None
    """Map (absolute path) of 0 to 1 within which conformations may differ; the particle's sphere when None."""

    pca_with_poses: PCAWithPosesSettings = field(default_factory=PCAWithPosesSettings)
    """Settings of poses and conformations refined in alternation."""

    def __post_init__(self) -> None:
        conformation_method(self.method)
        if self.poses != "given":
            pose_method(self.poses)

    @property
    def job_of_classes(self) -> ReconstructSettings | None:
        """The job that finds classes of images without poses, whether of molecules or conformations; None for others.

        Raises:
            ValueError: with a mask, which can't be in the frame of maps that are yet to be found.
        """
        if self.method != "classes" or self.poses == "given":
            return None
        if self.mask is not None:
            raise ValueError(
                "--mask with --method classes: the maps that are found have a frame of their own\n  what to do: leave "
                "it out; afterwards, run cryoloom hetero RUN --method classes --mask MASK.mrc on a run with one map"
            )
        if self.poses != "search":
            raise ValueError(
                f"--method classes with --poses {self.poses}: classes without poses are found by search only\n"
                f"  what to do: --poses search; or find poses with cryoloom reconstruct --poses {self.poses}, then run "
                "cryoloom hetero RUN --method classes"
            )
        return ReconstructSettings(
            **self.common, classes=self.methods["classes"].classes, pca_with_poses=self.pca_with_poses
        )

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables of method settings that this run uses."""
        found = () if self.poses == "given" else tuple(pose_method(self.poses).settings)
        return (*found, *conformation_method(self.method).settings)
