"""How much the noise of the map adds to the errors of poses, measured.

The covariance of a pose follows from the noise of its image, the map taken as exact. The maps of two half sets have
independent noise: where the poses of one image on either map differ, the map did it, and the squared
difference is twice what it adds to the variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.poses.credible import gaussian_radius
from cryoloom.inference.poses.modes import turns_from_best
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import refine_poses
from cryoloom.kernels.images import Images

STEPS = 8  # of refinement on either map


@dataclass(frozen=True, slots=True)
class MapNoise:
    """Variance of poses from the noise of the map, relative to that from the noise of the image.

    Attributes:
        rotation, shift: the ratios of either part; 0 for an exact map.
    """

    rotation: float
    shift: float

    def added_to(self, covariance: Float[Tensor, "N 5 5"]) -> Float[Tensor, "N 5 5"]:
        """Covariances (rotation vector, shift) from both noises."""
        scale = torch.ones(5).to(covariance)
        scale[:3], scale[3:] = (1 + self.rotation) ** 0.5, (1 + self.shift) ** 0.5
        return covariance * scale[:, None] * scale


def map_noise(
    half_grids: tuple[Tensor, Tensor],
    images: Images,
    poses: PosePosterior,
    half: Float[Tensor, " B"],
    sigma_angstrom: float,
) -> MapNoise:
    """The ratios from the poses of some images on both half maps, medians over the images.

    Args:
        half_grids: of the half maps.
        images: B images; poses: the best is refined on either map; half: [B], 0 or 1, the half set of each image, on
            whose map its covariance rests.
        sigma_angstrom: standard deviation of the Gaussian prior on shifts.
    """
    R, t = poses.best()
    start = PosePosterior.certain(R, t)
    one, two = (refine_poses(grid, images, start, sigma_angstrom, STEPS).posterior for grid in half_grids)
    assert one.covariance is not None
    assert two.covariance is not None
    own = torch.where((half == 0)[:, None, None].to(R.device), one.covariance[:, 0], two.covariance[:, 0]).double()
    both = torch.cat([one.R[:, :1], two.R[:, :1]], 1)
    turn = turns_from_best(both, torch.eye(3)[None].to(both))[:, 1]
    return MapNoise(
        rotation=0.5 * _relative(turn, own[:, :3, :3]),
        shift=0.5 * _relative(one.t[:, 0] - two.t[:, 0], own[:, 3:, 3:]),
    )


def _relative(difference: Float[Tensor, "B d"], covariance: Float[Tensor, "B d d"]) -> float:
    """Median of squared lengths relative to the median that a Gaussian of each covariance has."""
    usual = gaussian_radius(covariance, torch.full((len(covariance),), 0.5).to(covariance)).square()
    return float((difference.double().square().sum(1) / usual.clamp(min=1e-30)).median())
