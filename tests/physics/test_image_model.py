"""The forward model: shifts, CTF and slices together, and its gradients."""

import numpy as np
import pytest
import torch

from cryoloom.physics.ctf import CTFParameters
from cryoloom.physics.fourier import ifft2
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.image_model import predict, shift_ramp
from cryoloom.physics.rotations import from_euler, random_rotations
from cryoloom.physics.slicing import volume_to_grid
from golden.numpy_reference import CLOUD, cloud_slice, cloud_volume, ctf, pose_matrix, random_angles

BOXES = [32, 33]
PIXEL_SIZE = 4.0
CTFS = [(18000, 15000, 25, 0, 60, 300, 2.7, 0.1), (9000, 9700, -50, 70, 0, 200, 2.0, 0.07)]


def ctf_parameters(dtype=torch.float64) -> CTFParameters:
    u, v, angle, phase, b, kv, cs, w = np.array(CTFS, float).T
    return CTFParameters.create(
        u,
        v,
        astigmatism_radian=np.radians(angle),
        phase_shift_radian=np.radians(phase),
        b_factor_angstrom2=b,
        voltage_kv=kv,
        spherical_aberration_mm=cs,
        amplitude_contrast=w,
        dtype=dtype,
    )


@pytest.mark.parametrize("box", BOXES)
def test_images_are_ctf_times_shift_times_exact_slice(box):
    angles, t = random_angles(2, seed=8), np.array([[5.0, -9.0], [-3.5, 2.0]])
    disc = FourierDisc.create(box, PIXEL_SIZE, 12, dtype=torch.float64)
    grid = volume_to_grid(torch.from_numpy(cloud_volume(CLOUD, box, PIXEL_SIZE)))
    found = predict(grid, from_euler(torch.from_numpy(angles)), torch.from_numpy(t), ctf_parameters(), disc).numpy()
    for image, euler, shift, case in zip(found, angles, t, CTFS, strict=True):
        contrast = np.array([ctf(kx, ky, *case) for kx, ky in disc.k.tolist()])
        expected = contrast * cloud_slice(CLOUD, pose_matrix(*euler), shift, disc.k.numpy())
        # measured: 0.011 to 0.014, interpolation
        assert np.linalg.norm(image - expected) / np.linalg.norm(expected) < 0.02


@pytest.mark.parametrize("box", BOXES)
def test_whole_pixel_shifts_are_rolls(box, generator):
    disc = FourierDisc.create(box, PIXEL_SIZE, dtype=torch.float64)
    coefficients = disc.transform(torch.randn(box, box, generator=generator, dtype=torch.float64))
    image = ifft2(disc.scatter(coefficients)).real
    t = PIXEL_SIZE * torch.tensor([[3.0, -2.0]], dtype=torch.float64)  # +3 columns, -2 rows
    moved = ifft2(disc.scatter(coefficients * shift_ramp(disc.k, t))).real[0]
    torch.testing.assert_close(moved, image.roll((-2, 3), (0, 1)), atol=1e-12, rtol=0)


def test_shifts_add_up(generator):
    disc = FourierDisc.create(16, PIXEL_SIZE, dtype=torch.float64)
    a, b = torch.randn(2, 3, 4, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(shift_ramp(disc.k, a) * shift_ramp(disc.k, b), shift_ramp(disc.k, a + b))
    assert shift_ramp(disc.k, a).shape == (3, 4, len(disc.k))


@pytest.mark.parametrize(
    ("dtype", "complex_dtype"), [(torch.float32, torch.complex64), (torch.float64, torch.complex128)]
)
def test_dtype_in_is_dtype_out_and_arguments_stay(dtype, complex_dtype, generator):
    disc = FourierDisc.create(12, PIXEL_SIZE, dtype=dtype)
    grid = volume_to_grid(torch.randn(12, 12, 12, generator=generator, dtype=dtype))
    R = random_rotations(2, generator, dtype)
    t = torch.randn(2, 2, generator=generator, dtype=dtype)
    before = grid.clone(), R.clone(), t.clone()
    found = predict(grid, R, t, ctf_parameters(), disc)  # CTF parameters are float64 as read from files
    assert found.dtype == complex_dtype
    assert torch.equal(found, predict(grid, R, t, ctf_parameters(), disc))
    for now, then in zip((grid, R, t), before, strict=True):
        assert torch.equal(now, then)


def test_float32_is_float64_to_rounding(generator):
    disc = FourierDisc.create(24, PIXEL_SIZE, dtype=torch.float64)
    volume = torch.from_numpy(cloud_volume(CLOUD, 24, PIXEL_SIZE))
    R, t = random_rotations(2, generator), 10 * torch.randn(2, 2, generator=generator, dtype=torch.float64)
    exact = predict(volume_to_grid(volume), R, t, ctf_parameters(), disc)
    single = FourierDisc.create(24, PIXEL_SIZE)
    found = predict(volume_to_grid(volume.float()), R.float(), t.float(), ctf_parameters(), single)
    assert (found - exact).abs().max() < 1e-6 * exact.abs().max()  # measured: 3.5e-7


def test_no_ctf_is_a_ctf_of_one(generator):
    disc = FourierDisc.create(12, PIXEL_SIZE, dtype=torch.float64)
    grid = volume_to_grid(torch.randn(12, 12, 12, generator=generator, dtype=torch.float64))
    R, t = random_rotations(2, generator), torch.zeros(2, 2, dtype=torch.float64)
    # a phase of 90 degrees at zero defocus: sin = 1 at every frequency
    flat = CTFParameters.create(
        [0.0, 0.0], phase_shift_radian=np.pi / 2, spherical_aberration_mm=0.0, amplitude_contrast=0.0
    )
    torch.testing.assert_close(predict(grid, R, t, flat, disc), predict(grid, R, t, None, disc))


def test_gradients(generator):
    """Analytic gradients with respect to the volume's grid, the shifts and the rotations are numerical ones."""
    disc = FourierDisc.create(6, PIXEL_SIZE, dtype=torch.float64)
    grid = volume_to_grid(torch.randn(6, 6, 6, generator=generator, dtype=torch.float64)).requires_grad_()
    R = random_rotations(2, generator).requires_grad_()
    t = torch.randn(2, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def images(grid, R, t):
        return predict(grid, R, t, ctf_parameters(), disc)

    # each by itself: the random projections of the fast mode would blur which is wrong
    assert torch.autograd.gradcheck(lambda g: images(g, R.detach(), t.detach()), grid, fast_mode=True)
    assert torch.autograd.gradcheck(lambda t: images(grid.detach(), R.detach(), t), t)
    assert torch.autograd.gradcheck(lambda R: images(grid.detach(), R, t.detach()), R)
