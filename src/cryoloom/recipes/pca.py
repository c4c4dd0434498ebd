"""Conformations as a linear family: probabilistic PCA by EM on Fourier voxels, half sets apart.

Each half has its own mean and components and learns from its own images. The halves share the FSC of each component
alone, by which it is regularised. At the end every image is judged by the model of the half that it does not belong to:
components are kept as long as they make such images more likely. What is kept is then fitted to all images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.linear import Inferred, contrast_prior, infer_latents, infer_mixture, products
from cryoloom.inference.conformations.posterior import LatentPosterior
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volumes_to_halves
from cryoloom.maps.backprojection import ssnr_of_half, ssnr_of_sum
from cryoloom.maps.band import Band
from cryoloom.maps.coupled_backprojection import Moments, fsc_of_pairs, mask_in_box, solve_coupled
from cryoloom.maps.fsc import resolution_angstrom, resolved_shell
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.physics.rotations import geodesic_degrees
from cryoloom.runs.loop import torch_generator
from cryoloom.runs.progress import StepInfo

STAGE_INDEX = 6
BATCH = 2000  # images at once: the sums over each batch are as large as all volumes together
FIRST_SHARE = 0.1  # amplitude of the random components that EM begins with, of the mean's
PRUNED = 0.4  # share of the iterations after which components that promise nothing are dropped, but
SPARE = 2  # ... for so many components
JOINT = 3  # iterations over all images once the number of components is known
LEAST_GAIN = 0.005  # nats an image that a component must add for images that it was not learnt from,
ODD = 0.02  # share of images that may ask for a component without being heard: they are odd, not a conformation
SURE = 3.0  # ... and so many standard errors of that gain
LEAST_CONTRAST = 0.5  # images below show no particle
NEIGHBOURHOOD = 1.5  # s.d. of local averages, voxels of the band-limited box
JUMP_DEGREES = 8.0  # a pose that moves further has been found elsewhere
BLIND = 1e4  # times the variance of the sum over an image


@dataclass(frozen=True, slots=True)
class SubspaceSettings:
    """Conformations as a mean and a few directions around it: `--method pca`."""

    components: int | None = None
    """Directions that are kept; chosen by the likelihood of held-out images when None."""

    most_components: int = 8
    """At most so many are looked for."""

    iterations: int = 12
    """Of EM over all images, in either half."""

    first_level: float = 6.0
    """Radius of the first iterations, Fourier pixels of a box as large as the particle."""

    last_level: float = 16.0
    """Radius of the last ones. Measured on three states of a ribosome (9,000 images, SNR 0.1): classes agree with the
    truth to 0.85, 0.88, 0.87 (adjusted Rand index) with 12, 16, 24, at 1, 2 and 6 times the cost."""

    contrast_sigma: float = 0.15
    """S.d. of the images' contrast around 1 to begin with, then learnt; 0: all alike."""


@dataclass(frozen=True)
class SubspaceState:
    """Carried from iteration to iteration.

    Attributes:
        iteration: done so far, over the halves, the judgement, and all images.
        halves: volumes of either half, [Z + 1, m, m, m], mean first, band-limited boxes m = 2 (radius + 2).
        fsc: [Z + 1, S], of the halves' volumes, by shell.
        gains, errors: [Z + 1], nats an image that 0 .. Z components add for held-out images, and standard errors;
            empty before the judgement.
        volumes: [z + 1, m, m, m] fitted to all images, z the number of components kept; empty before.
        contrast_sigma: s.d. of the images' contrasts around 1, as learnt so far.
        poses: of all N images, on the CPU; images are looked at with the best of theirs.
    """

    iteration: int
    halves: tuple[Tensor, Tensor]
    fsc: Tensor
    gains: Tensor
    errors: Tensor
    volumes: Tensor
    contrast_sigma: float
    poses: PosePosterior

    @property
    def components(self) -> int:
        """How many are kept; -1 before they are judged."""
        return len(self.volumes) - 1


