"""The only centred Fourier transform pair, and Fourier cropping and padding.

Real-space origin at index ``D // 2`` on every axis (odd boxes too); zero frequency at index ``D // 2`` as well.
The forward transform is unnormalised, so a slice of a volume's transform is the transform of its summed projection.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def _centred(x: Tensor, dims: tuple[int, ...], inverse: bool) -> Tensor:
    transform = torch.fft.ifftn if inverse else torch.fft.fftn
    return torch.fft.fftshift(transform(torch.fft.ifftshift(x, dim=dims), dim=dims), dim=dims)


def fft2(images: Tensor) -> Tensor:
    """Centred 2D transform of images [..., D, D] (y, x), real or complex; returns complex [..., D, D]."""
    return _centred(images, (-2, -1), inverse=False)


def ifft2(coefficients: Tensor) -> Tensor:
    """Inverse of `fft2`; complex [..., D, D]."""
    return _centred(coefficients, (-2, -1), inverse=True)


def fft3(volume: Tensor) -> Tensor:
    """Centred 3D transform of volumes [..., D, D, D] (z, y, x)."""
    return _centred(volume, (-3, -2, -1), inverse=False)


def ifft3(coefficients: Tensor) -> Tensor:
    """Inverse of `fft3`; complex [..., D, D, D]."""
    return _centred(coefficients, (-3, -2, -1), inverse=True)


def _paired(box: int, other: int) -> int:
    """Largest frequency index present with both signs in both boxes."""
    return (min(box, other) - 1) // 2


def resize_real(array: Tensor, box: int, dims: int) -> Tensor:
    """Resample a real array to side `box` over the last `dims` axes by Fourier cropping or padding.

    The values keep their scale. Crops and pads the Fourier series axis by axis, each by a product with one matrix: no
    complex copies, and a map of 256 voxels a side takes 0.1 CPU-s.

    The field of view in angstrom is unchanged; the pixel size becomes ``old_box / box`` times the old one.
    """
    old = array.shape[-1]
    if old == box:
        return array
    return along_axes(array, _resampling(old, box).to(array), dims)


def along_axes(array: Tensor, matrix: Tensor, dims: int = 3) -> Tensor:
    """The product of a matrix [m, D] with an array along each of its last `dims` axes (at most three), [..., m, m]."""
    array = array @ matrix.T
    if dims > 1:
        array = matrix @ array
    if dims > 2:
        array = (matrix @ array.flatten(-2)).unflatten(-1, (len(matrix), len(matrix)))
    return array


def rebox(volume: Tensor, box: int) -> Tensor:
    """Resample a real volume to side `box`, keeping its Fourier coefficients: it projects to images of that box."""
    old = volume.shape[-1]
    return volume if old == box else resize_real(volume, box, 3) * (old / box) ** 3


def resize_spectrum(ft: Tensor, box: int) -> Tensor:
    """Crop or zero-pad the transform of a real volume, as `rfftn` gives it, to that of side `box`; values are kept.

    Frequencies that do not occur with both signs in both boxes are dropped, as by `resize_real`.
    """
    n = _paired(ft.shape[0], box)
    out = ft.new_zeros(box, box, box // 2 + 1)
    low, high = slice(0, n + 1), slice(-n, None) if n else slice(0, 0)
    for z in (low, high):
        for y in (low, high):
            out[z, y, low] = ft[z, y, low]
    return out


def stretched(volume: Tensor, box: int) -> Tensor:
    """Values of a volume at the voxels of another box over the same field of view, trilinear, edges repeated."""
    side = volume.shape[-1]
    if side == box:
        return volume
    at = (torch.arange(box, dtype=volume.dtype, device=volume.device) - box // 2) * (side / box) + side // 2
    nodes = torch.arange(side, dtype=volume.dtype, device=volume.device)
    return along_axes(volume, (1 - (at.clamp(0, side - 1)[:, None] - nodes).abs()).clamp(min=0))


@lru_cache(maxsize=16)
def _resampling(old: int, box: int) -> Tensor:
    """Matrix [box, old], float64, that takes `old` samples about D // 2 to `box` samples of their Fourier series.

    Its elements are the Dirichlet kernel of the frequencies that both boxes hold with both signs.
    """
    waves = 2 * _paired(old, box) + 1
    to = (torch.arange(box, dtype=torch.float64) - box // 2) / box
    at = (torch.arange(old, dtype=torch.float64) - old // 2) / old
    half_turn = torch.pi * (to[:, None] - at)
    below = torch.sin(half_turn)
    kernel = torch.sin(waves * half_turn) / below
    # an odd number of waves: all in phase after whole turns
    return torch.where(below.abs() < 1e-12, float(waves), kernel) / old


def pad_real(array: Tensor, box: int, dims: int) -> Tensor:
    """Zero-pad (or cut) a real array about its centre ``D // 2`` to side `box` over the last `dims` axes."""
    old = array.shape[-1]
    out = array.new_zeros(*array.shape[:-dims], *([box] * dims))
    low = min(old // 2, box // 2)
    high = min(old - old // 2, box - box // 2)
    source = tuple(slice(old // 2 - low, old // 2 + high) for _ in range(dims))
    target = tuple(slice(box // 2 - low, box // 2 + high) for _ in range(dims))
    out[(..., *target)] = array[(..., *source)]
    return out
