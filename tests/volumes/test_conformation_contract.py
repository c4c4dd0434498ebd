"""The contract of every family of volumes, and its file. A new one is a new row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from cryoloom.physics.fourier import fft3
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import random_rotations
from cryoloom.volumes.conformation_file import BadConformationFile, read_conformations, to_bytes
from cryoloom.volumes.interface import ConformationVolume, rotated_frequencies
from cryoloom.volumes.linear_family import LinearFamily
from cryoloom.volumes.positional_mlp import PositionalEncoding, PositionalMLP

BOX, PIXEL_SIZE = 16, 6.0


def mlp(**changes) -> ConformationVolume:
    mean = GaussianCloud.random(20, 25.0, 6.0, torch.Generator().manual_seed(2)).density(BOX, PIXEL_SIZE).float()
    return PositionalMLP(BOX, PIXEL_SIZE, 3, mean, torch.linspace(2, 1, 8), width=16, layers=2, **changes)


def linear() -> ConformationVolume:
    """Three directions, clouds of their own, around a cloud."""
    clouds = (GaussianCloud.random(20, 25.0, 6.0, torch.Generator().manual_seed(seed)) for seed in range(2, 6))
    return LinearFamily(PIXEL_SIZE, torch.stack([cloud.density(BOX, PIXEL_SIZE).float() for cloud in clouds]))


FAMILIES: dict[str, Callable[[], ConformationVolume]] = {
    "positional MLP": mlp,
    "positional MLP, geometric": lambda: mlp(frequencies="geometric"),
    "linear": linear,
}


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def volume(request) -> ConformationVolume:
    torch.manual_seed(5)
    return request.param()


@pytest.fixture
def k(generator: torch.Generator) -> Tensor:
    """Frequencies [4, P, 3] of rotated images, the origin and points on the planes of symmetry among them."""
    R = random_rotations(4, generator).float()
    R[0] = torch.eye(3)
    return rotated_frequencies(FourierDisc.create(BOX, PIXEL_SIZE, 6).k, R)


@pytest.fixture
def z(volume, generator: torch.Generator) -> Tensor:
    return torch.randn(4, volume.latent, generator=generator)


def test_shapes_and_types(volume, k, z):
    values = volume.slices(k, z)
    assert values.shape == k.shape[:-1]
    assert values.dtype == torch.complex64
    assert values.isfinite().all()
    assert volume.double().slices(k.double(), z.double()).dtype == torch.complex128


def test_it_is_hermitian(volume, k, z):
    torch.testing.assert_close(volume.slices(-k, z), volume.slices(k, z).conj(), rtol=1e-5, atol=1e-4)
    assert (volume.slices(torch.zeros(4, 1, 3), z).imag.abs() < 1e-5).all()


def test_every_image_has_its_own_conformation(volume, k, z):
    one = volume.slices(k[:1].expand_as(k), z)
    assert (one[0] - one[1]).abs().max() > 1e-3
    torch.testing.assert_close(volume.slices(k[2:3], z[2:3])[0], volume.slices(k, z)[2], rtol=1e-4, atol=1e-4)


def test_gradients_reach_every_parameter_the_frequencies_and_the_latents(volume, k, z):
    k.requires_grad_()
    z.requires_grad_()
    volume.slices(k, z).abs().square().sum().backward()
    for name, tensor in (("k", k), ("z", z), *volume.named_parameters()):
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 0, name


def test_gradients_are_those_of_finite_differences(volume, k, z):
    volume.double()
    points = (k.double()[1:2, 7:9] * 1.013).requires_grad_()
    latent = z.double()[:1].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p, v: torch.view_as_real(volume.slices(p, v)), (points, latent), eps=1e-8, atol=1e-4
    )


def test_the_map_of_a_conformation_has_its_coefficients(volume, z):
    found = volume.density_map(z[0], 5)
    assert found.shape == (BOX, BOX, BOX)
    axis = torch.arange(BOX) - BOX // 2
    w, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    square = x**2 + y**2 + w**2
    inside = square <= 25
    k = torch.stack([x[inside], y[inside], w[inside]], -1) / (BOX * PIXEL_SIZE)
    expected = volume.slices(k[None], z[:1]).detach()[0]
    spectrum = fft3(found)
    # a mean that is read from a grid is not quite the map's transform at the grid's own points (measured 0.043)
    assert (spectrum[inside] - expected).abs().max() < 0.06 * expected.abs().max()
    assert spectrum[square > 49].abs().max() < 1e-4 * expected.abs().max()


def test_inputs_are_left_alone_and_answers_repeat(volume, k, z):
    before = k.clone(), z.clone()
    assert torch.equal(volume.slices(k, z), volume.slices(k, z))
    assert torch.equal(k, before[0])
    assert torch.equal(z, before[1])


def test_it_comes_back_from_its_file(volume, k, z, tmp_path):
    path = tmp_path / "conformations.safetensors"
    path.write_bytes(to_bytes(volume))
    again = read_conformations(path)
    assert type(again) is type(volume)
    assert torch.equal(again.slices(k, z), volume.slices(k, z).detach())
    assert torch.equal(again.density_map(z[0], 5), volume.density_map(z[0], 5))


def test_a_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError):
        read_conformations(path)
    for content in (b"", b"not one", save({"mean": torch.zeros(2)}), to_bytes(mlp())[:-40]):
        path.write_bytes(content)
        with pytest.raises(BadConformationFile, match="what to do"):
            read_conformations(path)


def test_a_positional_mlp_without_deviation_is_its_mean(k, generator):
    """Zeroing the last layer leaves the mean's slices, the phantom's to 4.5 % in so small a box (trilinear)."""
    cloud = GaussianCloud.random(20, 25.0, 6.0, torch.Generator().manual_seed(2))
    volume = mlp()
    assert isinstance(volume, PositionalMLP)
    torch.nn.init.zeros_(volume.last.weight)
    torch.nn.init.zeros_(volume.last.bias)
    found = volume.slices(k, torch.randn(4, 3, generator=generator)).detach()
    expected = cloud.transform(k.double()).to(found)
    assert (found - expected).abs().max() < 0.06 * expected.abs().max()


def test_geometric_frequencies_are_those_of_the_equation():
    """Zhong et al. 2021, eq. 5, at one point, coordinate by coordinate; k in cycles a pixel."""
    D, k = 8, torch.tensor([0.1, -0.2, 0.3])
    encoded = PositionalEncoding(D, "geometric", 0.0)(2 * k)
    phases = [float(x) * D * torch.pi * (2 / D) ** (i / (D / 2 - 1)) for i in range(D // 2) for x in k]
    expected = torch.cat([torch.tensor(phases).sin(), torch.tensor(phases).cos()])
    torch.testing.assert_close(encoded, expected)


def test_random_frequencies_are_waves_of_points_as_far_out_as_told():
    torch.manual_seed(0)
    waves = PositionalEncoding(64, "gaussian", 10.0).waves / torch.pi
    assert float(waves.std()) == pytest.approx(10.0, rel=0.1)
