"""Contrast and size told from images without poses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from cryoloom.particles.appearance import Appearance
from cryoloom.physics.ctf import evaluate_ctf
from cryoloom.physics.phantom import GaussianCloud

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


def appearance_in_crowd(neighbours: int, generator: torch.Generator) -> Appearance:
    """Appearance of 400 particles, each with neighbours 0.62 to 0.85 box sides away, at SNR 0.1."""
    simulation = simulate(400, generator)
    signal = simulation.images(simulation.ctf)
    wide = torch.nn.functional.pad(signal, (BOX,) * 4)
    crowd = signal.clone()
    for _ in range(neighbours):
        mates = wide[torch.randperm(len(wide), generator=generator)]
        distance = (0.62 + 0.23 * torch.rand(len(wide), generator=generator)) * BOX
        angle = 2 * math.pi * torch.rand(len(wide), generator=generator)
        moves = torch.stack([distance * angle.sin(), distance * angle.cos()], 1).round().long().tolist()
        crowd += torch.stack([m.roll(d, (0, 1))[BOX:-BOX, BOX:-BOX] for m, d in zip(mates, moves, strict=True)])
    images = crowd / signal.std() * 0.1**0.5 + noise(400, 0.0, generator)[0]
    appearance = Appearance(BOX, PIXEL_SIZE)
    appearance.add(images.float(), evaluate_ctf(simulation.parameters, appearance.disc.k.double()).float())
    return appearance


@pytest.mark.parametrize("neighbours", [1, 4])
def test_neighbours_are_not_part_of_the_particle(neighbours: int, generator: torch.Generator) -> None:
    size = appearance_in_crowd(neighbours, generator).size()
    assert size.seen
    assert -0.05 < size.diameter_angstrom / DIAMETER - 1 < 0.30


@pytest.mark.parametrize("phase_shift", [0.0, 90.0])
def test_rod_is_as_large_as_it_is_long(phase_shift: float, generator: torch.Generator) -> None:
    reach = torch.linspace(-60, 60, 31, dtype=torch.float64)
    centres = torch.stack([0 * reach, 0 * reach, reach], 1)
    rod = GaussianCloud(centres, torch.full_like(reach, WIDTH), torch.ones_like(reach))
    simulation = simulate(400, generator, cloud=rod)
    parameters = replace(simulation.parameters, phase_shift_radian=torch.full((400,), math.radians(phase_shift)))
    images = simulation.images(evaluate_ctf(parameters, simulation.disc.k))
    appearance = Appearance(BOX, PIXEL_SIZE)
    ctf = evaluate_ctf(parameters, appearance.disc.k.double()).float()
    appearance.add((images / images.std() + 3 * noise(400, 0.0, generator)[0]).float(), ctf)
    # the ends of a rod are thin in the mean projection, but must not be cut away
    assert 0.8 < appearance.size().diameter_angstrom / (2 * (60 + 2 * WIDTH)) < 1.3


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
