"""Amplitudes by shell, the Guinier B-factor, and sharpening weighted by the FSC."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.maps.fsc import crossing, half_space, shell_counts, shell_sums

# Guinier plots are straight only at resolutions finer than 10 angstrom: at coarser ones the molecule's shape dominates
LOW_RESOLUTION_ANGSTROM = 10.0
# between 10 and 7 angstrom the amplitudes of proteins fall because of their fold, not because of blur: a line through
# that range alone over-sharpens (an antibody at 8 angstrom: B of 960 and a fragmented map)
NEEDED_ANGSTROM = 6.5
FEWEST_SHELLS = 4
_THRESHOLD = 0.143


@dataclass(frozen=True, slots=True)
class GuinierFit:
    """Straight line through ln(amplitude) against k^2.

    Attributes:
        b_factor_angstrom2: decay of the map, amplitude ~ exp(-B k^2 / 4), positive for a blurred map; None where it
            can't be estimated.
        reason: why the B-factor can't be estimated, in words; otherwise empty.
        shells: first and last shell of the fit.
        correlation: correlation coefficient of the fit, within [-1, 1]; 0 without a fit.
    """

    b_factor_angstrom2: float | None
    reason: str
    shells: tuple[int, int]
    correlation: float


def radial_amplitude(volume: Float[Tensor, "D D D"]) -> Float[Tensor, " S"]:
    """Root mean square amplitude of the unnormalised transform by shell, S = D // 2 + 1, float64."""
    box = volume.shape[-1]
    ft = torch.fft.rfftn(volume)
    count = shell_counts(box, ft.device)
    return (shell_sums(ft.abs().square(), box) / count).sqrt()


def fsc_weight(fsc: Float[Tensor, " S"]) -> Float[Tensor, " S"]:
    """sqrt(2 F / (1 + F)): the expected correlation of the combined map with the truth.

    Source: Rosenthal & Henderson, J. Mol. Biol. 333 (2003) 721, where it is C_ref. Zero from the first shell below
    0.143 on.
    """
    last = crossing(fsc, _THRESHOLD)
    shells = torch.arange(len(fsc), device=fsc.device)
    positive = fsc.clamp(0, 1)
    return (2 * positive / (1 + positive)).sqrt() * (shells <= last)


def guinier_b_factor(
    volume: Float[Tensor, "D D D"],
    fsc: Float[Tensor, " S"],
    pixel_size: float,
    low_resolution_angstrom: float = LOW_RESOLUTION_ANGSTROM,
) -> GuinierFit:
    """B-factor of a map from the slope of ln(amplitude x C_ref) between `low_resolution_angstrom` and its resolution.

    Source: Rosenthal & Henderson 2003, fig. 11; the FSC weight takes the share of noise out of the amplitudes.

    Args:
        volume: combined map, unsharpened, best masked.
        fsc: gold-standard FSC of its halves; the fit ends where it falls below 0.143.
        pixel_size: angstrom.
    """
    box = volume.shape[-1]
    side = box * pixel_size
    first, last = math.ceil(side / low_resolution_angstrom), int(crossing(fsc, _THRESHOLD))
    resolution = f"{side / last:.1f} angstrom" if last else "none: the halves do not correlate"
    if last - first + 1 < FEWEST_SHELLS or side / last > NEEDED_ANGSTROM:
        reason = (
            f"a B-factor needs a map finer than {NEEDED_ANGSTROM:g} angstrom and at least {FEWEST_SHELLS} shells "
            f"beyond {low_resolution_angstrom:g} angstrom (shell {first}); the resolution is {resolution}, shell {last}"
        )
        return GuinierFit(None, reason, (first, last), 0.0)
    amplitude = radial_amplitude(volume) * fsc_weight(fsc).to(volume.device)
    shells = torch.arange(first, last + 1)
    # a single shell in which the halves agree less, which is no crossing, would be an outlier of the logarithm
    shells = shells[(fsc[shells] >= _THRESHOLD) & (amplitude[shells] > 0).to(fsc.device)].to(volume.device)
    if len(shells) < FEWEST_SHELLS:
        reason = f"only {len(shells)} shells between {first} and {last} hold signal; {FEWEST_SHELLS} are needed"
        return GuinierFit(None, reason, (first, last), 0.0)
    amplitude, k2 = amplitude[shells], (shells.to(torch.float64) / side) ** 2
    x, y = k2 - k2.mean(), amplitude.log() - amplitude.log().mean()
    slope = float((x * y).sum() / (x * x).sum())
    correlation = float((x * y).sum() / ((x * x).sum() * (y * y).sum()).sqrt().clamp(min=1e-30))
    return GuinierFit(-4 * slope, "", (first, last), correlation)


def sharpen(
    volume: Float[Tensor, "D D D"],
    b_factor_angstrom2: float | None,
    fsc: Float[Tensor, " S"],
    pixel_size: float,
) -> Float[Tensor, "D D D"]:
    """The map times exp(+B k^2 / 4) sqrt(2 F / (1 + F)), cut where the FSC falls below 0.143.

    The cut is a cosine over two shells, to keep ripples small. With B None or 0 only the FSC weight is applied.

    Args:
        b_factor_angstrom2: decay of the map as from `guinier_b_factor` (positive sharpens).
    """
    box = volume.shape[-1]
    shell, _ = half_space(box, volume.device)
    last = crossing(fsc, _THRESHOLD)
    radius = torch.arange(len(fsc), device=volume.device, dtype=torch.float64)
    edge = 0.5 + 0.5 * torch.cos(math.pi * (radius - last + 1).clamp(0, 2) / 2)
    # the cosine edge, not the weight, makes the cut: hold the weight of the last shell beyond it
    held = fsc.to(volume.device).clamp(0.0, 1.0)
    held = torch.where(radius > last, held[int(last)], held)
    gain = (2 * held / (1 + held)).sqrt() * edge
    gain = gain * torch.exp((b_factor_angstrom2 or 0.0) / 4 * (radius / (box * pixel_size)) ** 2)
    gain = torch.cat([gain, gain.new_zeros(1)])[shell.clamp(max=len(fsc))]
    return torch.fft.irfftn(torch.fft.rfftn(volume) * gain.to(volume.dtype), s=(box,) * 3)
