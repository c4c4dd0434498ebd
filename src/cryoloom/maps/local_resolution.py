"""Local resolution: the frequency up to which the two half maps agree at each voxel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.maps.fsc import leaked_shells
from cryoloom.physics.fourier import rebox, resize_spectrum, stretched

# Correlation in a small window scatters by 0.1 to 0.2, so that 0.143 could not be told from chance
THRESHOLD = 0.5
# S.d. of the Gaussian window in wavelengths of the band: narrower ones scatter more, wider ones mix in noisy neighbours
WINDOW_WAVES = 0.8
LOWEST_SHELL = 3.0
FINE_BOX = 128  # in larger boxes crossings are found on a grid of half the side: windows are wider than its voxels


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
    the FSC of a block.) Low bands are taken on coarser grids, and bands beyond the last agreement are left out.

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
    grid = box if box <= FINE_BOX else max(FINE_BOX, 2 * math.ceil(box / 4))
    masked = [half * mask for half in (half1, half2)]
    own = torch.cat([~leaked_shells(half1, half2, mask), torch.zeros(box, dtype=torch.bool, device=half1.device)])
    centres = torch.linspace(LOWEST_SHELL, box / 2, bands, dtype=torch.float64).tolist()
    width = 1.5 * max(1.0, centres[1] - centres[0])
    # a voxel's crossing: centre of the last band that held, plus the share of the way to the one that failed
    open_ = stretched(mask, grid) > 0
    shell = torch.full_like(open_, LOWEST_SHELL, dtype=half1.dtype)
    before = torch.ones_like(shell)
    coarse: _Coarse | None = None
    for i, centre in enumerate(centres):
        side = _side(centre + width, box)
        if coarse is None or len(coarse.radius) != side:
            coarse = _Coarse.of(masked, own, side)
        c = stretched(coarse.correlation(centre, width, min(side, grid)), grid)
        last = centres[max(i - 1, 0)]
        share = ((before - threshold) / (before - c).clamp(min=1e-6)).clamp(0, 1)
        fails = open_ & (c < threshold)
        shell = torch.where(fails, last + share * (centre - last), shell)
        open_ = open_ & ~fails
        if not open_.any():
            break
        before = c
    shell = torch.where(open_, box / 2, shell)
    return box * pixel_size / torch.where(mask > 0, stretched(shell, box), LOWEST_SHELL)


@dataclass(frozen=True, slots=True)
class _Coarse:
    """The masked half maps on a grid as coarse as a band allows.

    Attributes:
        transforms: of both, without leaked shells; radius: |k| of their voxels in Fourier pixels.
    """

    transforms: list[Tensor]
    radius: Tensor

    @staticmethod
    def of(masked: list[Tensor], own: Tensor, side: int) -> _Coarse:
        """On a grid of `side`; own: shells that count."""
        radius = _radius(side, masked[0])
        kept = own[radius.round().long()]
        return _Coarse([torch.fft.rfftn(rebox(half, side)) * kept for half in masked], radius)

    def correlation(self, centre: float, width: float, side: int) -> Tensor:
        """Local correlation of the band about a shell, on a grid of `side`."""
        ring = 0.5 + 0.5 * torch.cos(math.pi * ((self.radius - centre) / width).clamp(-1, 1))
        a, b = (torch.fft.irfftn(ft * ring, s=(len(self.radius),) * 3) for ft in self.transforms)
        return _window_correlation(a, b, WINDOW_WAVES / centre, side)


def _side(reach: float, box: int) -> int:
    """Side of the grid for bands up to `reach`, even, at most `box`.

    Products of two bands reach twice as far, and what is beyond half the grid folds back; the window removes all beyond
    the band itself, so that grids of three times its reach are large enough. Sides are kept for several bands.
    """
    step = max(8, 2 * math.ceil(box / 32))
    return min(box - box % 2, step * math.ceil((3 * reach + 2) / step))


def _radius(box: int, like: Tensor) -> Tensor:
    """|k| of the voxels of rfftn in Fourier pixels."""
    f = torch.fft.fftfreq(box, 1 / box, dtype=like.dtype, device=like.device)
    h = torch.fft.rfftfreq(box, 1 / box, dtype=like.dtype, device=like.device)
    return (f[:, None, None] ** 2 + f[:, None] ** 2 + h**2).sqrt()


def _window_correlation(a: Tensor, b: Tensor, sigma: float, side: int) -> Tensor:
    """Correlation of two band-passed maps in a Gaussian window of s.d. `sigma` boxes about each voxel, [side] * 3.

    What the window leaves is as smooth as itself: it is transformed back on a grid of `side`.
    """
    gauss = torch.exp(-2 * (math.pi * sigma * _radius(side, a)) ** 2)
    ab, aa, bb = (
        torch.fft.irfftn((ft if len(ft) == side else resize_spectrum(ft, side)) * gauss, s=(side,) * 3)
        for ft in (torch.fft.rfftn(p) for p in (a * b, a * a, b * b))
    )
    floor = 1e-6 * float(aa.max() * bb.max()) ** 0.5
    return ab / ((aa.clamp(min=0) * bb.clamp(min=0)).sqrt() + floor + 1e-30)
