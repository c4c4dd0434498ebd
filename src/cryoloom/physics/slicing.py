"""Central slices of a volume's transform: extraction and insertion by trilinear interpolation, an exact adjoint pair.

This is the reference; `cryoloom.kernels` holds the fused versions.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.physics.fourier import fft3, ifft3, pad_real

PADDING = 2


def gridding_window(box: int, padding: int = PADDING, dtype: torch.dtype = torch.float32) -> Float[Tensor, "D D D"]:
    """Real-space window of the trilinear kernel, prod sinc^2(x / (padding D)); volumes are divided by it."""
    s = axis_window(box, padding, dtype)
    return s[:, None, None] * s[None, :, None] * s[None, None, :]


def axis_window(box: int, padding: int = PADDING, dtype: torch.dtype = torch.float32) -> Float[Tensor, " D"]:
    """The factor of `gridding_window` along one axis."""
    x = (torch.arange(box, dtype=torch.float64) - box // 2) / (padding * box)
    return (torch.sinc(x) ** 2).to(dtype)


def volume_to_grid(volume: Float[Tensor, "D D D"], padding: int = PADDING) -> Complex[Tensor, "M M M"]:
    """Centred transform on the padded grid (side padding * D), corrected for the interpolation kernel."""
    box = volume.shape[-1]
    window = gridding_window(box, padding, volume.dtype).to(volume.device)
    return fft3(pad_real(volume / window, padding * box, 3))


def grid_to_volume(grid: Complex[Tensor, "M M M"], padding: int = PADDING) -> Float[Tensor, "D D D"]:
    """Real volume of a grid of interpolated (inserted) values, corrected for the kernel.

    The adjoint of `volume_to_grid` up to the factor (padding D)^3, not its inverse: both divide by the window.
    """
    box = grid.shape[-1] // padding
    volume = pad_real(ifft3(grid).real, box, 3)
    return volume / gridding_window(box, padding, volume.dtype).to(volume.device)


def _corners(points: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Flat indices [..., 8], trilinear weights [..., 8] and validity of grid points (x, y, z) in padded pixels."""
    position = points + side // 2
    inside = ((position >= 0) & (position <= side - 1)).all(-1)
    # the last grid line belongs to the last cell: the rim of an odd box lies on it when unrotated
    base = torch.floor(position).clamp(0, side - 2)
    fraction = position - base
    base = base.long()
    indices, weights = [], []
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                x, y, z = base[..., 0] + dx, base[..., 1] + dy, base[..., 2] + dz
                indices.append((z * side + y) * side + x)
                w = [fraction[..., i] if d else 1 - fraction[..., i] for i, d in enumerate((dx, dy, dz))]
                weights.append(w[0] * w[1] * w[2])
    return torch.stack(indices, -1), torch.stack(weights, -1), inside


def rotated_points(k_pixels: Float[Tensor, "P 2"], R: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b P 3"]:
    """R (kx, ky, 0): image-plane frequencies in the volume's frame, same unit."""
    return torch.einsum("...ij,pj->...pi", R[..., :, :2], k_pixels)


def extract_slices(
    grid: Complex[Tensor, "M M M"], R: Float[Tensor, "*b 3 3"], index: Tensor, padding: int = PADDING
) -> Complex[Tensor, "*b P"]:
    """Values of the grid at R k for integer image frequencies `index` [P, 2] (ix, iy); zero outside the grid."""
    points = rotated_points(index.to(R.dtype) * padding, R)
    flat, weight, inside = _corners(points, grid.shape[-1])
    values = (grid.reshape(-1)[flat] * weight).sum(-1)
    return values * inside


def insert_slices(
    values: Complex[Tensor, "*b P"], R: Float[Tensor, "*b 3 3"], index: Tensor, side: int, padding: int = PADDING
) -> Complex[Tensor, "M M M"]:
    """Adjoint of `extract_slices`: values are spread onto a zero grid of `side` with the same trilinear weights.

    Only the half-plane values given are inserted: add the Friedel mate with `symmetrise_hermitian`.
    """
    points = rotated_points(index.to(R.dtype) * padding, R)
    flat, weight, inside = _corners(points, side)
    grid = values.new_zeros(side**3)
    spread = (values * inside)[..., None] * weight
    grid.index_add_(0, flat.reshape(-1), spread.reshape(-1))
    return grid.reshape(side, side, side)


def symmetrise_hermitian(grid: Tensor) -> Tensor:
    """Add the Friedel mates, grid(k) + conj grid(-k). Even sides lose their unpaired Nyquist planes."""
    side = grid.shape[-1]
    mate = grid.flip((-3, -2, -1))
    if side % 2 == 0:
        mate = mate.roll((1, 1, 1), (-3, -2, -1))
    out = grid + mate.conj()
    if side % 2 == 0:
        out[0], out[:, 0], out[:, :, 0] = 0, 0, 0
    return out
