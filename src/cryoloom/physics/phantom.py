"""A cloud of Gaussians, whose Fourier transform is known exactly at every frequency: the reference for tests."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class GaussianCloud:
    """Isotropic Gaussians: centres [G, 3] (x, y, z) and widths (s.d.) [G] in angstrom, masses [G]."""

    centres: Tensor
    widths: Tensor
    masses: Tensor

    @staticmethod
    def random(count: int, radius: float, width: float, generator: torch.Generator) -> GaussianCloud:
        """Asymmetric cloud within `radius` angstrom, float64."""
        direction = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        direction = direction / direction.norm(dim=-1, keepdim=True)
        distance = radius * torch.rand(count, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
        masses = 0.5 + torch.rand(count, generator=generator, dtype=torch.float64)
        return GaussianCloud(direction * distance, torch.full((count,), width, dtype=torch.float64), masses)

    def transform(self, k: Float[Tensor, "*b 3"]) -> Complex[Tensor, "*b"]:
        """Exact Fourier transform at k in 1/angstrom."""
        phase = -2 * math.pi * k @ self.centres.T
        envelope = self.masses * torch.exp(-2 * math.pi**2 * self.widths**2 * k.square().sum(-1, keepdim=True))
        return torch.complex(envelope * torch.cos(phase), envelope * torch.sin(phase)).sum(-1)

    def density(self, box: int, pixel_size: float) -> Float[Tensor, "D D D"]:
        """Density on the voxel grid [z, y, x], as mass per voxel; sampled at points, so widths below a pixel alias."""
        axis = (torch.arange(box, dtype=torch.float64) - box // 2) * pixel_size
        out = torch.zeros(box, box, box, dtype=torch.float64)
        norm = (pixel_size / (self.widths * math.sqrt(2 * math.pi))) ** 3
        for centre, width, mass in zip(self.centres, self.widths, self.masses * norm, strict=True):
            x, y, z = (torch.exp(-0.5 * ((axis - c) / width) ** 2) for c in centre)
            out += mass * z[:, None, None] * y[None, :, None] * x[None, None, :]
        return out
