"""Dreams: images of the present volume at known random poses, with CTF, noise and shifts as in the data."""

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
    """Images and the poses [B, 3, 3], [B, 2] (angstrom) that they were made at."""

    images: Images
    R: Tensor
    t: Tensor


def dream(
    half_grid: Complex[Tensor, "M M H"],
    like: Images,
    shift_sigma_angstrom: float,
    generator: torch.Generator,
) -> Dream:
    """As many images as `like` has, each with the CTF and the noise spectrum of one of them; their pixels are not used.

    Args:
        half_grid: of the volume; generator: on the CPU.
    """
    disc, B = like.disc, len(like.observed)
    device = like.observed.device
    R = random_rotations(B, generator).float().to(device)
    t = (torch.randn(B, 2, generator=generator) * shift_sigma_angstrom).to(device)
    clean = dispatch.slices(half_grid, R, disc) * shift_ramp(disc.k, t) * like.ctf
    noise = sample_coefficients(like.variance[like.group], disc, generator)
    return Dream(Images(clean + noise, like.ctf, like.variance, like.group, disc), R, t)
