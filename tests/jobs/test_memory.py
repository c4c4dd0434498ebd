"""Memory that a run may use: the cache of images is made to fit, and what can't fit is refused with what would."""

from __future__ import annotations

from typing import cast

import pytest

from cryoloom.jobs import memory
from cryoloom.jobs.memory import LEAST_CACHE, Job, MemoryNeed, within_memory
from cryoloom.jobs.settings import InputSettings, ReconstructSettings
from cryoloom.particles.particle_set import ParticleSet
from cryoloom.recipes.methods.search import RefineSettings
from cryoloom.runs.machine import memory_of

COUNT, BOX, PIXEL = 100_000, 128, 2.0
NYQUIST = (BOX - 1) // 2


class Images:
    """What is asked of a particle set."""

    def __init__(self, box: int = BOX, pixel_size: float = PIXEL) -> None:
        self.box, self.pixel_size = box, pixel_size

    def __len__(self) -> int:
        return COUNT


def kept(memory_bytes: int | None, images: Images | None = None, **changes) -> tuple[ReconstructSettings, MemoryNeed]:
    settings = ReconstructSettings(input=InputSettings("x.star"), memory_bytes=memory_bytes, **changes)
    return within_memory(settings, cast(ParticleSet, images or Images()))


def limited(memory_bytes: int | None, box: int | None = None) -> ReconstructSettings:
    return kept(memory_bytes, box=box)[0]


def need(cache_bytes: int) -> MemoryNeed:
    """Of a map that reaches the Nyquist frequency, as is usual at 2 angstrom a pixel."""
    return Job(COUNT, BOX * PIXEL).need(BOX, NYQUIST, cache_bytes)


@pytest.fixture(autouse=True)
def a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 50)


def test_the_cache_takes_what_the_rest_leaves() -> None:
    some = need(1 << 30)
    assert some.images > 1 << 30
    assert some.cache == 1 << 30
    assert limited(None).cache_bytes == 1 << 30
    tight = some.rest + (200 << 20)
    settings, said = kept(tight)
    assert settings.cache_bytes == 200 << 20
    assert said.total == tight
    assert limited(1 << 40).cache_bytes == some.images  # more than all images


def test_what_can_not_fit_is_refused_with_a_box_that_does() -> None:
    least = need(LEAST_CACHE).total
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
    some = need(1 << 30)
    monkeypatch.setattr(memory, "available_memory", lambda: some.total)
    assert limited(None).cache_bytes == 1 << 30
    monkeypatch.setattr(memory, "available_memory", lambda: some.total - 1)
    with pytest.raises(ValueError, match=r"keep fewer images in memory: --memory \d") as error:
        limited(None)
    advised = memory_of(str(error.value).split("--memory ")[1].strip())
    assert kept(advised)[1].total < some.total
    monkeypatch.setattr(memory, "available_memory", lambda: some.least - 1)
    with pytest.raises(ValueError, match=r"use --box \d+ or smaller"):
        limited(None)
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert limited(None).cache_bytes == 1 << 30


def test_where_a_fine_map_would_not_fit_images_are_compared_less_far(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Images(512, 0.7)
    job = Job(COUNT, 512 * 0.7)
    nyquist, usual = 255, job.usual_radius(512)
    assert usual < 0.5 * nyquist
    whole = job.need(512, nyquist, 1 << 30)
    settings, said = kept(whole.total + 1000, fine)
    assert settings.refine.largest_radius is None
    assert "Images are compared up to" not in said.said()
    # the expected need, of a map that reaches 4 angstrom, is smaller
    assert said.total < 0.7 * whole.total
    for spare in (0, (whole.rest - said.rest) // 4):
        limit = said.rest + LEAST_CACHE + spare
        settings, less = kept(limit, fine)
        radius = settings.refine.largest_radius
        assert radius is not None
        assert usual <= radius < nyquist
        assert job.need(512, radius, settings.cache_bytes).total <= limit
        assert f"up to {job.field_of_view / radius:.1f} Å at most" in less.said()
    # what is free now decides whether a run starts, but not what it gives
    monkeypatch.setattr(memory, "available_memory", lambda: whole.total - 1)
    assert kept(None, fine)[0].refine.largest_radius is None
    # ab initio compares nothing so far, and a stated radius is not exceeded
    assert kept(limit, fine, job="abinit")[0].refine.largest_radius is None
    stated = kept(limit, fine, refine=RefineSettings(largest_radius=usual - 20))[0]
    assert stated.refine.largest_radius == usual - 20


def test_several_molecules_need_more() -> None:
    one, three, unknown = (kept(None, classes=classes)[1].rest for classes in (None, 3, "auto"))
    assert one < three < unknown
    assert kept(None, classes_from=("a.mrc", "b.mrc", "c.mrc"))[1].rest == three


def test_it_is_said_how_many_images_are_kept() -> None:
    assert "all images are kept" in Job(1000, 256.0).need(BOX, NYQUIST, 1 << 30).said()
    nearly = need(need(1 << 40).images - 1)
    assert "99 % of the images are kept, the others read in every pass" in nearly.said()
