"""Weight of the best mode: symmetry mates and neighbours within the uncertainty count as one pose, others do not."""

from __future__ import annotations

import math

import pytest
import torch

from cryoloom.inference.poses.modes import mode_weight
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.physics.rotations import exponential, random_rotations, symmetry_group

N = 20


def _poses(second: torch.Tensor, weight: float = 0.4) -> tuple[PosePosterior, torch.Tensor]:
    """A random first pose and a second one, given by its rotation vector (degrees) from the first or by matrices."""
    R = random_rotations(N, torch.Generator().manual_seed(1), torch.float32)
    other = R @ exponential(torch.deg2rad(second)).float() if second.ndim == 1 else second @ R
    weights = torch.tensor([1 - weight, weight]).log().expand(N, 2)
    return PosePosterior(torch.stack([R, other], 1), torch.zeros(N, 2, 2), weights), R


def _covariance(degrees: tuple[float, float, float]) -> torch.Tensor:
    variance = torch.tensor([*(math.radians(d) ** 2 for d in degrees), 1.0, 1.0])
    return torch.diag(variance).expand(N, 5, 5)


@pytest.mark.parametrize(
    ("turn", "sd", "share"),
    [
        ((3.0, 0.0, 0.0), 0.1, 1.0),  # as near as optima that count as one
        ((10.0, 0.0, 0.0), 1.0, 0.6),
        ((10.0, 0.0, 0.0), 4.0, 1.0),  # 10 degrees are 1.8 s.d. of the difference
        ((40.0, 0.0, 0.0), 20.0, 0.6),  # unrelated, whatever the covariance
    ],
)
def test_neighbours_within_the_uncertainty_are_one_pose(turn: tuple[float, ...], sd: float, share: float) -> None:
    poses, _ = _poses(torch.tensor(turn))
    found = mode_weight(poses, _covariance((sd, sd, sd)), symmetry_group("C1").float())
    assert torch.allclose(found, torch.full((N,), share), atol=1e-5)


def test_uncertainty_has_a_direction() -> None:
    """A pose known to a degree about x and to five about z: z is free, x is not."""
    for turn, share in ((torch.tensor([10.0, 0, 0]), 0.6), (torch.tensor([0, 0, 10.0]), 1.0)):
        poses, _ = _poses(turn)
        found = mode_weight(poses, _covariance((1.0, 1.0, 5.0)), symmetry_group("C1").float())
        assert torch.allclose(found, torch.full((N,), share), atol=1e-5)


@pytest.mark.parametrize("symmetry", ["C3", "D7", "O", "I"])
def test_symmetry_mates_are_one_pose(symmetry: str) -> None:
    group = symmetry_group(symmetry).float()
    mates = group[torch.arange(N) % (len(group) - 1) + 1]
    poses, _ = _poses(mates)
    covariance = _covariance((1.0, 1.0, 1.0))
    assert torch.allclose(mode_weight(poses, covariance, group), torch.ones(N))
    alone = mode_weight(poses, covariance, symmetry_group("C1").float())
    assert torch.allclose(alone, torch.full((N,), 0.6), atol=1e-5)


def test_without_covariance_only_neighbours_count() -> None:
    poses, _ = _poses(torch.tensor([8.0, 0.0, 0.0]))
    found = mode_weight(poses, torch.zeros(N, 5, 5), symmetry_group("C1").float())
    assert not found.isnan().any()
