"""Radii that hold 68 % of a posterior over poses: against samples of it."""

from __future__ import annotations

import math

import pytest
import torch

from cryoloom.inference.poses.credible import (
    SHARE,
    angular_error_degrees,
    gaussian_radius,
    shift_error_angstrom,
)
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.physics.rotations import exponential, symmetry_group

ONE = torch.eye(3)[None]


def candidates(angles: list[float], weights: list[float]) -> PosePosterior:
    """One image, its candidates turned about x by angles in degrees and shifted by as many tenths of an angstrom."""
    turns = torch.tensor([[math.radians(a), 0.0, 0.0] for a in angles])
    shifts = torch.tensor([[a / 10, 0.0] for a in angles])
    return PosePosterior(exponential(turns)[None], shifts[None], torch.tensor(weights).log()[None])


@pytest.mark.parametrize("variances", [(1.0, 1.0, 1.0), (4.0, 1.0, 0.2), (1.0, 0.01, 0.01), (2.0, 0.5)])
@pytest.mark.parametrize("share", [0.5, SHARE, 0.9])
def test_a_radius_holds_its_share_of_a_gaussian(variances, share, generator):
    covariance = torch.diag(torch.tensor(variances))[None]
    radius = gaussian_radius(covariance, torch.tensor([share]))
    draws = torch.randn(200_000, len(variances), generator=generator) * torch.tensor(variances).sqrt()
    assert float((draws.norm(dim=1) < radius).float().mean()) == pytest.approx(share, abs=0.03)


def test_one_certain_mode_has_the_radius_of_its_gaussian():
    covariance = torch.diag(torch.tensor([0.01, 0.01, 0.01, 4.0, 4.0]))[None]
    poses, weight = candidates([0.0, 90.0], [1.0, 1e-9]), torch.ones(1)
    assert float(angular_error_degrees(poses, covariance, weight, ONE)) == pytest.approx(
        math.degrees(0.1) * 1.878, rel=0.01
    )
    assert float(shift_error_angstrom(poses, covariance, weight)) == pytest.approx(2 * 1.515, rel=0.01)


def test_doubt_between_modes_widens_the_radius_and_then_reaches_to_the_next():
    covariance = torch.diag(torch.tensor([1e-4, 1e-4, 1e-4, 0.01, 0.01]))[None]

    def error(best: float) -> tuple[float, float]:
        poses, weight = candidates([0.0, 40.0], [best, 1 - best]), torch.tensor([best])
        degrees = angular_error_degrees(poses, covariance, weight, ONE)
        return float(degrees), float(shift_error_angstrom(poses, covariance, weight))

    assert error(1.0)[0] < error(0.8)[0] < 3 * error(1.0)[0]
    assert error(0.6) == (pytest.approx(40.0, abs=1e-3), pytest.approx(4.0, abs=1e-4))


def test_symmetry_mates_are_not_far_away():
    covariance = torch.diag(torch.tensor([1e-4, 1e-4, 1e-4, 0.01, 0.01]))[None]
    poses, weight = candidates([0.0, 180.0], [0.5, 0.5]), torch.tensor([0.5])
    group = symmetry_group("D2").float()
    assert float(angular_error_degrees(poses, covariance, weight, group)) < 5
    assert float(angular_error_degrees(poses, covariance, weight, ONE)) == pytest.approx(180.0, abs=0.1)
