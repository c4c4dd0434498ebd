"""The CTF against a scalar loop written from the literature."""

import numpy as np
import pytest
import torch

from cryoloom.physics.ctf import CTFParameters, electron_wavelength, evaluate_ctf
from cryoloom.physics.frequencies import FourierDisc
from golden.numpy_reference import ctf, wavelength

CASES = {  # defocus U, V, angle, phase shift, B-factor, kV, Cs, amplitude contrast
    "round": (15000, 15000, 0, 0, 0, 300, 2.7, 0.1),
    "astigmatic": (18000, 15500, 37, 0, 0, 300, 2.7, 0.1),
    "astigmatic, U below V, negative angle": (11000, 14000, -71, 0, 0, 300, 2.7, 0.07),
    "phase plate": (6000, 5400, 110, 87, 0, 300, 2.7, 0.1),
    "B-factor": (12000, 11500, 150, 0, 120, 200, 2.0, 0.07),
    "overfocus": (-3000, -3500, 12, 0, 0, 300, 2.7, 0.1),
    "100 kV": (9000, 8800, 45, 15, 40, 100, 1.6, 0.1),
    "no spherical aberration": (20000, 19000, 80, 0, 0, 200, 0.0, 0.05),
}


def parameters(cases, dtype=torch.float64) -> CTFParameters:
    u, v, angle, phase, b, kv, cs, w = np.array(list(cases), float).T
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


@pytest.mark.parametrize("box", [48, 49])
def test_against_the_scalar_loop(box):
    disc = FourierDisc.create(box, 1.5, dtype=torch.float64)
    found = evaluate_ctf(parameters(CASES.values()), disc.k).numpy()
    for values, (name, case) in zip(found, CASES.items(), strict=True):
        expected = [ctf(kx, ky, *case) for kx, ky in disc.k.tolist()]
        # measured: 2e-6, from wavelengths that differ by 1e-8 in relative terms
        np.testing.assert_allclose(values, expected, atol=5e-6, err_msg=name)


def test_float32_is_as_good_as_the_conventions_say():
    disc = FourierDisc.create(128, 1.0, dtype=torch.float64)
    case = [(20000, 19000, 30, 0, 0, 300, 2.7, 0.1)]
    exact = evaluate_ctf(parameters(case), disc.k)
    single = evaluate_ctf(parameters(case, torch.float32), disc.k.float())
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() < 3e-4  # measured: 8e-5; bfloat16 would be off by 2


@pytest.mark.parametrize(("voltage", "expected"), [(100.0, 0.0370144), (200.0, 0.0250793), (300.0, 0.0196875)])
def test_wavelength(voltage, expected):
    """Textbook values (Reimer & Kohl, Transmission Electron Microscopy, table 2.2), angstrom."""
    found = float(electron_wavelength(torch.tensor(voltage, dtype=torch.float64)))
    assert found == pytest.approx(expected, abs=2e-7)
    assert found == pytest.approx(wavelength(voltage), rel=1e-7)


def test_white_particles_stay_white():
    """At the origin the CTF is +amplitude contrast, and the first lobe of underfocus is positive."""
    k = torch.tensor([[0.0, 0.0], [0.01, 0.0]], dtype=torch.float64)
    at_origin, first_lobe = evaluate_ctf(CTFParameters.create(15000.0), k)[0].tolist()
    assert at_origin == pytest.approx(0.1, abs=1e-12)
    assert first_lobe > 0.1
