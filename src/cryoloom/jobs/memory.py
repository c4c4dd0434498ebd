"""Memory that a run needs, and how it is kept within what it may use."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

from cryoloom.jobs.settings import Common
from cryoloom.particles.particle_set import ParticleSet
from cryoloom.runs.machine import check_memory

# bytes: the program with its libraries and what does not depend on the box; grids and maps, for each voxel of the box,
# where images are compared up to its Nyquist frequency; poses and other results of an image; the smallest cache
PROGRAM, A_VOXEL, AN_IMAGE, LEAST_CACHE = 10**9, 270, 1000, 64 << 20

S = TypeVar("S", bound=Common)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Memory of a run, bytes.

    Attributes:
        images: all of them as Fourier coefficients; cache: the part that is kept; rest: all else, whatever the number
            of threads.
    """

    images: int
    cache: int
    rest: int

    @staticmethod
    def of(count: int, box: int, cache_bytes: int) -> MemoryNeed:
        """The need of `count` images in a working box."""
        # a disc of the box's Nyquist frequency, half of it, complex64
        images = count * 8 * math.ceil(math.pi / 8 * box**2)
        return MemoryNeed(images, min(images, cache_bytes), PROGRAM + A_VOXEL * box**3 + AN_IMAGE * count)

    @property
    def total(self) -> int:
        """All together."""
        return self.cache + self.rest

    def said(self) -> str:
        """What the log says of it."""
        if self.cache == self.images:
            kept = "all images are kept"
        else:
            kept = f"{self.cache / self.images:.0%} of the images are kept, the others read again in every pass"
        return f"Memory: at most about {gib(self.total)}; {kept} (--memory limits it)."


def within_memory(settings: S, particles: ParticleSet) -> tuple[S, MemoryNeed]:
    """The settings with a cache of images for which the memory suffices, and the need.

    Raises:
        ValueError: if the run does not fit into the memory that it may use, or that is free, with what would.
    """
    count, box, limit = len(particles), settings.box or particles.box, settings.memory_bytes
    need = MemoryNeed.of(count, box, settings.cache_bytes)
    if limit is not None:
        least = need.rest + min(need.images, LEAST_CACHE)
        if least > limit:
            raise ValueError(
                f"--memory {gib(limit)}: {count:,} particles in a box of {box} px need {gib(least)} (estimate)\n"
                f"  what to do: {_what_fits(count, box, limit)}"
            )
        settings = replace(settings, cache_bytes=min(settings.cache_bytes, limit - need.rest))
        need = MemoryNeed.of(count, box, settings.cache_bytes)
    check_memory(need.total, f"{count} particles in a box of {box} px")
    return settings, need


def gib(number: float) -> str:
    """Bytes as text."""
    return f"{number / 2**30:.1f} GiB"


def _what_fits(count: int, box: int, limit: int) -> str:
    fitting = [b for b in range(16, box, 2) if MemoryNeed.of(count, b, LEAST_CACHE).total <= limit]
    if not fitting:
        return f"allow more memory: the smallest box needs {gib(MemoryNeed.of(count, 16, LEAST_CACHE).total)}"
    return f"use --box {fitting[-1]} or smaller, or allow more memory"
