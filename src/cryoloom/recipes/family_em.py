"""EM for a linear family of volumes on Fourier voxels, half sets apart: what recipes of such families share.

Each half has its own mean and components and learns from its own images. All that the halves share is the FSC of each
component, by which it is regularised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.family import Population, aligned, localised, standardised
from cryoloom.inference.conformations.linear import contrast_prior, infer_latents, products
from cryoloom.inference.poses.posed import PosedImages, in_batches
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels.dispatch import MomentsInsertion
from cryoloom.kernels.half_grid import volumes_to_halves
from cryoloom.kernels.images import Images
from cryoloom.maps.backprojection import ssnr_of_half
from cryoloom.maps.band import Band
from cryoloom.maps.coupled_backprojection import Moments, fsc_of_pairs, mask_in_box, solve_coupled
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.physics.rotations import geodesic_degrees
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.seeds import torch_generator

BATCH = 2000  # images at once: the sums over each batch are as large as all volumes together
FIRST_SHARE = 0.1  # a priori amplitude of a component relative to the mean
SPARE = 2  # components without a gain that are kept nevertheless at pruning
# minimum gain of the held-out log-likelihood per component, nats per image (500 images of one shape gave 0.01 to 0.018
# with three seeds)
LEAST_GAIN = 0.02
ODD = 0.02  # share of the images with the largest gains that is left out: a few odd images are not a conformation
SURE = 3.0  # minimum gain in standard errors
# expected cost (`runs.loop.Recipe.expected_costs`), CPU-seconds an image, squared volumes and squared Fourier pixel
COST = 2e-8
JUMP_DEGREES = 8.0  # a pose that moves by more has been found elsewhere by a search
# the plane of each image's background was subtracted with an error, which must not be taken for a change of density:
# the noise variance of the lowest shells is multiplied by a factor by which they are ignored
PLANE_SHELLS, BLIND = 2, 1e4

Metrics = tuple[tuple[str, float], ...]
# expectations E[a] [B, Q] and E[a a^T] [B, Q (Q + 1) / 2] of the mixture of Q volumes that each image shows at R, t
Mixture = Callable[[Images, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FamilyState:
    """State carried from iteration to iteration.

    Attributes:
        iteration: done so far.
        halves: volumes of either half, [Z + 1, m, m, m], mean first, band-limited boxes m = 2 (radius + 2).
        fsc: [Z + 1, S], of the halves' volumes, by shell.
        contrast_sigma: s.d. of the images' contrasts around 1, as learnt so far.
        poses: of all N images, on the CPU; images are looked at with the best of theirs.
    """

    iteration: int
    halves: tuple[Tensor, Tensor]
    fsc: Tensor
    contrast_sigma: float
    poses: PosePosterior


S = TypeVar("S", bound=FamilyState)


class FamilyEM:
    """Iterations of EM over the images of both halves.

    Attributes:
        feed, posed: the images, and their poses to begin with.
        most: number of components that are looked for at first.
        pruning: iteration at whose end components without a gain for held-out images are dropped.
        mask: 0 to 1 in the working box.
    """

    name: str

    def __init__(
        self,
        posed: PosedImages,
        seed: int,
        *,
        most: int,
        pruning: int,
        contrast_sigma: float,
        mask: Float[Tensor, "D D D"] | None,
    ) -> None:
        """Learn from posed images; of several candidate poses the likeliest is used.

        Args:
            contrast_sigma: initial s.d. of the images' contrasts around 1.
            mask: 0 to 1 in the working box, within which the particle lies; its sphere when None.
        """
        self.feed, self.seed, self.most, self.pruning = posed.feed, seed, most, pruning
        self._contrast_sigma = contrast_sigma
        poses, noise = posed.poses, posed.noise.clone()
        noise[:, :PLANE_SHELLS] *= BLIND
        bare = PosePosterior(poses.R.float(), poses.t.float(), poses.log_weight.float())
        self.posed = replace(posed, poses=bare, noise=noise)
        self.mask = self.feed.mask(self.feed.box).cpu() if mask is None else mask

    def radius(self, iteration: int) -> int:
        """Radius of an iteration, Fourier pixels of the working box."""
        raise NotImplementedError

    def first_state(self) -> FamilyState:
        """Means of both halves, and random components that are the same for both."""
        radius = self.radius(0)
        totals = [self._mean_sums(h, radius) for h in (0, 1)]
        means = [self._mean_only(m, radius) for m in totals]
        generator = torch_generator(self.seed, self.name, "components")
        random = [self._random_like(means[0] + means[1], radius, generator) for _ in range(self.most)]
        halves = [torch.stack([mean, *random]) for mean in means]
        fsc = torch.zeros(self.most + 1, radius + 1)
        return FamilyState(0, (halves[0], halves[1]), fsc, self._contrast_sigma, self.posed.poses)

    def step_info(self, state: FamilyState, metrics: Metrics, message: str | None = None) -> StepInfo:
        """What is logged of the step after a state."""
        radius = self.radius(state.iteration)
        return StepInfo(
            stage=self.name,
            step=state.iteration + 1,
            resolution_angstrom=self.feed.field_of_view / radius,
            metrics=(("radius", float(radius)), *metrics),
            message=message,
        )

    def step_halves(self, state: S) -> tuple[S, Metrics]:
        """One iteration of EM in either half, and its metrics."""
        radius = self.radius(state.iteration)
        poses, moved = self._poses(state, radius), ()
        if poses is not state.poses:
            angle = geodesic_degrees(poses.best()[0], state.poses.best()[0])
            moved = (("moved_degrees", float(angle.median())), ("jumped", float((angle > JUMP_DEGREES).float().mean())))
        found, evidence = [], 0.0
        for h in (0, 1):
            moments, population, nats = self._pass(
                poses, self._boxed(state.halves[h], radius), h, radius, state.contrast_sigma
            )
            found.append((moments, population))
            evidence += nats / len(self.feed)
        mask = self._mask(radius)
        raw = [solve_coupled(m, None, radius) * mask for m, _ in found]
        fsc = fsc_of_pairs(raw[0], raw[1], radius)
        ssnr, halves = self._ssnr(fsc, state.iteration), []
        for moments, population in found:
            volumes = solve_coupled(moments, ssnr, radius) * mask
            halves.append(standardised(volumes, population))
        halves = localised(*aligned(halves[0], halves[1]))
        contrast_sigma = (found[0][1] + found[1][1]).contrast_sigma
        if state.iteration == self.pruning:
            worth = worth_keeping(self.held_out(replace(state, halves=halves, poses=poses), radius))
            part = self._kept_on(worth) + 1
            halves = (halves[0][:part], halves[1][:part])
            fsc = fsc[: len(halves[0])]
        following = replace(
            state, iteration=state.iteration + 1, halves=halves, fsc=fsc, contrast_sigma=contrast_sigma, poses=poses
        )
        power = halves[0].flatten(1).norm(dim=1)
        metrics = (
            ("evidence", evidence),
            *moved,
            ("contrast_sigma", contrast_sigma),
            ("fsc_mean", float(fsc[0, 1:].mean())),
            *((f"fsc_{j}", float(fsc[j, 1:].mean())) for j in range(1, len(fsc))),
            *((f"size_{j}", float(power[j] / power[0])) for j in range(1, len(power))),
        )
        return following, metrics

    def held_out(self, state: FamilyState, radius: int) -> Float[Tensor, "n Q"]:
        """Log evidence of the images of the half sets under the model of the other half, with 0 to Z components."""
        Q = len(state.halves[0])
        evidence = torch.zeros(len(self.feed), Q, dtype=torch.float64)
        prior = contrast_prior(state.contrast_sigma)
        for h in (0, 1):
            grids = volumes_to_halves(self._boxed(state.halves[1 - h], radius))
            posed = self.posed.with_poses(state.poses)
            for rows in in_batches(posed.half_set(h), self.feed.at_once(radius, BATCH)):
                found = products(grids, posed.images(rows, radius), *posed.best(rows))
                for q in range(Q):
                    judged = infer_latents(found.truncated(q), *prior)
                    evidence[torch.from_numpy(rows), q] = judged.log_evidence.cpu()
        return evidence[torch.from_numpy(self.posed.half >= 0)]

    def _kept_on(self, worth: int) -> int:
        """Number of components that go on after the first evaluation, in which `worth` of them showed a gain."""
        return worth + SPARE

    def _ssnr(self, fsc: Float[Tensor, "Q S"], iteration: int) -> Float[Tensor, "Q S"]:
        """Signal-to-noise ratios by which the volumes of a half are filtered."""
        return ssnr_of_half(fsc)

    def _poses(self, state: FamilyState, radius: int) -> PosePosterior:
        """Poses that are used in an iteration."""
        return state.poses

    def _pass(
        self, poses: PosePosterior, volumes: Tensor, half: int, radius: int, contrast_sigma: float
    ) -> tuple[Moments, Population, float]:
        """E-step and sums over the images of a half."""
        population, evidence = Population.empty(len(volumes) - 1), 0.0
        grids = volumes_to_halves(volumes)

        def mixture(images: Images, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal population, evidence
            found = infer_latents(products(grids, images, R, t), *contrast_prior(contrast_sigma))
            population = population + Population.of(found)
            evidence += float(found.log_evidence.sum())
            return found.first, found.second

        moments = self._moments(poses, half, radius, mixture)
        return moments, population, evidence

    def _mean_sums(self, half: int, radius: int) -> Moments:
        """Normal equations of images that all show the mean as it is."""

        def mean(images: Images, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            ones = torch.ones(len(R), 1, device=R.device)
            return ones, ones

        return self._moments(self.posed.poses, half, radius, mean)

    def _moments(self, poses: PosePosterior, half: int, radius: int, mixture: Mixture) -> Moments:
        """Normal equations of the images of a half set, each of which shows a mixture of volumes of its own."""
        posed, inserted = self.posed.with_poses(poses), MomentsInsertion(Band(radius).side, self.feed.device)
        for rows in in_batches(posed.by_view(posed.half_set(half)), self.feed.at_once(radius, BATCH)):
            images, (R, t) = posed.images(rows, radius), posed.best(rows)
            inserted.add(images, R, t, *mixture(images, R, t))
        return Moments(*inserted.sums())

    def _mask(self, radius: int) -> Tensor:
        """The mask in the band-limited box of a radius."""
        return mask_in_box(self.mask, Band(radius).box).to(self.feed.device)

    def _mean_only(self, moments: Moments, radius: int) -> Tensor:
        flat = torch.full((1, radius + 1), 10.0)
        return solve_coupled(moments, flat, radius)[0] * self._mask(radius)

    def _random_like(self, mean: Tensor, radius: int, generator: torch.Generator) -> Tensor:
        """A random map within the mask with a share of the mean's power in every shell."""
        box = mean.shape[-1]
        white = torch.randn(box, box, box, generator=generator).to(mean)
        spectrum = torch.fft.rfftn(white) * torch.fft.rfftn(mean).abs()
        random = torch.fft.irfftn(spectrum, s=mean.shape) * self._mask(radius)
        return random * (FIRST_SHARE * mean.norm() / random.norm().clamp(min=1e-20))

    def _boxed(self, volumes: Tensor, radius: int) -> Tensor:
        return torch.stack([rebox(v, Band(radius).box).contiguous() for v in volumes])


def pass_cost(feed: ImageFeed, volumes: int, radius: int) -> float:
    """Expected cost of a pass over all images (see `runs.loop.Recipe.expected_costs`)."""
    return COST * len(feed) * volumes**2 * radius**2


def worth_keeping(evidence: Float[Tensor, "N Q"]) -> int:
    """Number of components that held-out images support: up to the last whose gain exceeds chance."""
    kept = 0
    for q in range(1, evidence.shape[1]):
        gain = (evidence[:, q] - evidence[:, kept]).sort().values
        gain = gain[: len(gain) - math.ceil(ODD * len(gain))]
        least = max(LEAST_GAIN * (q - kept), SURE * float(gain.std()) / len(gain) ** 0.5)
        if float(gain.mean()) > least:
            kept = q
    return kept
