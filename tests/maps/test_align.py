"""Moving maps against the analytic phantom, and finding a known move again."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoloom.maps.align import Alignment, align_maps, apply_alignment, apply_rigid, mirrored
from cryoloom.maps.io import DensityMap
from cryoloom.maps.mask import soft_sphere
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import predict
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import geodesic_degrees, random_rotations, symmetry_group
from cryoloom.physics.slicing import volume_to_grid
from maps.half_maps import noisy_halves

Maker = Callable[[str], DensityMap]


def moved_cloud(cloud: GaussianCloud, R: Tensor, t: Tensor) -> GaussianCloud:
    return GaussianCloud(cloud.centres @ R.T + t, cloud.widths, cloud.masses)


def cloud_in(box: int, generator: torch.Generator) -> GaussianCloud:
    return GaussianCloud.random(30, 0.3 * box * 2.0, 3.0, generator)


@pytest.mark.parametrize("box", [40, 41])
def test_apply_rigid_equals_the_moved_phantom(box: int, generator: torch.Generator) -> None:
    cloud = cloud_in(box, generator)
    R, t = random_rotations(1, generator)[0], torch.tensor([3.1, -4.7, 1.9], dtype=torch.float64)
    moved = apply_rigid(cloud.density(box, 2.0), R, t, 2.0)
    wanted = moved_cloud(cloud, R, t).density(box, 2.0)
    assert moved.dtype == torch.float64
    # measured 4e-4
    assert float((moved - wanted).norm() / wanted.norm()) < 2e-3


def test_apply_rigid_identity_and_inverse(generator: torch.Generator) -> None:
    volume = cloud_in(32, generator).density(32, 2.0).float()
    assert torch.allclose(apply_rigid(volume, torch.eye(3)), volume, atol=1e-4 * float(volume.max()))
    R, t = random_rotations(1, generator)[0], torch.tensor([2.0, -1.0, 0.5]).double()
    back = apply_rigid(apply_rigid(volume, R, t), R.T, -R.T @ t)
    assert float((back - volume).norm() / volume.norm()) < 5e-3
    assert float(apply_rigid(volume, torch.eye(3), torch.tensor([100.0, 0, 0])).abs().max()) == 0


@pytest.mark.parametrize("box", [20, 21])
def test_mirrored_is_the_point_reflection(box: int, generator: torch.Generator) -> None:
    cloud = cloud_in(box, generator)
    wanted = GaussianCloud(-cloud.centres, cloud.widths, cloud.masses).density(box, 2.0)
    inner = slice(1, None)
    assert torch.allclose(mirrored(cloud.density(box, 2.0))[inner, inner, inner], wanted[inner, inner, inner])
    v = torch.randn(box, box, box, generator=generator)
    flipped = np.roll(v.numpy()[::-1, ::-1, ::-1], 1 - box % 2, (0, 1, 2))
    assert np.array_equal(mirrored(v).numpy(), flipped)
    assert torch.equal(mirrored(mirrored(v)), v)


def move_poses(R: torch.Tensor, t: torch.Tensor, move: Alignment) -> tuple[torch.Tensor, torch.Tensor]:
    """Poses that fit a moved map as (R, t) fit the map before: R' = move.R R, t' = t - (R'^T move.t)_xy.

    The mirror image goes with R diag(-1, -1, 1) and the same shift.
    """
    if move.hand:
        R = R * torch.tensor([-1.0, -1.0, 1.0], dtype=R.dtype, device=R.device)
    moved = move.R.to(R) @ R
    return moved, t - (moved.mT @ move.t.to(t))[..., :2]


@pytest.mark.parametrize("hand", [False, True])
def test_moved_poses_give_the_same_images(hand: bool, generator: torch.Generator) -> None:
    cloud = cloud_in(40, generator)
    move = Alignment(random_rotations(1, generator)[0], torch.tensor([4.0, -2.5, 6.0]).double(), hand, 1.0, 8)
    sign = -1 if hand else 1
    after = moved_cloud(GaussianCloud(sign * cloud.centres, cloud.widths, cloud.masses), move.R, move.t)
    R, t = random_rotations(5, generator), torch.randn(5, 2, generator=generator, dtype=torch.float64) * 5
    disc = FourierDisc.create(40, 2.0, 12, dtype=torch.float64)
    before_images = predict(volume_to_grid(cloud.density(40, 2.0)), R, t, None, disc)
    after_images = predict(volume_to_grid(after.density(40, 2.0)), *move_poses(R, t, move), None, disc)
    error = (before_images - after_images).abs().norm() / before_images.abs().norm()
    assert float(error) < 0.05  # two trilinear lookups, 2 % each


@pytest.mark.parametrize(("name", "hand"), [("betagal", True), ("igg", False)])
def test_finds_a_random_move_of_a_real_map(molecule: Maker, name: str, hand: bool, generator: torch.Generator) -> None:
    truth = molecule(name)
    R = random_rotations(1, generator)[0]
    t = torch.randn(3, generator=generator, dtype=torch.float64) * 3 * truth.pixel_size
    source = mirrored(truth.data) if hand else truth.data
    fixed = apply_rigid(source, R, t, truth.pixel_size)
    found = align_maps(truth.data, fixed, truth.pixel_size)
    assert found.hand == hand
    if name == "betagal":  # D2: any of four rotations
        error = min(float(geodesic_degrees(found.R, R @ g)) for g in symmetry_group("D2"))
        assert error < 1.0
    else:
        assert float(geodesic_degrees(found.R, R)) < 0.1
        assert float((found.t - t).norm()) < 0.05 * truth.pixel_size
    assert found.correlation > 0.97
    back = apply_alignment(truth.data, found, truth.pixel_size)
    assert float(torch.corrcoef(torch.stack([back.flatten(), fixed.flatten()]))[0, 1]) > 0.97


def test_finds_the_move_of_noisy_maps(molecule: Maker, generator: torch.Generator) -> None:
    truth = molecule("igg")
    R = random_rotations(1, generator)[0]
    t = torch.tensor([6.0, -9.0, 4.0], dtype=torch.float64)
    mask = soft_sphere(64, 27, 4)
    moving = noisy_halves(truth.data, 9.0, generator)[0] * mask
    fixed = noisy_halves(apply_rigid(truth.data, R, t, truth.pixel_size), 9.0, generator)[0] * mask
    found = align_maps(moving, fixed, truth.pixel_size)
    assert not found.hand
    assert float(geodesic_degrees(found.R, R)) < 3.0
    assert float((found.t - t).norm()) < 0.5 * truth.pixel_size


def test_one_hand_only_and_bad_input(molecule: Maker) -> None:
    truth = molecule("adk")
    assert not align_maps(truth.data, mirrored(truth.data), truth.pixel_size, hands=False).hand
    with pytest.raises(ValueError, match="one side"):
        align_maps(truth.data, truth.data[:32], 1.8)
    with pytest.raises(ValueError, match="empty"):
        align_maps(truth.data, torch.zeros(64, 64, 64), 1.8)
