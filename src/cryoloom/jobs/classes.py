"""Classes of images of several molecules, and how each is refined to its end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.start import PoseStart
from cryoloom.jobs.hetero import explained
from cryoloom.jobs.settings import ReconstructSettings
from cryoloom.jobs.structures import Structures
from cryoloom.particles.feed import ImageFeed
from cryoloom.recipes.mixture import MixtureResult
from cryoloom.recipes.refine import REFINE, RefineRecipe, RefineState

FEW_OTHERS = 0.05  # share of other images with which refinement of a class goes on


@dataclass(frozen=True, slots=True)
class RefinedClass:
    """A class after a few iterations of refinement.

    Attributes:
        rows: its images then, ascending; state: of refinement, without normal equations.
    """

    rows: np.ndarray
    state: RefineState

    @property
    def misfits(self) -> np.ndarray:
        """Which of its images do not fit its map, bool [n]."""
        return ~explained(self.state.score, self.state.power).numpy()

    def posed(self, feed: ImageFeed) -> PosedImages:
        """Its images at their poses; feed: of all images."""
        s = self.state
        return PosedImages(feed.only(self.rows), s.posterior, s.half, s.noise, s.sigma_angstrom)

    def goes_on(self, rows: np.ndarray) -> bool:
        """Whether refinement of the images `rows` goes on from here; it begins anew otherwise.

        It does so where more than `FEW_OTHERS` of the images were others, and where the half sets have folds: these are
        drawn by the number of images.
        """
        return not self.state.without and _nearly_the_same(rows, self.rows)

    def kept(self, rows: np.ndarray) -> bool:
        """Whether the images `rows` are nearly those that fitted the map then."""
        return _nearly_the_same(rows, self.rows[~self.misfits])

    def begun(self, rows: np.ndarray, half: np.ndarray) -> RefineState | None:
        """The state from which refinement of the images `rows` goes on; None where it must begin anew.

        Args:
            half: [N], half sets of all images.
        """
        if not self.goes_on(rows):
            return None
        shared = np.intersect1d(rows, self.rows, assume_unique=True)
        s, n = self.state, len(rows)
        old, new = (torch.from_numpy(np.searchsorted(all_rows, shared)) for all_rows in (self.rows, rows))

        def spread(values: Tensor, otherwise: float = 0.0) -> Tensor:
            out = values.new_full((n, *values.shape[1:]), otherwise)
            out[new] = values[old]
            return out

        poses = PosePosterior(spread(s.poses.R), spread(s.poses.t), spread(s.poses.log_weight, -torch.inf))
        poses.R[~torch.isfinite(poses.log_weight[:, 0])] = torch.eye(3)
        return replace(
            s,
            poses=poses,
            covariance=spread(s.covariance),
            score=spread(s.score),
            power=spread(s.power),
            half=half[rows],
            moved=spread(s.moved) if len(s.moved) else s.moved,
            joint=(),
            settled=False,
            stalled=False,
        )


def _nearly_the_same(one: np.ndarray, other: np.ndarray) -> bool:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared >= (1 - FEW_OTHERS) * max(len(one), len(other))


@dataclass(frozen=True)
class Classes:
    """Classes of images.

    Attributes:
        maps: [m, m, m] of the radius of the first maps, for each class; labels: class of each image, -1 for none, [N].
        probability: of the class (or of none) that each image is in, [N]; shares: of all images, by class.
        rejected: number of images of each map that was found to show no molecule.
        settled: whether hardly any image changed its class in the last round.
        changed: share of the images of each class that came from another one, or went there, in the last round; None
            for the parts of a molecule that was divided since.
        motion: what a linear family says of the images of each class.
        molecules: number of the molecule, from 0, that each class is of; the same one where a molecule was divided.
        refined: the last round's refinement of each class, None where its images were others.
    """

    maps: tuple[Tensor, ...]
    labels: np.ndarray
    probability: Tensor
    shares: tuple[float, ...]
    motion: tuple[Structures, ...]
    molecules: tuple[int, ...]
    refined: tuple[RefinedClass | None, ...]
    rejected: tuple[int, ...]
    settled: bool
    changed: tuple[float | None, ...]

    def rows(self, index: int) -> np.ndarray:
        """Images of a class."""
        return np.flatnonzero(self.labels == index)

    def ordered(self) -> Classes:
        """The classes that have images, the largest first."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.maps))
        order = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
        places = {k: i for i, k in enumerate(order)}
        labels = np.array([places.get(k, -1) for k in self.labels.tolist()], np.int64)
        return replace(
            self,
            maps=tuple(self.maps[k] for k in order),
            labels=labels,
            shares=tuple(self.shares[k] for k in order),
            motion=tuple(self.motion[k] for k in order),
            molecules=tuple(self.molecules[k] for k in order),
            refined=tuple(self.refined[k] for k in order),
            changed=tuple(self.changed[k] for k in order),
        )


def class_start(found: MixtureResult, volume: Tensor, half: np.ndarray) -> PoseStart:
    """The start of a class's refinement: its map, for both half sets."""
    return PoseStart((volume, volume), found.noise, found.sigma_angstrom, half=half)


def class_recipe(
    settings: ReconstructSettings,
    feed: ImageFeed,
    classes: Classes,
    half: np.ndarray,
    found: MixtureResult,
    index: int,
    name: str = REFINE,
) -> RefineRecipe:
    """Refinement of a class to its end, from where the last round left it if its images are the same.

    Args:
        feed, half: all images, and their half sets [N]; found: the first maps; index: of the class, from 0.
    """
    rows, refined = classes.rows(index), classes.refined[index]
    begun = None if refined is None else refined.begun(rows, half)
    start = class_start(found, classes.maps[index], half[rows])
    return RefineRecipe(feed.only(rows), settings.refine, settings.seed, start, name=name, begun=begun)
