"""Poses of images with conformational variability, refined in alternation with a family of volumes.

Poses found on a single map compensate for motion that the map lacks, and images of a conformation unlike it get random
poses: on adenylate kinase from closed to open a quarter of the poses is wrong by more than 10 degrees, nearly all of
them of closed molecules. Every pose is refined by the evidence of its image under the family (`conformations.joint`);
in some iterations images are also searched globally against maps at a few points of the latent space.
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
from cryoloom.inference.poses.posed import in_batches
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import Refined, climb_poses
from cryoloom.kernels.half_grid import volumes_to_halves
from cryoloom.kernels.images import Images
from cryoloom.particles.feed import ImageFeed

BATCH = 2000  # images refined at once,
SEARCHED = 500  # ... and searched at once
CANDIDATES = 4  # candidates of a search that are refined to the end
LIKELY_NATS = 5.0  # known poses that are less probable by more than this are not refined again
MISFIT = 3.0  # standard deviations below the score expected of a correct pose beyond which an image is searched again
LOW_STEPS, LAST_STEPS = 3, 4  # refinement steps after a search, at low radius and at full radius


@dataclass(frozen=True)
class Family:
    """Volumes V_0 .. V_Z [Q, m, m, m] of a half set, noise spectra [G, S] and standard deviation of the contrasts."""

    volumes: Float[Tensor, "Q m m m"]
    noise: Float[Tensor, "G S"]
    contrast_sigma: float


class FamilyPoses:
    """Refines and searches poses of images under a family of volumes; has no state beside images and settings."""

    def __init__(self, feed: ImageFeed, sigma_angstrom: float, *, coarse_level: float, points: int) -> None:
        """Args:
        sigma_angstrom: standard deviation of shifts.
        coarse_level: radius of a search's coarse match, Fourier pixels of a box as large as the particle.
        points: number of points of the latent space whose maps images are searched against.
        """
        self.feed, self.sigma, self.coarse_level, self.points = feed, sigma_angstrom, coarse_level, points

    def climbed(self, poses: PosePosterior, rows: np.ndarray, family: Family, radius: int, steps: int) -> Refined:
        """All candidates of the images in `rows` after `steps` refinement steps; on the CPU."""
        parts, grids = [], volumes_to_halves(family.volumes)
        for some in in_batches(rows, BATCH):
            start = poses.rows(torch.from_numpy(some)).bare().to(self.feed.device)
            images = self.feed.images(some, radius, family.noise)
            refined = climb_poses(self._evidence(grids, images, family), start, steps)
            numbers = (refined.score.cpu(), refined.power.cpu(), refined.log_mass.cpu())
            parts.append((refined.posterior.to(torch.device("cpu")), *numbers))
        posteriors, *numbers = zip(*parts, strict=True)
        return Refined(PosePosterior.joined(posteriors), *(torch.cat(each) for each in numbers))

    def searched(
        self,
        poses: PosePosterior,
        rows: np.ndarray,
        family: Family,
        radius: int,
        level: float,
        generator: np.random.Generator,
    ) -> PosePosterior:
        """Candidates of the images in `rows` from a global search up to `level`, refined along with the known ones."""
        points = self._points(poses, rows, family, radius, generator)
        fine = min(radius, self.feed.radius_of(level))
        found = []
        for point in points:  # one at a time: their slices fill the memory
            volume = family.volumes[0] + torch.einsum("j,jzyx->zyx", point.to(family.volumes), family.volumes[1:])
            references = references_of(self.feed, volume, self.coarse_level, fine)
            found.append(
                [
                    search(self.feed, self.feed.images(some, fine, family.noise), references, self.sigma)
                    for some in in_batches(rows, SEARCHED)
                ]
            )
        grids, parts = volumes_to_halves(family.volumes), []
        for i, some in enumerate(in_batches(rows, SEARCHED)):
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
        """Whether each image should be searched again, bool [B]."""
        return (refined.misfit > MISFIT).numpy() | (second_behind(refined.posterior) < LIKELY_NATS).numpy()

    def _points(
        self, poses: PosePosterior, rows: np.ndarray, family: Family, radius: int, generator: np.random.Generator
    ) -> Float[Tensor, "K Z"]:
        """Centres of k-means clusters of the latent coordinates of at most BATCH of the images."""
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
    """Difference in nats between the best and the second-best candidate of each image; infinite without a second."""
    if poses.log_weight.shape[1] < 2:
        return torch.full((len(poses),), torch.inf)
    first, second = poses.log_weight.topk(2, dim=1).values.unbind(1)
    return first - second
