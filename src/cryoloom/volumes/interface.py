"""Base classes of volumes and of families of volumes, and the density maps that they represent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn

from cryoloom.physics.fourier import ifft3

POINTS_AT_ONCE = 1 << 17  # lattice points at which a network is evaluated at once


class Volume(nn.Module, ABC):
    """A density whose Fourier transform can be evaluated anywhere, differentiable in frequencies and parameters.

    Attributes:
        box: side D of the predicted images, pixels.
        pixel_size: pixel size of the predicted images, angstrom.
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
        """The real map of `box` voxels, band-limited to `radius` Fourier pixels and evaluated on the lattice."""
        return read_out(self.slices, self.box, self.pixel_size, radius, next(self.parameters()).device)


class ConformationVolume(nn.Module, ABC):
    """A family of densities over Z latent coordinates, each evaluated like a `Volume`.

    Attributes:
        box, pixel_size: as for `Volume`.
        latent: number Z of latent coordinates.
    """

    def __init__(self, box: int, pixel_size: float, latent: int) -> None:
        super().__init__()
        self.box = box
        self.pixel_size = pixel_size
        self.latent = latent

    @property
    def described(self) -> Mapping[str, Any]:
        """Numbers and text from which the family is rebuilt, for its file."""
        return {"box": self.box, "pixel_size": self.pixel_size, "latent": self.latent}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the family, learnt or given, for its file."""
        return dict(self.state_dict())

    @classmethod
    def of_file(cls, described: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Rebuild a family from the contents of its file, the inverse of `described` and `tensors`."""
        volume = cls(**described)
        volume.load_state_dict(tensors)
        return volume

    @abstractmethod
    def slices(self, k: Float[Tensor, "B P 3"], z: Float[Tensor, "B Z"]) -> Complex[Tensor, "B P"]:
        """Fourier coefficients V(k, z) of one conformation for each image; see `Volume.slices`."""

    @torch.no_grad()
    def density_map(self, z: Float[Tensor, " Z"], radius: float) -> Float[Tensor, "D D D"]:
        """The real map of one conformation; see `Volume.density_map`."""
        device = z.device
        return read_out(lambda k: self.slices(k[None], z[None])[0], self.box, self.pixel_size, radius, device)


def read_out(
    slices: Callable[[Float[Tensor, "P 3"]], Complex[Tensor, " P"]],
    box: int,
    pixel_size: float,
    radius: float,
    device: torch.device,
) -> Float[Tensor, "D D D"]:
    """The real map of a function of frequency (1/angstrom), evaluated on the lattice within `radius` Fourier pixels."""
    inside, k = _lattice(box, pixel_size, radius, device)
    values = torch.cat([slices(part) for part in k.split(POINTS_AT_ONCE)])
    spectrum = torch.zeros(box, box, box, dtype=values.dtype, device=device)
    spectrum[inside] = values
    return ifft3(spectrum).real


def rotated_frequencies(k: Float[Tensor, "P 2"], R: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b P 3"]:
    """R (kx, ky, 0): frequencies of an image in the volume's frame, 1/angstrom."""
    return torch.einsum("...ij,pj->...pi", R[..., :, :2], k)


def in_other_half(x: Float[Tensor, "*b"], y: Float[Tensor, "*b"], z: Float[Tensor, "*b"]) -> Bool[Tensor, "*b"]:
    """Whether a point lies outside the half-space that represents a Hermitian function, where its Friedel mate is used.

    The half-space holds half of the plane x = 0 and half of the axis x = y = 0, so that each pair is in it once; the
    origin lies inside.
    """
    return (x < 0) | ((x == 0) & ((y < 0) | ((y == 0) & (z < 0))))


def _lattice(D: int, pixel_size: float, radius: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mask of the lattice points [D, D, D] within `radius` (without Nyquist), and their frequencies."""
    axis = torch.arange(D, device=device) - D // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = (x.square() + y.square() + z.square()) <= min(radius, (D - 1) // 2) ** 2
    return inside, torch.stack([x[inside], y[inside], z[inside]], -1) / (D * pixel_size)