class SubspaceRecipe:
    """The stage `pca`: from posed images to a mean, components, and every image's coordinates."""

    name = "pca"

    def __init__(
        self,
        feed: ImageFeed,
        settings: SubspaceSettings,
        seed: int,
        poses: PosePosterior,
        half: np.ndarray,
        noise: Tensor,
        mask: Float[Tensor, "D D D"] | None = None,
    ) -> None:
        """Args:
        poses: of all N images; the likeliest candidate of each is taken.
        half: [N] of 0 and 1, -1 for images that are left out.
        noise: [G, S]; mask: 0 to 1 in the working box, within which the particle lies; its sphere when None.
        """
        self.feed, self.settings, self.seed, self.half = feed, settings, seed, half
        self.noise = noise.clone()
        # each image's own background has been subtracted with an error, which must not pass for a change of density
        self.noise[:, 0] *= BLIND
        self.poses = PosePosterior(poses.R.float(), poses.t.float(), poses.log_weight.float())
        self.iterations = settings.iterations
        self.pruning = round(PRUNED * settings.iterations)
        self.mask = feed.mask(feed.box).cpu() if mask is None else mask
        self.most = settings.most_components if settings.components is None else settings.components

    def radius(self, iteration: int) -> int:
        """The march: linear over the first half of the iterations."""
        s = self.settings
        part = min(1.0, iteration / max(1.0, 0.5 * s.iterations))
        return self.feed.radius_of(s.first_level + part * (s.last_level - s.first_level))

    @property
    def last_radius(self) -> int:
        """Of the last iterations."""
        return self.radius(self.iterations)

    def init(self) -> SubspaceState:
        """Means of both halves, and random components that are the same for both."""
        radius = self.radius(0)
        totals = [self._mean_sums(h, radius) for h in (0, 1)]
        means = [self._mean_only(m, radius) for m in totals]
        generator = torch_generator(self.seed, STAGE_INDEX, 0)
        random = [self._random_like(means[0] + means[1], radius, generator) for _ in range(self.most)]
        halves = [torch.stack([mean, *random]) for mean in means]
        nothing = torch.zeros(0)
        fsc = torch.zeros(self.most + 1, radius + 1)
        return SubspaceState(
            iteration=0,
            halves=(halves[0], halves[1]),
            fsc=fsc,
            gains=nothing,
            errors=nothing,
            volumes=torch.zeros(0, 1, 1, 1),
            contrast_sigma=self.settings.contrast_sigma,
            poses=self.poses,
        )

    def finished(self, state: SubspaceState) -> bool:
        """Whether the kept components have been fitted to all images."""
        return state.components == 0 or state.iteration > self.iterations + JOINT

    def end_early(self, state: SubspaceState) -> SubspaceState:
        """The components as they are, judged and joined."""
        while not self.finished(state):
            iteration = max(state.iteration, self.iterations)
            state, _ = self.step(replace(state, iteration=iteration))
        return state

    def step(self, state: SubspaceState) -> tuple[SubspaceState, StepInfo]:
        """One iteration of both halves; or the judgement; or one iteration over all images."""
        if state.iteration < self.iterations:
            following, metrics, message = self._step_halves(state)
        elif state.components < 0:
            following, metrics, message = self._judge(state)
        else:
            following, metrics, message = self._step_joint(state)
        radius = self.radius(state.iteration)
        side = self.feed.box * self.feed.pixel_size
        total = self.iterations + JOINT + 1
        info = StepInfo(
            stage=self.name,
            step=state.iteration + 1,
            total=total,
            resolution_angstrom=side / radius,
            metrics=(("radius", float(radius)), *metrics),
            message=message,
        )
        return following, info

    def latents(self, state: SubspaceState) -> LatentPosterior:
        """Of all images, on the CPU; without coordinates where no component was kept."""
        radius = self.last_radius
        grids = volumes_to_halves(state.volumes.to(self.feed.device))
        prior, parts = contrast_prior(state.contrast_sigma), []
        for rows in _batches(np.arange(len(self.feed))):
            images, R, t = self._images(state.poses, rows, radius)
            found = infer_latents(products(grids, images, R, t), *prior)
            parts.append(found.latents.to(torch.device("cpu")))
        return LatentPosterior.joined(parts)

    def sharpened(
        self, state: SubspaceState, points: Float[Tensor, "K Z"], shares: Float[Tensor, " K"]
    ) -> SubspaceState:
        """The family fitted once more to all images, each of which lies at one of K points (see `classes`).

        Knowing that there is nothing between the points, images tell more of the volumes at them.
        """
        radius = self.last_radius
        grids = volumes_to_halves(self._boxed(state.volumes, radius))
        mask = self._mask(radius)
        sums: list[Moments] = []
        for h in (0, 1):
            total = None
            for rows in _batches(np.flatnonzero(self.half == h)):
                images, R, t = self._images(state.poses, rows, radius)
                prior = contrast_prior(state.contrast_sigma)
                first, second = infer_mixture(products(grids, images, R, t), points, shares, *prior)
                newest = Moments(
                    *dispatch.insert_moments(images, R, t, first=first, second=second, side=Band(radius).side)
                )
                total = newest if total is None else total + newest
            assert total is not None
            sums.append(total)
        raw = [solve_coupled(m, None, radius) * mask for m in sums]
        fsc = fsc_of_pairs(raw[0], raw[1], radius)
        own = [solve_coupled(m, ssnr_of_half(fsc), radius)[1:] * mask for m in sums]
        volumes = solve_coupled(sums[0] + sums[1], ssnr_of_sum(fsc), radius) * mask
        volumes = torch.cat([volumes[:1], volumes[1:] * local_weight(own[0], own[1])])
        return replace(state, volumes=volumes, fsc=fsc)

    def _step_halves(self, state: SubspaceState) -> tuple[SubspaceState, tuple[tuple[str, float], ...], str | None]:
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
            halves.append(_standardised(volumes, population))
        halves = localised(*_aligned(halves[0], halves[1]))
        contrast_sigma = (found[0][1] + found[1][1]).contrast_sigma
        if state.iteration == self.pruning:
            worth = _worth_keeping(self._held_out(replace(state, halves=halves, poses=poses), radius))
            part = self._kept_on(worth) + 1
            halves = (halves[0][:part], halves[1][:part])
            fsc = fsc[: len(halves[0])]
        following = replace(
            state, iteration=state.iteration + 1, halves=halves, fsc=fsc, contrast_sigma=contrast_sigma, poses=poses
        )
        power = _sizes(halves[0])
        metrics = (
            ("evidence", evidence),
            *moved,
            ("contrast_sigma", contrast_sigma),
            ("fsc_mean", float(fsc[0, 1:].mean())),
            *((f"fsc_{j}", float(fsc[j, 1:].mean())) for j in range(1, len(fsc))),
            *((f"size_{j}", float(power[j] / power[0])) for j in range(1, len(power))),
        )
        return following, metrics, message

    def _judge(self, state: SubspaceState) -> tuple[SubspaceState, tuple[tuple[str, float], ...], str | None]:
        """Every image by the other half's model, with 0 to Z of its components."""
        radius = self.last_radius
        evidence = self._held_out(state, radius)
        gain = evidence - evidence[:, :1]
        gains, errors = gain.mean(0), gain.std(0) / len(gain) ** 0.5
        kept = self.settings.components
        if kept is None:
            kept = _worth_keeping(evidence)
        joined = _joined(*(self._boxed(v, radius) for v in state.halves))[: kept + 1]
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

    def _held_out(self, state: SubspaceState, radius: int) -> Float[Tensor, "n Q"]:
        """Log evidence of every image that takes part by the other half's model, with 0 to Z of its components."""
        Q = len(state.halves[0])
        evidence = torch.zeros(len(self.feed), Q, dtype=torch.float64)
        prior = contrast_prior(state.contrast_sigma)
        for h in (0, 1):
            grids = volumes_to_halves(self._boxed(state.halves[1 - h], radius))
            for rows in _batches(np.flatnonzero(self.half == h)):
                images, R, t = self._images(state.poses, rows, radius)
                found = products(grids, images, R, t)
                for q in range(Q):
                    judged = infer_latents(found.truncated(q), *prior)
                    evidence[torch.from_numpy(rows), q] = judged.log_evidence.cpu()
        return evidence[torch.from_numpy(self.half >= 0)]

    def _kept_on(self, worth: int) -> int:
        """How many components go on after a first look, in which so many were worth it."""
        return max(self.settings.components or 0, worth + SPARE)

    def _poses(self, state: SubspaceState, radius: int) -> PosePosterior:
        """Those at which images are looked at in an iteration."""
        return state.poses

    def _step_joint(self, state: SubspaceState) -> tuple[SubspaceState, tuple[tuple[str, float], ...], str | None]:
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
        volumes = _standardised(solved, population)
        if len(volumes) > 1:
            own = [self._boxed(v, radius)[1 : len(volumes)] for v in state.halves]
            volumes = torch.cat([volumes[:1], volumes[1:] * local_weight(own[0], own[1]).amax(0)])
        volumes = _principal(volumes)
        power = _sizes(volumes)
        metrics = (("evidence", evidence), *((f"size_{j}", float(power[j] / power[0])) for j in range(1, len(power))))
        return replace(state, iteration=state.iteration + 1, volumes=volumes), metrics, None

    def _pass(
        self, poses: PosePosterior, volumes: Tensor, half: int, radius: int, contrast_sigma: float
    ) -> tuple[Moments, Population, float]:
        """E-step and sums over the images of a half."""
        total, population, evidence = None, Population.empty(len(volumes) - 1), 0.0
        grids = volumes_to_halves(volumes)
        for rows in _batches(np.flatnonzero(self.half == half)):
            images, R, t = self._images(poses, rows, radius)
            found = infer_latents(products(grids, images, R, t), *contrast_prior(contrast_sigma))
            newest = Moments(
                *dispatch.insert_moments(images, R, t, first=found.first, second=found.second, side=Band(radius).side)
            )
            population = population + Population.of(found)
            evidence += float(found.log_evidence.sum())
            total = newest if total is None else total + newest
        assert total is not None
        return total, population, evidence

    def _mean_sums(self, half: int, radius: int) -> Moments:
        """Of images that all show the mean as it is."""
        total = None
        for rows in _batches(np.flatnonzero(self.half == half)):
            images, R, t = self._images(self.poses, rows, radius)
            ones = torch.ones(len(rows), 1, device=R.device)
            newest = Moments(*dispatch.insert_moments(images, R, t, first=ones, second=ones, side=Band(radius).side))
            total = newest if total is None else total + newest
        if total is None:
            raise ValueError(f"half set {half + 1} has no particles; expected both halves to be filled")
        return total

    def _images(self, poses: PosePosterior, rows: np.ndarray, radius: int) -> tuple[dispatch.Images, Tensor, Tensor]:
        R, t = poses.rows(torch.from_numpy(rows)).to(self.feed.device).best()
        return self.feed.images(rows, radius, self.noise), R.contiguous(), t.contiguous()

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

    def to_arrays(self, state: SubspaceState) -> Mapping[str, np.ndarray | Tensor]:
        """Flat arrays."""
        return {
            "iteration": np.array(state.iteration),
            "first": state.halves[0].cpu(),
            "second": state.halves[1].cpu(),
            "fsc": state.fsc,
            "gains": state.gains,
            "errors": state.errors,
            "volumes": state.volumes.cpu(),
            "contrast_sigma": np.array(state.contrast_sigma),
            "R": state.poses.R,
            "t": state.poses.t,
            "log_weight": state.poses.log_weight,
        }

    def from_arrays(self, arrays: Mapping[str, np.ndarray | Tensor]) -> SubspaceState:
        """The inverse of `to_arrays`."""
        device = self.feed.device
        first, second, volumes = (torch.as_tensor(arrays[n]).to(device) for n in ("first", "second", "volumes"))
        fsc, gains, errors = (torch.as_tensor(arrays[n]) for n in ("fsc", "gains", "errors"))
        poses = PosePosterior(*(torch.as_tensor(arrays[n]) for n in ("R", "t", "log_weight")))
        return SubspaceState(
            iteration=int(np.asarray(arrays["iteration"])),
            halves=(first, second),
            fsc=fsc,
            gains=gains,
            errors=errors,
            volumes=volumes,
            contrast_sigma=float(np.asarray(arrays["contrast_sigma"])),
            poses=poses,
        )


