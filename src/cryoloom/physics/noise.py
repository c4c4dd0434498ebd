"""Noise: spectra by shell, whitening, sampling and the Gaussian log-likelihood.

s2(|k|) = E|n(k)|^2 is the variance of a complex Fourier coefficient (both components together). For white noise of
standard deviation s per pixel s2 = s^2 D^2 with the unnormalised transform.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.physics.frequencies import FourierDisc


def shell_means(values: Float[Tensor, "*b P"], disc: FourierDisc) -> Float[Tensor, "*b S"]:
    """Hermitian-weighted mean of values over each integer shell 0 .. floor(radius), last axis P -> S."""
    shells = disc.shells
    n = int(shells.max()) + 1
    weight = disc.weight.to(values.dtype)
    total = values.new_zeros(*values.shape[:-1], n).index_add_(-1, shells, values * weight)
    return total / values.new_zeros(n).index_add_(0, shells, weight)


def spread_shells(spectrum: Float[Tensor, "*b S"], disc: FourierDisc) -> Float[Tensor, "*b P"]:
    """A shell-wise function on the coefficients of the disc (nearest shell; the last shell is held beyond its end)."""
    return spectrum[..., disc.shells.clamp(max=spectrum.shape[-1] - 1)]


def log_likelihood(
    observed: Complex[Tensor, "*b P"],
    predicted: Complex[Tensor, "*b P"],
    variance: Float[Tensor, "*b P"],
    weight: Float[Tensor, " P"],
) -> Float[Tensor, "*b"]:
    """-1/2 sum_h |Y - X|^2 / s2 over the half-plane: log p up to the normalisation, which depends on s2 alone.

    The half is right: each of the two components of a coefficient has variance s2 / 2, and the half-plane sum with
    Hermitian weights counts every independent coefficient twice.
    """
    residual = (observed - predicted).abs().square()
    return -0.5 * (weight * residual / variance).sum(-1)


def sample_noise(
    spectrum: Float[Tensor, " S"], count: int, box: int, generator: torch.Generator
) -> Float[Tensor, "count D D"]:
    """Real images of Gaussian noise whose Fourier coefficients have variance `spectrum` by shell (last value held)."""
    white = torch.randn(count, box, box, generator=generator, dtype=spectrum.dtype, device=spectrum.device)
    f = torch.fft.fftfreq(box, 1 / box, dtype=spectrum.dtype, device=spectrum.device)
    h = torch.fft.rfftfreq(box, 1 / box, dtype=spectrum.dtype, device=spectrum.device)
    shell = torch.hypot(f[:, None], h[None]).round().long().clamp(max=len(spectrum) - 1)
    amplitude = spectrum[shell].sqrt() / box
    return torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(box, box))


def sample_coefficients(
    variance: Float[Tensor, "B P"], disc: FourierDisc, generator: torch.Generator
) -> Complex[Tensor, "B P"]:
    """Coefficients on a disc of real Gaussian noise with E|n|^2 = variance: on the column kx = 0
    both signs of ky are there and conjugate, at the origin the value is real."""
    index = disc.index
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
