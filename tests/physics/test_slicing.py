"""Slices: an exact adjoint pair, gridding correction, Hermitian symmetry."""

import pytest
import torch

from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.rotations import random_rotations
from cryoloom.physics.slicing import (
    extract_slices,
    grid_to_volume,
    gridding_window,
    insert_slices,
    rotated_points,
    symmetrise_hermitian,
    volume_to_grid,
)
from golden.numpy_reference import CLOUD, cloud_slice, cloud_volume

BOXES = [10, 11]


def inner(a: torch.Tensor, b: torch.Tensor) -> complex:
    """<a, b>, linear in a, antilinear in b."""
    return complex((a * b.conj()).sum())


def random_complex(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.complex128)


@pytest.mark.parametrize("padding", [1, 2, 3])
@pytest.mark.parametrize("box", BOXES)
def test_insertion_is_the_adjoint_of_extraction(box, padding, generator):
    disc = FourierDisc.create(box, 1.0, dtype=torch.float64)
    R = random_rotations(7, generator)
    side = padding * box
    grid = random_complex(side, side, side, generator=generator)
    values = random_complex(7, len(disc.k), generator=generator)
    forward = inner(extract_slices(grid, R, disc.index, padding), values)
    backward = inner(grid, insert_slices(values, R, disc.index, side, padding))
    assert abs(forward - backward) < 1e-12 * abs(forward)


@pytest.mark.parametrize("box", BOXES)
def test_grid_to_volume_is_the_adjoint_of_volume_to_grid(box, generator):
    volume = torch.randn(box, box, box, generator=generator, dtype=torch.float64)
    grid = random_complex(2 * box, 2 * box, 2 * box, generator=generator)
    forward = inner(volume_to_grid(volume), grid).real
    backward = float((volume * grid_to_volume(grid)).sum()) * (2 * box) ** 3
    assert forward == pytest.approx(backward, rel=1e-12)


@pytest.mark.parametrize("box", BOXES)
def test_gradient_of_extraction_is_insertion(box, generator):
    disc = FourierDisc.create(box, 1.0, dtype=torch.float64)
    R = random_rotations(3, generator)
    grid = random_complex(2 * box, 2 * box, 2 * box, generator=generator).requires_grad_()
    values = random_complex(3, len(disc.k), generator=generator)
    extract_slices(grid, R, disc.index).backward(values)
    torch.testing.assert_close(grid.grad, insert_slices(values, R, disc.index, 2 * box))


@pytest.mark.parametrize("box", BOXES)
def test_unrotated_slice_is_read_off_the_grid(box, generator):
    disc = FourierDisc.create(box, 1.0, dtype=torch.float64)
    grid = random_complex(2 * box, 2 * box, 2 * box, generator=generator)
    found = extract_slices(grid, torch.eye(3, dtype=torch.float64), disc.index)
    ix, iy = disc.index.T
    assert torch.equal(found, grid[box, box + 2 * iy, box + 2 * ix])


def test_points_outside_the_grid_are_zero_and_insert_nothing():
    grid = torch.ones(8, 8, 8, dtype=torch.complex128)
    index = torch.tensor([[1, 0], [2, 0], [-2, 1], [9, 9], [0, -40]])
    R = torch.eye(3, dtype=torch.float64)
    # padded pixels -4 ... 3: the last cell ends at 3, so the point 4 = 2 x 2 is out
    assert extract_slices(grid, R, index).tolist() == [1, 0, 1, 0, 0]
    assert float(insert_slices(torch.ones(5, dtype=torch.complex128), R, index, 8).sum().real) == 2


def test_leading_shapes_dtypes_and_arguments(generator):
    disc = FourierDisc.create(8, 1.0)
    R = random_rotations(6, generator, torch.float32)
    grid = torch.randn(16, 16, 16, generator=generator, dtype=torch.complex64)
    before = grid.clone(), R.clone()
    flat = extract_slices(grid, R, disc.index)
    nested = extract_slices(grid, R.reshape(2, 3, 3, 3), disc.index)
    assert flat.dtype == torch.complex64
    assert torch.equal(nested.reshape(6, -1), flat)
    torch.testing.assert_close(
        insert_slices(nested, R.reshape(2, 3, 3, 3), disc.index, 16), insert_slices(flat, R, disc.index, 16)
    )
    assert torch.equal(before[0], grid)
    assert torch.equal(before[1], R)


def test_rotated_points_are_the_first_two_columns(generator):
    R = random_rotations(4, generator)
    k = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(rotated_points(k, R), torch.stack([R[:, :, 0], 2 * R[:, :, 1]], 1))


def test_window_is_the_transform_of_the_triangle():
    """sinc^2 is the transform of the linear interpolation kernel; 1 at the centre, (2 sqrt 2 / pi)^2 at the edge."""
    window = gridding_window(8, 2, torch.float64)
    assert window[4, 4, 4] == 1
    assert float(window[4, 4, 0]) == pytest.approx(8 / torch.pi**2)
    assert float(window[0, 4, 0]) == pytest.approx((8 / torch.pi**2) ** 2)


@pytest.mark.parametrize("side", [8, 9])
def test_symmetrised_grids_are_hermitian(side, generator):
    grid = random_complex(side, side, side, generator=generator)
    before = grid.clone()
    found = symmetrise_hermitian(grid)
    assert torch.equal(grid, before)
    centre = side // 2
    for z, y, x in ((1, 2, -3), (0, 0, 1), (0, -1, 2), (3, 3, 3), (0, 0, 0)):
        mate = found[centre - z, centre - y, centre - x]
        torch.testing.assert_close(found[centre + z, centre + y, centre + x], mate.conj())
        expected = grid[centre + z, centre + y, centre + x] + grid[centre - z, centre - y, centre - x].conj()
        torch.testing.assert_close(mate.conj(), expected)
    # it stays so, doubled
    torch.testing.assert_close(symmetrise_hermitian(found), 2 * found)


@pytest.mark.parametrize("box", [24, 25])
def test_volume_from_its_own_exact_slices(box, generator):
    """Back-projection of the cloud's exact slices from 400 views: sum of insertions over sum of weights."""
    pixel_size = 5.0
    disc = FourierDisc.create(box, pixel_size, dtype=torch.float64)
    R = random_rotations(400, generator)
    origin = torch.zeros(2, dtype=torch.float64).numpy()
    values = torch.stack([torch.from_numpy(cloud_slice(CLOUD, r.numpy(), origin, disc.k.numpy())) for r in R])
    half = disc.weight / 2  # the kx = 0 column holds its own Friedel mates
    numerator = symmetrise_hermitian(insert_slices(values * half, R, disc.index, 2 * box))
    denominator = symmetrise_hermitian(
        insert_slices(half.expand(400, -1).to(values.dtype), R, disc.index, 2 * box)
    ).real
    found = grid_to_volume(numerator / (denominator + 0.05))
    expected = torch.from_numpy(cloud_volume(CLOUD, box, pixel_size))
    # measured: 0.036 to 0.041
    assert (found - expected).norm() / expected.norm() < 0.06