@dataclass(frozen=True)
class Population:
    """Sums over images of E[z] [Z] and E[z z^T] [Z, Z], their number, and E[a], E[a^2] of their contrasts."""

    count: int
    z: Tensor
    zz: Tensor
    contrast: tuple[Tensor, ...]
    contrast_square: tuple[Tensor, ...]

    @property
    def contrast_sigma(self) -> float:
        """S.d. of the contrasts of images that show a particle, in units of their mean."""
        a, aa = torch.cat(self.contrast).double(), torch.cat(self.contrast_square).double()
        seen = a > LEAST_CONTRAST
        if not seen.any():
            return 0.0
        mean = a[seen].mean()
        return float((aa[seen].mean() - mean.square()).clamp(min=0).sqrt() / mean)

    @staticmethod
    def empty(components: int) -> Population:
        """Of no images."""
        return Population(0, torch.zeros(components).double(), torch.zeros(components, components).double(), (), ())

    @staticmethod
    def of(found: Inferred) -> Population:
        """Of some images."""
        latents = found.latents
        mean = latents.mean.double().cpu()
        square = latents.covariance.double().cpu().sum(0) + mean.T @ mean
        return Population(len(mean), mean.sum(0), square, (latents.contrast.cpu(),), (found.second[:, 0].cpu(),))

    def __add__(self, other: Population) -> Population:
        return Population(
            self.count + other.count,
            self.z + other.z,
            self.zz + other.zz,
            (*self.contrast, *other.contrast),
            (*self.contrast_square, *other.contrast_square),
        )


