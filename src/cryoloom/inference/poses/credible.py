"""How far the true pose may lie from the stated one: radii that hold 68 % of the posterior.

Within a mode the posterior is Gaussian. The square of its radius is a sum of squares with unequal variances, whose
quantiles follow from a chi-square distribution with the same first two moments (Satterthwaite 1946) and its cube root,
which is nearly normal (Wilson and Hilferty 1931). Where the best mode holds less than all of the posterior, more of it
must lie within the radius; where it holds too little, the radius reaches to other candidates.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.modes import turns_from_best
from cryoloom.inference.poses.posterior import PosePosterior

SHARE = 0.6827  # of a normal distribution within one standard deviation
MOST = 0.99  # share of a mode within the radius, at most: the tails are not Gaussian


def angular_error_degrees(
    poses: PosePosterior,
    covariance: Float[Tensor, "N 5 5"],
    mode_weight: Float[Tensor, " N"],
    group: Float[Tensor, "G 3 3"],
) -> Float[Tensor, " N"]:
    """Angle from the best candidate within which the true rotation, up to symmetry, lies with 68 % probability.

    Args:
        poses: candidates, the best one first.
        covariance: of the best candidate (rotation vector, radian; shift, angstrom).
        mode_weight: share of the posterior in its mode (see `modes.mode_weight`).
        group: symmetry of the particle.
    """
    away = torch.rad2deg(turns_from_best(poses.R, group).norm(dim=-1))
    within = torch.rad2deg(gaussian_radius(covariance[:, :3, :3], _needed(mode_weight)))
    return _reaching(within, away, poses, mode_weight)


def shift_error_angstrom(
    poses: PosePosterior, covariance: Float[Tensor, "N 5 5"], mode_weight: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Distance from the best candidate's shift within which the true one lies with 68 % probability; see above."""
    away = (poses.t - poses.t[:, :1]).norm(dim=-1)
    within = gaussian_radius(covariance[:, 3:, 3:], _needed(mode_weight))
    return _reaching(within, away, poses, mode_weight)


def gaussian_radius(covariance: Float[Tensor, "N d d"], share: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Radius of the sphere around its mean that holds a share of a Gaussian; within 2 % for shares of 0.5 to 0.99."""
    trace = torch.diagonal(covariance, dim1=1, dim2=2).sum(1).clamp(min=0)
    square = covariance.square().sum((1, 2)).clamp(min=1e-30)
    freedom = (trace.square() / square).clamp(1.0, covariance.shape[-1])
    spread = 2 / (9 * freedom)
    root = 1 - spread + torch.special.ndtri(share.to(spread)) * spread.sqrt()
    return (trace * root.clamp(min=0) ** 3).sqrt()


def _needed(mode_weight: Tensor) -> Tensor:
    """Share of the best mode that must lie within the radius, so that 68 % of the posterior do."""
    return (SHARE / mode_weight.clamp(min=1e-6)).clamp(max=MOST)


def _reaching(within: Tensor, away: Tensor, poses: PosePosterior, mode_weight: Tensor) -> Tensor:
    """Radii within the mode, but out to the other candidates where the mode does not hold enough."""
    nearest, order = away.sort(dim=1)
    weight = poses.log_weight.exp().gather(1, order)
    held = torch.maximum(weight.cumsum(1), mode_weight[:, None].to(weight))
    # of what the candidates hold: their weights sum to 1
    enough = (held >= SHARE).float().argmax(1)
    outer = nearest.gather(1, enough[:, None])[:, 0]
    return torch.where(mode_weight < SHARE / MOST, torch.maximum(within.to(outer), outer), within.to(outer))
