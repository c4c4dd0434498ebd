"""Noise: spectra by shell, their estimation, sampling and the Gaussian log-likelihood.

s2(|k|) = E|n(k)|^2 is the variance of a complex Fourier coefficient (real and imaginary parts together). White noise of
standard deviation s per pixel has s2 = s^2 D^2 with the unnormalised transform.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
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
    """The value of a spectrum at each coefficient of a disc (nearest shell; the last value beyond the last shell)."""
    return spectrum[..., disc.shells.clamp(max=spectrum.shape[-1] - 1)]


@dataclass(frozen=True, slots=True)
class ResidualPower:
    """Sums over images of weight |Y - X|^2 and of the weights, by optics group and shell: their ratio estimates s2.

    Attributes:
        power, weight: [G, S].
    """

    power: Tensor
    weight: Tensor

    @staticmethod
    def of_coefficients(
        residual: Float[Tensor, "B P"], group: Int[Tensor, " B"], disc: FourierDisc, groups: int
    ) -> ResidualPower:
        """Sums from |Y - X|^2 of B images, float64, on the CPU; a disc may lack some frequencies within its radius."""
        shells = round(disc.radius) + 1
        place = (group[:, None] * shells + disc.shells).reshape(-1).cpu()
        weight = disc.weight.expand(len(residual), -1).reshape(-1).double().cpu()
        zeros = torch.zeros(groups * shells, dtype=torch.float64)
        power = zeros.index_add(0, place, residual.reshape(-1).double().cpu() * weight)
        return ResidualPower(power.view(groups, shells), zeros.index_add(0, place, weight).view(groups, shells))

    @staticmethod
    def of_shells(residual: Float[Tensor, "B S"], group: Int[Tensor, " B"], groups: int) -> ResidualPower:
        """Sums from the mean |Y - X|^2 in each shell of B images, which all get the same weight."""
        power = residual.new_zeros(groups, residual.shape[1]).index_add_(0, group, residual)
        count = torch.bincount(group, minlength=groups).to(residual)
        return ResidualPower(power, count[:, None].expand_as(power))

    def __add__(self, other: ResidualPower) -> ResidualPower:
        return ResidualPower(self.power + other.power, self.weight + other.weight)

    def learnt(self, noise: Float[Tensor, "G T"], rate: float | Float[Tensor, "G 1"] = 1.0) -> Float[Tensor, "G T"]:
        """Noise spectra moved by `rate` (0 to 1) from `noise` to the mean residual power; unmeasured shells stay."""
        n = min(self.power.shape[1], noise.shape[1])
        power, weight = (x[:, :n].to(noise.device) for x in (self.power, self.weight))
        old = noise[:, :n].to(power)
        measured = torch.where(weight > 0, power / weight.clamp(min=1e-30), old)
        out = noise.clone()
        out[:, :n] = torch.lerp(old, measured, rate).to(noise)
        return out


def log_likelihood(
    observed: Complex[Tensor, "*b P"],
    predicted: Complex[Tensor, "*b P"],
    variance: Float[Tensor, "*b P"],
    weight: Float[Tensor, " P"],
) -> Float[Tensor, "*b"]:
    """-1/2 sum_h |Y - X|^2 / s2 over the half-plane: log p up to the normalisation, which depends on s2 alone.

    The factor 1/2 is correct: the real and the imaginary part of a coefficient each have variance s2 / 2, and the
    half-plane sum with Hermitian weights counts every independent coefficient twice.
    """
    residual = (observed - predicted).abs().square()
    return -0.5 * (weight * residual / variance).sum(-1)


def sample_noise(
    spectrum: Float[Tensor, " S"], count: int, box: int, generator: torch.Generator
) -> Float[Tensor, "count D D"]:
    """Real images of Gaussian noise whose Fourier coefficients have variance `spectrum` by shell.

    The last value of the spectrum holds beyond its end.
    """
    white = torch.randn(count, box, box, generator=generator, dtype=spectrum.dtype, device=spectrum.device)
    f = torch.fft.fftfreq(box, 1 / box, dtype=spectrum.dtype, device=spectrum.device)
    h = torch.fft.rfftfreq(box, 1 / box, dtype=spectrum.dtype, device=spectrum.device)
    shell = torch.hypot(f[:, None], h[None]).round().long().clamp(max=len(spectrum) - 1)
    amplitude = spectrum[shell].sqrt() / box
    return torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(box, box))


def sample_coefficients(
    variance: Float[Tensor, "B P"], disc: FourierDisc, generator: torch.Generator
) -> Complex[Tensor, "B P"]:
    """Fourier coefficients on a disc of images of Gaussian noise with E|n|^2 = variance.

    Coefficients at ky and -ky in the column kx = 0 are conjugate; the coefficient at the origin is real.
    """
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
