"""How much of a posterior lies in one mode: candidates that map and symmetry do not tell from the best one."""

from __future__ import annotations

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import SAME_DEGREES

ALIKE_SIGMAS = 3.0  # standard deviations of their difference within which two candidates are one mode,
WIDEST_MODE_DEGREES = 15.0  # at most: in a wider one, unrelated poses of a symmetric particle would meet by chance
CERTAIN_WEIGHT = 0.9  # share of the posterior from which on a mode is certain


def mode_weight(
    poses: PosePosterior,
    covariance: Float[Tensor, "N 5 5"],
    group: Float[Tensor, "G 3 3"],
    best: Float[Tensor, "N 3 3"] | None = None,
) -> Float[Tensor, " N"]:
    """Weight of all candidates in the mode of the first, best one, or of another rotation, [N].

    A candidate belongs to it if one of its symmetry mates is within 4 degrees of the best, or within three standard
    deviations of their difference (both have the best one's covariance) and 15 degrees. A small or featureless particle
    at low resolution has several optima within their own uncertainty; they are one pose, known less well, not a doubt
    between poses.

    Args:
        poses: candidates, the best one first.
        covariance: of the best candidate (rotation vector in the image's frame, radian; shift).
        group: symmetry of the particle.
        best: rotations whose modes are meant; those of the first candidates where None.
    """
    turn = turns_from_best(poses.R, group) if best is None else smallest_turns(best[:, None], poses.R, group)
    degrees = torch.rad2deg(turn.norm(dim=-1))
    rotation = covariance[:, :3, :3].double()
    # without signal the covariance may be singular; the bound in degrees holds then
    precision = torch.linalg.pinv(2 * rotation, hermitian=True)
    sigmas = torch.einsum("nki,nij,nkj->nk", turn.double(), precision, turn.double()).clamp(min=0).sqrt()
    same = (degrees < SAME_DEGREES) | ((sigmas < ALIKE_SIGMAS) & (degrees < WIDEST_MODE_DEGREES))
    if best is None:
        same[:, 0] = True
    return torch.where(same, poses.log_weight.exp(), 0.0).sum(1).clamp(max=1.0)


def certain_share(mode_weight: Float[Tensor, " N"]) -> float:
    """Share of the images whose pose is certain."""
    return float((mode_weight > CERTAIN_WEIGHT).float().mean())


def turns_from_best(R: Float[Tensor, "N K 3 3"], group: Tensor) -> Float[Tensor, "N K 3"]:
    """Smallest rotation vector, over the symmetry mates, from the first candidate to each, in the image's frame."""
    return smallest_turns(R[:, :1], R, group)


def smallest_turns(start: Float[Tensor, "*#b 3 3"], R: Float[Tensor, "*b 3 3"], group: Tensor) -> Float[Tensor, "*b 3"]:
    """Smallest rotation vector, radians, over the symmetry mates of R, from each start to R, in the image's frame."""
    first = start.mT
    best = first @ R
    for g in group[1:]:
        other = first @ (g.to(R) @ R)
        # of two rotations the one of larger trace is the smaller
        nearer = torch.einsum("...ii->...", other) > torch.einsum("...ii->...", best)
        best = torch.where(nearer[..., None, None], other, best)
    return roma.rotmat_to_rotvec(best)
