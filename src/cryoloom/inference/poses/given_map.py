"""Prepares a given map for comparison with images: same field of view, same scale and sign, band-limited."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.map_scale import fit_scale
from cryoloom.maps.backprojection import particle_mask
from cryoloom.maps.band import Band
from cryoloom.maps.io import DensityMap
from cryoloom.particles.errors import BadInput
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import pad_real, rebox

FIELD_TOLERANCE = 0.01  # relative difference between the fields of view of map and images
LEAST_RADIUS = 4


def fit_to_images(
    feed: ImageFeed, given: DensityMap, radius: float, warn: Callable[[str], None], name: str = "the map"
) -> Float[Tensor, "m m m"]:
    """The map in the images' field of view, within the particle's sphere, low-passed to a radius, times the number that
    makes the images most likely (`map_scale`): any scale and sign will do.

    Args:
        radius: Fourier pixels of the field of view; limited by what map and images hold.
        warn: called if the map's contrast is the opposite of the images', or can't be told.
        name: name of the map, for messages.

    Returns:
        Voxels on the feed's device, band-limited by their box m = 2 (radius + 2).

    Raises:
        BadInput: if no whole number of the map's voxels spans the field of view, or the map is empty or at no scale
            seen in the images.
    """
    volume = in_field(feed, given, radius, name)
    return volume * _factor(feed, volume, warn, name)


def in_field(feed: ImageFeed, given: DensityMap, radius: float, name: str = "the map") -> Float[Tensor, "m m m"]:
    """The map in the images' field of view, within the particle's sphere, low-passed to a radius.

    Arguments, shape and errors as for `fit_to_images`; the scale is the map's own.
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
    return rebox(masked, Band(radius).box).contiguous().to(feed.device)


def _factor(feed: ImageFeed, volume: Tensor, warn: Callable[[str], None], name: str) -> float:
    """The number by which the map is multiplied, from the images; what the user should know of it is said."""
    if not bool(volume.any()):
        raise BadInput.report(
            "The map is empty.",
            file=name,
            found=f"zeros in the sphere of {feed.diameter_px * feed.pixel_size:.0f} angstrom around its centre",
            expected="the particle at the centre of the map",
        )
    found = fit_scale(feed, volume)
    if found is None:
        raise BadInput.report(
            "The map is not seen in the images.",
            file=name,
            found="at no scale, of either sign, does the map make the images more likely",
            expected="a map of the particle in these images, at its centre, with the right voxel size",
            fix="check voxel size, centre and particle; 'cryoloom reconstruct' needs no map",
        )
    if not found.sign_known:
        warn(f"{name}: whether the map is white or black where the images are can't be told; its sign is kept")
    elif found.factor < 0:
        seen = "as read" if feed.source.preprocessing.contrast_sign > 0 else "after their inversion"
        warn(
            f"{name} has the opposite contrast of the images and is multiplied by -1. The images, {seen}, are taken "
            "to show white particles; if the particle is positive in the map, it is they that have the wrong contrast, "
            "and the maps of this run are negative: multiply them by -1, or invert the images"
        )
    return found.factor
