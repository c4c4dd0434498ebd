"""Poses proposed by an encoder trained on simulated images of the ab initio map, then refined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryoloom.recipes.methods import search
from cryoloom.recipes.methods.method import PoseJob, PoseMethod

if TYPE_CHECKING:
    from cryoloom.inference.poses.start import PoseStart
    from cryoloom.particles.feed import ImageFeed
    from cryoloom.recipes.methods.settings import MethodSettings


@dataclass(frozen=True, slots=True)
class WakeSleepSettings:
    """Training of an encoder on simulated images ("dreams") of the ab initio map."""

    rounds: int = 100
    """Number of training rounds; the learning rate falls to zero over them."""

    updates: int = 20
    """Optimiser steps in a round."""

    batch: int = 128
    """Dreams in an optimiser step: 256,000 images with the default rounds and updates."""

    learning_rate: float = 2e-3
    """Maximum learning rate of Adam."""

    wake_every: int = 5
    """Rounds between two wake steps, in which the volume learns from real images."""

    wake_batch: int = 500
    """Number of real images in a wake step."""

    wake_rate: float = 0.4
    """Weight of the newest images in the volume's statistics."""

    candidates: int = 8
    """Number of candidate poses proposed for an image. Measured on a 70S ribosome (SNR 0.1) after 150 CPU-s: the best
    of 1, 2, 4, 8 lies within 15 degrees for 72, 81, 86, 88 % of the images."""

    nside: int = 4
    """HEALPix grid of viewing directions (4 is 15 degrees); offsets within cells are learnt."""

    rings: int = 16
    """Number of radii at which images are read."""

    angles: int = 48
    """Number of in-plane angles."""

    channels: int = 128
    """Width of the network's layers."""

    layers: int = 4
    """Number of layers."""


def start(job: PoseJob) -> PoseStart:
    """The ab initio map, improved by real images while the encoder is trained, and the encoder's candidates."""
    from cryoloom.recipes.wake_sleep import WakeSleepRecipe

    first = search.start(job)
    recipe = WakeSleepRecipe(
        job.feed,
        job.settings["wake_sleep"],
        job.seed,
        volume=first.maps[0],
        noise=first.noise,
        sigma_angstrom=first.sigma_angstrom,
    )
    found = job.session.run(recipe)
    return replace(first, maps=(found.volume, found.volume), poses=found.poses, spread=True, encoder=found.encode)


def costs(feed: ImageFeed, settings: MethodSettings) -> Mapping[str, float]:
    """Expected cost of ab initio and of training."""
    from cryoloom.recipes.wake_sleep import training_cost

    return {**search.costs(feed, settings), "encoder": training_cost(settings["wake_sleep"])}


HYBRID = PoseMethod(
    "hybrid",
    "an encoder trained on the map of ab initio proposes poses, which are then refined",
    start,
    {**search.SEARCH.settings, "wake_sleep": WakeSleepSettings},
    costs,
    on_axes=True,
    confirm=search.confirm,
)
