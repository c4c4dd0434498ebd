"""What every trainable volume offers, and the map of density that any of them stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from cryoloom.physics.fourier import ifft3

POINTS_AT_ONCE = 1 << 17  # of the lattice, when a network is read out


class Volume(nn.Module, ABC):
    """A density whose Fourier transform can be asked for anywhere, differentiable in frequencies and parameters.

    Attributes:
        box: side D in pixels of the images that it predicts; pixel_size: theirs, angstrom.
    """

    def __init__(self, box: int, pixel_size: float) -> None:
        super().__init__()
        self.box = box
        self.pixel_size = pixel_size

    @abstractmethod
    def slices(self, k: Float[Tensor, "*b P 3"]) -> Complex[Tensor, "*b P"]:
        """Fourier coefficients V(k) at frequencies k (kx, ky, kz) in 1/angstrom, in the volume's frame.

        Hermitian, V(-k) = conj V(k); scaled as the unnormalised transform of a volume of `box` voxels, so that
        V(R k) predicts the coefficients of an image at pose R.
        """

    @torch.no_grad()
    def density_map(self, radius: float) -> Float[Tensor, "D D D"]:
        """The real map of `box` voxels, band-limited to `radius` Fourier pixels: read out on the lattice."""
        D, device = self.box, next(self.parameters()).device
        inside, k = _lattice(D, self.pixel_size, radius, device)
        values = torch.cat([self.slices(part) for part in k.split(POINTS_AT_ONCE)])
        spectrum = torch.zeros(D, D, D, dtype=values.dtype, device=device)
        spectrum[inside] = values
        return ifft3(spectrum).real


def rotated_frequencies(k: Float[Tensor, "P 2"], R: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b P 3"]:
    """R (kx, ky, 0): frequencies of an image in the volume's frame, 1/angstrom."""
    return torch.einsum("...ij,pj->...pi", R[..., :, :2], k)


def _lattice(D: int, pixel_size: float, radius: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which points of the centred lattice [D, D, D] lie within `radius` (Nyquist left out), and their frequencies."""
    axis = torch.arange(D, device=device) - D // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = (x.square() + y.square() + z.square()) <= min(radius, (D - 1) // 2) ** 2
    return inside, torch.stack([x[inside], y[inside], z[inside]], -1) / (D * pixel_size)
