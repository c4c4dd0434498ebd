"""Memory that a run may use: the cache of images is made to fit, and what can't fit is refused with what would."""

from __future__ import annotations

from typing import cast

import pytest

from cryoloom.jobs import memory
from cryoloom.jobs.memory import LEAST_CACHE, MemoryNeed, within_memory
from cryoloom.jobs.settings import InputSettings, ReconstructSettings
from cryoloom.particles.particle_set import ParticleSet
from cryoloom.runs.machine import memory_of

COUNT, BOX = 100_000, 128


class Images:
    """What is asked of a particle set."""

    box = BOX

    def __len__(self) -> int:
        return COUNT


def limited(memory_bytes: int | None, box: int | None = None) -> ReconstructSettings:
    settings = ReconstructSettings(input=InputSettings("x.star"), box=box, memory_bytes=memory_bytes)
    return within_memory(settings, cast(ParticleSet, Images()))[0]


@pytest.fixture(autouse=True)
def a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 50)


def test_the_cache_takes_what_the_rest_leaves() -> None:
    need = MemoryNeed.of(COUNT, BOX, 1 << 30)
    assert need.images > 1 << 30
    assert need.cache == 1 << 30
    assert limited(None).cache_bytes == 1 << 30
    tight = need.rest + (200 << 20)
    assert limited(tight).cache_bytes == 200 << 20
    assert MemoryNeed.of(COUNT, BOX, limited(tight).cache_bytes).total <= tight
    wide = limited(1 << 40)  # more than all images
    assert MemoryNeed.of(COUNT, BOX, wide.cache_bytes).cache == need.images


def test_what_can_not_fit_is_refused_with_a_box_that_does() -> None:
    least = MemoryNeed.of(COUNT, BOX, LEAST_CACHE).total
    assert limited(least).cache_bytes == LEAST_CACHE
    with pytest.raises(
        ValueError, match=r"--memory .* is not enough for 100,000 particles in a box of 128 px"
    ) as error:
        limited(least - 1)
    box = int(str(error.value).split("--box ")[1].split()[0])
    assert box == BOX - 2
    assert limited(least - 1, box).box == box
    with pytest.raises(ValueError, match="smallest box needs"):
        limited(100 << 20)


def test_the_free_memory_is_compared_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    need = MemoryNeed.of(COUNT, BOX, 1 << 30)
    monkeypatch.setattr(memory, "available_memory", lambda: need.total)
    assert limited(None).cache_bytes == 1 << 30
    monkeypatch.setattr(memory, "available_memory", lambda: need.total - 1)
    with pytest.raises(ValueError, match=r"keep fewer images in memory: --memory \d") as error:
        limited(None)
    advised = memory_of(str(error.value).split("--memory ")[1].strip())
    assert MemoryNeed.of(COUNT, BOX, limited(advised).cache_bytes).total < need.total
    monkeypatch.setattr(memory, "available_memory", lambda: need.least - 1)
    with pytest.raises(ValueError, match=r"use --box \d+ or smaller"):
        limited(None)
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert limited(None).cache_bytes == 1 << 30


def test_it_is_said_how_many_images_are_kept() -> None:
    assert "all images are kept" in MemoryNeed.of(1000, BOX, 1 << 30).said()
    nearly = MemoryNeed.of(COUNT, BOX, MemoryNeed.of(COUNT, BOX, 1 << 40).images - 1)
    assert "99 % of the images are kept, the others read in every pass" in nearly.said()
