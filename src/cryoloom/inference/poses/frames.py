"""The common frame and hand of two sets of poses of the same images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.physics.rotations import geodesic_degrees, nearest_rotation

# the mirror image V(-x) fits the same images at R diag(-1, -1, 1) and the same t
HALF_TURN = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))


@dataclass(frozen=True, slots=True)
class Frame:
    """Rotation Q from the second frame to the first: R_first = Q R_second (of the mirror image where `mirrored`).

    Attributes:
        error_degrees: remaining angle between the two rotations of each image, [B].
        votes: sum of Gaussian votes for Q (standard deviation about 10 degrees), in images.
    """

    Q: Tensor
    mirrored: bool
    error_degrees: Tensor
    votes: float


def common_frames(
    first: Float[Tensor, "B 3 3"], second: Float[Tensor, "B 3 3"], seeds: int = 150
) -> tuple[Frame, Frame]:
    """The best frame of each hand, found by voting and robust averaging over all images; the better hand first."""
    frames = []
    for mirrored in (False, True):
        other = second @ HALF_TURN.to(second) if mirrored else second
        relative = first @ other.mT
        stride = max(1, len(relative) // seeds)
        tried = relative[::stride]
        votes = torch.exp(-((geodesic_degrees(tried[:, None], relative[None]) / 15) ** 2)).sum(1)
        Q = tried[votes.argmax()]
        for width in (25.0, 15.0, 10.0, 5.0, 5.0):
            weight = torch.exp(-((geodesic_degrees(Q.expand_as(relative), relative) / width) ** 2))
            Q = nearest_rotation((weight[:, None, None] * relative).sum(0) + 1e-9 * Q)
        error = geodesic_degrees(Q.expand_as(relative), relative)
        frames.append(Frame(Q, mirrored, error, float(torch.exp(-((error / 15) ** 2)).sum())))
    frames.sort(key=lambda f: -f.votes)
    return frames[0], frames[1]
