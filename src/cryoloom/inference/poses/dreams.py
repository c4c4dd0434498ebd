"""Training images of the current volume, simulated at random poses with the CTFs, noise and shifts of the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex
from torch import Tensor

from cryoloom.kernels import dispatch
from cryoloom.kernels.images import Images
from cryoloom.physics.image_model import shift_ramp
from cryoloom.physics.noise import sample_coefficients
from cryoloom.physics.rotations import random_rotations


@dataclass(frozen=True, slots=True)
class Dream:
    """Simulated images and their true poses: R [B, 3, 3] and t [B, 2] in angstrom."""

    images: Images
    R: Tensor
    t: Tensor


def dream(
    half_grid: Complex[Tensor, "M M H"],
    like: Images,
    shift_sigma_angstrom: float,
    generator: torch.Generator,
) -> Dream:
    """Simulates one image for each image of `like`, with its CTF and noise spectrum; the pixels of `like` are not used.

    Args:
        half_grid: half grid of the volume.
        shift_sigma_angstrom: standard deviation of the shifts along each axis.
        generator: random generator on the CPU.
    """
    disc, B = like.disc, len(like.observed)
    device = like.observed.device
    R = random_rotations(B, generator).float().to(device)
    t = (torch.randn(B, 2, generator=generator) * shift_sigma_angstrom).to(device)
    clean = dispatch.slices(half_grid, R, disc) * shift_ramp(disc.k, t) * like.ctf
    noise = sample_coefficients(like.variance[like.group], disc, generator)
    return Dream(Images(clean + noise, like.ctf, like.variance, like.group, disc), R, t)
