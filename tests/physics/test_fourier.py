"""Centred transforms, Fourier resizing and padding."""

import numpy as np
import pytest
import torch

from cryoloom.physics.fourier import fft2, fft3, ifft2, ifft3, pad_real, rebox, resize_real, stretched
from golden.numpy_reference import CLOUD, centred_dft, cloud_volume

BOXES = [8, 9]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("forward", "inverse", "dims"), [(fft2, ifft2, 2), (fft3, ifft3, 3)])
def test_transforms_are_the_definition(box, forward, inverse, dims, generator):
    x = torch.randn(*[box] * dims, generator=generator, dtype=torch.float64)
    np.testing.assert_allclose(forward(x).numpy(), centred_dft(x.numpy()), atol=1e-12)
    torch.testing.assert_close(inverse(forward(x)), x.to(torch.complex128), atol=1e-14, rtol=0)


@pytest.mark.parametrize("box", BOXES)
def test_centre_is_at_half_the_box(box):
    point = torch.zeros(box, box, dtype=torch.float64)
    point[box // 2, box // 2] = 1
    torch.testing.assert_close(fft2(point), torch.ones(box, box, dtype=torch.complex128))
    # one pixel towards +x turns the phase by exp(-2 pi i ix / D): nothing else tells x from y
    ix = torch.arange(box, dtype=torch.float64) - box // 2
    expected = torch.exp(-2j * torch.pi * ix / box).expand(box, box)
    torch.testing.assert_close(fft2(point.roll(1, 1)), expected)


@pytest.mark.parametrize("box", BOXES)
def test_batches_are_transformed_one_by_one(box, generator):
    x = torch.randn(2, 3, box, box, box, generator=generator)
    assert fft3(x).dtype == torch.complex64
    torch.testing.assert_close(fft3(x)[1, 2], fft3(x[1, 2]))
    torch.testing.assert_close(fft2(x)[1, 2, 4], fft2(x[1, 2, 4]))


@pytest.mark.parametrize("box", BOXES)
def test_central_slice_is_the_transform_of_the_projection(box, generator):
    volume = torch.randn(box, box, box, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(fft3(volume)[box // 2], fft2(volume.sum(0)))


@pytest.mark.parametrize("new", [10, 11, 14, 15, 20, 21])
@pytest.mark.parametrize("old", [14, 15])
def test_resize_real_keeps_the_frequencies_that_both_boxes_hold_with_both_signs(old, new, generator):
    image = torch.randn(3, old, old, generator=generator, dtype=torch.float64)
    half = (min(old, new) - 1) // 2
    expected = torch.zeros(3, new, new, dtype=torch.complex128)
    to, at = (slice(box // 2 - half, box // 2 + half + 1) for box in (new, old))
    expected[:, to, to] = fft2(image)[:, at, at]
    found = resize_real(image, new, 2) * (old / new) ** 2
    if old == new:
        torch.testing.assert_close(found, image)
    else:
        torch.testing.assert_close(found, ifft2(expected).real, atol=1e-13, rtol=0)


@pytest.mark.parametrize(("old", "new"), [(12, 8), (9, 15)])
def test_resize_real_goes_axis_by_axis(old, new, generator):
    volume = torch.randn(old, old, old, generator=generator, dtype=torch.float64)
    lines = resize_real(volume, new, 1)
    planes = resize_real(lines.transpose(-1, -2), new, 1).transpose(-1, -2)
    cube = resize_real(planes.movedim(0, -1), new, 1).movedim(-1, 0)
    torch.testing.assert_close(resize_real(volume, new, 2), planes)
    torch.testing.assert_close(resize_real(volume, new, 3), cube)
    torch.testing.assert_close(rebox(volume, new), cube * (old / new) ** 3)


@pytest.mark.parametrize("new", [30, 31, 40, 41, 50, 51])
@pytest.mark.parametrize("old", [40, 41])
def test_resize_real_resamples_the_density(old, new):
    side = 120.0
    volume = torch.from_numpy(cloud_volume(CLOUD, old, side / old)) * (old / side) ** 3
    expected = torch.from_numpy(cloud_volume(CLOUD, new, side / new)) * (new / side) ** 3
    resized = resize_real(volume, new, 3)
    # measured: up to 3.5e-4, the band limit of the smaller box; a voxel off gives 0.29
    assert (resized - expected).norm() / expected.norm() < 1e-3
    image, smaller = volume.sum(0) / old, expected.sum(0) / new
    assert (resize_real(image, new, 2) - smaller).norm() / smaller.norm() < 1e-3


def test_resize_to_the_same_box_is_the_identity(generator):
    x = torch.randn(6, 6, generator=generator)
    assert torch.equal(resize_real(x, 6, 2), x)


@pytest.mark.parametrize("new", [12, 13, 5, 6])
@pytest.mark.parametrize("old", [8, 9])
def test_pad_real_keeps_the_centre(old, new, generator):
    x = torch.randn(old, old, old, generator=generator, dtype=torch.float64)
    padded = pad_real(x, new, 3)
    assert padded.shape == (new,) * 3
    assert padded[(new // 2,) * 3] == x[(old // 2,) * 3]
    if new > old:
        assert torch.equal(pad_real(padded, old, 3), x)
        assert padded.sum() == pytest.approx(float(x.sum()))
    y = torch.randn(new, new, new, generator=generator, dtype=torch.float64)
    assert float((padded * y).sum()) == pytest.approx(float((x * pad_real(y, old, 3)).sum()))  # cutting is the adjoint


@pytest.mark.parametrize("box", BOXES)
def test_padding_by_two_interleaves_frequencies(box, generator):
    x = torch.randn(box, box, generator=generator, dtype=torch.float64)
    half = (box - 1) // 2
    centre = box  # of the padded grid
    coarse = fft2(pad_real(x, 2 * box, 2))[centre - 2 * half : centre + 2 * half + 1 : 2, centre]
    fine = fft2(x)[box // 2 - half : box // 2 + half + 1, box // 2]
    torch.testing.assert_close(coarse, fine)


@pytest.mark.parametrize(("old", "new"), [(8, 16), (9, 20), (16, 8)])
def test_stretched_is_linear_between_voxels_and_keeps_the_centre(old, new):
    z, y, x = torch.meshgrid(*3 * [torch.arange(old, dtype=torch.float64) - old // 2], indexing="ij")
    found = stretched(3 * z - 2 * y + x + 5, new)
    edge = torch.tensor([-(old // 2), old - 1 - old // 2], dtype=torch.float64)
    at = ((torch.arange(new, dtype=torch.float64) - new // 2) * old / new).clamp(edge[0], edge[1])
    torch.testing.assert_close(found, 3 * at[:, None, None] - 2 * at[:, None] + at + 5)
