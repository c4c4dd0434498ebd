"""Poses in a linear family: the evidence and its derivatives, and poses that a mean alone places wrongly."""

from __future__ import annotations

from dataclasses import replace

import torch

from cryoloom.inference.conformations.joint import FamilyEvidence
from cryoloom.inference.conformations.linear import contrast_prior, infer_latents, products
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import OneMap, climb_poses
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import exponential, geodesic_degrees, random_rotations
from inference.scene import BOX, PIXEL_SIZE, Phantom, turned

SIGMA = 10.0
B = 60


def moving() -> tuple[Phantom, Phantom, list[torch.Tensor]]:
    """A cloud of which a large half moves by 12 A to either side of the middle, and the grids of mean and direction."""
    cloud = GaussianCloud.random(40, 40.0, 5.0, torch.Generator().manual_seed(4))
    ends = []
    for side in (-12.0, 12.0):
        centres = cloud.centres.clone()
        centres[:18] += torch.tensor([side, 0.0, 0.0], dtype=centres.dtype)
        ends.append(replace(cloud, centres=centres))
    low, high = (c.density(BOX, PIXEL_SIZE).float() for c in ends)
    disc = Phantom.create().disc
    one, two = (Phantom(c, volume_to_half(v), disc) for c, v in zip(ends, (low, high), strict=True))
    return one, two, [volume_to_half(0.5 * (low + high)), volume_to_half(0.5 * (high - low))]


def test_without_directions_and_contrast_it_is_the_objective_of_one_map():
    phantom = Phantom.create()
    generator = torch.Generator().manual_seed(1)
    R, t = random_rotations(B, generator).float(), 3 * torch.randn(B, 2, generator=generator)
    images = phantom.images(R, t, 0.5, generator)
    R, image = turned(R, 2.0, generator), torch.arange(B)
    family = FamilyEvidence([phantom.grid], images, SIGMA, *contrast_prior(0.0))
    found, expected = family(image, R, t), OneMap(phantom.grid, images, SIGMA)(image, R, t)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=0.05)
    torch.testing.assert_close(found[3], expected[3], rtol=1e-4, atol=0.05)
    scale = torch.diagonal(expected[2], dim1=1, dim2=2).sqrt()
    assert ((found[1] - expected[1]) / scale).abs().max() < 0.02
    # a known contrast is still fitted, by the width that is the least: its column is projected out of the matrix
    ratio = torch.diagonal(found[2], dim1=1, dim2=2) / torch.diagonal(expected[2], dim1=1, dim2=2)
    assert ((ratio > 0.6) & (ratio < 1.001)).all()


def test_the_score_is_the_evidence_and_the_gradient_its_slope():
    low, _, grids = moving()
    generator = torch.Generator().manual_seed(2)
    R, t = random_rotations(B, generator).float(), 3 * torch.randn(B, 2, generator=generator)
    images = low.images(R, t, 1.0, generator)
    R, image = turned(R, 2.0, generator), torch.arange(B)
    prior = contrast_prior(0.1)
    family = FamilyEvidence(grids, images, SIGMA, *prior)
    score, gradient, matrix, _ = family(image, R, t)
    exact = infer_latents(products(grids, images, R, t), *prior).log_evidence - 0.5 * t.square().sum(1) / SIGMA**2
    torch.testing.assert_close(score, exact.float(), rtol=1e-4, atol=1e-2)
    assert (torch.linalg.eigvalsh(matrix) > -1e-3 * matrix.abs().amax((1, 2))[:, None]).all()
    step = 2e-3
    for axis in range(3):
        omega = torch.zeros(B, 3)
        omega[:, axis] = step
        ahead, behind = (family(image, (R @ exponential(sign * omega)).contiguous(), t)[0] for sign in (1, -1))
        slope = (ahead - behind) / (2 * step)
        # the spread of the latents is not differentiated, and interpolation has kinks
        assert torch.corrcoef(torch.stack([slope, gradient[:, axis]]))[0, 1] > 0.99
        assert (slope - gradient[:, axis]).abs().median() < 0.1 * slope.abs().median()


def test_poses_come_nearer_to_the_truth_than_on_the_mean():
    low, high, grids = moving()
    errors = {}
    for name in ("mean", "family"):
        found = []
        for seed, end in enumerate((low, high)):
            generator = torch.Generator().manual_seed(10 + seed)
            R, t = random_rotations(B, generator).float(), 2 * torch.randn(B, 2, generator=generator)
            images = end.images(R, t, 0.5, generator)
            start = PosePosterior.certain(turned(R, 4.0, generator), t)
            if name == "mean":
                objective = OneMap(grids[0], images, SIGMA)
            else:
                objective = FamilyEvidence(grids, images, SIGMA, *contrast_prior(0.1))
            climbed = climb_poses(objective, start, 8).posterior
            assert climbed.covariance is not None
            found.append(geodesic_degrees(climbed.best()[0], R))
        errors[name] = float(torch.cat(found).median())
    assert errors["family"] < 2.5
    assert errors["family"] < 0.7 * errors["mean"], errors
