"""Volumes on voxels: with Fourier coefficients as parameters, or with densities (as in CryoPoseNet)."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cryoloom.kernels.half_grid import GUARD, half_to_volume, shell_of, volume_to_half
from cryoloom.physics.slicing import PADDING, gridding_window
from cryoloom.volumes.interface import Volume, in_other_half


class VoxelGrid(Volume):
    """Fourier coefficients on the padded half grid [M, M, M // 2 + 2], M = padding D, read by trilinear interpolation.

    Parameters are real and imaginary parts in units of `scale`, so that one learning rate suits all data.
    """

    def __init__(self, box: int, pixel_size: float, scale: float = 1.0, padding: int = PADDING) -> None:
        super().__init__(box, pixel_size)
        self.padding = padding
        self.scale = scale
        side = padding * box
        self.values = nn.Parameter(torch.zeros(side, side, side // 2 + GUARD, 2))

    @torch.no_grad()
    def set_density(self, volume: Float[Tensor, "D D D"]) -> None:
        """Sets the coefficients to those of a map of `box` voxels."""
        self.values.copy_(torch.view_as_real(volume_to_half(volume, self.padding)) / self.scale)

    def slices(self, k: Float[Tensor, "*b P 3"]) -> Complex[Tensor, "*b P"]:
        """See `Volume.slices`."""
        half = torch.view_as_complex(self.values) * self.scale
        return interpolate_half(half, k * (self.box * self.pixel_size * self.padding))

    @torch.no_grad()
    def density_map(self, radius: float) -> Float[Tensor, "D D D"]:
        """See `Volume.density_map`. The field of view of the grid is wider than the box: density outside the box is cut
        off, while an evaluation on the lattice would alias it into the box."""
        half = torch.view_as_complex(self.values) * self.scale
        kept = torch.where(shell_of(half.shape[0], self.padding, half.device) <= radius, half, 0)
        # the interpolation of the grid multiplies the density by the window, but `half_to_volume` divides by it
        window = gridding_window(self.box, self.padding).to(half.device)
        return half_to_volume(kept, self.padding) * window.square()


class RealVoxels(Volume):
    """Densities of D^3 voxels, Fourier-transformed at every evaluation of slices (Nashed et al. 2021, CryoPoseNet)."""

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
    """Trilinear values of a half grid at points (x, y, z) in its pixels, zero outside; differentiable in both.

    In the plane x = 0, which holds both members of each Friedel pair, one half is read and the other is its conjugate.
    """
    side, width = half.shape[0], half.shape[2]
    c = side // 2
    x, y, z = points.unbind(-1)
    sign = torch.where(in_other_half(x, y, z), -1.0, 1.0).to(points.dtype)
    x, y, z = x * sign, y * sign, z * sign
    inside = (x < width - 1) & (y.abs() < c - 1) & (z.abs() < c - 1)
    x0, y0, z0 = (torch.floor(v.detach()).clamp(-c + 1, c - 2) for v in (x, y, z))
    x0 = x0.clamp(0, width - 2)
    fx, fy, fz = x - x0, y - y0, z - z0
    ix, iy, iz = x0.long(), y0.long(), z0.long()
    flat = torch.view_as_real(half).reshape(-1, 2)
    total = None
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                w = (fx if dx else 1 - fx) * (fy if dy else 1 - fy) * (fz if dz else 1 - fz)
                jx, jy, jz = ix + dx, iy + dy, iz + dz
                mirror = torch.where(in_other_half(jx, jy, jz), -1, 1)
                index = ((jz * mirror + c) * side + jy * mirror + c) * width + jx
                part = flat[index]
                origin = (jx == 0) & (jy == 0) & (jz == 0)
                imaginary = torch.where(origin, torch.zeros_like(part[..., 1]), part[..., 1] * mirror)
                corner = torch.stack([part[..., 0] * w, imaginary * w], -1)
                total = corner if total is None else total + corner
    assert total is not None
    total = total * inside[..., None]
    return torch.complex(total[..., 0], total[..., 1] * sign)
