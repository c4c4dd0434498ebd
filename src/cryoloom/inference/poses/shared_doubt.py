"""The rotation by which most images in doubt are in doubt: a symmetry of the particle that was not stated.

An image of a symmetric particle has as many right poses as there are mates, all of one likelihood. Whichever it is
inserted at, the map keeps its noise there, by which the image then prefers that pose: it looks certain, and is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cryoloom.inference.poses.modes import WIDEST_MODE_DEGREES
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.physics.rotations import geodesic_degrees, geodesic_degrees_modulo

ALIKE_DEGREES = 10.0  # rotations within this angle of each other are one
MOST = 500  # images looked at
FEWEST = 30  # images in doubt below which nothing is said
# share of the images in doubt from which on it is a symmetry (C2 and C3 have 1, C7 a third, D7 0.15); and at least so
# many times the share that rotations by the same angle about random axes have: small rotations are alike by chance
SHARED, BEYOND_CHANCE = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class SharedDoubt:
    """The rotation that relates the poses between which most images in doubt are in doubt.

    Attributes:
        degrees, axis: of the rotation, in the frame of the map, unit vector (x, y, z); share: of the images in doubt.
    """

    degrees: float
    axis: tuple[float, float, float]
    share: float

    @property
    def rotation(self) -> Float[Tensor, "3 3"]:
        """The rotation, float64."""
        return roma.rotvec_to_rotmat(math.radians(self.degrees) * torch.tensor(self.axis, dtype=torch.float64))


def shared_turns(
    poses: PosePosterior, doubtful: Bool[Tensor, " N"], generator: np.random.Generator, most: int
) -> Float[Tensor, "T 3 3"]:
    """The identity and the rotations, with their inverses, by which many images are in doubt.

    Args: see `shared_doubt`; most: no more are looked for once there are more than so many.
    """
    known = torch.eye(3, dtype=torch.float64)[None]
    while len(known) <= most:
        found = shared_doubt(poses, doubtful, generator, known)
        if found is None:
            break
        turn, back = found.rotation, found.rotation.mT
        known = torch.cat([known, turn[None], *([back[None]] if geodesic_degrees(turn, back) > ALIKE_DEGREES else [])])
    return known


def shared_doubt(
    poses: PosePosterior,
    doubtful: Bool[Tensor, " N"],
    generator: np.random.Generator,
    group: Float[Tensor, "G 3 3"] | None = None,
) -> SharedDoubt | None:
    """The rotation shared by at least a tenth of the images in doubt, and not by chance; None without one.

    Args:
        poses: candidates, the best one first.
        doubtful: images of which another mode than the best has some of the posterior.
        generator: chooses the images that are looked at.
        group: symmetry of the particle that is known already; C1 if left out.
    """
    rows = np.flatnonzero(doubtful.numpy())
    rows = torch.from_numpy(rows if len(rows) <= MOST else np.sort(generator.choice(rows, MOST, replace=False)))
    R, weight = poses.R[rows].double(), poses.log_weight[rows]
    known = torch.eye(3, dtype=R.dtype)[None] if group is None else group
    apart = geodesic_degrees_modulo(R[:, :1].expand_as(R), R, known) > WIDEST_MODE_DEGREES
    weight = torch.where(apart, weight, -torch.inf)
    best, other = weight.max(1)
    there = best > -torch.inf
    if int(there.sum()) < FEWEST:
        return None
    R, other = R[there], other[there]
    turn = R[:, 0] @ R[torch.arange(len(R)), other].mT  # in the frame of the map
    # a turn and its inverse are one doubt: which pose is the better one is chance
    alike = torch.minimum(geodesic_degrees(turn[:, None], turn[None]), geodesic_degrees(turn[:, None], turn.mT[None]))
    near = alike <= ALIKE_DEGREES
    most = int(near.sum(1).argmax())
    share = float(near[most].double().mean())
    if share < max(SHARED, BEYOND_CHANCE * _by_chance(turn[most])):
        return None
    mine = turn[near[most]]
    inverse = geodesic_degrees(turn[most].expand_as(mine), mine) > ALIKE_DEGREES
    mean = roma.special_procrustes(torch.where(inverse[:, None, None], mine.mT, mine).mean(0))
    vector = roma.rotmat_to_rotvec(mean)
    x, y, z = (vector / vector.norm()).tolist()
    return SharedDoubt(float(torch.rad2deg(vector.norm())), (x, y, z), share)


def _by_chance(turn: Float[Tensor, "3 3"]) -> float:
    """Share of the rotations by one angle about random axes that are alike with one of them, or with its inverse."""
    half = 0.5 * roma.rotmat_to_rotvec(turn).norm()
    apart = math.radians(ALIKE_DEGREES) / (2 * torch.sin(half))  # angle between the axes of two that are just alike
    return float(1 - torch.cos(apart.clamp(max=math.pi)))
