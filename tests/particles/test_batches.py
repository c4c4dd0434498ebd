"""Batches: what they hold, that they depend on the rows alone, and that memory is bounded."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.particles.batches import COEFFICIENT_BYTES, ParticleBatch, ParticleSource
from cryoloom.particles.particle_set import ParticleSet, open_particles
from cryoloom.particles.preprocess import Preprocessing, measure
from cryoloom.physics.fourier import ifft2, resize_real
from cryoloom.physics.frequencies import FourierDisc

from .simulated import BOX, PIXEL_SIZE, RADIUS, noise, simulate, write

COUNT = 200
ROUNDED = 2.0**-8  # coefficients are kept as bfloat16


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> ParticleSet:
    simulation = simulate(COUNT, torch.Generator().manual_seed(2))
    images = 0.3 * simulation.images(simulation.ctf).float() + noise(COUNT, 1.0, torch.Generator().manual_seed(3))[0]
    # images of any mean and scale come out the same
    scale = 1 + 1000 * torch.rand(COUNT, 1, 1, generator=torch.Generator().manual_seed(4))
    return open_particles(write(tmp_path_factory.mktemp("set"), scale * images + 20 * scale, simulation.parameters))


@pytest.fixture(scope="module")
def preprocessing(particles: ParticleSet) -> Preprocessing:
    return measure(particles, particle_diameter_angstrom=2 * RADIUS, box=None, generator=torch.Generator())


def source_of(
    particles: ParticleSet, preprocessing: Preprocessing, radius: float = 20, cache_bytes: int = 0
) -> ParticleSource:
    disc = FourierDisc.create(preprocessing.box, preprocessing.pixel_size, radius)
    return ParticleSource(particles, preprocessing, disc, cache_bytes)


def normalised(particles: ParticleSet, rows: np.ndarray) -> torch.Tensor:
    """Images normalised outside the particle's circle, written again in float64."""
    images = torch.from_numpy(particles.read(rows)).double()
    axis = torch.arange(particles.box) - particles.box // 2
    outside = torch.hypot(axis[:, None].double(), axis[None].double()) > RADIUS / particles.pixel_size
    planes = torch.stack(
        [torch.ones_like(outside), axis[:, None].expand_as(outside), axis.expand_as(outside)], -1
    ).double()
    fit = torch.linalg.lstsq(planes[outside], images[:, outside].T).solution
    flat = images - (planes @ fit).permute(2, 0, 1)
    return flat / flat[:, outside].std(-1, correction=0)[:, None, None]


def test_what_a_batch_holds(particles: ParticleSet, preprocessing: Preprocessing) -> None:
    rows = np.array([7, 3, 150])
    source = source_of(particles, preprocessing)
    batch = source.batch(rows)
    np.testing.assert_array_equal(batch.rows, rows)
    assert batch.observed.dtype == torch.complex64
    assert batch.observed.shape == (3, len(source.disc.index))
    assert batch.group.dtype == torch.int64
    assert torch.equal(batch.ctf.defocus_u_angstrom, particles.ctf.defocus_u_angstrom[rows])
    expected = source.disc.transform(normalised(particles, rows))
    torch.testing.assert_close(batch.observed, expected.to(torch.complex64), atol=1e-2, rtol=ROUNDED)


def test_no_field_holds_the_truth() -> None:
    assert [f.name for f in dataclasses.fields(ParticleBatch)] == ["rows", "observed", "ctf", "group"]


@pytest.mark.parametrize("working", [48, 31])
def test_working_box_is_a_fourier_crop(particles: ParticleSet, working: int) -> None:
    preprocessing = measure(particles, particle_diameter_angstrom=2 * RADIUS, box=working, generator=torch.Generator())
    source = source_of(particles, preprocessing, radius=12)
    rows = np.arange(10)
    expected = source.disc.transform(resize_real(normalised(particles, rows), working, 2))
    torch.testing.assert_close(source.batch(rows).observed, expected.to(torch.complex64), atol=1e-2, rtol=ROUNDED)


def test_same_bits_in_any_batch_cached_or_not(particles: ParticleSet, preprocessing: Preprocessing) -> None:
    everything = source_of(particles, preprocessing).batch(np.arange(COUNT)).observed
    rng = np.random.default_rng(6)
    for cache_bytes in (0, 100_000, 1 << 30):
        source = source_of(particles, preprocessing, cache_bytes=cache_bytes)
        for _ in range(6):
            rows = rng.integers(0, COUNT, rng.integers(1, 90))
            assert torch.equal(source.batch(rows).observed, everything[rows])


