"""Sharp maps of single conformations: local linear regression over the images whose latents lie near a point.

The mean of few nearby images is noisy; the mean of many is blurred by motion and biased towards the centre. Mean and
slopes fitted together to many images avoid both, since the slopes account for the motion (kernel regression as in
RECOVAR, Gilles and Singer 2024, of first instead of zeroth order; Fan and Gijbels 1996). Uncertain latents do not blur
the map: they are posterior means, and the expected image is linear in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.inference.poses.posed import PosedImages, in_batches
from cryoloom.kernels.dispatch import MomentsInsertion
from cryoloom.maps.backprojection import ssnr_of_sum
from cryoloom.maps.band import Band
from cryoloom.maps.coupled_backprojection import Moments, fsc_of_pairs, solve_coupled
from cryoloom.maps.fsc import resolution_angstrom, resolved_shell
from cryoloom.physics.fourier import rebox

BATCH = 1000  # images at once
# share of the images that is used, the nearest ones. Measured on adenylate kinase's path, maps at 20 states: area under
# the FSC with the truth 0.374, own state or next best 95 % (a tenth: 0.335, 95 %; half: 0.386, 90 %; all: 0.385, 85 %)
PART = 0.25
LEAST_IMAGES = 200
SLOPES = 3  # directions of the latent space in which the nearby images vary most


@dataclass(frozen=True)
class StateMap:
    """Map of one conformation.

    Attributes:
        combined: map [D, D, D], Wiener-filtered by shell.
        halves: its unfiltered half maps.
        fsc: FSC of the half maps within the mask by shell, [S].
        nearest: rows of the images used, in order of distance where there is one, [n].
    """

    combined: Tensor
    halves: tuple[Tensor, Tensor]
    fsc: Tensor
    nearest: np.ndarray

    def resolution_angstrom(self, pixel_size: float) -> float | None:
        """Resolution at which the FSC of the half maps falls below 0.143; None if it never exceeds it."""
        shell = resolved_shell(self.fsc)
        return resolution_angstrom(shell, len(self.combined), pixel_size)


def usual_precision(latents: LatentPosterior) -> Float[Tensor, "Z Z"]:
    """Inverse of the median covariance of the latents: the metric of latent distances."""
    usual = latents.covariance.double().median(0).values
    values, vectors = torch.linalg.eigh(0.5 * (usual + usual.T))
    return (vectors / values.clamp(min=1e-6 * float(values.max()) + 1e-12)) @ vectors.T


def latent_distance(latents: LatentPosterior, z: Float[Tensor, " Z"]) -> Float[Tensor, " N"]:
    """Expected squared distance of each image from a point of the latent space, in units of the median uncertainty.

    Images with large uncertainty (junk, for example) are far from every point.
    """
    offset, metric = latents.mean.double() - z.double(), usual_precision(latents)
    covariance = latents.covariance.double()
    return torch.einsum("ni,ij,nj->n", offset, metric, offset) + torch.einsum("ij,nji->n", metric, covariance)


def state_map(
    posed: PosedImages, mask: Float[Tensor, "D D D"], latents: LatentPosterior, z: Float[Tensor, " Z"]
) -> StateMap:
    """Map at a point z of the latent space.

    Args:
        posed: N posed images, K = 1.
        latents: posterior of their latent coordinates.
        mask: mask in [0, 1] in the working box.

    Raises:
        ValueError: if all images near the point are of one half set.
    """
    distance = latent_distance(latents, z)
    order = torch.argsort(distance, stable=True)[: max(LEAST_IMAGES, round(PART * len(posed)))]
    near = distance[order]
    weight = (near[-1] - near) / (near[-1] - near[0]).clamp(min=1e-12)
    # images at equal distances at the edge get equal weights
    weight = weight.clamp(min=1e-3) if float(weight.max()) > 0 else torch.ones_like(weight)
    offset = _told_apart(latents.mean[order].double() - z.double(), usual_precision(latents), weight)
    return _regressed(posed, mask, order.numpy(), weight=weight.float(), offset=offset.float())


def _told_apart(
    offset: Float[Tensor, "n Z"], metric: Float[Tensor, "Z Z"], weight: Float[Tensor, " n"]
) -> Float[Tensor, "n Q"]:
    """Offsets along the directions in which images differ most relative to their uncertainty, scaled to unit width."""
    values, vectors = torch.linalg.eigh(metric)
    whitened = offset @ (vectors * values.clamp(min=0).sqrt())
    spread = (whitened * weight[:, None]).T @ whitened / weight.sum()
    size, axes = torch.linalg.eigh(spread)
    kept = [q for q in range(len(size) - 1, -1, -1) if float(size[q]) > 1e-9][:SLOPES]
    return whitened @ axes[:, kept] / size[kept].sqrt()


def _regressed(
    posed: PosedImages, mask: Tensor, rows: np.ndarray, weight: Float[Tensor, " n"], offset: Float[Tensor, "n Q"]
) -> StateMap:
    """V_0 of V_0 + sum_q offset_q V_q by weighted least squares over the given images, for each half set."""
    feed = posed.feed
    radius = (feed.box - 1) // 2
    mask = mask.to(feed.device)
    members = [np.flatnonzero(posed.half[rows] == h) for h in (0, 1)]
    sums = [_moments(posed, rows[mine], weight=weight[mine], offset=offset[mine]) for mine in members]
    halves = [torch.stack([rebox(v, feed.box) for v in solve_coupled(m, None, radius)]) * mask for m in sums]
    fsc = fsc_of_pairs(halves[0], halves[1], radius).clamp(min=0)
    combined = rebox(solve_coupled(sums[0] + sums[1], ssnr_of_sum(fsc), radius)[0], feed.box)
    return StateMap(combined.cpu(), (halves[0][0].cpu(), halves[1][0].cpu()), fsc[0], rows)


def _moments(posed: PosedImages, rows: np.ndarray, weight: Tensor, offset: Tensor) -> Moments:
    """Normal equations of the images `rows` with their weights and offsets."""
    radius, device = (posed.feed.box - 1) // 2, posed.feed.device
    if not len(rows):
        raise ValueError("a half set has no images near this conformation; expected images of both half sets")
    inserted = MomentsInsertion(Band(radius).side, device)
    i, j = torch.triu_indices(offset.shape[1] + 1, offset.shape[1] + 1)
    order = np.argsort(rows)  # in the order of the file
    for some in in_batches(order, BATCH):
        images, (R, t) = posed.images(rows[some], radius), posed.best(rows[some])
        x = torch.cat([torch.ones(len(some), 1), offset[some]], 1)
        first, second = (x * weight[some, None]).to(device), (x[:, i] * x[:, j] * weight[some, None]).to(device)
        inserted.add(images, R, t, first.contiguous(), second.contiguous())
    return Moments(*inserted.sums())
