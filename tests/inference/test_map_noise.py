"""What the noise of two half maps does to poses: nothing without noise, and what the errors show with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoloom.inference.poses.map_noise import MapNoise, map_noise
from cryoloom.inference.poses.refine import refine_poses
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.band import Band
from cryoloom.physics.fourier import rebox
from cryoloom.physics.rotations import geodesic_degrees
from recipes.scene import Scene, three_states

COUNT, RADIUS = 600, 10


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("one"), three_states()[:1], COUNT)


def measured(scene: Scene, noise: float, seed: int = 1) -> tuple[MapNoise, float]:
    """The measured ratios, and mean squared error of the rotations on noisy half maps relative to that on the true."""
    generator = torch.Generator().manual_seed(seed)
    true = rebox(scene.maps[0], Band(RADIUS).box)
    power = torch.fft.fftn(true).abs() * noise  # as in filtered maps, no shell has more noise than signal
    white = [torch.fft.fftn(torch.randn(true.shape, generator=generator)) for _ in range(2)]
    white = [w / w.abs().square().mean().sqrt() for w in white]
    grids = [volume_to_half(true + torch.fft.ifftn(power * w).real.float()) for w in white]
    half = torch.arange(COUNT) % 2
    posed = scene.posed()
    images = posed.images(np.arange(COUNT), RADIUS)
    found = map_noise((grids[0], grids[1]), images, scene.poses, half, posed.sigma_angstrom)
    errors = []
    for grid in (*grids, volume_to_half(true)):
        R = refine_poses(grid, images, scene.poses, posed.sigma_angstrom, 8).posterior.R[:, 0]
        errors.append(geodesic_degrees(R, scene.poses.R[:, 0]).square())
    own = torch.where(half == 0, errors[0], errors[1])
    return found, float(own.mean() / errors[2].mean())


def test_two_equal_maps_add_nothing(scene: Scene):
    found, ratio = measured(scene, 0.0)
    assert found.rotation == pytest.approx(0.0, abs=1e-3)
    assert found.shift == pytest.approx(0.0, abs=1e-3)
    assert ratio == pytest.approx(1.0, abs=1e-3)


def test_what_noisy_maps_add_is_what_the_errors_grow_by(scene: Scene):
    found, ratio = measured(scene, 0.1)
    assert found.rotation > 0.15
    assert 1 + found.rotation == pytest.approx(ratio, rel=0.1)


def test_covariances_grow_in_both_parts():
    covariance = torch.eye(5)[None] + 0.3
    grown = MapNoise(rotation=0.44, shift=0.21).added_to(covariance)
    torch.testing.assert_close(grown[:, :3, :3], 1.44 * covariance[:, :3, :3])
    torch.testing.assert_close(grown[:, 3:, 3:], 1.21 * covariance[:, 3:, 3:])
    torch.testing.assert_close(grown[:, :3, 3:], 1.2 * 1.1 * covariance[:, :3, 3:])
