"""Volumes on voxels: Fourier coefficients as parameters, or densities (CryoPoseNet's way)."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cryoloom.kernels.half_grid import GUARD, volume_to_half
from cryoloom.physics.slicing import PADDING
from cryoloom.volumes.interface import Volume


class VoxelGrid(Volume):
    """Fourier coefficients on the padded half grid [M, M, M // 2 + 2], M = padding D, read by trilinear interpolation.

    Parameters are real and imaginary parts in units of `scale`, so that one learning rate fits all data.
    """

    def __init__(self, box: int, pixel_size: float, scale: float = 1.0, padding: int = PADDING) -> None:
        super().__init__(box, pixel_size)
        self.padding = padding
        self.scale = scale
        side = padding * box
        self.values = nn.Parameter(torch.zeros(side, side, side // 2 + GUARD, 2))

    @torch.no_grad()
    def set_density(self, volume: Float[Tensor, "D D D"]) -> None:
        """Take the coefficients of a map of `box` voxels."""
        self.values.copy_(torch.view_as_real(volume_to_half(volume, self.padding)) / self.scale)

    def slices(self, k: Float[Tensor, "*b P 3"]) -> Complex[Tensor, "*b P"]:
        """See `Volume.slices`."""
        half = torch.view_as_complex(self.values) * self.scale
        return interpolate_half(half, k * (self.box * self.pixel_size * self.padding))


class RealVoxels(Volume):
    """Densities of D^3 voxels, transformed whenever slices are asked for (Nashed et al. 2021, CryoPoseNet)."""

    def __init__(self, box: int, pixel_size: float, scale: float = 1.0, padding: int = PADDING) -> None:
        super().__init__(box, pixel_size)
        self.padding = padding
        self.scale = scale
        self.density = nn.Parameter(torch.zeros(box, box, box))

    def slices(self, k: Float[Tensor, "*b P 3"]) -> Complex[Tensor, "*b P"]:
        """See `Volume.slices`."""
        half = volume_to_half(self.density * self.scale, self.padding)
        return interpolate_half(half, k * (self.box * self.pixel_size * self.padding))


def interpolate_half(half: Complex[Tensor, "M M H"], points: Float[Tensor, "*b P 3"]) -> Complex[Tensor, "*b P"]:
    """Trilinear values of a half grid at points (x, y, z) in its own pixels; zero outside. Differentiable in both."""
    side, width = half.shape[0], half.shape[2]
    x, y, z = points.unbind(-1)
    mate = (x < 0) | ((x == 0) & ((y < 0) | ((y == 0) & (z < 0))))
    sign = torch.where(mate, -1.0, 1.0).to(points.dtype)
    x, y, z = x * sign, y * sign + side // 2, z * sign + side // 2
    inside = (x < width - 1) & (y >= 0) & (y < side - 1) & (z >= 0) & (z < side - 1)
    x0, y0, z0 = (torch.floor(v.detach()).clamp(0, n - 2) for v, n in ((x, width), (y, side), (z, side)))
    fx, fy, fz = x - x0, y - y0, z - z0
    base = ((z0.long() * side + y0.long()) * width) + x0.long()
    flat = torch.view_as_real(half).reshape(-1, 2)
    total = None
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                w = (fx if dx else 1 - fx) * (fy if dy else 1 - fy) * (fz if dz else 1 - fz)
                corner = flat[base + (dz * side + dy) * width + dx] * w[..., None]
                total = corner if total is None else total + corner
    assert total is not None
    total = total * inside[..., None]
    return torch.complex(total[..., 0], total[..., 1] * sign)
