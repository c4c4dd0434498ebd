"""Start of refinement from given poses or a given map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from cryoloom.inference.poses.given_map import fit_to_images, in_field
from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.search import FIRST_SIGMA
from cryoloom.inference.poses.start import PoseStart
from cryoloom.jobs.settings import ReconstructSettings
from cryoloom.jobs.verdict import SYMMETRIC
from cryoloom.maps.fsc import crossing, fourier_shell_correlation
from cryoloom.maps.io import read_map
from cryoloom.maps.symmetry import score_on_axes
from cryoloom.particles.errors import BadInput
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.rotations import symmetry_group
from cryoloom.recipes.refine import reference_maps
from cryoloom.runs.seeds import torch_generator

Say = Callable[[str], None]

# radius up to which a given map is compared with its symmetry-related copies, in Fourier pixels of a box as large as
# the particle: at lower resolution, capsids and the like are shells
SYMMETRY_LEVEL = 12.0
# where another setting of the axes fits better, it is named
_OTHER_SETTING = {"I": "I2", "I1": "I2", "I2": "I1"}


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
    given = read_map(Path(settings.start))
    volume = fit_to_images(feed, given, level, warn, settings.start)
    score = None
    if len(symmetry_group(settings.symmetry)) > 1:
        radius = feed.radius_of(SYMMETRY_LEVEL)
        seen = in_field(feed, given, radius, settings.start)
        score = stated_symmetry(seen, settings.symmetry, radius, "The given map", warn)
    return PoseStart((volume, volume), feed.noise, FIRST_SIGMA * feed.field_of_view, symmetry_score=score)


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
    maps, score = reference_maps(posed, symmetry, torch_generator(seed, "given poses")), None
    if len(symmetry_group(symmetry)) > 1:
        one, two = reference_maps(posed, "C1", torch_generator(seed, "given poses"))
        radius = min(feed.radius_of(SYMMETRY_LEVEL), int(crossing(fourier_shell_correlation(one, two), 0.5)))
        score = stated_symmetry(one + two, symmetry, radius, "The map of the given poses", warn)
    return PoseStart(maps, posed.noise, posed.sigma_angstrom, poses=posed.poses, half=half, symmetry_score=score)


def stated_symmetry(volume: Tensor, symmetry: str, radius: int, name: str, warn: Say) -> float:
    """Correlation of a map with its copies under the stated symmetry, which is not C1, about the standard axes.

    The user is warned where it is low: the particle lacks the symmetry, or has it about other axes.
    """
    score = score_on_axes(volume, symmetry, radius)
    if score >= SYMMETRIC:
        return score
    said = f"{name} correlates by only {score:.2f} with its copies under {symmetry} about the standard axes"
    other = _OTHER_SETTING.get(symmetry.strip().upper())
    if other is not None and (better := score_on_axes(volume, other, radius)) >= SYMMETRIC:
        warn(f"{said}, and by {better:.2f} under {other}: state --symmetry {other}.")
    else:
        warn(
            f"{said}. They must be the axes of the given poses and maps: Cn along z, Dn with a twofold along x, O "
            "with its fourfolds and T with its twofolds along x, y and z, I as RELION's I1."
        )
    return score
