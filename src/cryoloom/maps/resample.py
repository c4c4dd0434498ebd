"""Values of a volume and of its transform between the grid points: cubic splines, and padded trilinear lookups.

Real space is for moving maps accurately; Fourier space is for searching, where few low frequencies suffice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.physics.fourier import fft3, pad_real, resize_real, resize_spectrum
from cryoloom.physics.slicing import gridding_window

UPSAMPLING = 2
PADDING = 2


@dataclass(frozen=True, slots=True)
class SplineVolume:
    """Cubic B-spline coefficients of a volume on a finer grid; `sample` evaluates it anywhere.

    Attributes:
        coefficients: [u D, u D, u D] with u = `UPSAMPLING`.
        box: D of the volume.
    """

    coefficients: Tensor
    box: int

    @staticmethod
    def create(volume: Float[Tensor, "D D D"]) -> SplineVolume:
        """Upsamples by zero-padding the transform and divides it by that of the B-spline, in one pass.

        Frequencies with |k| above Nyquist are dropped: they would alias on a rotated grid. Upsampling first makes the
        spline accurate to about 1e-3 up to Nyquist, where it would be 10 % off on the volume's own grid (Unser, IEEE
        Sig. Proc. Mag. 16 (1999) 22).
        """
        box, fine = volume.shape[-1], UPSAMPLING * volume.shape[-1]
        out = resize_spectrum(torch.fft.rfftn(volume), fine)
        full = torch.fft.fftfreq(fine, dtype=volume.dtype, device=volume.device)
        half = torch.fft.rfftfreq(fine, dtype=volume.dtype, device=volume.device)
        f, h = ((2 + torch.cos(2 * math.pi * k)) / 3 for k in (full, half))
        radius = (full[:, None, None] ** 2 + full[:, None] ** 2 + half**2).sqrt() * fine
        out = out * (radius <= box / 2) * (UPSAMPLING**3 / (f[:, None, None] * f[:, None] * h))
        return SplineVolume(torch.fft.irfftn(out, s=(fine,) * 3), box)

    def sample(self, points: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b"]:
        """Values at points (x, y, z) in voxels from the centre D // 2; 0 outside of the box.

        A cubic B-spline is the weighted sum of 8 trilinear lookups (Sigg & Hadwiger, GPU Gems 2 (2005) ch. 20).
        """
        side = self.coefficients.shape[-1]
        inside = ((points + self.box // 2 + 0.5 >= 0) & (points + self.box // 2 + 0.5 <= self.box)).all(-1)
        q = (points + self.box // 2) * UPSAMPLING
        base = torch.floor(q)
        f = q - base
        w0, w1 = (1 - f) ** 3 / 6, (4 - 6 * f**2 + 3 * f**3) / 6
        g = (w0 + w1, 1 - w0 - w1)
        # the two lookups along an axis, in the [-1, 1] of grid_sample
        h = tuple(2 * x / (side - 1) - 1 for x in (base - 1 + w1 / g[0], base + 1 + f**3 / 6 / g[1]))
        out = torch.zeros_like(f[..., 0])
        field = self.coefficients[None, None]
        for i in range(8):
            pick = (i & 1, i >> 1 & 1, i >> 2)
            where = torch.stack([h[pick[a]][..., a] for a in range(3)], -1)
            weight = g[pick[0]][..., 0] * g[pick[1]][..., 1] * g[pick[2]][..., 2]
            values = torch.nn.functional.grid_sample(field, where.reshape(1, 1, 1, -1, 3), align_corners=True)
            out += weight * values.reshape(out.shape)
        return out * inside


def voxel_points(box: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "D D D 3"]:
    """(x, y, z) of each voxel from the centre D // 2, in voxels."""
    axis = torch.arange(box, dtype=dtype, device=device) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], -1)


