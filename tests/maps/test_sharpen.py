"""B-factors planted in a map are found, and taken out."""

import math
from collections.abc import Callable

import pytest
import torch

from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.maps.io import DensityMap
from cryoloom.maps.sharpen import fsc_weight, guinier_b_factor, radial_amplitude, sharpen
from maps.half_maps import noisy_halves, shell_of

Maker = Callable[[str], DensityMap]
PERFECT = torch.ones(33, dtype=torch.float64)


def blurred(volume: torch.Tensor, b_factor: float, pixel_size: float) -> torch.Tensor:
    k = shell_of(len(volume)) / (len(volume) * pixel_size)
    return torch.fft.irfftn(torch.fft.rfftn(volume) * torch.exp(-b_factor / 4 * k**2), s=volume.shape)


def test_radial_amplitude_of_white_noise_and_of_a_point(generator: torch.Generator) -> None:
    white = torch.randn(32, 32, 32, generator=generator, dtype=torch.float64)
    amplitude = radial_amplitude(white)
    assert amplitude.shape == (17,)
    assert torch.allclose(amplitude[4:], torch.full((13,), 32**1.5, dtype=torch.float64), rtol=0.1)
    point = torch.zeros(31, 31, 31)
    point[15, 15, 15] = 2.0
    assert torch.allclose(radial_amplitude(point), torch.full((16,), 2.0, dtype=torch.float64))


def test_b_factor_of_a_blurred_point() -> None:
    point = torch.zeros(64, 64, 64, dtype=torch.float64)
    point[32, 32, 32] = 1.0
    fit = guinier_b_factor(blurred(point, 120.0, 1.5), PERFECT, 1.5)
    assert fit.b_factor_angstrom2 == pytest.approx(120.0, rel=0.02)
    assert fit.correlation < -0.999
    assert fit.shells == (10, 32)
    assert fit.reason == ""


@pytest.mark.parametrize("extra", [80.0, 200.0])
def test_extra_blur_of_a_real_map_is_found_in_noise(molecule: Maker, extra: float, generator: torch.Generator) -> None:
    truth = molecule("adk")
    found = []
    for b in (0.0, extra):
        half1, half2 = noisy_halves(blurred(truth.data, b, truth.pixel_size), 27.0, generator)
        fsc = fourier_shell_correlation(half1, half2)
        fit = guinier_b_factor((half1 + half2) / 2, fsc, truth.pixel_size)
        assert fit.b_factor_angstrom2 is not None
        found.append(fit.b_factor_angstrom2)
    assert found[1] - found[0] == pytest.approx(extra, abs=8)  # measured: 2


@pytest.mark.parametrize(("pixel_size", "last"), [(5.6, 32), (1.8, 13), (1.8, 0)])
def test_too_low_a_resolution_gives_no_b_factor_and_says_why(molecule: Maker, pixel_size: float, last: int) -> None:
    fsc = torch.where(torch.arange(33) <= last, 0.9, 0.0).to(torch.float64)
    fit = guinier_b_factor(molecule("adk").data, fsc, pixel_size)
    assert fit.b_factor_angstrom2 is None
    assert "at least 4 shells" in fit.reason
    if last == 0:
        assert "do not correlate" in fit.reason


def test_sharpening_undoes_the_blur(molecule: Maker) -> None:
    truth = molecule("adk")
    volume = sharpen(blurred(truth.data, 90.0, 1.8), 90.0, PERFECT, 1.8)
    ratio = radial_amplitude(volume) / radial_amplitude(truth.data)
    # the cut begins one shell before the last
    assert torch.allclose(ratio[:31], torch.ones(31, dtype=torch.float64), rtol=5e-3)  # B by shell, not by voxel
    assert fourier_shell_correlation(volume, truth.data)[:31].min() > 0.999


def test_the_fsc_weighs_and_cuts(molecule: Maker) -> None:
    truth = molecule("adk")
    fsc = torch.linspace(1.0, 0.0, 33, dtype=torch.float64)
    ratio = radial_amplitude(sharpen(truth.data, None, fsc, 1.8)) / radial_amplitude(truth.data)
    wanted = [math.sqrt(2 * f / (1 + f)) for f in fsc.tolist()]
    last = 32 * (1 - 0.143)  # 27.4
    for s in range(26):
        assert float(ratio[s]) == pytest.approx(wanted[s], rel=1e-3)
    assert ratio[29:].abs().max() < 1e-4
    assert float(fsc_weight(fsc)[int(last)]) == pytest.approx(wanted[27], rel=1e-6)
    assert fsc_weight(fsc)[28:].abs().max() == 0
    # a map sharpened by hand keeps the same cut
    sharp = radial_amplitude(sharpen(truth.data, 100.0, fsc, 1.8)) / radial_amplitude(truth.data)
    gain = float(sharp[20] / ratio[20])
    assert gain == pytest.approx(math.exp(25 * (20 / (64 * 1.8)) ** 2), rel=0.02)


def test_a_shell_in_which_the_halves_agree_less_is_left_out_of_the_fit(molecule: Maker) -> None:
    volume = blurred(molecule("adk").data, 90.0, 1.8)
    expected = guinier_b_factor(volume, PERFECT, 1.8).b_factor_angstrom2
    for dip in (0.0, 0.01):
        fsc = PERFECT.clone()
        fsc[20] = dip
        found = guinier_b_factor(volume, fsc, 1.8)
        assert found.b_factor_angstrom2 == pytest.approx(expected, rel=0.05), found.reason
