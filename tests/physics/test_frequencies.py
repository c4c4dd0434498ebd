"""The half-plane disc: weights, order, prefixes, and its maps to and from centred transforms."""

import pytest
import torch

from cryoloom.physics.fourier import fft2, ifft2
from cryoloom.physics.frequencies import FourierDisc

BOXES = [16, 17]


def full_plane_mask(box: int, radius: float) -> torch.Tensor:
    """Frequencies of the whole plane within the radius that have a mate of the other sign, [D, D]."""
    axis = torch.arange(box) - box // 2
    limit = min(radius, (box - 1) // 2)
    return axis[:, None] ** 2 + axis**2 <= limit**2


@pytest.mark.parametrize("radius", [None, 3, 4.5, 100])
@pytest.mark.parametrize("box", BOXES)
def test_weighted_half_plane_is_the_full_plane(box, radius, generator):
    """Parseval: with the Hermitian weights, sums over half the plane are sums over the whole of it."""
    disc = FourierDisc.create(box, 2.0, radius, dtype=torch.float64)
    image = torch.randn(box, box, generator=generator, dtype=torch.float64)
    inside = full_plane_mask(box, 100 if radius is None else radius)
    power = (disc.weight * disc.transform(image).abs().square()).sum()
    torch.testing.assert_close(power, fft2(image).abs().square()[inside].sum())
    # and the energy of the filtered image in real space
    filtered = ifft2(fft2(image) * inside).real
    torch.testing.assert_close(power, filtered.square().sum() * box**2)
    assert disc.weight.sum() == inside.sum()


@pytest.mark.parametrize("box", BOXES)
def test_scatter_is_the_inverse_of_gather(box, generator):
    disc = FourierDisc.create(box, 2.0, dtype=torch.float64)
    image = torch.randn(3, box, box, generator=generator, dtype=torch.float64)
    coefficients = disc.transform(image)
    centred = disc.scatter(coefficients)
    torch.testing.assert_close(disc.gather(centred), coefficients, atol=0, rtol=0)
    torch.testing.assert_close(centred, fft2(image) * full_plane_mask(box, box), atol=1e-12, rtol=0)
    assert ifft2(centred).imag.abs().max() < 1e-14


def test_scatter_of_gather_leaves_arguments_alone(generator):
    disc = FourierDisc.create(8, 1.0)
    coefficients = torch.randn(len(disc.k), dtype=torch.complex64, generator=generator)
    before = coefficients.clone()
    disc.scatter(coefficients)
    assert torch.equal(coefficients, before)


@pytest.mark.parametrize("box", BOXES)
def test_smaller_discs_are_prefixes(box):
    disc = FourierDisc.create(box, 1.5)
    for radius in (1, 2, 3.7, 5, 7):
        smaller, prefix = FourierDisc.create(box, 1.5, radius), disc.prefix(radius)
        assert disc.count(radius) == len(smaller.index) == len(prefix.k)
        assert torch.equal(smaller.index, prefix.index)
        assert torch.equal(smaller.k, prefix.k)
        assert torch.equal(smaller.weight, prefix.weight)
        assert prefix.radius == smaller.radius


@pytest.mark.parametrize("box", BOXES)
def test_each_frequency_of_the_half_plane_is_there_once(box):
    disc = FourierDisc.create(box, 1.5)
    pairs = {tuple(i) for i in disc.index.tolist()}
    limit = (box - 1) // 2
    expected = {
        (x, y) for x in range(limit + 1) for y in range(-limit, limit + 1) if x * x + y * y <= limit * limit
    }  # no Nyquist row or column
    assert pairs == expected
    assert len(disc.index) == len(expected)
    assert (disc.weight == torch.where(disc.index[:, 0] == 0, 1.0, 2.0)).all()


def test_units_and_order():
    disc = FourierDisc.create(16, 2.5, dtype=torch.float64)
    torch.testing.assert_close(disc.k, disc.index.double() / (16 * 2.5))
    assert (disc.radii.diff() >= 0).all()
    assert (disc.shells == disc.radii.round()).all()
    assert disc.shells.dtype == torch.int64
    assert disc.index[0].tolist() == [0, 0]


def test_coefficients_are_read_at_kx_along_columns():
    """A wave along x peaks at (ix, 0), one along y at (0, iy)."""
    box = 12
    disc = FourierDisc.create(box, 1.0, dtype=torch.float64)
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    along_x = torch.cos(2 * torch.pi * 3 * axis / box).expand(box, box)
    for image, peak in ((along_x, [3, 0]), (along_x.T, [0, 3])):
        power = disc.transform(image.contiguous()).abs()
        strongest = {tuple(i) for i in disc.index[power > 1e-9].tolist()}
        assert tuple(peak) in strongest
        assert all(abs(x) == peak[0] and abs(y) == peak[1] for x, y in strongest)
