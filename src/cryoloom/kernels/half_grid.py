"""The half grid that the kernels read, x >= 0 of a padded, centred transform, and conversion to and from real space."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.physics.slicing import PADDING, gridding_window

GUARD = 2


def volume_to_half(volume: Float[Tensor, "D D D"], padding: int = PADDING) -> Complex[Tensor, "M M H"]:
    """Half grid [M, M, M // 2 + 2], M = padding D, of a volume: `slicing.volume_to_grid` for x >= 0, complex64."""
    box = volume.shape[-1]
    side = padding * box
    window = gridding_window(box, padding, torch.float32).to(volume.device)
    low = side // 2 - box // 2
    padded = volume.new_zeros(side, side, side, dtype=torch.float32)
    padded[low : low + box, low : low + box, low : low + box] = volume.float() / window
    half = torch.fft.rfftn(torch.fft.ifftshift(padded))
    half = torch.fft.fftshift(half, dim=(0, 1))
    return torch.nn.functional.pad(half, (0, side // 2 + GUARD - half.shape[-1])).contiguous()


def volumes_to_halves(volumes: Float[Tensor, "Q D D D"], padding: int = PADDING) -> list[Complex[Tensor, "M M H"]]:
    """Half grids of several volumes; see `volume_to_half`."""
    return [volume_to_half(volume, padding) for volume in volumes]


def half_to_volume(half: Complex[Tensor, "M M H"], padding: int = PADDING) -> Float[Tensor, "D D D"]:
    """Real volume of box M / padding from a half grid of inserted values: `slicing.grid_to_volume` for half grids."""
    side = half.shape[0]
    box = side // padding
    work = half[..., : side // 2 + 1].clone()
    if side % 2 == 0:
        work[0], work[:, 0], work[..., -1] = 0, 0, 0
    padded = torch.fft.irfftn(torch.fft.ifftshift(work, dim=(0, 1)), s=(side, side, side))
    padded = torch.fft.fftshift(padded)
    low = side // 2 - box // 2
    volume = padded[low : low + box, low : low + box, low : low + box]
    return volume / gridding_window(box, padding, torch.float32).to(volume.device)


def fold(half: Tensor) -> Tensor:
    """Add the Friedel mates within the plane x = 0, the only one that holds both members of a pair; in place."""
    side = half.shape[0]
    plane = half[..., 0]
    mate = plane.flip((0, 1))
    if side % 2 == 0:
        mate = mate.roll((1, 1), (0, 1))
    half[..., 0] = plane + (mate.conj() if half.is_complex() else mate)
    if side % 2 == 0:
        half[0], half[:, 0] = 0, 0
    return half


def shell_of(side: int, padding: int = PADDING, device: torch.device | str = "cpu") -> Tensor:
    """Radius of each half-grid voxel in image Fourier pixels, float32 [M, M, M // 2 + 2]."""
    c = torch.arange(side, device=device, dtype=torch.float32) - side // 2
    x = torch.arange(side // 2 + GUARD, device=device, dtype=torch.float32)
    return torch.sqrt(c[:, None, None] ** 2 + c[None, :, None] ** 2 + x[None, None, :] ** 2) / padding


def resize_half(half: Tensor, side: int) -> Tensor:
    """Crop or zero-pad a half grid to another side (same spacing): another band limit, the same field of view."""
    old = half.shape[0]
    if old == side:
        return half
    out = half.new_zeros(side, side, side // 2 + GUARD)
    n = (min(old, side) - 1) // 2
    a, b = slice(side // 2 - n, side // 2 + n + 1), slice(old // 2 - n, old // 2 + n + 1)
    out[a, a, : n + 1] = half[b, b, : n + 1]
    return out
