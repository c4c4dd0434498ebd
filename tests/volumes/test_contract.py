"""The contract of every volume: frequencies in, Hermitian coefficients out, differentiable. A new one is a new row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.physics.fourier import fft3
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import random_rotations
from cryoloom.volumes.fourier_net import FourierNet
from cryoloom.volumes.interface import Volume, rotated_frequencies
from cryoloom.volumes.voxel_grid import RealVoxels, VoxelGrid

BOX, PIXEL_SIZE = 16, 6.0


def filled(volume: VoxelGrid | RealVoxels) -> Volume:
    with torch.no_grad():
        for parameter in volume.parameters():
            parameter.normal_()
    return volume


VOLUMES: dict[str, Callable[[], Volume]] = {
    "voxel grid": lambda: filled(VoxelGrid(BOX, PIXEL_SIZE, 3.0)),
    "real voxels": lambda: filled(RealVoxels(BOX, PIXEL_SIZE, 0.1)),
    "FourierNet": lambda: FourierNet(BOX, PIXEL_SIZE, torch.linspace(9, 1, BOX // 2 + 1), width=16),
}


@pytest.fixture(params=VOLUMES.values(), ids=VOLUMES.keys())
def volume(request) -> Volume:
    torch.manual_seed(5)
    return request.param()


@pytest.fixture
def k(generator: torch.Generator) -> Tensor:
    """Frequencies [2, 3, P, 3] of rotated images, the origin and points on the planes of symmetry among them."""
    disc = FourierDisc.create(BOX, PIXEL_SIZE, 6)
    R = random_rotations(6, generator).float().reshape(2, 3, 3, 3)
    R[0, 0] = torch.eye(3)
    return rotated_frequencies(disc.k, R)


def test_shapes_and_types(volume, k):
    values = volume.slices(k)
    assert values.shape == k.shape[:-1]
    assert values.dtype == torch.complex64
    assert values.isfinite().all()
    assert values.abs().max() > 0


def test_float64_in_float64_out(volume, k):
    assert volume.double().slices(k.double()).dtype == torch.complex128


def test_it_is_hermitian(volume, k):
    torch.testing.assert_close(volume.slices(-k), volume.slices(k).conj(), rtol=1e-5, atol=1e-5)


def test_the_origin_is_real(volume):
    assert volume.slices(torch.zeros(1, 3)).imag.abs().item() < 1e-5


def test_gradients_reach_every_parameter_and_the_frequencies(volume, k):
    k.requires_grad_()
    volume.slices(k).abs().square().sum().backward()
    assert k.grad is not None
    assert k.grad.abs().max() > 0
    for name, parameter in volume.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_gradients_are_those_of_finite_differences(volume, k):
    volume.double()
    points = (k.double()[1, 2, 7:9] * 1.013).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: torch.view_as_real(volume.slices(p)), points, eps=1e-8, atol=1e-4)


def test_inputs_are_left_alone_and_answers_repeat(volume, k):
    before = k.clone()
    assert torch.equal(volume.slices(k), volume.slices(k))
    assert torch.equal(k, before)


def test_the_map_of_a_volume_has_its_coefficients(volume, generator):
    if isinstance(volume, VoxelGrid):  # white noise fills a field of view that is wider than the map's
        volume.set_density(GaussianCloud.random(20, 25.0, 6.0, generator).density(BOX, PIXEL_SIZE).float())
    found = volume.density_map(5)
    assert found.shape == (BOX, BOX, BOX)
    axis = torch.arange(BOX) - BOX // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    square = x**2 + y**2 + z**2
    inside = square <= 25
    k = torch.stack([x[inside], y[inside], z[inside]], -1) / (BOX * PIXEL_SIZE)
    spectrum, expected = fft3(found), volume.slices(k).detach()
    # a voxel grid cuts off what lies outside the box: its rim is not quite sharp (measured 0.043)
    loose = 0.06 if isinstance(volume, VoxelGrid) else 1e-4
    assert (spectrum[inside] - expected).abs().max() < loose * expected.abs().max()
    assert spectrum[square > 49].abs().max() < loose * expected.abs().max()


def test_voxels_agree_with_the_kernels(generator):
    cloud = GaussianCloud.random(20, 25.0, 6.0, generator)
    map_ = cloud.density(BOX, PIXEL_SIZE).float()
    disc, R = FourierDisc.create(BOX, PIXEL_SIZE, 6), random_rotations(5, generator).float()
    expected = dispatch.slices(volume_to_half(map_), R, disc)
    grid, real = VoxelGrid(BOX, PIXEL_SIZE, 7.0), RealVoxels(BOX, PIXEL_SIZE, 0.5)
    grid.set_density(map_)
    with torch.no_grad():
        real.density.copy_(map_ / 0.5)
    for volume in (grid, real):
        found = volume.slices(rotated_frequencies(disc.k, R)).detach()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_fouriernet_learns_a_molecule(generator):
    """Fitted to the exact transform of the phantom it reproduces slices that it was not fitted to."""
    cloud = GaussianCloud.random(20, 25.0, 6.0, generator)
    disc = FourierDisc.create(BOX, PIXEL_SIZE, 6)
    torch.manual_seed(1)
    net = FourierNet(BOX, PIXEL_SIZE, torch.full((BOX // 2 + 1,), 3.0), radius_angstrom=30.0, width=64)
    adam = torch.optim.Adam(net.parameters(), 3e-3)
    held = rotated_frequencies(disc.k, random_rotations(20, generator).float())
    true = cloud.transform(held.double()).to(torch.complex64)

    def error() -> float:
        with torch.no_grad():
            return float((net.slices(held) - true).abs().square().sum() / true.abs().square().sum())

    before = error()
    for _ in range(300):
        k = rotated_frequencies(disc.k, random_rotations(16, generator).float())
        loss = (net.slices(k) - cloud.transform(k.double()).to(torch.complex64)).abs().square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert before > 0.5
    assert error() < 0.05
