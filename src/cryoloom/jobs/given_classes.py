"""Start of classes from given maps, of any scale: maps of the molecules that are expected, and decoys.

Each map is first given the power that the images have on average. All images are sorted by these maps and their
negatives: the sign is the one that takes more images, and the scale the one at which these images are likeliest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.poses.given_map import in_field
from cryoloom.inference.poses.grids import cached_rotation_grid
from cryoloom.inference.poses.map_scale import fit_scale
from cryoloom.inference.poses.search import FIRST_SIGMA, slice_reference
from cryoloom.jobs.settings import ReconstructSettings
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.band import Band
from cryoloom.maps.io import read_map
from cryoloom.particles.errors import BadInput
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.recipes.mixture import MixtureResult
from cryoloom.recipes.sort import Sorted, SortRecipe
from cryoloom.runs.seeds import numpy_generator
from cryoloom.runs.session import Session

MEASURED = 1000  # images of which the mean power is measured
FIRST_SHELL = 2.0  # below, backgrounds add to the power of the images
LEAST_TAKEN = 50  # images by which the scale of a map is fitted


def given_classes(settings: ReconstructSettings, feed: ImageFeed, session: Session) -> MixtureResult:
    """The given maps at the scale of the images.

    Raises:
        BadInput: for a map that is empty or does not fit the images' field of view.
    """
    s = settings.mixture
    radius = feed.radius_of(s.levels[-1])
    box = Band(radius).box
    volumes = [
        rebox(in_field(feed, read_map(Path(name)), radius, name), box).contiguous() for name in settings.classes_from
    ]
    power = image_power(feed, radius, settings.seed)
    volumes = [v * _scale(feed, v, radius, power, n) for v, n in zip(volumes, settings.classes_from, strict=True)]
    count = len(volumes)
    start = MixtureResult(
        tuple(volumes), (1 / count,) * count, radius, feed.noise, FIRST_SIGMA * feed.field_of_view, begun=count
    )
    recipe = SortRecipe(
        feed,
        s,
        [(v, v) for v in (*volumes, *(-v for v in volumes))],
        half=np.zeros(len(feed), np.int64),
        noise=start.noise,
        sigma_angstrom=start.sigma_angstrom,
        name="sort_given",
        radius=radius,
        fine=False,
    )
    return _rescaled(feed, start, session.run(recipe), settings.classes_from, session.say)


def image_power(feed: ImageFeed, radius: int, seed: int) -> float:
    """Mean power of the particle's coefficients, without CTF and noise, between `FIRST_SHELL` and a radius."""
    rows = np.sort(numpy_generator(seed, "given classes", "power").permutation(len(feed))[:MEASURED])
    images = feed.images(rows, radius, feed.noise)
    within = _band(feed, images.disc.k)
    variance = images.variance[images.group][:, within]
    square = images.ctf[:, within].square()
    excess = images.observed[:, within].abs().square() - variance
    # by least squares over all coefficients
    return float((excess * square / variance).sum() / (square.square() / variance).sum())


def _band(feed: ImageFeed, k: Tensor) -> Tensor:
    return k.norm(dim=1) * feed.field_of_view > FIRST_SHELL


def _scale(feed: ImageFeed, volume: Tensor, radius: int, power: float, name: str) -> float:
    """The factor that gives a map's slices the power of the images."""
    disc = feed.prefix(radius)
    slices = slice_reference(volume_to_half(volume), cached_rotation_grid(2), disc).quarter
    own = float(slices.abs().square().mean(0)[_band(feed, disc.k)].mean())
    if own <= 0 or power <= 0:
        what = "The map is empty." if own <= 0 else "The images hold no signal beyond their noise at low resolution."
        raise BadInput.report(what, file=name, fix="check that the map shows a particle at its centre")
    return float(np.sqrt(power / own))


def _rescaled(
    feed: ImageFeed, start: MixtureResult, found: Sorted, names: tuple[str, ...], say: Callable[[str], None]
) -> MixtureResult:
    """Each map times the factor at which the images that it took are likeliest; `found`: of all maps and negatives."""
    best, count = found.evidence.argmax(1).numpy(), len(start.volumes)
    volumes = []
    for k, volume in enumerate(start.volumes):
        taken = [np.flatnonzero(best == index) for index in (k, k + count)]
        negative = len(taken[1]) > len(taken[0])
        rows, signed = taken[negative], -volume if negative else volume
        scale = fit_scale(feed.only(rows), signed) if len(rows) >= LEAST_TAKEN else None
        name = Path(names[k]).name
        if scale is None:
            say(f"{name}: {len(rows):,} images fit it best, too few or too badly to tell its scale and sign")
        elif negative:
            say(f"{name}: its contrast is the opposite of the images' and is inverted")
        volumes.append(volume if scale is None else signed * abs(scale.factor))
    return replace(start, volumes=tuple(v.to(torch.float32) for v in volumes))
