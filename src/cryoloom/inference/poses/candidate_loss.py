"""Loss of amortised inference: Gaussian misfit between images and slices of a volume at candidate poses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.images import Images
from cryoloom.physics.image_model import shift_ramp
from cryoloom.physics.noise import shell_means
from cryoloom.volumes.interface import Volume, rotated_frequencies


@dataclass(frozen=True, slots=True)
class CandidateLoss:
    """Loss of B images with K candidate poses each.

    Attributes:
        loss: -log p of the best candidate per coefficient, without the normalisation of the noise, [B]; differentiable.
        branch: index of the best candidate, [B].
        residual: mean |Y - X|^2 of the best candidate by shell, [B, S].
    """

    loss: Tensor
    branch: Tensor
    residual: Tensor


def candidate_loss(volume: Volume, images: Images, poses: PosePosterior) -> CandidateLoss:
    """1/2 sum w |Y - C e^{..} V(R k)|^2 / s2 per coefficient, reduced over candidates by minimum.

    With the candidates of an image and of its half-turn this is cryoAI's symmetrised loss (Levy et al. 2022, eq. 8).
    """
    disc = images.disc
    predicted = volume.slices(rotated_frequencies(disc.k, poses.R)) * shift_ramp(disc.k, poses.t)
    residual = (images.observed[:, None] - images.ctf[:, None] * predicted).abs().square()
    variance = images.variance[images.group][:, None]
    loss = 0.5 * (disc.weight * residual / variance).sum(-1) / disc.weight.sum()
    branch = loss.detach().argmin(1)
    row = torch.arange(len(loss), device=loss.device)
    return CandidateLoss(loss[row, branch], branch, shell_means(residual.detach()[row, branch], disc))
