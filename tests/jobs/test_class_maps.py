"""A cluster's map is that of its own images, and its resolution that of its half sets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.jobs.class_maps import cluster_map
from cryoloom.maps.fsc import crossing, fourier_shell_correlation
from cryoloom.maps.io import read_map
from cryoloom.maps.mask import soft_sphere
from cryoloom.particles.batches import ParticleSource
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.particle_set import open_particles
from cryoloom.particles.preprocess import measure
from cryoloom.physics.fourier import rebox
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.rotations import random_rotations
from cryoloom.simulation.dataset import simulate_demo

COUNT = 500
ROWS = np.arange(0, COUNT, 2)
HALF = np.arange(COUNT) // 2 % 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    simulate_demo(folder, COUNT, seed=5)
    return folder


@pytest.fixture(scope="module")
def feed(folder: Path) -> tuple[ImageFeed, Tensor]:
    """The images and their noise spectra."""
    particles = open_particles(folder / "truth.star", scan=False)
    found = measure(particles, particle_diameter_angstrom=None, box=32, generator=torch.Generator().manual_seed(1))
    disc = FourierDisc.create(found.box, found.pixel_size)
    return ImageFeed(ParticleSource(particles, found, disc, 1 << 24), torch.device("cpu")), found.noise


@pytest.fixture(scope="module")
def poses(folder: Path) -> PosePosterior:
    """True for even rows, random for odd ones."""
    given = open_particles(folder / "truth.star", scan=False).input_poses()
    R = given.R.clone()
    R[1::2] = random_rotations(COUNT // 2, torch.Generator().manual_seed(2)).to(R)
    return PosePosterior.certain(R.float(), given.t.float())


def test_a_clusters_map_and_resolution(folder: Path, feed: tuple[ImageFeed, Tensor], poses: PosePosterior) -> None:
    """Images at true poses give the true map; those at random poses do not, and their halves don't correlate."""
    images, noise = feed
    truth = read_map(folder / "truth_001.mrc")
    good = cluster_map(images, poses, HALF, ROWS, noise, seed=1)
    assert good.gold.resolution_angstrom is not None
    true_map = rebox(truth.data, images.box)
    fsc = fourier_shell_correlation(good.combined * good.mask, true_map * good.mask)
    against_truth = images.box * images.pixel_size / crossing(fsc, 0.5)
    assert against_truth == pytest.approx(good.gold.resolution_angstrom, rel=0.25)
    bad = cluster_map(images, poses, HALF, ROWS + 1, noise, seed=1, mask=good.mask)
    assert bad.gold.resolution_angstrom is None or bad.gold.resolution_angstrom > 2 * good.gold.resolution_angstrom
    assert torch.equal(bad.mask, good.mask)


def test_other_images_have_no_part_in_it(feed: tuple[ImageFeed, Tensor], poses: PosePosterior) -> None:
    images, noise = feed
    mask = soft_sphere(images.box, images.box / 4, 3)
    first = cluster_map(images, poses, HALF, ROWS, noise, seed=1, mask=mask)
    R = poses.R.clone()
    R[1::2] = torch.eye(3)
    other = cluster_map(images, PosePosterior.certain(R[:, 0], poses.t[:, 0]), HALF, ROWS, noise, seed=1, mask=mask)
    assert torch.equal(first.combined, other.combined)
    # a half map holds the images of its half alone
    swapped = cluster_map(images, poses, 1 - HALF, ROWS, noise, seed=1, mask=mask)
    assert torch.equal(swapped.halves[0], first.halves[1])


def test_clusters_that_can_not_be_are_refused(feed: tuple[ImageFeed, Tensor], poses: PosePosterior) -> None:
    images, noise = feed
    for rows, half, words in (
        (ROWS[:15], HALF, "8 and 7 images in its half sets"),
        (np.repeat(ROWS, 2), HALF, "each row once"),
        (ROWS, HALF + 1, "expected each row once, in a half"),
        (np.array([0, COUNT]), HALF, f"expected 0 to {COUNT - 1}"),
        (ROWS, HALF[:-1], "expected all"),
    ):
        with pytest.raises(ValueError, match=words):
            cluster_map(images, poses, half, rows, noise, seed=1)
