"""cryoDRGN: conformations of posed images by a network in Fourier space (Zhong et al. 2021).

An encoder (vae) or a table with one row per image (autodecoder) gives q(z|X), and the decoder predicts the image from a
z drawn from it; both maximise the evidence lower bound (ELBO). Poses and the mean map are given.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.conformations.elbo import chances, evidence_bound, predicted_mean, some_coefficients
from cryoloom.inference.conformations.image_encoder import (
    FIRST_LOG_VARIANCE,
    CNNEncoder,
    ImageEncoder,
    MLPEncoder,
)
from cryoloom.inference.conformations.latent_volume import LatentVolume
from cryoloom.inference.conformations.posterior import DiagonalGaussian, LatentPosterior
from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.training import Table, Trainer, Weights
from cryoloom.kernels.images import Images
from cryoloom.maps.mask import radius_grid
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import fft3
from cryoloom.physics.noise import ResidualPower, log_likelihood, spread_shells
from cryoloom.physics.rotations import exponential
from cryoloom.recipes.methods.vae import NetworkSettings
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.seeds import numpy_generator, torch_generator
from cryoloom.volumes.positional_mlp import PositionalMLP

STEP_IMAGES = 2000  # approximate number of images in a step
DEVIATION = 0.3  # unit of the decoder's output, relative to the r.m.s. amplitude of the mean by shell
FALLING = 0.5  # share of the updates over which the learning rate falls
LAST_RATE = 0.03  # final learning rate relative to the initial one
# expected cost (`runs.loop.Recipe.expected_costs`), CPU-seconds per coefficient, layer and squared width
COST = 1e-10
READ = 500  # images at once when latents are read out


@dataclass(frozen=True)
class VariationalState:
    """State carried from step to step.

    Attributes:
        step: steps done so far; weights: the networks and their optimiser; noise: E|n|^2 by shell, [G, S].
        latents: mean and log-variance of the latents of each image, [N, 2 Z] (autodecoder).
        corrections: corrections of the poses, [N, 5] pixels: rotation at the particle's rim, and shift (if poses are
            learnt).
    """

    step: int
    weights: Weights
    noise: Tensor
    latents: Table | None
    corrections: Table | None


@dataclass
class Tally:
    """Sums over the images of a step."""

    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, count: int, **values: Tensor | float) -> None:
        """Add means over `count` images."""
        self.count += count
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value) * count

    def means(self) -> tuple[tuple[str, float], ...]:
        """Means over all images of the step."""
        return tuple((name, value / self.count) for name, value in self.sums.items())


class VariationalRecipe:
    """The stage `vae` or `autodecoder`: from posed images to latents and a decoder."""

    state_type = VariationalState

    def __init__(
        self,
        posed: PosedImages,
        settings: NetworkSettings,
        seed: int,
        mean: Tensor,
        method: Literal["vae", "autodecoder"] = "vae",
    ) -> None:
        """Learn from posed images that are not left out; the likeliest of several candidate poses is used.

        Args:
            mean: map [D, D, D] of the working box, on the scale of the images; volumes that are learnt have power only
                where its spectrum has.
        """
        feed = posed.feed
        if tuple(mean.shape) != (feed.box,) * 3:
            raise ValueError(f"mean map of shape {tuple(mean.shape)}: expected the working box, side {feed.box}")
        if not float(mean.abs().max()) > 0:
            raise ValueError("the mean map is empty: expected the map reconstructed at the images' poses")
        self.name = method
        self.feed, self.settings, self.seed = feed, settings, seed
        self.first_noise = posed.noise.float()
        self.R, self.t = (x.float().to(feed.device) for x in posed.poses.best())
        self.radius = feed.radius_of(settings.level)
        self.left_out = torch.from_numpy(posed.half < 0)
        self.rows = np.flatnonzero(posed.half >= 0)
        generator = numpy_generator(seed, method, "weights")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator.integers(2**62)))
            self.decoder = self._make_decoder(mean.cpu()).to(feed.device)
            self.encoder = self._make_encoder().to(feed.device) if method == "vae" else None
        modules = (
            {"decoder": self.decoder} if self.encoder is None else {"decoder": self.decoder, "encoder": self.encoder}
        )
        self.trainer = Trainer(modules, dict.fromkeys(modules, settings.rate))
        disc = feed.prefix(self.radius)
        unit, variance = (
            spread_shells(x.to(feed.device), disc) for x in (self.decoder.spectrum, self.first_noise.mean(0))
        )
        self.chance = chances(unit / variance.sqrt(), settings.coefficients)
        self.parts = max(1, round(len(self.rows) / STEP_IMAGES))

    def _make_decoder(self, mean: Tensor) -> PositionalMLP:
        s, f = self.settings, self.feed
        shells = radius_grid(f.box).round().long().reshape(-1)
        power = torch.bincount(shells, fft3(mean).abs().square().reshape(-1)) / torch.bincount(shells)
        spectrum = DEVIATION * power[: self.radius + 1].sqrt()
        reach = s.reach * f.diameter_px / 2
        return PositionalMLP(
            box=f.box,
            pixel_size=f.pixel_size,
            latent=s.latent,
            mean=mean,
            spectrum=spectrum,
            width=s.decoder_width,
            layers=s.decoder_layers,
            frequencies=s.frequencies,
            reach_px=reach,
        )

    def _make_encoder(self) -> ImageEncoder:
        s, f = self.settings, self.feed
        kind = MLPEncoder if s.encoder == "mlp" else CNNEncoder
        radius = min(self.radius, f.radius_of(s.encoder_level))
        return kind(radius, f.diameter_px / f.box, s.latent, s.encoder_width, s.encoder_layers)

    def init(self) -> VariationalState:
        """State with untrained networks; in a table, the same latents for all images."""
        N, Z = len(self.feed), self.settings.latent
        device = self.feed.device
        latents = None
        if self.encoder is None:
            rows = torch.cat([torch.zeros(N, Z), torch.full((N, Z), FIRST_LOG_VARIANCE)], 1)
            latents = Table.create(rows.to(device))
        corrections = Table.create(torch.zeros(N, 5, device=device)) if self.settings.refine_poses else None
        return VariationalState(0, self.trainer.weights(), self.first_noise, latents, corrections)

    def finished(self, state: VariationalState) -> bool:
        """Whether all epochs are done."""
        return state.step >= self.settings.epochs * self.parts

    def end_early(self, state: VariationalState) -> VariationalState:
        """Any state is a result."""
        return state

    def step(self, state: VariationalState) -> tuple[VariationalState, StepInfo]:
        """Process a part of an epoch."""
        s = self.settings
        self.trainer.restore(state.weights)
        following = replace(
            state,
            step=state.step + 1,
            latents=None if state.latents is None else state.latents.copy(),
            corrections=None if state.corrections is None else state.corrections.copy(),
        )
        epoch, part = divmod(state.step, self.parts)
        order = numpy_generator(self.seed, self.name, "order", epoch).permutation(self.rows)
        mine = np.array_split(order, self.parts)[part]
        batches = np.array_split(mine, max(1, round(len(mine) / s.batch)))
        generator = torch_generator(self.seed, self.name, "step", state.step + 1)
        residuals = None
        tally = Tally()
        total = s.epochs * self.parts
        for i, rows in enumerate(batches):
            done = (state.step + i / len(batches)) / total
            residual = self._update(np.sort(rows), following, done=done, generator=generator, tally=tally)
            residuals = residual if residuals is None else residuals + residual
        assert residuals is not None
        noise = residuals.learnt(state.noise, s.noise_rate)
        following = replace(following, weights=self.trainer.weights(), noise=noise)
        resolution = self.feed.field_of_view / self.radius
        seen = ("images_seen", float(following.step * len(self.rows) / self.parts))
        return following, StepInfo(self.name, following.step, resolution, (*tally.means(), seen))

    def _update(
        self,
        rows: np.ndarray,
        state: VariationalState,
        done: float,
        generator: torch.Generator,
        tally: Tally,
    ) -> ResidualPower:
        """One minibatch: a step of the networks and of the rows of the tables, in place; the power of its residuals."""
        s = self.settings
        index = torch.from_numpy(rows).to(self.feed.device)
        images = self.feed.images(rows, self.radius, state.noise)
        latent = None if state.latents is None else state.latents.rows(index)
        correction = None if state.corrections is None else state.corrections.rows(index)
        R, t = self._poses(index, correction)
        q = self._q(images, R, t, latent)
        chosen = some_coefficients(images, self.chance, generator)
        normal = torch.randn(len(rows), s.latent, generator=generator).to(R)
        bound = evidence_bound(self.decoder, chosen, R=R, t=t, q=q, normal=normal)
        beta = s.beta * min(1.0, done / s.warm_up) if s.warm_up > 0 else s.beta
        loss = bound.loss(beta)
        rate = min(1.0, max(LAST_RATE, (1 - done) / FALLING))
        # per coefficient, so that gradient clipping means the same at every radius
        norms = self.trainer.update(loss.mean() / images.disc.weight.sum(), rate)
        scale = len(rows) * float(images.disc.weight.sum())
        if state.latents is not None and latent is not None and latent.grad is not None:
            state.latents.update(index, latent.grad * scale, rate * s.table_rate)
        if state.corrections is not None and correction is not None and correction.grad is not None:
            state.corrections.update(index, correction.grad * scale, rate * s.pose_rate)
        with torch.no_grad():
            before = predicted_mean(self.decoder, chosen, R, t)
            base = log_likelihood(chosen.observed, before, chosen.variance[chosen.group], chosen.disc.weight)
        tally.add(
            len(rows),
            loss=loss.detach().mean(),
            kl=bound.divergence.detach().mean(),
            gain=(bound.log_likelihood.detach() - base).mean(),
            explained=1 - bound.log_likelihood.detach().sum() / base.sum(),
            **{f"gradient_norm_{name}": norm for name, norm in norms.items()},
        )
        return ResidualPower.of_coefficients(bound.residual, chosen.group, chosen.disc, self.feed.groups)

    def _poses(self, index: Tensor, correction: Tensor | None) -> tuple[Tensor, Tensor]:
        """R [B, 3, 3] and t [B, 2] of some images, turned within the image's frame and moved by their corrections."""
        R, t = self.R[index], self.t[index]
        if correction is None:
            return R, t
        turn = exponential(correction[:, :3] / (0.5 * self.feed.diameter_px))
        return R @ turn, t + correction[:, 3:] * self.feed.pixel_size

    def _q(self, images: Images, R: Tensor, t: Tensor, latent: Tensor | None) -> DiagonalGaussian:
        if self.encoder is None:
            assert latent is not None
            return DiagonalGaussian(*latent.chunk(2, 1))
        seen = images.prefix(self.encoder.radius)
        R, t = R.detach(), t.detach()
        with torch.no_grad():
            expected = predicted_mean(self.decoder, seen, R, t)
        return self.encoder(seen, expected, R, t)

    def expected_costs(self, state: VariationalState) -> Sequence[float]:
        """Expected cost of the steps ahead: all cost the same."""
        steps = self.settings.epochs * self.parts
        return [training_cost(self.feed, self.settings) / steps] * (steps - state.step)

    def result(self, state: VariationalState) -> LatentVolume:
        """Latents of all images, and the decoder."""
        return LatentVolume(self.latents(state), self.volume(state))

    @torch.no_grad()
    def latents(self, state: VariationalState) -> LatentPosterior:
        """q(z|X) of all images, on the CPU; the prior for those that were left out."""
        self.trainer.restore(state.weights)
        found = []
        for start in range(0, len(self.feed), READ):
            rows = np.arange(start, min(start + READ, len(self.feed)))
            index = torch.from_numpy(rows).to(self.feed.device)
            if state.latents is not None:
                q = DiagonalGaussian(*state.latents.values[index].chunk(2, 1))
            else:
                correction = None if state.corrections is None else state.corrections.values[index]
                R, t = self._poses(index, correction)
                q = self._q(self.feed.images(rows, self.radius, state.noise), R, t, None)
            found.append(DiagonalGaussian(q.mean.cpu(), q.log_variance.cpu()).posterior())
        return LatentPosterior.joined(found).without(self.left_out)

    @torch.no_grad()
    def poses(self, state: VariationalState) -> PosePosterior:
        """The given poses with the corrections that were learnt, on the CPU."""
        correction = None if state.corrections is None else state.corrections.values
        R, t = self._poses(torch.arange(len(self.feed), device=self.feed.device), correction)
        return PosePosterior.certain(R.cpu(), t.cpu())

    def volume(self, state: VariationalState) -> PositionalMLP:
        """A copy of the decoder."""
        self.trainer.restore(state.weights)
        return copy.deepcopy(self.decoder).requires_grad_(False).eval()


def training_cost(feed: ImageFeed, settings: NetworkSettings) -> float:
    """Expected cost of the whole training (see `runs.loop.Recipe.expected_costs`)."""
    disc = feed.disc.prefix(feed.radius_of(settings.level))
    coefficients = min(settings.coefficients, len(disc.weight))
    return settings.epochs * len(feed) * coefficients * settings.decoder_width**2 * settings.decoder_layers * COST
