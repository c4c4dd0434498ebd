"""Conformations as a linear family: probabilistic PCA by EM on Fourier voxels, half sets apart.

Each half has its own mean and components and learns from its own images. The halves share the FSC of each component
alone, by which it is regularised. At the end every image is judged by the model of the half that it does not belong to:
components are kept as long as they make such images more likely. What is kept is then fitted to all images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.family import (
    Population,
    aligned,
    local_weight,
    localised,
    principal,
    standardised,
)
from cryoloom.inference.conformations.latent_volume import LatentVolume
from cryoloom.inference.conformations.linear import contrast_prior, infer_latents, infer_mixture, products
from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.inference.poses.posed import PosedImages, in_batches
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volumes_to_halves
from cryoloom.kernels.images import Images
from cryoloom.maps.backprojection import ssnr_of_half, ssnr_of_sum
from cryoloom.maps.band import Band
from cryoloom.maps.coupled_backprojection import Moments, fsc_of_pairs, mask_in_box, solve_coupled
from cryoloom.maps.fsc import resolution_angstrom, resolved_shell
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.physics.rotations import geodesic_degrees
from cryoloom.recipes.methods.pca import PCASettings
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.seeds import torch_generator
from cryoloom.volumes.linear_family import LinearFamily

BATCH = 2000  # images at once: the sums over each batch are as large as all volumes together
FIRST_SHARE = 0.1  # amplitude of the initial random components relative to the mean
PRUNED = 0.4  # share of the iterations after which components without a gain are dropped,
SPARE = 2  # except for this many
JOINT = 3  # iterations over all images once the number of components is known
# minimum gain of the held-out log-likelihood per component, nats per image (500 images of one shape gave 0.002 to 0.01
# with nine seeds)
LEAST_GAIN = 0.02
ODD = 0.02  # share of the images with the largest gains that is left out: a few odd images are not a conformation
SURE = 3.0  # minimum gain in standard errors
# expected cost (`runs.loop.Recipe.expected_costs`), CPU-seconds an image, squared volumes and squared Fourier pixel
COST = 5e-8
JUMP_DEGREES = 8.0  # a pose that moves by more has been found elsewhere by a search
BLIND = 1e4  # factor on the noise variance of each image's sum, by which it is ignored


# expectations E[a] [B, Q] and E[a a^T] [B, Q (Q + 1) / 2] of the mixture of Q volumes that each image shows at R, t
Mixture = Callable[[Images, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PCAState:
    """State carried from iteration to iteration.

    Attributes:
        iteration: done so far, over the halves, the judgement, and all images.
        halves: volumes of either half, [Z + 1, m, m, m], mean first, band-limited boxes m = 2 (radius + 2).
        fsc: [Z + 1, S], of the halves' volumes, by shell.
        gains, errors: [Z + 1], nats an image that 0 .. Z components add for held-out images, and standard errors;
            None before the judgement.
        volumes: [z + 1, m, m, m] fitted to all images, z the number of components kept; None before.
        contrast_sigma: s.d. of the images' contrasts around 1, as learnt so far.
        poses: of all N images, on the CPU; images are looked at with the best of theirs.
    """

    iteration: int
    halves: tuple[Tensor, Tensor]
    fsc: Tensor
    gains: Tensor | None
    errors: Tensor | None
    volumes: Tensor | None
    contrast_sigma: float
    poses: PosePosterior

    @property
    def components(self) -> int | None:
        """Number of components that are kept; None before they are judged."""
        return None if self.volumes is None else len(self.volumes) - 1


class PCARecipe:
    """The stage `pca`: from posed images to a mean, components, and every image's coordinates."""

    name = "pca"
    state_type = PCAState

    def __init__(
        self, posed: PosedImages, settings: PCASettings, seed: int, mask: Float[Tensor, "D D D"] | None = None
    ) -> None:
        """Learn from posed images; of several candidate poses the likeliest is used.

        Args:
            mask: 0 to 1 in the working box, within which the particle lies; its sphere when None.
        """
        self.feed, self.settings, self.seed = posed.feed, settings, seed
        poses, noise = posed.poses, posed.noise.clone()
        # the background of each image was subtracted with an error, which must not be taken for a change of density
        noise[:, 0] *= BLIND
        bare = PosePosterior(poses.R.float(), poses.t.float(), poses.log_weight.float())
        self.posed = replace(posed, poses=bare, noise=noise)
        self.iterations = settings.iterations
        self.pruning = round(PRUNED * settings.iterations)
        self.mask = self.feed.mask(self.feed.box).cpu() if mask is None else mask
        self.most = settings.most_components if settings.components is None else settings.components

    def radius(self, iteration: int) -> int:
        """Radius of an iteration: it grows linearly over the first half of the iterations."""
        s = self.settings
        part = min(1.0, iteration / max(1.0, 0.5 * s.iterations))
        return self.feed.radius_of(s.first_level + part * (s.last_level - s.first_level))

    @property
    def last_radius(self) -> int:
        """Radius of the last iterations."""
        return self.radius(self.iterations)

    def init(self) -> PCAState:
        """Means of both halves, and random components that are the same for both."""
        radius = self.radius(0)
        totals = [self._mean_sums(h, radius) for h in (0, 1)]
        means = [self._mean_only(m, radius) for m in totals]
        generator = torch_generator(self.seed, self.name, "components")
        random = [self._random_like(means[0] + means[1], radius, generator) for _ in range(self.most)]
        halves = [torch.stack([mean, *random]) for mean in means]
        fsc = torch.zeros(self.most + 1, radius + 1)
        return PCAState(
            iteration=0,
            halves=(halves[0], halves[1]),
            fsc=fsc,
            gains=None,
            errors=None,
            volumes=None,
            contrast_sigma=self.settings.contrast_sigma,
            poses=self.posed.poses,
        )

    def finished(self, state: PCAState) -> bool:
        """Whether the kept components have been fitted to all images."""
        return state.components == 0 or state.iteration > self.iterations + JOINT

    def end_early(self, state: PCAState) -> PCAState:
        """The present components, evaluated on held-out images and fitted to all."""
        while not self.finished(state):
            iteration = max(state.iteration, self.iterations)
            state, _ = self.step(replace(state, iteration=iteration))
        return state

    def step(self, state: PCAState) -> tuple[PCAState, StepInfo]:
        """One iteration of both halves, or the evaluation on held-out images, or one iteration over all images."""
        if state.iteration < self.iterations:
            following, metrics, message = self._step_halves(state)
        elif state.components is None:
            following, metrics, message = self._judge(state)
        else:
            following, metrics, message = self._step_joint(state)
        radius = self.radius(state.iteration)
        side = self.feed.field_of_view
        info = StepInfo(
            stage=self.name,
            step=state.iteration + 1,
            resolution_angstrom=side / radius,
            metrics=(("radius", float(radius)), *metrics),
            message=message,
        )
        return following, info

    def expected_costs(self, state: PCAState) -> Sequence[float]:
        """Expected cost of the iterations over the halves, the judgement, and the iterations over all images."""
        components = self.most + 1
        steps = range(state.iteration, self.iterations + 1 + JOINT)
        kept = [components if i <= self.pruning else SPARE + 2 for i in steps]
        return [pass_cost(self.feed, n, self.radius(i)) for i, n in zip(steps, kept, strict=True)]

    def result(self, state: PCAState) -> LatentVolume | None:
        """Latents of all images and the linear family; None where no component was kept."""
        return LatentVolume(self.latents(state), self.volume(state)) if state.components else None

    def volume(self, state: PCAState) -> LinearFamily:
        """The fitted family in the working box."""
        assert state.volumes is not None
        volumes = torch.stack([rebox(v, self.feed.box) for v in state.volumes.cpu()])
        return LinearFamily(self.feed.pixel_size, volumes)

    def latents(self, state: PCAState) -> LatentPosterior:
        """Latents of all images, on the CPU; of those that were left out nothing is known."""
        assert state.volumes is not None
        radius = self.last_radius
        grids = volumes_to_halves(state.volumes.to(self.feed.device))
        posed, parts = self.posed.with_poses(state.poses), []
        for rows in in_batches(np.arange(len(self.feed)), BATCH):
            images, (R, t) = posed.images(rows, radius), posed.best(rows)
            found = infer_latents(products(grids, images, R, t), *contrast_prior(state.contrast_sigma))
            parts.append(found.latents.to(torch.device("cpu")))
        return LatentPosterior.joined(parts).without(torch.from_numpy(self.posed.half < 0))

    def sharpened(self, state: PCAState, points: Float[Tensor, "K Z"], shares: Float[Tensor, " K"]) -> PCAState:
        """The family fitted once more to all images, each of which lies at one of K points (see `classes`).

        Knowing that there is nothing between the points, images tell more of the volumes at them.
        """
        assert state.volumes is not None
        radius = self.last_radius
        grids = volumes_to_halves(self._boxed(state.volumes, radius))
        mask = self._mask(radius)

        def mixture(images: Images, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return infer_mixture(products(grids, images, R, t), points, shares, *contrast_prior(state.contrast_sigma))

        sums = [self._moments(state.poses, h, radius, mixture) for h in (0, 1)]
        raw = [solve_coupled(m, None, radius) * mask for m in sums]
        fsc = fsc_of_pairs(raw[0], raw[1], radius)
        own = [solve_coupled(m, ssnr_of_half(fsc), radius)[1:] * mask for m in sums]
        volumes = solve_coupled(sums[0] + sums[1], ssnr_of_sum(fsc), radius) * mask
        volumes = torch.cat([volumes[:1], volumes[1:] * local_weight(own[0], own[1])])
        return replace(state, volumes=volumes, fsc=fsc)

    def _step_halves(self, state: PCAState) -> tuple[PCAState, tuple[tuple[str, float], ...], str | None]:
        radius, message = self.radius(state.iteration), None
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
        halves = []
        for moments, population in found:
            volumes = solve_coupled(moments, ssnr_of_half(fsc), radius) * mask
            halves.append(standardised(volumes, population))
        halves = localised(*aligned(halves[0], halves[1]))
        contrast_sigma = (found[0][1] + found[1][1]).contrast_sigma
        if state.iteration == self.pruning:
            worth = _worth_keeping(self._held_out(replace(state, halves=halves, poses=poses), radius))
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
        return following, metrics, message

    def _judge(self, state: PCAState) -> tuple[PCAState, tuple[tuple[str, float], ...], str | None]:
        """Evaluate every image under the model of the other half, with 0 to Z of its components."""
        radius = self.last_radius
        evidence = self._held_out(state, radius)
        gain = evidence - evidence[:, :1]
        gains, errors = gain.mean(0), gain.std(0) / len(gain) ** 0.5
        kept = self.settings.components
        if kept is None:
            kept = _worth_keeping(evidence)
        joined = torch.stack([self._boxed(v, radius) for v in state.halves]).mean(0)[: kept + 1]
        following = replace(
            state,
            iteration=max(state.iteration, self.iterations) + 1,
            gains=gains,
            errors=errors,
            volumes=joined,
            fsc=state.fsc[: kept + 1],
        )
        said = ", ".join(f"{float(g):.2f}" for g in gains[1:])
        message = f"held-out images: 1 to {len(gains) - 1} components add {said} nats an image; {kept} kept"
        return following, tuple((f"gain_{j}", float(g)) for j, g in enumerate(gains)), message

    def _held_out(self, state: PCAState, radius: int) -> Float[Tensor, "n Q"]:
        """Log evidence of the images of the half sets under the model of the other half, with 0 to Z components."""
        Q = len(state.halves[0])
        evidence = torch.zeros(len(self.feed), Q, dtype=torch.float64)
        prior = contrast_prior(state.contrast_sigma)
        for h in (0, 1):
            grids = volumes_to_halves(self._boxed(state.halves[1 - h], radius))
            posed = self.posed.with_poses(state.poses)
            for rows in in_batches(posed.half_set(h), BATCH):
                found = products(grids, posed.images(rows, radius), *posed.best(rows))
                for q in range(Q):
                    judged = infer_latents(found.truncated(q), *prior)
                    evidence[torch.from_numpy(rows), q] = judged.log_evidence.cpu()
        return evidence[torch.from_numpy(self.posed.half >= 0)]

    def _kept_on(self, worth: int) -> int:
        """Number of components that go on after the first evaluation, in which `worth` of them showed a gain."""
        return max(self.settings.components or 0, worth + SPARE)

    def _poses(self, state: PCAState, radius: int) -> PosePosterior:
        """Poses that are used in an iteration."""
        return state.poses

    def _step_joint(self, state: PCAState) -> tuple[PCAState, tuple[tuple[str, float], ...], str | None]:
        assert state.volumes is not None
        radius = self.last_radius
        volumes = self._boxed(state.volumes, radius)
        total, population, evidence = None, None, 0.0
        for h in (0, 1):
            moments, some, nats = self._pass(state.poses, volumes, h, radius, state.contrast_sigma)
            total = moments if total is None else total + moments
            population = some if population is None else population + some
            evidence += nats / len(self.feed)
        assert total is not None
        assert population is not None
        solved = solve_coupled(total, ssnr_of_sum(state.fsc), radius) * self._mask(radius)
        volumes = standardised(solved, population)
        if len(volumes) > 1:
            own = [self._boxed(v, radius)[1 : len(volumes)] for v in state.halves]
            volumes = torch.cat([volumes[:1], volumes[1:] * local_weight(own[0], own[1]).amax(0)])
        volumes = principal(volumes)
        power = volumes.flatten(1).norm(dim=1)
        metrics = (("evidence", evidence), *((f"size_{j}", float(power[j] / power[0])) for j in range(1, len(power))))
        return replace(state, iteration=state.iteration + 1, volumes=volumes), metrics, None

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
        posed, total = self.posed.with_poses(poses), None
        for rows in in_batches(posed.half_set(half), BATCH):
            images, (R, t) = posed.images(rows, radius), posed.best(rows)
            first, second = mixture(images, R, t)
            sums = dispatch.insert_moments(images, R, t, first=first, second=second, side=Band(radius).side)
            total = Moments(*sums) if total is None else total + Moments(*sums)
        assert total is not None
        return total

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


def family_cost(feed: ImageFeed, settings: PCASettings) -> float:
    """Expected cost of a whole fit, of which usually few components are kept."""
    most = (settings.components or settings.most_components) + 1
    middle, last = (
        feed.radius_of(0.5 * (settings.first_level + settings.last_level)),
        feed.radius_of(settings.last_level),
    )
    early, late = round(PRUNED * settings.iterations), settings.iterations - round(PRUNED * settings.iterations)
    return early * pass_cost(feed, most, middle) + (late + JOINT + 1) * pass_cost(feed, SPARE + 2, last)


def _worth_keeping(evidence: Float[Tensor, "N Q"]) -> int:
    """Number of components that held-out images support: up to the last whose gain exceeds chance."""
    kept = 0
    for q in range(1, evidence.shape[1]):
        gain = (evidence[:, q] - evidence[:, kept]).sort().values
        gain = gain[: len(gain) - math.ceil(ODD * len(gain))]
        least = max(LEAST_GAIN * (q - kept), SURE * float(gain.std()) / len(gain) ** 0.5)
        if float(gain.mean()) > least:
            kept = q
    return kept


def component_resolutions(state: PCAState, side_angstrom: float) -> list[float | None]:
    """Resolution in angstrom to which each component agrees between the halves (FSC 0.143), mean first; None where it
    does not."""
    out = []
    for curve in state.fsc:
        shell = resolved_shell(curve)
        out.append(resolution_angstrom(shell, 1, side_angstrom))
    return out
