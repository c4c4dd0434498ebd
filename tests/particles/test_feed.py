"""What a feed says of its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.particles.batches import ParticleSource
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.particle_set import open_particles
from cryoloom.particles.preprocess import measure
from cryoloom.physics.ctf import evaluate_ctf
from cryoloom.physics.frequencies import FourierDisc

from .simulated import BOX, PIXEL_SIZE, noise, simulate, write


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> ImageFeed:
    generator = torch.Generator().manual_seed(2)
    simulation = simulate(40, generator)
    images = 0.3 * simulation.images(simulation.ctf) + noise(40, 1.0, generator)[0]
    star: Path = write(tmp_path_factory.mktemp("feed"), images, simulation.parameters, groups=2)
    particles = open_particles(star)
    found = measure(particles, particle_diameter_angstrom=110.0, box=48, generator=generator)
    source = ParticleSource(particles, found, FourierDisc.create(found.box, found.pixel_size), 0)
    return ImageFeed(source, torch.device("cpu"))


def test_a_smaller_working_box_shows_the_same_field_of_view(feed: ImageFeed) -> None:
    assert feed.box == 48
    assert feed.field_of_view == pytest.approx(BOX * PIXEL_SIZE)


def test_noise_is_the_measured_one_in_single_precision(feed: ImageFeed) -> None:
    assert feed.noise.dtype == torch.float32
    assert feed.noise.shape == (feed.groups, feed.box // 2 + 1)
    torch.testing.assert_close(feed.noise, feed.source.preprocessing.noise.float())


def test_images_carry_their_own_ctf_and_noise(feed: ImageFeed) -> None:
    rows = np.array([7, 0, 3])
    images = feed.images(rows, 9.0, feed.noise)
    k = images.disc.k.double()
    expected = evaluate_ctf(feed.source.particles.ctf[torch.from_numpy(rows)], k)
    torch.testing.assert_close(images.ctf.double(), expected, atol=1e-4, rtol=0)
    shell = images.disc.k.norm(dim=1).mul(feed.field_of_view).round().long()
    torch.testing.assert_close(images.variance, feed.noise[:, shell])
    assert images.group.tolist() == [1, 0, 1]
