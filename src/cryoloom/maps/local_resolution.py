"""Local resolution: the frequency up to which the two half maps agree at each voxel."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.maps.fsc import half_space, leaked_shells

# Correlation in a small window scatters by 0.1 to 0.2, so that 0.143 could not be told from chance
THRESHOLD = 0.5
# S.d. of the Gaussian window in wavelengths of the band: narrower ones scatter more, wider ones mix in noisy neighbours
WINDOW_WAVES = 0.8
LOWEST_SHELL = 3.0


def local_resolution(
    half1: Float[Tensor, "D D D"],
    half2: Float[Tensor, "D D D"],
    mask: Float[Tensor, "D D D"],
    pixel_size: float,
    threshold: float = THRESHOLD,
    bands: int = 24,
) -> Float[Tensor, "D D D"]:
    """Resolution in angstrom at which the local correlation of the half maps falls below `threshold`, at each voxel.

    Both halves are masked and filtered to overlapping bands one to two shells wide; within each the correlation is
    taken in a Gaussian window of s.d. 0.8 wavelengths of the band about each voxel, and the crossing is interpolated
    between bands. (As in blocres, Cardone et al., J. Struct. Biol. 184 (2013) 226, but with a band-pass in place of
    the FSC of a block.)

    Args:
        half1, half2: independent half maps.
        mask: soft mask; where it is 0 the result has its coarsest value.
        pixel_size: angstrom.
        threshold: 0.5 by default, so that values compare with `GoldStandard.resolution_half_angstrom`.
        bands: number of bands between shell 3 and Nyquist, evenly spaced.

    Returns:
        Angstrom, between 2 pixels and D / 3 pixels, float32 or the dtype of the halves.

    Raises:
        ValueError: for volumes of different shapes.
    """
    if half1.ndim != 3 or len(set(half1.shape)) != 1 or not half1.shape == half2.shape == mask.shape:
        shapes = ", ".join(str(tuple(v.shape)) for v in (half1, half2, mask))
        raise ValueError(f"local resolution needs two half maps and a mask, cubes of one side; found {shapes}")
    box = half1.shape[-1]
    radius = _radius(half1)
    shells, _ = half_space(box, half1.device)
    own = torch.cat([~leaked_shells(half1, half2, mask), torch.zeros(box, dtype=torch.bool, device=half1.device)])
    transforms = [torch.fft.rfftn(half * mask) * own[shells] for half in (half1, half2)]
    centres = torch.linspace(LOWEST_SHELL, box / 2, bands, dtype=torch.float64).tolist()
    width = max(1.0, (centres[1] - centres[0]))
    # a voxel's crossing: centre of the last band that held, plus the share of the way to the one that failed
    shell = torch.full_like(half1, LOWEST_SHELL)
    before = torch.ones_like(half1)
    open_ = mask > 0
    for i, centre in enumerate(centres):
        ring = (0.5 + 0.5 * torch.cos(math.pi * ((radius - centre) / (1.5 * width)).clamp(-1, 1))).to(half1.dtype)
        a, b = (torch.fft.irfftn(ft * ring, s=half1.shape) for ft in transforms)
        c = _window_correlation(a, b, radius, WINDOW_WAVES * box / centre)
        last = centres[max(i - 1, 0)]
        share = ((before - threshold) / (before - c).clamp(min=1e-6)).clamp(0, 1)
        fails = open_ & (c < threshold)
        shell = torch.where(fails, last + share * (centre - last), shell)
        open_ = open_ & ~fails
        before = c
    shell = torch.where(open_, torch.full_like(shell, box / 2), shell)
    return box * pixel_size / shell


def _radius(volume: Tensor) -> Tensor:
    """|k| of the voxels of rfftn in Fourier pixels."""
    box = volume.shape[-1]
    f = torch.fft.fftfreq(box, 1 / box, dtype=volume.dtype, device=volume.device)
    h = torch.fft.rfftfreq(box, 1 / box, dtype=volume.dtype, device=volume.device)
    return (f[:, None, None] ** 2 + f[:, None] ** 2 + h**2).sqrt()


def _window_correlation(a: Tensor, b: Tensor, radius: Tensor, sigma: float) -> Tensor:
    """Correlation of two band-passed maps in a Gaussian window of s.d. `sigma` voxels about each voxel."""
    box = a.shape[-1]
    gauss = torch.exp(-2 * (math.pi * sigma / box * radius) ** 2)
    ab, aa, bb = (torch.fft.irfftn(torch.fft.rfftn(p) * gauss, s=a.shape) for p in (a * b, a * a, b * b))
    floor = 1e-6 * float(aa.max() * bb.max()) ** 0.5
    return ab / ((aa.clamp(min=0) * bb.clamp(min=0)).sqrt() + floor + 1e-30)
