"""Interfaces of pose methods and conformation methods: their input and output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from cryoloom.inference.conformations.classes import Classes
    from cryoloom.inference.conformations.evidence import ConformationEvidence
    from cryoloom.inference.conformations.latent_volume import LatentVolume
    from cryoloom.inference.poses.posed import PosedImages
    from cryoloom.inference.poses.start import PoseStart
    from cryoloom.particles.feed import ImageFeed
    from cryoloom.recipes.methods.settings import MethodSettings
    from cryoloom.runs.session import Session


@dataclass(frozen=True)
class PoseJob:
    """Input of a pose method.

    Attributes:
        feed: the images; session: where its recipes are run; settings: those of all methods, by table.
        seed: seed of the run; symmetry: point group of the particle.
        preview: called with maps [m, m, m] that are worth viewing while the method runs.
    """

    feed: ImageFeed
    session: Session
    settings: MethodSettings
    seed: int = 1
    symmetry: str = "C1"
    preview: Callable[[Tensor], None] = field(default=lambda volume: None)


@dataclass(frozen=True)
class PoseMethod:
    """A way to find poses without a starting model.

    Attributes:
        name: value of `--poses`; help: one line for the command line and the documentation.
        start: finds the start of refinement, optionally with poses.
        settings: classes of its settings by table, frozen dataclasses whose fields may be options (`option`).
        costs: expected cost of its stages by name, for the estimate of the time left (`Recipe.expected_costs`).
        on_axes: whether its map and poses are on the axes of the job's symmetry.
        confirm: makes further random starts where the first ones disagree, and gives the similarity of each to the
            refined map [D, D, D], in which the images have rotations [N, 3, 3]; None for a method without random
            starts.
    """

    name: str
    help: str
    start: Callable[[PoseJob], PoseStart]
    settings: Mapping[str, type[Any]] = field(default_factory=dict)
    costs: Callable[[ImageFeed, MethodSettings], Mapping[str, float]] = lambda feed, settings: {}
    on_axes: bool = False
    confirm: Callable[[PoseJob, Tensor, Tensor], tuple[float, ...]] | None = None


@dataclass(frozen=True)
class ConformationJob:
    """Input of a conformation method.

    Attributes:
        posed: the images with their poses; images that do not show the particle are left out (half set -1).
        mean: [D, D, D], their map in the working box; mask: 0 to 1 in the working box, within which conformations
            differ, None for the particle's sphere.
        session, settings, seed: as in `PoseJob`; searched: whether the poses were found along with conformations.
    """

    posed: PosedImages
    mean: Tensor
    session: Session
    settings: MethodSettings
    seed: int = 1
    mask: Tensor | None = None
    searched: bool = False


@dataclass(frozen=True)
class Conformations:
    """Result of a conformation method.

    Attributes:
        found: latents and volumes; None where the data are consistent with one conformation.
        evidence: the numbers behind it, for the verdict; classes: the fitted classes, if any.
    """

    found: LatentVolume | None
    evidence: ConformationEvidence
    classes: Classes | None = None


@dataclass(frozen=True)
class ConformationMethod:
    """A way to find conformations of posed images.

    Attributes:
        name: value of `--method`; help: one line for the command line and the documentation.
        find: finds the conformations; settings, costs: as in `PoseMethod`.
    """

    name: str
    help: str
    find: Callable[[ConformationJob], Conformations]
    settings: Mapping[str, type[Any]] = field(default_factory=dict)
    costs: Callable[[ImageFeed, MethodSettings], Mapping[str, float]] = lambda feed, settings: {}
