"""Real-space masks with soft edges: a sphere, and a mask derived from the map."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from cryoloom.physics.fourier import resize_real, stretched

# The rule of `automatic_mask`
PEAK_SHARE = 0.15
NOISE_SIGMAS = 3.0
SMALLEST_PART = 0.1
SMOOTH_ANGSTROM = 15.0  # finest resolution at which a mask is found
LEAST_SIDE = 64  # of the grid on which it is found


def radius_grid(
    box: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, "D D D"]:
    """Distance of each voxel from the centre D // 2, in voxels."""
    axis = (torch.arange(box, dtype=dtype, device=device) - box // 2) ** 2
    return (axis[:, None, None] + axis[:, None] + axis).sqrt()


def radial_mean(radius: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over each sphere, linear between whole radii, at every point.

    Args:
        radius, values, weight: of each point, all of one shape; the sums are `values` times their shares of the two
            nearest spheres, over `weight` times the same.
    """
    inner = radius.reshape(-1).long()
    share = radius.reshape(-1) - inner
    total, count = torch.zeros(2, int(inner.max()) + 2, dtype=values.dtype, device=values.device)
    for sphere, part in ((inner, 1 - share), (inner + 1, share)):
        total.index_add_(0, sphere, values.reshape(-1) * part)
        count.index_add_(0, sphere, weight.reshape(-1) * part)
    mean = total / count.clamp(min=1e-6 * float(weight.max()))
    return (mean[inner] * (1 - share) + mean[inner + 1] * share).view_as(values)


def without_radial_mean(volume: Tensor) -> Tensor:
    """The volume less its mean over each sphere about the centre, which is linear between whole radii, [D, D, D]."""
    radius = radius_grid(volume.shape[-1], volume.dtype, volume.device)
    return volume - radial_mean(radius, volume, torch.ones_like(volume))


def cosine_edge(distance: Tensor, width: float) -> Tensor:
    """1 where distance <= 0, falling as a raised cosine to 0 at `width`."""
    if width <= 0:
        return (distance <= 0).to(distance.dtype)
    return 0.5 + 0.5 * torch.cos(math.pi * (distance / width).clamp(0, 1))


def soft_sphere(
    box: int,
    radius_px: float,
    soft_px: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "D D D"]:
    """Sphere about D // 2: 1 up to `radius_px` voxels, a raised cosine down to 0 at radius_px + soft_px."""
    return cosine_edge(radius_grid(box, dtype, device) - radius_px, soft_px)


def low_pass(volume: Float[Tensor, "D D D"], resolution_px: float) -> Float[Tensor, "D D D"]:
    """Gaussian low-pass that halves the amplitude at 1 / resolution_px cycles per voxel; no ripples."""
    box = volume.shape[-1]
    f = torch.fft.fftfreq(box, dtype=volume.dtype, device=volume.device)
    h = torch.fft.rfftfreq(box, dtype=volume.dtype, device=volume.device)
    k2 = f[:, None, None] ** 2 + f[:, None] ** 2 + h**2
    return torch.fft.irfftn(torch.fft.rfftn(volume) * torch.exp(-math.log(2) * resolution_px**2 * k2), s=(box,) * 3)


def automatic_mask(
    volume: Float[Tensor, "D D D"],
    pixel_size: float,
    particle_diameter_angstrom: float,
    resolution_angstrom: float | None = None,
) -> Float[Tensor, "D D D"]:
    """Soft mask around the molecule of a (possibly noisy) map, within [0, 1], generous at its edge.

    The rule: low-pass to L = max(15 angstrom, 2 resolution), or max(15 angstrom, diameter / 6) where the resolution is
    not known; keep what is within the sphere of the particle (its radius + L / 2) and above
    background + max(0.15 (peak - background), 3 noise), where peak is the 99.5th percentile within the sphere, and
    background and noise are median and scaled median deviation outside; drop connected parts smaller than a tenth of
    the largest; fill holes; extend by D / 64 voxels and end in a raised cosine of D / 16. Where nothing rises above
    the noise the mask is the sphere of the particle. Large boxes are reduced to voxels of a quarter of L first.

    Args:
        volume: map with positive density (white particles).
        pixel_size, particle_diameter_angstrom: angstrom.
        resolution_angstrom: resolution of the map, if known.

    Raises:
        ValueError: for a diameter that is not positive.
    """
    if not particle_diameter_angstrom > 0:
        raise ValueError(f"particle diameter {particle_diameter_angstrom} angstrom; expected a positive number")
    box = volume.shape[-1]
    extend, soft = box / 64, box / 16
    smooth = max(
        SMOOTH_ANGSTROM, particle_diameter_angstrom / 6 if resolution_angstrom is None else 2 * resolution_angstrom
    )
    reach = min((particle_diameter_angstrom + smooth) / (2 * pixel_size), box / 2 - extend - soft)
    side = min(box, max(LEAST_SIDE, 2 * math.ceil(2 * box * pixel_size / smooth)))
    coarse = box / side
    filtered = low_pass(resize_real(volume, side, 3), smooth / (coarse * pixel_size)).cpu().numpy()
    sphere = (radius_grid(side) <= reach / coarse).numpy()
    solid = _threshold(filtered, sphere)
    if not solid.any():
        return soft_sphere(box, reach, soft, volume.dtype, volume.device)
    solid = ndimage.binary_fill_holes(_large_parts(solid))
    distance = torch.from_numpy(ndimage.distance_transform_edt(~np.asarray(solid))).to(volume)
    # to the edges of solid voxels, as if they had the box's own size
    outside = coarse * stretched(distance, box) - (coarse - 1) / 2
    return cosine_edge(outside - extend, soft)


def _threshold(filtered: np.ndarray, sphere: np.ndarray) -> np.ndarray:
    outside = filtered[~sphere]
    background = float(np.median(outside))
    noise = 1.4826 * float(np.median(np.abs(outside - background)))
    peak = float(np.percentile(filtered[sphere], 99.5))
    cut = background + max(PEAK_SHARE * (peak - background), NOISE_SIGMAS * noise)
    return (filtered > cut) & sphere & (peak > background)


def _large_parts(solid: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(solid)  # type: ignore[misc]
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.isin(labels, np.flatnonzero(sizes >= SMALLEST_PART * sizes.max()))
