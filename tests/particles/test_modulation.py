"""Premultiplied and phase-flipped images recognised without being told."""

from __future__ import annotations

import pytest
import torch

from cryoloom.particles.modulation import Modulation
from cryoloom.physics.fourier import ifft2

from .simulated import BOX, PIXEL_SIZE, RADIUS, Simulation, noise, simulate


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    """Images with much signal beyond the CTF's first zero."""
    return simulate(200, torch.Generator().manual_seed(4), width=2.0)


def modulation_of(simulation: Simulation, kind: str) -> Modulation:
    generator = torch.Generator().manual_seed(5)
    raw = simulation.images(simulation.ctf).float() + noise(200, 1.0, generator)[0]
    coefficients = simulation.disc.transform(raw.double())
    factor = {"raw": 1.0, "flipped": torch.sign(simulation.ctf), "premultiplied": simulation.ctf}[kind]
    images = ifft2(simulation.disc.scatter(coefficients * factor)).real.float()
    modulation = Modulation(BOX, PIXEL_SIZE, 2 * RADIUS)
    modulation.add(images[:90], simulation.ctf[:90].float())
    modulation.add(images[90:], simulation.ctf[90:].float())
    return modulation


def test_raw_images_are_left_alone(simulation: Simulation) -> None:
    modulation = modulation_of(simulation, "raw")
    assert modulation.flip_score() > 6
    assert modulation.findings() == []


def test_row37_phase_flipping_in_the_images(simulation: Simulation) -> None:
    modulation = modulation_of(simulation, "flipped")
    assert modulation.flip_score() < -6
    assert "phase-flipped" in modulation.findings()[0]


def test_row37_premultiplication_in_the_noise(simulation: Simulation) -> None:
    modulation = modulation_of(simulation, "premultiplied")
    assert modulation.premultiplied()
    assert "premultiplied" in modulation.findings()[0]
