"""Conformations as a linear family: probabilistic PCA by EM on Fourier voxels, half sets apart.

Each half has its own mean and components and learns from its own images. All that the halves share is the FSC of each
component, by which it is regularised once most of them have converged; until then the prior is a share of the mean's
power. At the end every image is judged by the model of the half that it does not belong to: components are kept as
long as they make such images more likely. What is kept is then fitted to all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.family import (
    local_weight,
    principal,
    standardised,
)
from cryoloom.inference.conformations.latent_volume import LatentVolume
from cryoloom.inference.conformations.linear import contrast_prior, infer_latents, infer_mixture, products
from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.inference.poses.posed import PosedImages, in_batches
from cryoloom.kernels.half_grid import volumes_to_halves
from cryoloom.kernels.images import Images
from cryoloom.maps.backprojection import ssnr_of_half, ssnr_of_sum
from cryoloom.maps.coupled_backprojection import fsc_of_pairs, solve_coupled
from cryoloom.maps.fsc import resolution_angstrom, resolved_shell
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.recipes.family_em import (
    BATCH,
    FIRST_SHARE,
    SPARE,
    FamilyEM,
    FamilyState,
    Metrics,
    pass_cost,
    worth_keeping,
)
from cryoloom.recipes.methods.pca import PCASettings
from cryoloom.runs.progress import StepInfo
from cryoloom.volumes.linear_family import LinearFamily

PRUNED = 0.65  # share of the iterations after which components without a gain are dropped; small classes take as long
JOINT = 3  # iterations over all images once the number of components is known


@dataclass(frozen=True)
class PCAState(FamilyState):
    """State carried from iteration to iteration: over the halves, the judgement, and all images.

    Attributes:
        gains, errors: [Z + 1], nats an image that 0 .. Z components add for held-out images, and standard errors;
            None before the judgement.
        volumes: [z + 1, m, m, m] fitted to all images, z the number of components kept; None before.
    """

    gains: Tensor | None = None
    errors: Tensor | None = None
    volumes: Tensor | None = None

    @property
    def components(self) -> int | None:
        """Number of components that are kept; None before they are judged."""
        return None if self.volumes is None else len(self.volumes) - 1


class PCARecipe(FamilyEM):
    """The stage `pca`: from posed images to a mean, components, and every image's coordinates."""

    name = "pca"
    state_type = PCAState

    def __init__(
        self,
        posed: PosedImages,
        settings: PCASettings,
        seed: int,
        mask: Float[Tensor, "D D D"] | None = None,
        name: str = name,
    ) -> None:
        """Learn from posed images within a mask; see `FamilyEM`. `name`: of the stage, where a run has another."""
        self.name = name
        super().__init__(
            posed,
            seed,
            most=most_of(settings),
            pruning=pruning_of(settings),
            contrast_sigma=settings.contrast_sigma,
            mask=mask,
        )
        self.settings, self.iterations = settings, settings.iterations

    def radius(self, iteration: int) -> int:
        """Radius of an iteration, Fourier pixels of the working box."""
        return radius_of_iteration(self.feed, self.settings, iteration)

    @property
    def last_radius(self) -> int:
        """Radius of the last iterations."""
        return self.radius(self.iterations)

    def init(self) -> PCAState:
        """Means of both halves, and random components that are the same for both."""
        return PCAState(**vars(self.first_state()))

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
            (following, metrics), message = self.step_halves(state), None
        elif state.components is None:
            following, metrics, message = self._judge(state)
        else:
            following, metrics, message = self._step_joint(state)
        return following, self.step_info(state, metrics, message)

    def expected_costs(self, state: PCAState) -> Sequence[float]:
        """Expected cost of the iterations over the halves, the judgement, and the iterations over all images."""
        return family_costs(self.feed, self.settings)[state.iteration :]

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

    def _judge(self, state: PCAState) -> tuple[PCAState, Metrics, str | None]:
        """Evaluate every image under the model of the other half, with 0 to Z of its components."""
        radius = self.last_radius
        evidence = self.held_out(state, radius)
        gain = evidence - evidence[:, :1]
        gains, errors = gain.mean(0), gain.std(0) / len(gain) ** 0.5
        kept = self.settings.components
        if kept is None:
            kept = worth_keeping(evidence)
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

    def _step_joint(self, state: PCAState) -> tuple[PCAState, Metrics, str | None]:
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

    def _kept_on(self, worth: int) -> int:
        return max(self.settings.components or 0, super()._kept_on(worth))

    def _ssnr(self, fsc: Tensor, iteration: int) -> Tensor:
        ssnr = super()._ssnr(fsc, iteration)
        if iteration < self.pruning:
            # halves can't agree yet on a component that is only emerging: damped by its FSC it would never emerge
            ssnr[1:] = FIRST_SHARE**2 * ssnr[0]
        return ssnr


def most_of(settings: PCASettings) -> int:
    """Number of components that are looked for at first."""
    return settings.most_components if settings.components is None else settings.components


def radius_of_iteration(feed: ImageFeed, settings: PCASettings, iteration: int) -> int:
    """Radius of an iteration, Fourier pixels of the working box; it grows linearly."""
    part = min(1.0, iteration / max(1, settings.iterations - 1))
    return feed.radius_of(settings.first_level + part * (settings.last_level - settings.first_level))


def pruning_of(settings: PCASettings) -> int:
    """Iteration at whose end components without a gain are dropped."""
    return round(PRUNED * settings.iterations)


def family_costs(feed: ImageFeed, settings: PCASettings) -> list[float]:
    """Expected cost of every step of a fit, of which usually few components are kept."""
    most = most_of(settings)
    steps = range(settings.iterations + 1 + JOINT)
    volumes = [1 + (most if i <= pruning_of(settings) else SPARE + 1) for i in steps]
    return [pass_cost(feed, n, radius_of_iteration(feed, settings, i)) for i, n in zip(steps, volumes, strict=True)]


def component_resolutions(state: PCAState, side_angstrom: float) -> list[float | None]:
    """Resolution in angstrom to which each component agrees between the halves (FSC 0.143), mean first; None where it
    does not."""
    out = []
    for curve in state.fsc:
        shell = resolved_shell(curve)
        out.append(resolution_angstrom(shell, 1, side_angstrom))
    return out
