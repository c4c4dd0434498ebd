"""Start of refinement from given poses or a given map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from cryoloom.inference.poses.given_map import fit_to_images
from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.search import FIRST_SIGMA
from cryoloom.inference.poses.start import PoseStart
from cryoloom.jobs.settings import ReconstructSettings
from cryoloom.maps.io import read_map
from cryoloom.particles.errors import BadInput
from cryoloom.particles.feed import ImageFeed
from cryoloom.recipes.refine import reference_maps
from cryoloom.runs.seeds import torch_generator

Say = Callable[[str], None]


def given_start(settings: ReconstructSettings, feed: ImageFeed, warn: Say) -> PoseStart:
    """The start that the user gives: the poses in the particle file, or a map.

    Raises:
        BadInput: if neither is given, or the map does not fit the images.
    """
    if settings.start is None:
        raise BadInput("refinement needs a start: --from poses, or --from MAP.mrc")
    if settings.start == "poses":
        return given_poses(feed, settings.symmetry, settings.seed, warn)
    level = settings.refine.fine_levels[0] * feed.box / feed.diameter_px
    if settings.low_pass_angstrom is not None:
        level = feed.field_of_view / settings.low_pass_angstrom
    volume = fit_to_images(feed, read_map(Path(settings.start)), level, warn, settings.start)
    return PoseStart((volume, volume), feed.noise, FIRST_SIGMA * feed.field_of_view)


def given_poses(feed: ImageFeed, symmetry: str, seed: int, warn: Say) -> PoseStart:
    """The poses in the particle file and their half maps; half sets alternate by row if the file has none."""
    particles = feed.source.particles
    given, subsets = particles.input_poses(), particles.half_sets()
    if subsets is None:
        warn(
            "the file has no half sets (rlnRandomSubset), so they alternate by row. If the poses were refined on one "
            "map of all images, both half maps hold its noise, and the FSC comes out too high."
        )
    half = np.arange(len(particles)) % 2 if subsets is None else subsets - 1
    posed = PosedImages(
        feed,
        PosePosterior.certain(given.R.float(), given.t.float()),
        half,
        noise=feed.noise,
        sigma_angstrom=max(float(given.t.square().mean().sqrt()), feed.pixel_size),
    )
    maps = reference_maps(posed, symmetry, torch_generator(seed, "given poses"))
    return PoseStart(maps, posed.noise, posed.sigma_angstrom, poses=posed.poses, half=half)
