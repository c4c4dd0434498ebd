"""Linear family of volumes: V(z) = V_0 + sum_j z_j V_j, a mean and components as maps in a working box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.physics.fourier import fft3, ifft3
from cryoloom.physics.slicing import PADDING
from cryoloom.volumes.interface import ConformationVolume
from cryoloom.volumes.voxel_grid import interpolate_half


class LinearFamily(ConformationVolume):
    """Densities that are linear in the latent coordinates; without trained parameters."""

    volumes: Tensor

    def __init__(self, pixel_size: float, volumes: Float[Tensor, "Q D D D"]) -> None:
        """Args:
        volumes: mean V_0 and components V_1 .. V_Z in the working box.
        """
        super().__init__(volumes.shape[-1], pixel_size, len(volumes) - 1)
        self.register_buffer("volumes", volumes.detach().float().contiguous())

    @property
    def described(self) -> dict[str, float | str]:
        """See `ConformationVolume.described`."""
        return {"pixel_size": self.pixel_size}

    def tensors(self) -> dict[str, Tensor]:
        """See `ConformationVolume.tensors`."""
        return {"volumes": self.volumes}

    @classmethod
    def of_file(cls, described: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        """See `ConformationVolume.of_file`."""
        return cls(float(described["pixel_size"]), tensors["volumes"])

    def slices(self, k: Float[Tensor, "B P 3"], z: Float[Tensor, "B Z"]) -> Complex[Tensor, "B P"]:
        """See `ConformationVolume.slices`."""
        points = k * (self.box * self.pixel_size * PADDING)
        parts = [interpolate_half(volume_to_half(volume), points) for volume in self.volumes]
        return parts[0] + sum(z[:, j, None] * part for j, part in enumerate(parts[1:]))

    @torch.no_grad()
    def density_map(self, z: Float[Tensor, " Z"], radius: float) -> Float[Tensor, "D D D"]:
        """See `ConformationVolume.density_map`; summed in real space."""
        volume = self.volumes[0] + torch.einsum("j,jzyx->zyx", z.to(self.volumes), self.volumes[1:])
        D = self.box
        axis = torch.arange(D, device=volume.device) - D // 2
        square = axis[:, None, None].square() + axis[:, None].square() + axis.square()
        return ifft3(fft3(volume) * (square <= min(radius, (D - 1) // 2) ** 2)).real