def half_sphere(radius: int, device: torch.device | str = "cpu") -> Float[Tensor, "P 3"]:
    """Integer frequencies (x, y, z) with 0 < |q| <= radius, one of each pair q, -q; sorted by |q|, float32."""
    axis = torch.arange(-radius, radius + 1, device=device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    q = torch.stack([x, y, z], -1).reshape(-1, 3)
    x, y, z = q.unbind(-1)
    half = (x > 0) | ((x == 0) & (y > 0)) | ((x == 0) & (y == 0) & (z > 0))
    square = q.square().sum(-1)
    q = q[half & (square <= radius**2)]
    return q[torch.argsort(q.square().sum(-1), stable=True)].float()


@dataclass(frozen=True, slots=True)
class FourierSampler:
    """The low-frequency transform F(q) of a volume and its gradient dF/dq, between the integer frequencies.

    Attributes:
        values: F on the padded grid as [M^3, 2] (real, imaginary).
        gradients: dF/dq as [M^3, 6] (real x, y, z, imaginary x, y, z).
        side: M. radius: largest |q| that can be evaluated.
    """

    values: Tensor
    gradients: Tensor
    side: int
    radius: int

    @staticmethod
    def create(volume: Float[Tensor, "D D D"], radius: int) -> FourierSampler:
        """Crops the transform just beyond `radius`, pads by 2 in real space and corrects for trilinear lookups.

        F has the scale of the unnormalised transform of the volume with its origin at D // 2.
        """
        box = volume.shape[-1]
        small = min(2 * (radius + 3), box)
        low = resize_real(volume.float(), small, 3) * (box / small) ** 3
        low = low / gridding_window(small, PADDING, low.dtype).to(low.device)
        # dF/dq is the transform of -2 pi i x V: exact, and as smooth as F
        moments = voxel_points(small, low.dtype, low.device).movedim(-1, 0) / small
        fields = torch.cat([low[None], moments * low])
        ft = fft3(pad_real(fields, PADDING * small, 3)).reshape(4, -1)
        gradient = -2j * math.pi * ft[1:]
        values = torch.view_as_real(ft[0]).contiguous()
        return FourierSampler(values, torch.cat([gradient.real, gradient.imag]).T.contiguous(), PADDING * small, radius)

    def _corners(self, q: Tensor) -> tuple[Tensor, Tensor]:
        position = q * PADDING + self.side // 2
        base = torch.floor(position).clamp(0, self.side - 2)
        f = position - base
        x, y, z = base.long().unbind(-1)
        first = (z * self.side + y) * self.side + x
        steps = torch.tensor([(dz * self.side + dy) * self.side + dx for dz, dy, dx in _CUBE], device=q.device)
        fx, fy, fz = ((1 - c, c) for c in f.unbind(-1))
        weight = torch.stack([fz[dz] * fy[dy] * fx[dx] for dz, dy, dx in _CUBE], -1)
        return first[..., None] + steps, weight

    def at(self, q: Float[Tensor, "*b 3"]) -> Complex[Tensor, "*b"]:
        """F(q) by trilinear interpolation, frequencies in Fourier pixels (x, y, z), |q| <= radius."""
        index, weight = self._corners(q)
        pairs = torch.nn.functional.embedding_bag(
            index.reshape(-1, 8), self.values, per_sample_weights=weight.reshape(-1, 8), mode="sum"
        )
        return torch.view_as_complex(pairs).reshape(q.shape[:-1])

    def at_with_gradient(self, q: Float[Tensor, "*b 3"]) -> tuple[Complex[Tensor, "*b"], Complex[Tensor, "*b 3"]]:
        """F(q) and its gradient dF/dq; see `at`."""
        index, weight = self._corners(q)
        bag = torch.nn.functional.embedding_bag
        flat, weight = index.reshape(-1, 8), weight.reshape(-1, 8)
        pairs = bag(flat, self.values, per_sample_weights=weight, mode="sum")
        slopes = bag(flat, self.gradients, per_sample_weights=weight, mode="sum")
        gradient = torch.complex(slopes[:, :3], slopes[:, 3:])
        return torch.view_as_complex(pairs).reshape(q.shape[:-1]), gradient.reshape(q.shape)


_CUBE = [(dz, dy, dx) for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)]
