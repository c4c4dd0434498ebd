"""The half grid against the full grid of the reference physics."""

import pytest
import torch

from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import GUARD, fold, half_to_volume, resize_half, shell_of, volume_to_half
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.rotations import random_rotations
from cryoloom.physics.slicing import grid_to_volume, symmetrise_hermitian, volume_to_grid
from kernels.scene import relative_error


def hermitian_grid(side: int, generator: torch.Generator) -> torch.Tensor:
    return symmetrise_hermitian(torch.randn(side, side, side, dtype=torch.complex128, generator=generator))


def right_half(full: torch.Tensor) -> torch.Tensor:
    """The x >= 0 part of a full grid with the guard columns."""
    side = full.shape[0]
    half = full.new_zeros(side, side, side // 2 + GUARD)
    part = full[..., side // 2 :]
    half[..., : part.shape[-1]] = part
    return half.to(torch.complex64 if full.is_complex() else torch.float32)


@pytest.mark.parametrize("padding", [1, 2, 3])
@pytest.mark.parametrize("box", [10, 11])
def test_volume_to_half_is_the_right_half_of_the_grid(box, padding, generator):
    volume = torch.randn(box, box, box, generator=generator)
    half = volume_to_half(volume, padding)
    side = padding * box
    assert half.shape == (side, side, side // 2 + GUARD)
    assert half.dtype == torch.complex64
    full = volume_to_grid(volume.double(), padding)
    n = (side + 1) // 2  # columns that have no Nyquist frequency
    assert relative_error(half[..., :n], full[..., side // 2 :]) < 1e-6


@pytest.mark.parametrize("box", [10, 11])
def test_a_half_grid_is_overwritten_by_the_next(box, generator):
    one, two = torch.randn(2, box, box, box, generator=generator)
    expected, first = volume_to_half(two), volume_to_half(one)
    second = volume_to_half(two, into=first)
    assert second.data_ptr() == first.data_ptr()
    assert torch.equal(second, expected)
    # of another size: left alone
    assert torch.equal(volume_to_half(torch.zeros(8, 8, 8), into=second), volume_to_half(torch.zeros(8, 8, 8)))
    assert torch.equal(second, expected)


@pytest.mark.parametrize("padding", [1, 2, 3])
@pytest.mark.parametrize("box", [10, 11])
def test_half_to_volume_is_grid_to_volume(box, padding, generator):
    full = hermitian_grid(padding * box, generator)
    expected = grid_to_volume(full, padding)
    assert relative_error(half_to_volume(right_half(full), padding), expected) < 1e-6


@pytest.mark.parametrize("box", [10, 11])
def test_a_band_limited_volume_survives_the_round_trip_but_for_two_windows(box, generator):
    """Both ways divide by the window, as in the reference: from slices to the map the insertion multiplies by one."""
    volume = torch.randn(box, box, box, generator=generator)
    expected = grid_to_volume(symmetrise_hermitian(volume_to_grid(volume.double())) / 2)
    assert relative_error(half_to_volume(volume_to_half(volume)), expected) < 1e-6


@pytest.mark.parametrize("side", [8, 9])
def test_fold_adds_the_mates_in_the_plane_only(side, generator):
    full = torch.randn(side, side, side, dtype=torch.complex64, generator=generator)
    full[..., : side // 2] = 0  # as a half grid has it: nothing was put at x < 0
    if side % 2 == 0:
        full[0], full[:, 0] = 0, 0
    expected = right_half(symmetrise_hermitian(full))
    torch.testing.assert_close(fold(right_half(full)), expected)


def test_fold_of_weights_is_the_real_part_of_the_fold(generator):
    weight = torch.rand(8, 8, 6, generator=generator)
    torch.testing.assert_close(fold(weight.clone()), fold(weight.to(torch.complex64)).real)


def test_fold_works_in_place(generator):
    half = torch.rand(9, 9, 6, generator=generator)
    assert fold(half) is half


@pytest.mark.parametrize("side", [12, 15])
def test_shell_of_is_the_radius_in_pixels_of_the_image(side):
    shell = shell_of(side, 3)
    c = side // 2
    assert shell.shape == (side, side, c + GUARD)
    assert shell[c, c, 0] == 0
    assert float(shell[c + 2, c - 3, 4]) == pytest.approx((4 + 9 + 16) ** 0.5 / 3)


@pytest.mark.parametrize(("box", "smaller"), [(20, 12), (21, 13), (20, 13), (21, 12)])
def test_a_cropped_half_grid_gives_the_same_slices(box, smaller, generator):
    half = volume_to_half(torch.randn(box, box, box, generator=generator))
    disc = FourierDisc.create(box, 3.0, radius=(smaller - 2) // 2)
    R = random_rotations(5, generator).float()
    cropped = resize_half(half, 2 * smaller)
    assert cropped.shape[0] == 2 * smaller
    assert torch.equal(dispatch.slices(cropped, R, disc), dispatch.slices(half, R, disc))
    back = resize_half(cropped, 2 * box)
    assert torch.equal(dispatch.slices(back, R, disc), dispatch.slices(half, R, disc))


def test_resizing_to_the_same_side_is_no_change(generator):
    half = volume_to_half(torch.randn(8, 8, 8, generator=generator))
    assert resize_half(half, 16) is half


def test_resizing_weights_keeps_them_real(generator):
    weight = torch.rand(16, 16, 10, generator=generator)
    small = resize_half(weight, 12)
    assert small.dtype == torch.float32
    assert torch.equal(small[1:, 1:, :6], weight[3:14, 3:14, :6])
