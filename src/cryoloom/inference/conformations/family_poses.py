"""Poses of images found in turns with the family of volumes that they show (heterogeneous ab initio).

Poses found on a single map make up for motion that the map does not have, and images of a conformation unlike it lie
anywhere: on adenylate kinase from closed to open a quarter is off by more than 10 degrees, nearly all of them closed.
Every pose climbs the evidence of its image under the family (`conformations.joint`); now and then images are also
searched globally against maps at a few points of the latent space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.joint import FamilyEvidence
from cryoloom.inference.conformations.linear import contrast_prior, infer_latents, products
from cryoloom.inference.poses.global_search import candidates_of, references_of, search
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import Refined, climb_poses
from cryoloom.kernels.half_grid import volumes_to_halves
from cryoloom.kernels.images import Images
from cryoloom.particles.feed import ImageFeed

BATCH = 2000  # images at once in a climb,
SEARCHED = 500  # ... and in a search
CANDIDATES = 4  # of a search that are climbed to the end
LIKELY_NATS = 5.0  # a known pose that is further behind is not worth a second climb
MISFIT = 3.0  # images whose best score is so many s.d. below what a right pose would give are searched again
LOW_STEPS, LAST_STEPS = 3, 4  # of a searched image's climb at low radius, and then


@dataclass(frozen=True)
class Family:
    """Volumes V_0 .. V_Z [Q, m, m, m] of a half, the noise [G, S] and the contrasts with which its images show them."""

    volumes: Float[Tensor, "Q m m m"]
    noise: Float[Tensor, "G S"]
    contrast_sigma: float


class FamilyPoses:
    """Finds poses of images in a family; knows the images and the settings, holds nothing that changes."""

    def __init__(self, feed: ImageFeed, sigma_angstrom: float, *, coarse_level: float, points: int) -> None:
        """Args:
        sigma_angstrom: standard deviation of shifts.
        coarse_level: radius of a search's coarse match, Fourier pixels of a box as large as the particle.
        points: number of points of the latent space whose maps images are searched against.
        """
        self.feed, self.sigma, self.coarse_level, self.points = feed, sigma_angstrom, coarse_level, points

    def climbed(self, poses: PosePosterior, rows: np.ndarray, family: Family, radius: int, steps: int) -> Refined:
        """All candidates of the images in `rows`, `steps` further up; on the CPU."""
        parts, grids = [], volumes_to_halves(family.volumes)
        for some in _batches(rows, BATCH):
            start = poses.rows(torch.from_numpy(some)).bare().to(self.feed.device)
            images = self.feed.images(some, radius, family.noise)
            refined = climb_poses(self._evidence(grids, images, family), start, steps)
            parts.append((refined.posterior.to(torch.device("cpu")), refined.score.cpu(), refined.power.cpu()))
        posteriors, scores, powers = zip(*parts, strict=True)
        return Refined(PosePosterior.joined(posteriors), torch.cat(scores), torch.cat(powers))

    def searched(
        self,
        poses: PosePosterior,
        rows: np.ndarray,
        family: Family,
        radius: int,
        level: float,
        generator: np.random.Generator,
    ) -> PosePosterior:
        """The images in `rows` searched globally, to `level` at most, and climbed along with what was known."""
        points = self._points(poses, rows, family, radius, generator)
        fine = min(radius, self.feed.radius_of(level))
        found = []
        for point in points:  # one at a time: their slices fill the memory
            volume = family.volumes[0] + torch.einsum("j,jzyx->zyx", point.to(family.volumes), family.volumes[1:])
            references = references_of(self.feed, volume, self.coarse_level, fine)
            found.append(
                [
                    search(self.feed, self.feed.images(some, fine, family.noise), references, self.sigma)
                    for some in _batches(rows, SEARCHED)
                ]
            )
        grids, parts = volumes_to_halves(family.volumes), []
        for i, some in enumerate(_batches(rows, SEARCHED)):
            new = candidates_of(self.feed, [f[i] for f in found], fine, self.sigma, CANDIDATES)
            known = poses.rows(torch.from_numpy(some)).bare().to(self.feed.device)
            likely = torch.where(known.log_weight > -LIKELY_NATS, 0.0, -torch.inf)
            start = PosePosterior(
                torch.cat([known.R, new.R], 1), torch.cat([known.t, new.t], 1), torch.cat([likely, new.log_weight], 1)
            )
            images = self.feed.images(some, radius, family.noise)
            low = self._evidence(grids, images.prefix(fine), family)
            start = climb_poses(low, start, LOW_STEPS).posterior.top(CANDIDATES).bare()
            climbed = climb_poses(self._evidence(grids, images, family), start, LAST_STEPS).posterior
            parts.append(climbed.top(poses.log_weight.shape[1]).to(torch.device("cpu")))
        return PosePosterior.joined(parts)

    def doubtful(self, refined: Refined) -> np.ndarray:
        """Which images are to be searched again, bool [B]."""
        return (refined.misfit > MISFIT).numpy() | (second_behind(refined.posterior) < LIKELY_NATS).numpy()

    def _points(
        self, poses: PosePosterior, rows: np.ndarray, family: Family, radius: int, generator: np.random.Generator
    ) -> Float[Tensor, "K Z"]:
        """Centres of the latents (k-means) of at most BATCH of the images."""
        from sklearn.cluster import KMeans  # heavy to import

        some = np.sort(generator.permutation(rows)[:BATCH])
        R, t = poses.rows(torch.from_numpy(some)).to(self.feed.device).best()
        images = self.feed.images(some, radius, family.noise)
        found = products(volumes_to_halves(family.volumes), images, R.contiguous(), t.contiguous())
        z = infer_latents(found, *contrast_prior(family.contrast_sigma)).latents.mean.double().cpu().numpy()
        if len(z) <= self.points:
            return torch.from_numpy(z)
        seed = int(generator.integers(2**31))
        found = KMeans(self.points, n_init=1, random_state=seed).fit(z)  # type: ignore[arg-type]
        return torch.from_numpy(found.cluster_centers_)

    def _evidence(self, grids: list[Tensor], images: Images, family: Family) -> FamilyEvidence:
        return FamilyEvidence(grids, images, self.sigma, *contrast_prior(family.contrast_sigma))


def second_behind(poses: PosePosterior) -> Float[Tensor, " B"]:
    """By how many nats each image's second candidate is behind its first; infinite where there is none."""
    if poses.log_weight.shape[1] < 2:
        return torch.full((len(poses),), torch.inf)
    first, second = poses.log_weight.topk(2, dim=1).values.unbind(1)
    return first - second


def _batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
