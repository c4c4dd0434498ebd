"""A symmetry that was not stated shows in the rotations between the poses of images in doubt."""

import numpy as np
import pytest
import torch

from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.shared_doubt import FEWEST, shared_doubt, shared_turns
from cryoloom.physics.rotations import exponential, geodesic_degrees, random_rotations, symmetry_group

COUNT = 300


def posterior(R: torch.Tensor, weight: torch.Tensor) -> PosePosterior:
    n, k = weight.shape
    return PosePosterior(R.float(), torch.zeros(n, k, 2), weight.log()).normalised()


def of_symmetry(symmetry: str, frame: torch.Tensor, error_degrees: float = 2.0) -> PosePosterior:
    """Two poses an image, mates of each other but for an error; the axes are those of a frame."""
    g = torch.Generator().manual_seed(1)
    group = frame @ symmetry_group(symmetry) @ frame.T
    R = random_rotations(COUNT, g)
    mate = group[1 + torch.randint(len(group) - 1, (COUNT,), generator=g)]
    off = exponential(torch.randn(COUNT, 3, generator=g, dtype=torch.float64) * np.radians(error_degrees) / 3**0.5)
    return posterior(torch.stack([R, mate @ R @ off], 1), torch.tensor([[0.6, 0.4]]).expand(COUNT, 2))


@pytest.mark.parametrize(("symmetry", "degrees"), [("C2", 180.0), ("C3", 120.0), ("C7", 360 / 7)])
def test_the_axis_of_a_symmetry_is_found(symmetry, degrees):
    frame = random_rotations(1, torch.Generator().manual_seed(5))[0]
    found = shared_doubt(of_symmetry(symmetry, frame), torch.ones(COUNT, dtype=torch.bool), np.random.default_rng(0))
    assert found is not None
    assert abs(float(torch.tensor(found.axis, dtype=torch.float64) @ frame[:, 2])) > np.cos(np.radians(2))
    multiple = found.degrees / degrees
    assert multiple == pytest.approx(round(multiple), abs=0.02)
    assert found.share > 0.25


@pytest.mark.parametrize("symmetry", ["C2", "C3", "C4", "D2", "C7"])
def test_all_rotations_of_a_symmetry_are_found(symmetry):
    frame = random_rotations(1, torch.Generator().manual_seed(5))[0]
    group = frame @ symmetry_group(symmetry) @ frame.T
    turns = shared_turns(
        of_symmetry(symmetry, frame), torch.ones(COUNT, dtype=torch.bool), np.random.default_rng(0), most=20
    )
    assert len(turns) == len(group)
    assert geodesic_degrees(turns[:, None], group[None]).amin(1).max() < 2
    # no more are looked for than there is use for
    some = shared_turns(of_symmetry("C7", frame), torch.ones(COUNT, dtype=torch.bool), np.random.default_rng(0), most=4)
    assert len(some) == 5


def test_unrelated_poses_share_nothing():
    g = torch.Generator().manual_seed(2)
    R = random_rotations(3 * COUNT, g).reshape(COUNT, 3, 3, 3)
    poses = posterior(R, torch.tensor([[0.5, 0.3, 0.2]]).expand(COUNT, 3))
    assert len(shared_turns(poses, torch.ones(COUNT, dtype=torch.bool), np.random.default_rng(0), most=4)) == 1
    assert shared_doubt(poses, torch.ones(COUNT, dtype=torch.bool), np.random.default_rng(0)) is None
    # nor do those that are one angle apart, about an axis of the image
    for degrees in (20, 40, 90, 180):
        turned = R[:, 0] @ exponential(torch.tensor([0.0, np.radians(degrees), 0.0], dtype=torch.float64))
        poses = posterior(torch.stack([R[:, 0], turned], 1), torch.tensor([[0.6, 0.4]]).expand(COUNT, 2))
        for count in (60, COUNT):
            doubtful = torch.arange(COUNT) < count
            assert shared_doubt(poses, doubtful, np.random.default_rng(0)) is None


def test_a_few_doubts_say_nothing_and_neighbours_in_one_mode_are_none():
    poses = of_symmetry("C3", torch.eye(3, dtype=torch.float64))
    few = torch.arange(COUNT) < FEWEST - 1
    assert shared_doubt(poses, few, np.random.default_rng(0)) is None
    R = poses.R.clone()
    R[:, 1] = R[:, 0] @ exponential(torch.tensor([0.1, 0.0, 0.0]))
    near = PosePosterior(R, poses.t, poses.log_weight)
    assert shared_doubt(near, torch.ones(COUNT, dtype=torch.bool), np.random.default_rng(0)) is None
