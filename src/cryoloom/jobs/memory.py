"""Memory that a run needs, and how it is kept within what it may use."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

from cryoloom.jobs.settings import Common
from cryoloom.particles.batches import COEFFICIENT_BYTES
from cryoloom.particles.particle_set import ParticleSet
from cryoloom.runs.machine import available_memory

# bytes: the program with its libraries and what does not depend on the box; grids and maps, for each voxel of the box,
# where images are compared up to its Nyquist frequency; poses and other results of an image; the smallest cache
PROGRAM, A_VOXEL, AN_IMAGE, LEAST_CACHE = 10**9, 310, 1000, 64 << 20

S = TypeVar("S", bound=Common)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Memory of a run for one map, bytes.

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
        # half of a disc of the box's Nyquist frequency
        images = count * COEFFICIENT_BYTES * math.ceil(math.pi / 8 * box**2)
        return MemoryNeed(images, min(images, cache_bytes), PROGRAM + A_VOXEL * box**3 + AN_IMAGE * count)

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
        return f"Memory: up to about {_at_least(self.total)} for one map; {kept}."


def within_memory(settings: S, particles: ParticleSet) -> tuple[S, MemoryNeed]:
    """The settings with the cache of images that the stated memory has room for, and the need.

    Raises:
        ValueError: if the run does not fit into the memory that it may use, or that is free, with what would.
    """
    count, box, limit = len(particles), settings.box or particles.box, settings.memory_bytes
    need = MemoryNeed.of(count, box, settings.cache_bytes)
    what = f"{count:,} particles in a box of {box} px"
    if limit is not None:
        if need.least > limit:
            raise ValueError(
                f"--memory {_at_most(limit)} is not enough for {what}\n"
                f"  needed (estimate): {_at_least(need.least)}\n"
                f"  what to do: {_what_fits(count, box, limit)}"
            )
        settings = replace(settings, cache_bytes=limit - need.rest)
        need = MemoryNeed.of(count, box, settings.cache_bytes)
    free = available_memory()
    if free is not None and need.total > free:
        if need.least <= free:
            advice = f"keep fewer images in memory: --memory {_at_most(free)}"
        else:
            advice = _what_fits(count, box, free)
        raise ValueError(
            f"not enough memory for {what}\n"
            f"  needed (estimate): {_at_least(need.total)}, available: {_at_most(free)}\n"
            f"  what to do: {advice}"
        )
    return settings, need


def _what_fits(count: int, box: int, limit: int) -> str:
    fitting = [b for b in range(16, box, 2) if MemoryNeed.of(count, b, 0).least <= limit]
    if not fitting:
        return f"allow more memory: the smallest box needs {_at_least(MemoryNeed.of(count, 16, 0).least)}"
    return f"use --box {fitting[-1]} or smaller, or more memory"


def _at_least(number: int) -> str:
    """Bytes as text that --memory takes, rounded up."""
    return f"{math.ceil(number / 2**30 * 10) / 10:.1f}G"


def _at_most(number: int) -> str:
    """Bytes as text that --memory takes, rounded down."""
    return f"{math.floor(number / 2**30 * 10) / 10:.1f}G" if number >= 2**30 else f"{number >> 20}M"
