"""Whether one structure explains the images: a small linear family at low resolution, judged by held-out images.

A map of several molecules, or of one that moves far, is a mean of which half sets may agree to high resolution. A
component around it that makes the images of the other half set likelier says that there is more than one structure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.rotations import symmetry_group
from cryoloom.recipes.methods.pca import PCASettings
from cryoloom.recipes.pca import PCARecipe, family_costs
from cryoloom.runs.progress import StagePlan
from cryoloom.runs.seeds import numpy_generator, torch_generator
from cryoloom.runs.session import Session

STAGE = "structures"
# from random starts, two components in 8 iterations missed a state of 30 % and one of 10 % in four of six fits
SETTINGS = PCASettings(most_components=4, iterations=12, first_level=6.0, last_level=8.0)
MOST_IMAGES = 4000


@dataclass(frozen=True, slots=True)
class Structures:
    """What a linear family says of the images.

    Attributes:
        components: number of components that held-out images support.
        gain_nats: by how much these make held-out images likelier, nats per image; 0 without one.
    """

    components: int
    gain_nats: float


def structures(posed: PosedImages, symmetry: str, seed: int, session: Session, name: str = STAGE) -> Structures:
    """Fit the family to posed images, of which at most `MOST_IMAGES` are used.

    Each image is turned by a random element of the symmetry group: one part of a symmetric particle may differ alone.
    """
    recipe = PCARecipe(_turned(_some(posed, seed), symmetry, seed), SETTINGS, seed, name=name)
    state = session.state(recipe)
    assert state.components is not None
    assert state.gains is not None
    return Structures(state.components, float(state.gains[state.components]))


def structures_plan(feed: ImageFeed) -> StagePlan:
    """The stage and its expected cost."""
    share = min(1.0, MOST_IMAGES / len(feed))
    return StagePlan(STAGE, share * sum(family_costs(feed, SETTINGS)))


def _some(posed: PosedImages, seed: int) -> PosedImages:
    """As many images as are used, drawn at random."""
    if len(posed) <= MOST_IMAGES:
        return posed
    return posed.only(np.sort(numpy_generator(seed, STAGE, "images").permutation(len(posed))[:MOST_IMAGES]))


def _turned(posed: PosedImages, symmetry: str, seed: int) -> PosedImages:
    """The images at their best poses, each turned into a random mate."""
    group = symmetry_group(symmetry).float()
    R, t = posed.poses.best()
    mate = torch.randint(len(group), (len(R),), generator=torch_generator(seed, STAGE, "mates"))
    return posed.with_poses(PosePosterior.certain(group[mate] @ R.float(), t.float()))
