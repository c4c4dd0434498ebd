"""Poses by search: ab initio from random starts, then refinement from its map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryoloom.recipes.methods.method import PoseJob, PoseMethod
from cryoloom.recipes.methods.option import option

if TYPE_CHECKING:
    from cryoloom.inference.poses.start import PoseStart
    from cryoloom.particles.feed import ImageFeed
    from cryoloom.recipes.methods.settings import MethodSettings


@dataclass(frozen=True, slots=True)
class AbInitSettings:
    """Ab initio by online EM with frequency marching."""

    restarts: int = field(
        default=4,
        metadata=option(
            "--restarts", help="Maximum number of random starts; two that agree are enough.", minimum=1, maximum=50
        ),
    )
    """Maximum number of independent random starts; no more are made once two agree."""

    considered: int = 50_000
    """Number of images, drawn at random, of which the most informative ones are used."""

    share: float = 0.3
    """Share of them that is used: those with most signal at low resolution, by their CTF. On a 70S ribosome at SNR
    0.05, starts on all images rarely succeeded and starts on these 30 % always did."""

    least_used: int = 1500
    """Minimum number of images that are used."""

    levels: tuple[float, ...] = (3.75, 4.5, 6.0)
    """Radii of the scouting levels, in Fourier pixels of a box as large as the particle: resolution = diameter / level.
    On a 70S ribosome of 0.75 box sides these are r = 5, 6, 8 of the box."""

    final_level: float = 7.5
    """Radius to which the best start is carried on where no two starts agree."""

    nside: tuple[int, ...] = (3, 3, 4, 4)
    """HEALPix nside of the rotation grid of each level (3 is 20 degrees, 4 is 15)."""

    batch: tuple[int, ...] = (200, 200, 300, 400)
    """Number of images in a step, by level."""

    rate: tuple[float, ...] = (0.6, 0.5, 0.4, 0.25)
    """Weight of the newest batch in the running statistics, by level."""

    least_steps: tuple[int, ...] = (20, 25, 15, 10)
    """Minimum number of steps of each level; the lowest ones are cheap, and shape is decided there."""

    most_steps: int = 40
    """Maximum number of steps of a level."""

    held_out: int = 300
    """Number of held-out images, by which starts are judged (fewer where the set is small)."""

    agreement: float = 0.75
    """Correlation of two aligned maps, weighted by shells, above which two starts agree."""


@dataclass(frozen=True, slots=True)
class RefineSettings:
    """Refinement of every candidate pose by Levenberg-Marquardt, with separate half sets."""

    candidates: int = 4
    """Number of candidate poses kept for each image."""

    coarse_level: float = 6.0
    """Radius of the first, coarse match, in Fourier pixels of a box as large as the particle."""

    fine_levels: tuple[float, ...] = (7.5, 9.75, 12.0)
    """Radius of the fine match of each global search (the first, the second, all later ones), in the same unit, as far
    as the map's resolution allows."""

    climb_steps: int = 5
    """Refinement steps of every candidate in an iteration; with 0, given poses are weighted but not moved."""

    most_iterations: int = 10
    """Maximum number of iterations."""

    least_iterations: int = 3
    """Minimum number of iterations."""


def start(job: PoseJob) -> PoseStart:
    """The ab initio map, aligned with the axes of its symmetry."""
    from cryoloom.inference.poses.start import PoseStart, StartAgreement
    from cryoloom.maps.symmetry import on_axes
    from cryoloom.recipes.abinit import AbInitRecipe

    feed = job.feed
    recipe = AbInitRecipe(feed, job.settings["abinit"], job.seed, job.preview)
    found = job.session.run(recipe)
    pixel_size = feed.field_of_view / found.volume.shape[-1]
    volume, score = on_axes(found.volume, pixel_size, job.symmetry, found.radius)
    job.preview(volume)
    agreement = StartAgreement(found.starts, found.agreeing, found.likeness)
    return PoseStart((volume, volume), found.noise, found.sigma_angstrom, agreement=agreement, symmetry_score=score)


def costs(feed: ImageFeed, settings: MethodSettings) -> Mapping[str, float]:
    """Expected cost of ab initio."""
    from cryoloom.recipes.abinit import AbInitRecipe

    recipe = AbInitRecipe(feed, settings["abinit"], 0)
    return {recipe.name: sum(recipe.expected_costs(recipe.init()))}


SEARCH = PoseMethod(
    "search",
    "a global search of all images against the map of ab initio",
    start,
    {"abinit": AbInitSettings},
    costs,
)
