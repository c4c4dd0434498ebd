"""Global pose searches: a coarse match, a fine match around its best rotations, and distinct candidates."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.grids import cached_rotation_grid, shift_grid, shift_step_angstrom
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.search import Reference, distinct_candidates, match_fine, slice_reference
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import GridPosterior, Images
from cryoloom.maps.band import Band
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox

COARSE_NSIDE, FINE_NSIDE = 4, 8
REACH = 2.7  # standard deviations of the shifts up to which they are searched
APART = 1.5  # least distance between candidates, in grid steps
ENTRIES = 24  # best points of the fine grid among which candidates are chosen

References = tuple[Reference, Reference]


def references_of(
    feed: ImageFeed,
    volume: Float[Tensor, "m m m"],
    coarse_level: float,
    radius: int,
    group: Float[Tensor, "G 3 3"] | None = None,
) -> References:
    """Slices of a map on the coarse grid, up to the radius of `coarse_level`, and on the fine grid, up to `radius`.

    Poses are searched in an asymmetric unit of the map's symmetry: its mates would fill the lists of best entries.
    """
    coarse = min(radius, feed.radius_of(coarse_level))
    grids = ((coarse, COARSE_NSIDE), (radius, FINE_NSIDE))
    one, two = (
        slice_reference(volume_to_half(rebox(volume, Band(r).box)), cached_rotation_grid(nside), feed.prefix(r), group)
        for r, nside in grids
    )
    return one, two


def shifts_of(feed: ImageFeed, radius: float, sigma_angstrom: float) -> Float[Tensor, "T 2"]:
    """The grid of shifts searched at a radius."""
    step = shift_step_angstrom(feed.box, feed.pixel_size, radius)
    return shift_grid(step, max(REACH * sigma_angstrom, 1.01 * step)).to(feed.device)


def search(feed: ImageFeed, images: Images, references: References, sigma_angstrom: float) -> GridPosterior:
    """Posterior of images over the fine grid of one map."""
    coarse, fine = references
    coarse_shifts, fine_shifts = (shifts_of(feed, r.disc.radius, sigma_angstrom) for r in references)
    uniform = torch.zeros(len(images.observed), device=feed.device)
    return match_fine(
        images,
        coarse,
        fine=fine,
        coarse_shifts=coarse_shifts,
        fine_shifts=fine_shifts,
        sigma_angstrom=sigma_angstrom,
        uniform=uniform,
        draws=1,
        best=ENTRIES,
    )


def candidates_of(
    feed: ImageFeed,
    found: list[GridPosterior],
    radius: float,
    sigma_angstrom: float,
    count: int,
    group: Float[Tensor, "G 3 3"] | None = None,
) -> PosePosterior:
    """The best distinct poses found by searches of the same images, at one radius, against one map or several."""
    joint = GridPosterior(
        found[0].picks,
        torch.cat([f.best for f in found], 1),
        torch.cat([f.best_score for f in found], 1),
        found[0].log_evidence,
    )
    grid = cached_rotation_grid(FINE_NSIDE)
    shifts = shifts_of(feed, radius, sigma_angstrom)
    return distinct_candidates(
        joint, grid, shifts=shifts, count=count, apart_degrees=APART * grid.spacing_degrees, group=group
    )