def test_cache_is_bounded_and_used(
    particles: ParticleSet, preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read = ParticleSet.read

    def spy(self: ParticleSet, rows: np.ndarray) -> np.ndarray:
        reads.extend(rows.tolist())
        return read(self, rows)

    monkeypatch.setattr(ParticleSet, "read", spy)
    coefficients = len(source_of(particles, preprocessing).disc.index)
    source = source_of(particles, preprocessing, cache_bytes=50 * COEFFICIENT_BYTES * coefficients + 5)
    source.batch(np.arange(0, 40))
    source.batch(np.arange(20, 80))
    assert sorted(reads) == list(range(80))  # nothing twice
    reads.clear()
    source.batch(np.arange(80))
    assert reads == list(range(50, 80))  # 50 images fit
    held = sum(t.nbytes for t in vars(source).values() if isinstance(t, torch.Tensor) and t.dtype == torch.bfloat16)
    assert held == 50 * 4 * coefficients


def test_the_callers_batch_is_not_the_cache(particles: ParticleSet, preprocessing: Preprocessing) -> None:
    source = source_of(particles, preprocessing, cache_bytes=1 << 30)
    first = source.batch(np.arange(5)).observed
    kept = first.clone()
    first.zero_()
    second = source.batch(np.arange(5)).observed
    assert torch.equal(second, kept)
    second.zero_()
    assert torch.equal(source.batch(np.arange(5)).observed, kept)


def test_threads_get_the_same_batches(particles: ParticleSet, preprocessing: Preprocessing) -> None:
    everything = source_of(particles, preprocessing).batch(np.arange(COUNT)).observed
    source = source_of(particles, preprocessing, cache_bytes=150_000)

    def same(seed: int) -> bool:
        rows = np.random.default_rng(seed).integers(0, COUNT, 30)
        return torch.equal(source.batch(rows).observed, everything[rows])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(same, range(60)))


def test_inverted_contrast(particles: ParticleSet, preprocessing: Preprocessing) -> None:
    inverted = dataclasses.replace(preprocessing, contrast_sign=-1.0)
    rows = np.arange(4)
    a, b = (source_of(particles, p).batch(rows).observed for p in (preprocessing, inverted))
    assert torch.equal(a, -b)


def test_flipped_phases_get_the_signs_of_the_ctf_again(tmp_path: Path) -> None:
    simulation = simulate(20, torch.Generator().manual_seed(5))
    raw = 3 * simulation.images(simulation.ctf) + noise(20, 0.0, torch.Generator().manual_seed(6))[0]
    coefficients = simulation.disc.transform(raw)
    # without DC and the frequencies beyond the disc both sets go through the same normalisation
    sets = []
    for name, factor, extra in (
        ("raw", torch.ones_like(simulation.ctf), ""),
        ("flipped", torch.sign(simulation.ctf), "rlnCtfDataArePhaseFlipped"),
    ):
        images = ifft2(simulation.disc.scatter(coefficients * factor)).real.float()
        sets.append(open_particles(write(tmp_path / name, images, simulation.parameters, extra)))
    assert [s.phase_flipped for s in sets] == [False, True]
    preprocessing = measure(sets[0], particle_diameter_angstrom=2 * RADIUS, box=None, generator=torch.Generator())
    a, b = (source_of(s, preprocessing, radius=30).batch(np.arange(20)).observed for s in sets)
    # flipping spreads the signal a little over the background, so its plane and its s.d. (the scale) differ;
    # a plane has coefficients on the axes only
    off_axes = (simulation.disc.prefix(30).k != 0).all(-1)
    a, b = a[:, off_axes], b[:, off_axes]
    a, b = (x / x.abs().square().mean(-1, keepdim=True).sqrt() for x in (a, b))
    torch.testing.assert_close(a, b, atol=1e-3, rtol=2 * ROUNDED)


def test_the_disc_must_be_of_the_working_box(particles: ParticleSet, preprocessing: Preprocessing) -> None:
    with pytest.raises(ValueError, match="they must agree"):
        ParticleSource(particles, preprocessing, FourierDisc.create(BOX - 2, PIXEL_SIZE), 0)
