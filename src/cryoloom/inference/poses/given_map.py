"""Prepares a given map for comparison with images: same field of view, same scale, band-limited."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.grids import cached_rotation_grid
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.backprojection import particle_mask
from cryoloom.maps.band import Band
from cryoloom.maps.io import DensityMap
from cryoloom.particles.errors import BadInput
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import pad_real, rebox

FIELD_TOLERANCE = 0.01  # relative difference between the fields of view of map and images
SAMPLED_IMAGES = 500  # images whose power sets the scale
LEAST_RADIUS = 4


def fit_to_images(
    feed: ImageFeed, given: DensityMap, radius: float, warn: Callable[[str], None], name: str = "the map"
) -> Float[Tensor, "m m m"]:
    """The map in the images' field of view and scale, within the particle's sphere, low-passed to a radius.

    Args:
        radius: Fourier pixels of the field of view; limited by what map and images hold.
        warn: called if the images have no power above their noise, so that the map keeps its own scale.
        name: name of the map, for error messages.

    Returns:
        Voxels on the feed's device, band-limited by their box m = 2 (radius + 2).

    Raises:
        BadInput: if no whole number of the map's voxels spans the field of view.
    """
    side = feed.field_of_view
    volume = given.data.float()
    box = volume.shape[-1]
    wanted = round(side / given.pixel_size)
    if abs(wanted * given.pixel_size - side) > FIELD_TOLERANCE * side:
        raise BadInput(
            f"{name}: voxels of {given.pixel_size:.4f} angstrom do not fit the images' field of view of {side:.1f} "
            f"angstrom\n  what to do: resample the map to the images' pixel size, {feed.pixel_size:.4f} angstrom"
        )
    volume = pad_real(volume, wanted, 3) if wanted != box else volume
    radius = int(max(LEAST_RADIUS, min((feed.box - 1) // 2 - 1, (wanted - 1) // 2 - 1, round(radius))))
    masked = volume * particle_mask(wanted, feed.diameter_px * wanted / feed.box)
    volume = rebox(masked, Band(radius).box).contiguous().to(feed.device)
    scale = _scale_to_images(feed, volume, radius)
    if scale is None:
        warn(
            f"up to {side / radius:.1f} angstrom the images hold no power above their noise: the map keeps its own "
            "scale, and poses found on it are not to be trusted"
        )
        return volume
    return volume * scale


def _scale_to_images(feed: ImageFeed, volume: Tensor, radius: int) -> float | None:
    """The factor that gives the map's projections the power that the images have above their noise.

    None where the images have no power above their noise, or the map is empty.
    """
    rows = np.arange(0, len(feed), max(1, len(feed) // SAMPLED_IMAGES))
    images = feed.images(rows, radius, feed.noise)
    h = images.disc.weight
    excess = (h * (images.observed.abs().square() - images.variance[images.group])).mean(0).sum()
    views = cached_rotation_grid(2).R[::7].contiguous().to(volume.device)
    power = dispatch.slices(volume_to_half(volume), views, images.disc).abs().square().mean(0)
    predicted = (h * images.ctf.square().mean(0) * power).sum()
    if float(excess) <= 0 or float(predicted) <= 0:
        return None
    return float((excess / predicted).sqrt())
