"""Poses drawn from a posterior: their weights, their width, and what is left alone."""

import pytest
import torch
from scipy.spatial.transform import Rotation

from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.samples import MOST_PAIRS, posterior_samples
from cryoloom.physics.rotations import random_rotations

N = 4000
RADIUS = 40  # the poses move the rim through four cells


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.fixture
def covariance(generator: torch.Generator) -> torch.Tensor:
    """Of rotation (about 2 degrees) and shift (about 3 angstrom), correlated."""
    scale = torch.tensor([0.03, 0.04, 0.02, 3.0, 2.0], dtype=torch.float64)
    a = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    return (a @ a.T / 8) * scale[:, None] * scale[None]


def posterior(covariance: torch.Tensor, generator: torch.Generator) -> PosePosterior:
    R = random_rotations(2 * N, generator).float().reshape(N, 2, 3, 3)
    t = torch.randn(N, 2, 2, generator=generator)
    weight = torch.tensor([0.7, 0.3]).log().expand(N, 2)
    return PosePosterior(R, t, weight, covariance=covariance.float().expand(N, 2, 5, 5))


def offsets(poses: PosePosterior, samples, which: torch.Tensor) -> torch.Tensor:
    """(rotation vector, shift) of each sample from its candidate, [C, 5]."""
    image = samples.image
    turn = poses.R[image, which].mT.double() @ samples.R.double()
    turn = torch.from_numpy(Rotation.from_matrix(turn.numpy()).as_rotvec())
    return torch.cat([turn, (samples.t - poses.t[image, which]).double()], 1)


def test_draws_have_the_posterior_s_mean_and_covariance(covariance, generator):
    poses = posterior(covariance, generator)
    samples = posterior_samples(poses, generator, RADIUS)
    assert len(samples.image) == N * 2 * 2 * MOST_PAIRS
    which = torch.arange(2).repeat_interleave(2 * MOST_PAIRS).repeat(N)
    d = offsets(poses, samples, which)
    # antithetic: means are exact
    mean = d.reshape(N * 2, 2 * MOST_PAIRS, 5).mean(1)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=2e-5, rtol=0)
    found = d.T @ d / len(d)
    scale = torch.diagonal(covariance).sqrt()
    torch.testing.assert_close(found / scale / scale[:, None], covariance / scale / scale[:, None], atol=0.03, rtol=0)


def test_weights_sum_to_one_an_image_and_light_candidates_are_left_out(covariance, generator):
    poses = posterior(covariance, generator)
    light = torch.tensor([0.995, 0.005]).log().expand(N, 2)
    for weight, kept in ((poses.log_weight, 2), (light, 1)):
        samples = posterior_samples(
            PosePosterior(poses.R, poses.t, weight, covariance=poses.covariance), generator, RADIUS
        )
        assert len(samples.image) == N * kept * 2 * MOST_PAIRS
        total = torch.zeros(N).index_add_(0, samples.image, samples.weight)
        torch.testing.assert_close(total, torch.ones(N))


def test_without_a_width_the_candidates_are_taken_as_they_are(covariance, generator):
    poses = posterior(covariance, generator)
    samples = posterior_samples(poses.bare(), generator, RADIUS)
    assert torch.equal(samples.R.reshape(N, 2, 3, 3), poses.R)
    assert torch.equal(samples.t.reshape(N, 2, 2), poses.t)


def test_symmetry_needs_fewer_draws(covariance, generator):
    poses = posterior(covariance, generator)
    assert len(posterior_samples(poses, generator, RADIUS, mates=14).image) == N * 2 * 2


@pytest.mark.parametrize(("radius", "pairs"), [(2, 1), (9, 2), (15, 3), (20, 4), (200, 4)])
def test_the_less_a_slice_moves_the_fewer_draws_it_takes(radius, pairs, covariance, generator):
    """The r.m.s. rotation is 3 degrees, 0.11 cells for each Fourier pixel."""
    turn = torch.eye(5, dtype=torch.float64) * torch.tensor([0.031, 0.031, 0.031, 2.0, 2.0]) ** 2
    poses = posterior(turn, generator)
    samples = posterior_samples(poses, generator, radius)
    assert len(samples.image) == N * 2 * 2 * pairs
    total = torch.zeros(N).index_add_(0, samples.image, samples.weight)
    torch.testing.assert_close(total, torch.ones(N))
    d = offsets(poses, samples, torch.arange(2).repeat_interleave(2 * pairs).repeat(N))
    found = d.T @ d / len(d)
    scale = torch.diagonal(turn).sqrt()
    torch.testing.assert_close(found / scale / scale[:, None], torch.eye(5).double(), atol=0.05, rtol=0)


def test_each_image_takes_the_draws_of_its_own_width(covariance, generator):
    wide, narrow = covariance, covariance * 1e-6
    poses = posterior(covariance, generator)
    mixed = torch.where((torch.arange(N) % 2 == 0)[:, None, None, None], wide, narrow).expand(N, 2, 5, 5).float()
    samples = posterior_samples(PosePosterior(poses.R, poses.t, poses.log_weight, covariance=mixed), generator, RADIUS)
    count = torch.bincount(samples.image, minlength=N)
    assert (count[::2] == 2 * 2 * MOST_PAIRS).all()
    assert (count[1::2] == 2 * 2).all()
