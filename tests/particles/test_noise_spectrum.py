"""The noise spectrum seen through a window against the spectrum that the noise was made with."""

from __future__ import annotations

import pytest
import torch

from cryoloom.particles.background import radius_map
from cryoloom.particles.noise_spectrum import WindowedSpectrum

from .simulated import BOX, noise


def outside(radius: float, box: int = BOX) -> torch.Tensor:
    return torch.sin(((radius_map(box) - radius) / 3).clamp(0, 1) * torch.pi / 2) ** 2


@pytest.mark.parametrize("colour", [0.0, 4.0, 20.0])
@pytest.mark.parametrize(("radius", "tolerance"), [(20.0, 0.05), (24.0, 0.05), (27.0, 0.07)])
def test_spectrum_of_stationary_noise(
    colour: float, radius: float, tolerance: float, generator: torch.Generator
) -> None:
    images, truth = noise(1000, colour, generator)
    estimator = WindowedSpectrum.create(outside(radius))
    found = estimator.unmix(estimator.power(images), 1000)
    assert found.shape == (BOX // 2 + 1,)
    error = (found / truth - 1).abs()
    # the error is chance: a wider circle leaves fewer pixels (0.055 measured at radius 27)
    assert float(error[3:].max()) < tolerance, error


def test_without_unmixing_the_steep_shells_would_be_wrong(generator: torch.Generator) -> None:
    images, truth = noise(1000, 20.0, generator)
    estimator = WindowedSpectrum.create(outside(24.0))
    raw = estimator.power(images) / estimator.mixing.sum(1)
    assert float((raw[: BOX // 2 + 1] / truth - 1).abs()[3:].max()) > 0.15


def test_mixing_conserves_power(generator: torch.Generator) -> None:
    # white noise of s.d. 1 has E|n|^2 = D^2, and every shell of the windowed noise has the window's energy
    window = torch.rand(33, 33, generator=generator)
    estimator = WindowedSpectrum.create(window)
    energy = window.double().square().sum()
    torch.testing.assert_close(estimator.mixing.sum(1) * 33**2, energy.expand(len(estimator.mixing)))


def test_few_images_give_a_smooth_positive_spectrum(generator: torch.Generator) -> None:
    images, truth = noise(20, 4.0, generator)
    estimator = WindowedSpectrum.create(outside(24.0))
    found = estimator.unmix(estimator.power(images), 20)
    assert (found > 0).all()
    assert float((found / truth - 1)[8:].abs().max()) < 0.2