def _batches(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]


def _standardised(volumes: Tensor, population: Population) -> Tensor:
    """The same family in coordinates whose population has mean 0 and covariance 1, and contrasts around 1.

    EM alone comes there slowly; the step is that of parameter-expanded EM (Liu, Rubin & Wu 1998).
    """
    mean = population.z / population.count
    spread = population.zz / population.count - mean[:, None] * mean
    root = torch.linalg.cholesky(spread + 1e-9 * torch.eye(len(mean)).double()).to(volumes)
    base, components = volumes[0], volumes[1:]
    scale = float(torch.cat(population.contrast).median())
    base = base + torch.einsum("j,jzyx->zyx", mean.to(volumes), components)
    return scale * torch.cat([base[None], torch.einsum("ji,jzyx->izyx", root, components)])


def _principal(volumes: Tensor) -> Tensor:
    """The same family with orthogonal components, largest first."""
    flat = volumes[1:].flatten(1)
    if len(flat) == 0:
        return volumes
    _, U = torch.linalg.eigh((flat @ flat.T).double())
    turned = U.flip(1).T.to(flat) @ flat
    return torch.cat([volumes[:1], turned.reshape(volumes[1:].shape)])


def _aligned(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both families with the first's principal components in order, the second's turned to agree with them."""
    first = _principal(first)
    if len(first) == 1:
        return first, second
    overlap = first[1:].flatten(1) @ second[1:].flatten(1).T
    U, _, Vt = torch.linalg.svd(overlap.double())
    turned = (U @ Vt).to(second) @ second[1:].flatten(1)
    return first, torch.cat([second[:1], turned.reshape(second[1:].shape)])


def localised(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both families with their components damped where the halves do not agree: what moves is often a small part.

    A Wiener filter in space: the power of the halves' mean and of half their difference, averaged over a few voxels,
    are signal with noise, and noise.
    """
    if len(first) == 1:
        return first, second
    weight = local_weight(first[1:], second[1:])
    return tuple(torch.cat([v[:1], v[1:] * weight]) for v in (first, second))  # type: ignore[return-value]


def local_weight(first: Float[Tensor, "Z m m m"], second: Float[Tensor, "Z m m m"]) -> Float[Tensor, "Z m m m"]:
    """Share of the local power of each component that its halves have in common, 0 to 1."""
    both = _smooth((0.5 * (first + second)).square())
    apart = _smooth((0.5 * (first - second)).square())
    return (1 - apart / both.clamp(min=1e-30)).clamp(0, 1)


def _smooth(values: Float[Tensor, "Z m m m"]) -> Tensor:
    width = 2 * round(2 * NEIGHBOURHOOD) + 1
    x = torch.arange(width, dtype=values.dtype, device=values.device) - width // 2
    kernel = torch.exp(-0.5 * (x / NEIGHBOURHOOD).square())
    kernel = kernel / kernel.sum()
    out = values[:, None]
    for axis in range(3):
        shape, pad = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], pad[axis] = width, width // 2
        out = torch.nn.functional.conv3d(out, kernel.reshape(shape), padding=pad)
    return out[:, 0]


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """The mean of two aligned families."""
    return 0.5 * (first + second)


def _sizes(volumes: Tensor) -> Tensor:
    return volumes.flatten(1).norm(dim=1)


def _worth_keeping(evidence: Float[Tensor, "N Q"]) -> int:
    """How many components held-out images ask for: up to the last that adds more than could be chance."""
    kept = 0
    for q in range(1, evidence.shape[1]):
        gain = (evidence[:, q] - evidence[:, kept]).sort().values
        gain = gain[: len(gain) - math.ceil(ODD * len(gain))]
        least = max(LEAST_GAIN * (q - kept), SURE * float(gain.std()) / len(gain) ** 0.5)
        if float(gain.mean()) > least:
            kept = q
    return kept


def component_resolutions(state: SubspaceState, side_angstrom: float) -> list[float | None]:
    """Angstrom at which each component's halves agree to 0.143, mean first; None where they never do."""
    out = []
    for curve in state.fsc:
        shell = resolved_shell(curve)
        out.append(resolution_angstrom(shell, 1, side_angstrom))
    return out
