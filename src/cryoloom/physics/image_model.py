"""The only reference forward model: CTF x shift x central slice. Fused kernels are tested against it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.physics.ctf import CTFParameters, evaluate_ctf
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.slicing import PADDING, extract_slices


def shift_ramp(k: Float[Tensor, "P 2"], t: Float[Tensor, "*b 2"]) -> Complex[Tensor, "*b P"]:
    """e^{-2 pi i k.t}: moves the content of an image by +t (angstrom, (x, y)); k in 1/angstrom."""
    phase = -2 * math.pi * torch.einsum("...j,pj->...p", t, k.to(t.dtype))
    return torch.complex(torch.cos(phase), torch.sin(phase))


def predict(
    grid: Complex[Tensor, "M M M"],
    R: Float[Tensor, "B 3 3"],
    t: Float[Tensor, "B 2"],
    ctf: CTFParameters | None,
    disc: FourierDisc,
    padding: int = PADDING,
) -> Complex[Tensor, "B P"]:
    """Noise-free Fourier coefficients of images: C(k) e^{-2 pi i k.t} V(R k).

    Args:
        grid: padded, gridding-corrected transform of the volume (`slicing.volume_to_grid`).
        R: poses; t: shifts in angstrom; ctf: CTFs of the B images, or None for no CTF; disc: frequencies of the result.
    """
    values = extract_slices(grid, R, disc.index, padding) * shift_ramp(disc.k, t)
    return values if ctf is None else values * evaluate_ctf(ctf, disc.k).to(values.real.dtype)
