"""Contrast and size told from images without poses."""

from __future__ import annotations

import pytest
import torch

from cryoloom.particles.appearance import Appearance
from cryoloom.physics.ctf import evaluate_ctf

from .simulated import BOX, PIXEL_SIZE, RADIUS, WIDTH, noise, simulate

# the cloud reaches two s.d. beyond its outermost centre
DIAMETER = 2 * (RADIUS + 2 * WIDTH)


def appearance_of(
    snr: float, sign: float, shift_pixels: float, generator: torch.Generator, count: int = 400
) -> Appearance:
    simulation = simulate(count, generator, shift_pixels)
    images = sign * snr**0.5 * simulation.images(simulation.ctf) / float(simulation.ctf.square().mean()) ** 0.5
    images = images.float() + noise(count, 0.0, generator)[0]
    appearance = Appearance(BOX, PIXEL_SIZE)
    appearance.add(images, evaluate_ctf(simulation.parameters, appearance.disc.k.double()).float())
    return appearance


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("snr", [0.1, 0.02])
def test_contrast(sign: float, snr: float, generator: torch.Generator) -> None:
    assert sign * appearance_of(snr, sign, 1.5, generator).contrast(DIAMETER) > 6


@pytest.mark.parametrize(("snr", "shift"), [(0.1, 1.5), (0.1, 4.0), (0.05, 1.5)])
def test_diameter(snr: float, shift: float, generator: torch.Generator) -> None:
    size = appearance_of(snr, 1.0, shift, generator).size()
    assert size.seen
    # shifts of s.d. 4 px smear the outline by as much
    assert -0.05 < size.diameter_angstrom / (DIAMETER + 2 * max(0.0, shift - 1.5) * PIXEL_SIZE) - 1 < 0.30


def test_pure_noise_has_no_contrast_and_no_size(generator: torch.Generator) -> None:
    scores = []
    for _ in range(5):
        appearance = appearance_of(0.0, 1.0, 1.5, generator, count=100)
        scores.append(appearance.contrast(DIAMETER))
        assert not appearance.size().seen
        assert appearance.size().diameter_angstrom == pytest.approx(0.75 * BOX * PIXEL_SIZE)
    # a standard score: about 1 where there is nothing
    assert 0.1 < float(torch.tensor(scores).square().mean()) < 5


def test_larger_images_are_looked_at_in_a_small_box(generator: torch.Generator) -> None:
    appearance = Appearance(200, 1.0)
    assert (appearance.box, appearance.pixel_size) == (64, pytest.approx(3.125))
    appearance.add(torch.randn(3, 200, 200, generator=generator), torch.ones(3, len(appearance.disc.index)))
