"""What a pose method hands to refinement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cryoloom.inference.poses.encoder_file import TrainedEncoder
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.maps.band import Band

# similarity of independent starts' maps from which on they confirm each other: on images without a particle, and where
# the map is wrong, it is rarely above 0.8
ALIKE = 0.9


@dataclass(frozen=True, slots=True)
class StartAgreement:
    """How independent random starts compare.

    Attributes:
        starts: number of starts made; agreeing: number that agree with the best, itself included.
        likeness: similarity of the best start's map to the most similar other map, None with a single start.
        strength: by how much the best start's map makes images that it was not made of likelier than no particle does,
            nats per image; None if it was not measured.
    """

    starts: int
    agreeing: int
    likeness: float | None
    strength: float | None

    @property
    def reproduced(self) -> bool:
        """Whether independent starts led to nearly the same map."""
        return self.likeness is not None and self.likeness >= ALIKE


@dataclass(frozen=True)
class PoseStart:
    """Start of refinement: maps, and optionally poses.

    Attributes:
        maps: [m, m, m], one for each half set, with the field of view of the working box and band-limited by their
            box m = 2 (radius + 2).
        noise: [G, S], E|n|^2 by shell; sigma_angstrom: standard deviation of shifts.
        poses: candidates of all images, which the first iteration refines; None: they are searched first.
        half: [N] of 0 and 1; None: half sets are drawn.
        spread: whether images are inserted over the width of their posterior; None: where no poses are given. Given
            poses may rest on more than these images (tilt series, neighbours): the width that follows from the images
            alone would blur them.
        polish: whether the poses are refined; otherwise they are weighed and inserted as they are.
        agreement: of random starts, None without them; symmetry_score: correlation of the map with its symmetry-related
            copies before symmetry was imposed, None in C1.
        encoder: the network that proposed the poses, None without one.
    """

    maps: tuple[Tensor, Tensor]
    noise: Tensor
    sigma_angstrom: float
    poses: PosePosterior | None = None
    half: np.ndarray | None = None
    spread: bool | None = None
    polish: bool = True
    agreement: StartAgreement | None = None
    symmetry_score: float | None = None
    encoder: TrainedEncoder | None = None

    @property
    def radius(self) -> int:
        """Radius of the maps, Fourier pixels."""
        return Band.of_box(self.maps[0].shape[-1]).radius

    @property
    def shared_shell(self) -> int:
        """Shell up to which both half sets start from one map; 0 for given poses, whose half sets share none."""
        if self.poses is not None and self.half is not None:
            return 0
        return self.radius
