"""Memory that a run may use: the cache of images is made to fit, and what can't fit is refused with what would."""

from __future__ import annotations

from typing import cast

import pytest

from cryoloom.jobs import memory
from cryoloom.jobs.memory import LEAST_CACHE, MemoryNeed, within_memory
from cryoloom.jobs.settings import InputSettings, ReconstructSettings
from cryoloom.particles.particle_set import ParticleSet

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
    monkeypatch.setattr(memory, "check_memory", lambda estimate, what: None)


def test_the_cache_takes_what_the_rest_leaves() -> None:
    need = MemoryNeed.of(COUNT, BOX, 1 << 30)
    assert need.images > 1 << 30
    assert need.cache == 1 << 30
    assert limited(None).cache_bytes == 1 << 30
    tight = need.rest + (200 << 20)
    assert limited(tight).cache_bytes == 200 << 20
    assert MemoryNeed.of(COUNT, BOX, limited(tight).cache_bytes).total <= tight
    assert limited(1 << 40).cache_bytes == 1 << 30


def test_what_can_not_fit_is_refused_with_a_box_that_does() -> None:
    least = MemoryNeed.of(COUNT, BOX, LEAST_CACHE).total
    assert limited(least).cache_bytes == LEAST_CACHE
    with pytest.raises(ValueError, match=r"--memory .*100,000 particles in a box of 128 px need") as error:
        limited(least - 1)
    box = int(str(error.value).split("--box ")[1].split()[0])
    assert box == BOX - 2
    assert limited(least - 1, box).box == box
    with pytest.raises(ValueError, match="smallest box needs"):
        limited(100 << 20)


def test_the_free_memory_is_checked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(memory, "check_memory", lambda estimate, what: asked.append((estimate, what)))
    limited(None)
    assert asked == [(MemoryNeed.of(COUNT, BOX, 1 << 30).total, "100000 particles in a box of 128 px")]


def test_it_is_said_how_many_images_are_kept() -> None:
    assert "all images are kept" in MemoryNeed.of(1000, BOX, 1 << 30).said()
    some = MemoryNeed.of(COUNT, BOX, 1 << 30)
    assert f"{some.cache / some.images:.0%} of the images are kept, the others read again" in some.said()
    assert f"{some.total / 2**30:.1f} GiB" in some.said()
