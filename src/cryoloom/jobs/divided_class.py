"""Conformations as further classes, where fewer molecules are found than classes were asked for.

The molecule whose images gain most by components around its map is divided: its images are refined on one map, then
poses and components in turns, and the latent space of the components is divided into as many classes as are missing
(`recipes.methods.classes`). The components are fitted to the images of both half sets.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.jobs.class_maps import FEWEST_PER_HALF, cluster_map
from cryoloom.jobs.classes import Classes, class_recipe
from cryoloom.jobs.hetero import in_turns, shown
from cryoloom.jobs.settings import ReconstructSettings
from cryoloom.jobs.structures import Structures
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.recipes.methods.method import ConformationJob
from cryoloom.recipes.methods.registry import conformation_method
from cryoloom.recipes.mixture import MixtureResult
from cryoloom.runs.session import Session

METHOD = "classes"


def with_conformations_as_classes(
    settings: ReconstructSettings,
    feed: ImageFeed,
    classes: Classes,
    half: np.ndarray,
    found: MixtureResult,
    session: Session,
) -> Classes:
    """As many classes as were asked for, if a molecule moves; the same classes otherwise.

    Args:
        feed, half: all images, and their half sets [N]; found: the first maps.
    """
    missing = settings.classes - len(classes.maps) if isinstance(settings.classes, int) else 0
    gains = [m.gain_nats * len(classes.rows(k)) if m.components else 0.0 for k, m in enumerate(classes.motion)]
    if missing < 1 or not any(gains):
        return classes
    index = int(np.argmax(gains))
    rows = classes.rows(index)
    session.say(
        f"a molecule of {len(rows):,} images shows several conformations: {missing + 1} classes of it are sought"
    )
    refined = session.run(class_recipe(settings, feed, classes, half, found, index, "divided"))
    methods = settings.methods.changed(METHOD, classes=missing + 1)
    posed = shown(in_turns(settings.of_moving_class(METHOD, methods), refined, session))
    best = replace(posed, poses=PosePosterior.certain(*posed.poses.best()))
    mean = rebox(classes.maps[index], feed.box)
    job = ConformationJob(posed, mean, session, settings=methods, seed=settings.seed, searched=True)
    parts = conformation_method(METHOD).find(job).classes
    if parts is None:
        return classes
    return _divided(classes, index, best, parts.posterior.log_weight, settings).ordered()


def _divided(
    classes: Classes, index: int, posed: PosedImages, log_weight: Tensor, settings: ReconstructSettings
) -> Classes:
    """The classes with one of them in parts; log_weight: [n, K] of the parts, for the images of the class."""
    rows, box = classes.rows(index), classes.maps[index].shape[-1]
    large = _large(log_weight.argmax(1).numpy(), posed.half, log_weight.shape[1], settings.mixture.fewest)
    if len(large) < 2:
        return classes
    weight = torch.softmax(log_weight[:, large], 1)
    part, shares = weight.argmax(1).numpy(), weight.mean(0).tolist()
    maps = [
        cluster_map(posed, np.flatnonzero((part == p) & (posed.half >= 0)), settings.seed) for p in range(len(large))
    ]
    labels, probability = classes.labels.copy(), classes.probability.clone()
    # after all classes; the number of the class itself is left without images, as are those that do not fit its map
    labels[rows] = np.where(posed.half >= 0, len(classes.maps) + part, -1)
    # as elsewhere, 1 where an image does not fit its class
    fits = torch.from_numpy(posed.half >= 0)
    probability[torch.from_numpy(rows)] = torch.where(fits, probability[rows] * weight.amax(1), 1.0)
    return replace(
        classes,
        maps=(*classes.maps, *(rebox(m.combined, box).contiguous() for m in maps)),
        labels=labels,
        probability=probability,
        shares=(*classes.shares, *(classes.shares[index] * share for share in shares)),
        motion=(*classes.motion, *(len(large) * [Structures(0, 0.0)])),
        refined=(*classes.refined, *(len(large) * [None])),
        changed=(*classes.changed, *(len(large) * [None])),
        molecules=(*classes.molecules, *(len(large) * [classes.molecules[index]])),
    )


def _large(part: np.ndarray, half: np.ndarray, count: int, fewest: int) -> list[int]:
    """Parts of at least `fewest` images, of which each half set has enough for a map."""
    sizes = [[int(((part == p) & (half == h)).sum()) for h in (0, 1)] for p in range(count)]
    return [p for p, two in enumerate(sizes) if sum(two) >= fewest and min(two) >= FEWEST_PER_HALF]
