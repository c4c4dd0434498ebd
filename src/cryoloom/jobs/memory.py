"""Memory that a run needs, and how it is kept within what it may use."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

from cryoloom.jobs.settings import Common, ReconstructSettings
from cryoloom.maps.band import Band
from cryoloom.particles.batches import COEFFICIENT_BYTES
from cryoloom.particles.particle_set import ParticleSet
from cryoloom.recipes.refine import USUAL_ANGSTROM, insertion_radius
from cryoloom.runs.machine import available_memory

# bytes: the program with its libraries, and searches; poses and other results of an image; the smallest cache
PROGRAM, AN_IMAGE, LEAST_CACHE = 1_250_000_000, 2_300, 64 << 20
# refinement, for each voxel of the box of the largest insertion; final maps, for each voxel of the working box
REFINED_VOXEL, FINAL_VOXEL = 250, 130
# several molecules, and each of them; how many are reckoned with where their number is to be found
SEVERAL, A_CLASS, USUAL_CLASSES = 700_000_000, 70_000_000, 16

S = TypeVar("S", bound=Common)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Memory of a run, bytes.

    Attributes:
        images: all of them as Fourier coefficients; cache: the part that is kept; rest: all else, but for the
            15 MB with which each thread matches images.
        finest_angstrom: resolution up to which images are compared, so that no more is needed; None: as far as they go.
    """

    images: int
    cache: int
    rest: int
    finest_angstrom: float | None = None

    @property
    def total(self) -> int:
        """All together."""
        return self.cache + self.rest

    @property
    def least(self) -> int:
        """With the smallest cache."""
        return self.rest + min(self.images, LEAST_CACHE)

    def said(self) -> str:
        """What the log says of it."""
        if self.cache == self.images:
            kept = "all images are kept"
        else:
            kept = (
                f"{math.floor(100 * self.cache / self.images)} % of the images are kept, the others read in every pass"
            )
        said = f"Expected memory: about {_at_least(self.total)}; {kept}."
        if self.finest_angstrom is None:
            return said
        return f"{said} Images are compared up to {self.finest_angstrom:.1f} Å at most; finer with a larger --memory."


@dataclass(frozen=True, slots=True)
class Job:
    """What the need depends on.

    Attributes:
        count: number of images; field_of_view: their side, angstrom; classes: number of molecules, 0 where one is
            meant.
    """

    count: int
    field_of_view: float
    classes: int = 0

    @staticmethod
    def of(settings: Common, particles: ParticleSet) -> Job:
        """The job of some settings."""
        classes = 0
        if isinstance(settings, ReconstructSettings) and settings.several_molecules:
            given = len(settings.classes_from) or settings.classes
            classes = given if isinstance(given, int) else USUAL_CLASSES
        return Job(len(particles), particles.box * particles.pixel_size, classes)

    def usual_radius(self, box: int) -> int:
        """Radius of insertion of a run whose map reaches what is usual."""
        nyquist = (box - 1) // 2
        return insertion_radius(min(nyquist, int(self.field_of_view / USUAL_ANGSTROM)), nyquist)

    def need(self, box: int, radius: int, cache_bytes: int) -> MemoryNeed:
        """The need in a working box of a run whose largest insertion has some radius."""
        # half of a disc of the box's Nyquist frequency
        images = self.count * COEFFICIENT_BYTES * math.ceil(math.pi / 8 * box**2)
        maps = max(REFINED_VOXEL * Band(radius).box ** 3, FINAL_VOXEL * box**3)
        several = SEVERAL + self.classes * A_CLASS if self.classes else 0
        rest = PROGRAM + several + maps + AN_IMAGE * self.count
        return MemoryNeed(images, min(images, cache_bytes), rest)

    def fitting_radius(self, box: int, rest: int) -> int:
        """The largest radius with so much memory beside the cache, which must be enough for the usual one."""
        radii = range(self.usual_radius(box), (box - 1) // 2 + 1)
        return max(radius for radius in radii if self.need(box, radius, 0).rest <= rest)


def within_memory(settings: S, particles: ParticleSet) -> tuple[S, MemoryNeed]:
    """The settings with which a run keeps within the memory that it may use, and its expected need.

    The cache of images gets what a stated memory leaves; where a very fine map would need more than is stated,
    refinement compares images no farther than that allows.

    Raises:
        ValueError: if the run does not fit into the memory that it may use, or that is free, with what would.
    """
    box, limit, job = settings.box or particles.box, settings.memory_bytes, Job.of(settings, particles)
    what = f"{job.count:,} particles in a box of {box} px"
    expected = job.need(box, job.usual_radius(box), settings.cache_bytes)
    if limit is not None:
        if expected.least > limit:
            raise ValueError(
                f"--memory {_at_most(limit)} is not enough for {what}\n"
                f"  needed (estimate): {_at_least(expected.least)}\n"
                f"  what to do: {_what_fits(job, box, limit)}"
            )
        # more images than usual are kept only in what the finest map leaves
        left = limit - job.need(box, (box - 1) // 2, 0).rest
        cache = max(left, min(settings.cache_bytes, limit - expected.rest))
        settings = replace(settings, cache_bytes=min(expected.images, cache))
        expected = replace(expected, cache=settings.cache_bytes)
    free = available_memory()
    if free is not None and expected.total > free:
        if expected.least <= free:
            advice = f"keep fewer images in memory: --memory {_at_most(free)}"
        else:
            advice = _what_fits(job, box, free)
        raise ValueError(
            f"not enough memory for {what}\n"
            f"  needed (estimate): {_at_least(expected.total)}, available: {_at_most(free)}\n"
            f"  what to do: {advice}"
        )
    refines = not isinstance(settings, ReconstructSettings) or settings.job != "abinit"
    if limit is not None and refines:
        radius = job.fitting_radius(box, limit - expected.cache)
        if radius < (settings.refine.largest_radius or (box - 1) // 2):
            settings = replace(settings, refine=replace(settings.refine, largest_radius=radius))
            expected = replace(expected, finest_angstrom=job.field_of_view / radius)
    return settings, expected


def _what_fits(job: Job, box: int, limit: int) -> str:
    def least(b: int) -> int:
        return job.need(b, job.usual_radius(b), 0).least

    fitting = [b for b in range(16, box, 2) if least(b) <= limit]
    if not fitting:
        return f"allow more memory: the smallest box needs {_at_least(least(16))}"
    return f"use --box {fitting[-1]} or smaller, or more memory"


def _at_least(number: int) -> str:
    """Bytes as text that --memory takes, rounded up."""
    return f"{math.ceil(number / 2**30 * 10) / 10:.1f}G"


def _at_most(number: int) -> str:
    """Bytes as text that --memory takes, rounded down."""
    return f"{math.floor(number / 2**30 * 10) / 10:.1f}G" if number >= 2**30 else f"{number >> 20}M"
