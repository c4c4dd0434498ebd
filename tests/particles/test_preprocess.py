"""What `measure` finds on sets of known truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.particles.batches import ParticleSource
from cryoloom.particles.errors import BadInput
from cryoloom.particles.particle_set import ParticleSet, open_particles
from cryoloom.particles.preprocess import Preprocessing, _whitening, measure, sample_rows
from cryoloom.physics.fourier import ifft2
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.noise import shell_means

from .files import mrc_bytes
from .simulated import BOX, PIXEL_SIZE, RADIUS, WIDTH, Simulation, noise, simulate, write

COUNT = 500
DIAMETER = 2 * (RADIUS + 2 * WIDTH)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(COUNT, torch.Generator().manual_seed(8))


def signal(simulation: Simulation, snr: float) -> torch.Tensor:
    return (snr**0.5 * simulation.images(simulation.ctf) / float(simulation.ctf.square().mean()) ** 0.5).float()


@pytest.fixture(scope="module")
def white(simulation: Simulation, tmp_path_factory: pytest.TempPathFactory) -> ParticleSet:
    """SNR 0.1 in white noise, three optics groups."""
    images = signal(simulation, 0.1) + noise(COUNT, 0.0, torch.Generator().manual_seed(9))[0]
    return open_particles(write(tmp_path_factory.mktemp("white"), images, simulation.parameters, groups=3))


def measured(particles: ParticleSet, seed: int = 1, **options) -> Preprocessing:
    options = {"particle_diameter_angstrom": None, "box": None, "sample": 1000} | options
    return measure(particles, generator=torch.Generator().manual_seed(seed), **options)


def test_all_that_is_found(white: ParticleSet) -> None:
    found = measured(white)
    assert found.contrast_sign == 1.0
    assert (found.box, found.pixel_size) == (BOX, PIXEL_SIZE)
    assert -0.05 < found.particle_diameter_angstrom / DIAMETER - 1 < 0.30
    assert found.noise.shape == (3, BOX // 2 + 1)
    assert found.noise.dtype == torch.float32
    # a third of 500 images for each group: chance alone is 4 % in shell 3
    assert float((found.noise[:, 6:] / BOX**2 - 1).abs().max()) < 0.06
    assert 8 <= found.outlier_sigma < 20
    assert any("white" in line for line in found.said)
    assert any("diameter" in line for line in found.said)


@pytest.mark.parametrize("colour", [0.0, 4.0])
def test_noise_spectrum_within_five_percent(simulation: Simulation, tmp_path: Path, colour: float) -> None:
    images, truth = noise(COUNT, colour, torch.Generator().manual_seed(10))
    star = write(tmp_path, images + signal(simulation, 0.05), simulation.parameters)
    found = measured(open_particles(star))
    assert float((found.noise[0] / truth - 1).abs()[3:].max()) < 0.05


@pytest.mark.parametrize(("cutoff", "filtered"), [(0.4, True), (1.0, False)])
def test_the_noise_of_filtered_images_is_made_white(
    simulation: Simulation, tmp_path: Path, cutoff: float, filtered: bool
) -> None:
    images = noise(COUNT, 0.0, torch.Generator().manual_seed(10))[0] + signal(simulation, 0.05)
    k = torch.hypot(torch.fft.fftfreq(BOX)[:, None], torch.fft.rfftfreq(BOX)[None]) / 0.5
    gain = (1 / (1 + (k / cutoff) ** 8)).clamp(min=0.02)
    low = torch.fft.irfft2(torch.fft.rfft2(images) * gain, s=(BOX, BOX))
    particles = open_particles(write(tmp_path, low, simulation.parameters))
    found = measured(particles)
    assert (found.whitening is not None) == filtered
    assert any("filtered" in line for line in found.said) == filtered
    disc = FourierDisc.create(BOX, PIXEL_SIZE)
    observed = ParticleSource(particles, found, disc, 0).batch(np.arange(COUNT)).observed
    power = shell_means(observed.abs().square().mean(0), disc)[12:]
    # the images hold little signal there; measured 0.35 where the filter ends: refinement learns the noise on
    assert float((power / found.noise[0, 12 : 12 + len(power)] - 1).abs().max()) < 0.5
    assert (float(power.max() / power.min()) < 2) == filtered


def test_filters_are_found_by_optics_group() -> None:
    k = torch.arange(33, dtype=torch.float64)
    low, white = 1e3 / (1 + (k / 12) ** 8), torch.full((33,), 50.0, dtype=torch.float64)
    high = torch.where(k < 8, 1e-3, 1.0).double()
    said: list[str] = []
    found = _whitening(torch.stack([low, white, high]), 200.0, said)
    assert found is not None
    # to one level: the signals of all groups add up in one map, that of the group which was not filtered too
    whitened = found.square() * torch.stack([low, white, high])
    assert float(whitened.max() / whitened.min()) < 1.1
    assert "2 optics group(s)" in said[0]
    assert _whitening(white[None], 200.0, said) is None


@pytest.mark.parametrize("working", [48, 40, 33])
def test_noise_at_a_smaller_working_box(simulation: Simulation, tmp_path: Path, working: int) -> None:
    images, truth = noise(COUNT, 4.0, torch.Generator().manual_seed(11))
    star = write(tmp_path, images + signal(simulation, 0.05), simulation.parameters)
    found = measured(open_particles(star), box=working)
    assert (found.box, found.pixel_size) == (working, pytest.approx(PIXEL_SIZE * BOX / working))
    assert found.noise.shape == (1, working // 2 + 1)
    expected = truth[: working // 2 + 1] * (working / BOX) ** 4
    assert float((found.noise[0] / expected - 1).abs()[3:].max()) < 0.07


def test_black_particles_are_inverted(simulation: Simulation, tmp_path: Path) -> None:
    images = noise(COUNT, 0.0, torch.Generator().manual_seed(12))[0] - signal(simulation, 0.1)
    found = measured(open_particles(write(tmp_path, 300 * images + 20000, simulation.parameters)))
    assert found.contrast_sign == -1.0
    assert any("black" in line for line in found.said)


@pytest.mark.parametrize("seed", range(13, 21))
def test_pure_noise_gives_guesses_and_says_so(simulation: Simulation, tmp_path: Path, seed: int) -> None:
    images = noise(COUNT, 0.0, torch.Generator().manual_seed(seed))[0]
    found = measured(open_particles(write(tmp_path, images, simulation.parameters)))
    assert found.contrast_sign == 1.0
    assert any("can't be determined" in line for line in found.said)
    assert any("No particle stands out" in line for line in found.said)


def test_premultiplied_noise_is_that_before_the_ctf(simulation: Simulation, tmp_path: Path) -> None:
    images, truth = noise(COUNT, 4.0, torch.Generator().manual_seed(14))
    coefficients = simulation.disc.transform((images + signal(simulation, 0.05)).double())
    treated = ifft2(simulation.disc.scatter(coefficients * simulation.ctf)).real.float()
    star = write(tmp_path, treated, simulation.parameters, extra="rlnCtfDataAreCtfPremultiplied")
    particles = open_particles(star)
    assert particles.ctf_premultiplied
    found = measured(particles)
    assert found.contrast_sign == 1.0
    # normalising to s.d. 1 multiplies all shells by one factor; the CTF leaves little to measure in the lowest
    ratio = found.noise[0] / truth
    squares = shell_means(simulation.ctf.square().mean(0), simulation.disc)[: BOX // 2]
    seen = torch.nonzero(squares[:-3] > 0.2)[:, 0]  # the last shells were cut when the images were made
    assert len(seen) > 15
    assert float((ratio[seen] / ratio[seen].median() - 1).abs().max()) < 0.12


def test_a_given_diameter_is_taken(white: ParticleSet) -> None:
    assert measured(white, particle_diameter_angstrom=120.0).particle_diameter_angstrom == 120.0
    side = BOX * PIXEL_SIZE
    assert any("fills its box" in line for line in measured(white, particle_diameter_angstrom=1.1 * side).said)
    for impossible in (0.5, 2 * side):
        with pytest.raises(BadInput, match="diameter"):
            measured(white, particle_diameter_angstrom=impossible)


@pytest.mark.parametrize("box", [0, 8, 65, 128])
def test_impossible_working_boxes(white: ParticleSet, box: int) -> None:
    with pytest.raises(BadInput, match="working box"):
        measured(white, box=box)


def test_no_more_images_than_the_sample_are_read(white: ParticleSet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    read = ParticleSet.read

    def spy(self: ParticleSet, rows: np.ndarray) -> np.ndarray:
        seen.update(rows.tolist())
        return read(self, rows)

    monkeypatch.setattr(ParticleSet, "read", spy)
    measured(white, sample=60)
    assert len(seen) == 60
    # spread over the optics groups
    assert np.bincount(white.group[sorted(seen)]).tolist() == [20, 20, 20]


def test_the_sample_follows_the_generator(white: ParticleSet) -> None:
    rows = [sample_rows(white, 60, torch.Generator().manual_seed(s)).tolist() for s in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    first, second = measured(white, sample=60), measured(white, sample=60)
    assert torch.equal(first.noise, second.noise)
    assert first.particle_diameter_angstrom == second.particle_diameter_angstrom


def test_small_groups_share_the_sets_spectrum(simulation: Simulation, tmp_path: Path) -> None:
    images = noise(COUNT, 0.0, torch.Generator().manual_seed(15))[0][:60]
    star = write(tmp_path, images, simulation.parameters[:60], groups=3)
    found = measured(open_particles(star))
    assert torch.equal(found.noise[0], found.noise[1])
    assert any("use that of the set" in line for line in found.said)


def test_odd_boxes_and_integers(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    images = rng.normal(100, 20, (80, 33, 33)).round()
    simulation = simulate(80, torch.Generator().manual_seed(3))
    star = write(tmp_path, torch.from_numpy(images), simulation.parameters)
    (tmp_path / "stack.mrcs").write_bytes(mrc_bytes(images, mode=1, pixel_size=PIXEL_SIZE))
    found = measured(open_particles(star), particle_diameter_angstrom=50.0)
    assert found.noise.shape == (1, 17)
    assert float((found.noise[0, 6:] / 33**2 - 1).abs().max()) < 0.15


def test_preprocessing_has_the_agreed_fields() -> None:
    assert [f.name for f in dataclasses.fields(Preprocessing)] == [
        "contrast_sign",
        "noise",
        "whitening",
        "box",
        "pixel_size",
        "particle_diameter_angstrom",
        "outlier_sigma",
        "said",
    ]
