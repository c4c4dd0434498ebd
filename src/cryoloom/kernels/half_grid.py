"""The half grid that the kernels read, x >= 0 of a padded, centred transform, and conversion to and from real space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.physics.slicing import PADDING, axis_window

GUARD = 2
# temporary arrays at once: on a CPU small enough that the allocator keeps them
_SLAB_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}


def volume_to_half(
    volume: Float[Tensor, "D D D"], padding: int = PADDING, into: Complex[Tensor, "M M H"] | None = None
) -> Complex[Tensor, "M M H"]:
    """Half grid [M, M, M // 2 + 2], M = padding D, of a volume: `slicing.volume_to_grid` for x >= 0, complex64.

    Args:
        into: a half grid that is no longer needed, which is overwritten and returned if it has the right size.
    """
    box = volume.shape[-1]
    side = padding * box
    scaled, window = volume.float(), axis_window(box, padding).to(volume.device)
    plane_window, columns = window[:, None] * window, side // 2 + 1
    shape = (side, side, side // 2 + GUARD)
    if into is None or into.shape != shape or scaled.requires_grad:
        into = scaled.new_empty(shape, dtype=torch.complex64)
    half = into
    if scaled.requires_grad:  # gradients are taken through the whole at once
        whole, lines = [slice(None)], scaled.new_empty(box, side, columns, dtype=torch.complex64)
    else:  # a y at a time, lines along z replace what they were transformed from
        whole, lines = None, half[:box, :, :columns]
    for z in whole or slabs(box, side * columns, scaled.device):
        part = scaled[z] / (window[z, None, None] * plane_window)
        rows = torch.fft.rfft(_about_zero(part, 2, side), dim=2)
        lines[z] = torch.fft.fftshift(torch.fft.fft(_about_zero(rows, 1, side), dim=1), dim=1)
    half[..., columns:] = 0
    for y in whole or slabs(side, side * columns, scaled.device):
        part = torch.fft.fft(_about_zero(lines[:, y], 0, side), dim=0)
        half[:, y, :columns] = torch.fft.fftshift(part, dim=0)
    return half


def volumes_to_halves(volumes: Float[Tensor, "Q D D D"], padding: int = PADDING) -> list[Complex[Tensor, "M M H"]]:
    """Half grids of several volumes; see `volume_to_half`."""
    return [volume_to_half(volume, padding) for volume in volumes]


def half_to_volume(half: Complex[Tensor, "M M H"], padding: int = PADDING) -> Float[Tensor, "D D D"]:
    """Real volume of box M / padding from a half grid of inserted values: `slicing.grid_to_volume` for half grids."""
    return planes_to_volume(lambda z: torch.fft.ifftshift(half[z], dim=1), half.shape[0], half.device, padding)


def planes_to_volume(
    planes: Callable[[slice], Complex[Tensor, "n M H"]], side: int, device: torch.device, padding: int = PADDING
) -> Float[Tensor, "D D D"]:
    """As `half_to_volume`, of a half grid that is given a few planes at a time.

    Along each axis only what lies in the volume is kept before the next axis is transformed: three quarters of the
    padding are never computed.

    Args:
        planes: new arrays of the planes of a slice of z, with lines (y) in the order of transforms, y = 0 first.
    """
    box, columns, middle = side // padding, side // 2 + 1, side // 2
    lines = torch.empty(side, box, columns, dtype=torch.complex64, device=device)
    for part in (slice(0, middle), slice(middle, side)):
        for z in slabs(part.stop - part.start, side * columns, device):
            first = part.start + z.start
            plane = planes(slice(first, part.start + z.stop))[..., :columns]
            if side % 2 == 0:  # Nyquist frequencies have no mates
                plane[:, middle], plane[..., -1] = 0, 0
                if first == 0:
                    plane[0] = 0
            first = (first - middle) % side
            _take_middle(torch.fft.ifft(plane, dim=1), 1, lines[first : first + len(plane)])
    volume = torch.empty(box, box, box, device=device)
    for y in slabs(box, side * columns, device):
        along_z = torch.empty(box, y.stop - y.start, columns, dtype=torch.complex64, device=device)
        _take_middle(torch.fft.ifft(lines[:, y], dim=0), 0, along_z)
        _take_middle(torch.fft.irfft(along_z, n=side, dim=2), 2, volume[:, y])
    window = axis_window(box, padding).to(device)
    return volume.div_(window[:, None, None]).div_(window[:, None] * window)


def slabs(planes: int, voxels: int, device: torch.device) -> list[slice]:
    """Ranges of planes, of `voxels` complex numbers each, that are worked on at once.

    Temporary arrays of that size are reused; those of whole grids would be taken from the system each time, page by
    page.
    """
    n = max(1, _SLAB_BYTES["cuda" if device.type == "cuda" else "cpu"] // (8 * voxels))
    return [slice(first, min(first + n, planes)) for first in range(0, planes, n)]


def _about_zero(x: Tensor, dim: int, side: int) -> Tensor:
    """Values about the centre of an axis, zero-padded to `side`, with the centre moved to the front (`ifftshift`)."""
    n = x.shape[dim]
    before = n // 2
    zeros = x.new_zeros(*x.shape[:dim], side - n, *x.shape[dim + 1 :])
    return torch.cat([x.narrow(dim, before, n - before), zeros, x.narrow(dim, 0, before)], dim)


def _take_middle(x: Tensor, dim: int, into: Tensor) -> None:
    """The values about the front of an axis, as many as `into` has, which become its centre."""
    box = into.shape[dim]
    before = box // 2
    into.narrow(dim, 0, before).copy_(x.narrow(dim, x.shape[dim] - before, before))
    into.narrow(dim, before, box - before).copy_(x.narrow(dim, 0, box - before))


@dataclass(frozen=True, slots=True)
class Lines:
    """The first columns of each line (z, y) of a half grid, which are kept one after the other.

    Attributes:
        points: number of columns of each line, int64 [M, M]; starts: place of the first one; total: number of all.
    """

    points: Tensor
    starts: Tensor
    total: int

    @property
    def side(self) -> int:
        """M: side of the grid."""
        return len(self.points)


@lru_cache(maxsize=4)
def lines_within(side: int, radius: int, device: torch.device, padding: int = PADDING) -> Lines:
    """What lies within a radius in image Fourier pixels, on a device."""
    reach = padding * (radius + 0.5)
    c = torch.arange(side, dtype=torch.float64) - side // 2
    rest = reach**2 - c[:, None] ** 2 - c**2
    columns = torch.where(rest < 0, 0, rest.clamp(min=0).sqrt().floor() + 1).long().clamp(max=side // 2 + 1)
    ends = columns.flatten().cumsum(0).view_as(columns)
    return Lines(columns.to(device), (ends - columns).to(device), int(ends[-1, -1]))


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
