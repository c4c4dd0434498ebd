"""Dreams: images of the present volume at known random poses, with CTF, noise and shifts as in the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.kernels import dispatch
from cryoloom.kernels.dispatch import Images
from cryoloom.physics.image_model import shift_ramp
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
    noise = hermitian_noise(like.variance[like.group], disc.index, generator)
    return Dream(Images(clean + noise, like.ctf, like.variance, like.group, disc), R, t)


def hermitian_noise(
    variance: Float[Tensor, "B P"], index: Tensor, generator: torch.Generator
) -> Complex[Tensor, "B P"]:
    """Coefficients of real noise with E|n|^2 = variance: on the column kx = 0 both signs of ky are there and conjugate,
    at the origin the value is real."""
    pair = torch.randn(2, *variance.shape, generator=generator).to(variance.device)
    noise = torch.complex(pair[0], pair[1]) * (variance / 2).sqrt()
    column = torch.nonzero(index[:, 0] == 0)[:, 0]
    ky = index[column, 1]
    order = ky.argsort()
    upper, lower = column[order[ky[order] > 0]], column[order[ky[order] < 0]].flip(0)
    noise[:, lower] = noise[:, upper].conj()
    origin = column[order[ky[order] == 0]]
    noise[:, origin] = (noise[:, origin].real * 2**0.5).to(noise)
    return noise
