"""A cluster's map is that of its own images, and its resolution that of its half sets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.inference.poses.posed import PosedImages
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
def posed(folder: Path) -> PosedImages:
    """The images at poses that are true for even rows, random for odd ones."""
    particles = open_particles(folder / "truth.star", scan=False)
    found = measure(particles, particle_diameter_angstrom=None, box=32, generator=torch.Generator().manual_seed(1))
    disc = FourierDisc.create(found.box, found.pixel_size)
    feed = ImageFeed(ParticleSource(particles, found, disc, 1 << 24), torch.device("cpu"))
    given = particles.input_poses()
    R = given.R.clone()
    R[1::2] = random_rotations(COUNT // 2, torch.Generator().manual_seed(2)).to(R)
    poses = PosePosterior.certain(R.float(), given.t.float())
    return PosedImages(feed, poses, HALF, noise=found.noise, sigma_angstrom=found.pixel_size)


def test_a_clusters_map_and_resolution(folder: Path, posed: PosedImages) -> None:
    """Images at true poses give the true map; those at random poses do not, and their halves don't correlate."""
    images = posed.feed
    truth = read_map(folder / "truth_001.mrc")
    good = cluster_map(posed, ROWS, 1)
    assert good.gold.resolution_angstrom is not None
    true_map = rebox(truth.data, images.box)
    fsc = fourier_shell_correlation(good.combined * good.mask, true_map * good.mask)
    against_truth = images.box * images.pixel_size / crossing(fsc, 0.5)
    assert against_truth == pytest.approx(good.gold.resolution_angstrom, rel=0.25)
    bad = cluster_map(posed, ROWS + 1, 1, good.mask)
    assert bad.gold.resolution_angstrom is None or bad.gold.resolution_angstrom > 2 * good.gold.resolution_angstrom
    assert torch.equal(bad.mask, good.mask)


def test_other_images_have_no_part_in_it(posed: PosedImages) -> None:
    images = posed.feed
    mask = soft_sphere(images.box, images.box / 4, 3)
    first = cluster_map(posed, ROWS, 1, mask)
    R = posed.poses.R.clone()
    R[1::2] = torch.eye(3)
    other = cluster_map(posed.with_poses(PosePosterior.certain(R[:, 0], posed.poses.t[:, 0])), ROWS, 1, mask)
    assert torch.equal(first.combined, other.combined)
    # a half map holds the images of its half alone
    swapped = cluster_map(replace(posed, half=1 - HALF), ROWS, 1, mask)
    assert torch.equal(swapped.halves[0], first.halves[1])


def test_clusters_that_can_not_be_are_refused(posed: PosedImages) -> None:
    for rows, half, words in (
        (ROWS[:15], HALF, "8 and 7 images in its half sets"),
        (np.repeat(ROWS, 2), HALF, "rows occur once"),
        (ROWS, HALF + 1, "in half set 0 or 1; expected all"),
        (np.array([0, COUNT]), HALF, f"expected 0 to {COUNT - 1}"),
    ):
        with pytest.raises(ValueError, match=words):
            cluster_map(replace(posed, half=half), rows, 1)
