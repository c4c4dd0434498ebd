"""The only centred Fourier transform pair, and Fourier cropping and padding.

Real-space origin at index ``D // 2`` on every axis (odd boxes too); zero frequency at index ``D // 2`` as well.
The forward transform is unnormalised, so a slice of a volume's transform is the transform of its summed projection.
"""

from __future__ import annotations

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


def resize_fourier(coefficients: Tensor, box: int, dims: int) -> Tensor:
    """Crop or zero-pad centred Fourier coefficients to side `box` over the last `dims` axes.

    Frequencies without a Friedel mate (the Nyquist planes of even boxes) are dropped, so that the transform of a real
    array stays Hermitian.
    """
    old = coefficients.shape[-1]
    half = _paired(old, box)
    out = coefficients.new_zeros(*coefficients.shape[:-dims], *([box] * dims))
    source = tuple(slice(old // 2 - half, old // 2 + half + 1) for _ in range(dims))
    target = tuple(slice(box // 2 - half, box // 2 + half + 1) for _ in range(dims))
    out[(..., *target)] = coefficients[(..., *source)]
    return out


def resize_real(array: Tensor, box: int, dims: int) -> Tensor:
    """Resample a real array to side `box` over the last `dims` axes by Fourier cropping or padding.

    The values keep their scale.

    The field of view in angstrom is unchanged; the pixel size becomes ``old_box / box`` times the old one.
    """
    old = array.shape[-1]
    if old == box:
        return array
    forward, inverse = {2: (fft2, ifft2), 3: (fft3, ifft3)}[dims]
    return inverse(resize_fourier(forward(array), box, dims)).real * (box / old) ** dims


def rebox(volume: Tensor, box: int) -> Tensor:
    """Resample a real volume to side `box`, keeping its Fourier coefficients: it projects to images of that box."""
    if volume.shape[-1] == box:
        return volume
    return ifft3(resize_fourier(fft3(volume), box, 3)).real


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
