"""cryoAI: encoder and volume learn together from the images alone (Levy et al. 2022).

Every image is encoded to a pose, the volume's slice at that pose is compared with the image, and the gradient goes into
both networks. Nothing is stored for an image, and none is searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.poses.candidate_loss import candidate_loss
from cryoloom.inference.poses.encoder import COMPACT, PAPER, PoseEncoder, VGGEncoder
from cryoloom.inference.poses.encoder_file import TrainedEncoder
from cryoloom.inference.poses.proposals import Proposed, propose
from cryoloom.inference.training import Trainer, Weights
from cryoloom.maps.band import Band
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.physics.noise import ResidualPower, shell_means
from cryoloom.recipes.methods.amortized import AmortizedSettings
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.seeds import numpy_generator
from cryoloom.volumes.fourier_net import FourierNet
from cryoloom.volumes.interface import Volume
from cryoloom.volumes.voxel_grid import RealVoxels, VoxelGrid

# expected costs (`runs.loop.Recipe.expected_costs`), CPU-seconds per image, and per image and squared Fourier pixel
ENCODER_COST, COEFFICIENT_COST = 5e-4, 3e-6
SAMPLE = 1000  # images from which power spectra are measured


@dataclass(frozen=True)
class AmortizedState:
    """State carried from round to round: rounds done, networks with their optimiser, and the learnt noise [G, S]."""

    round: int
    weights: Weights
    noise: Tensor


class AmortizedRecipe:
    """The stage `amortized`: from random networks to an encoder and a volume."""

    name = "amortized"
    state_type = AmortizedState

    def __init__(self, feed: ImageFeed, settings: AmortizedSettings, seed: int) -> None:
        self.feed, self.settings, self.seed = feed, settings, seed
        self.reach = feed.radius_of(settings.last_level)
        self.power = self._power()
        generator = numpy_generator(seed, self.name, "weights")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator.integers(2**62)))
            self.encoder = self._make_encoder().to(feed.device)
            self.volume = self._make_volume().to(feed.device)
        diameter = feed.source.preprocessing.particle_diameter_angstrom
        self.encode = TrainedEncoder(self.encoder, settings.symmetrised, diameter)
        self.trainer = Trainer(
            {"encoder": self.encoder, "volume": self.volume},
            {"encoder": settings.encoder_rate, "volume": settings.volume_rate},
        )

    def _power(self) -> Tensor:
        """Power by shell of the images, E|Y|^2, and of a volume that explains what noise does not, E|V|^2: [2, S]."""
        rows = np.linspace(0, len(self.feed) - 1, min(SAMPLE, len(self.feed))).astype(np.int64)
        noise = self.feed.noise
        images = self.feed.images(rows, self.reach, noise)
        observed = shell_means(images.observed.abs().square(), images.disc).mean(0)
        excess = shell_means(images.observed.abs().square() - images.variance[images.group], images.disc).mean(0)
        transfer = shell_means(images.ctf.square(), images.disc).mean(0)
        return torch.stack([observed, excess.clamp(min=1e-3 * observed) / transfer])

    def _make_encoder(self) -> PoseEncoder:
        s, f = self.settings, self.feed
        box = 2 * (self.reach + 1)
        blocks = PAPER if s.encoder == "paper" else COMPACT
        return VGGEncoder(
            box=box,
            pixel_size=f.field_of_view / box,
            radius=self.reach,
            blocks=blocks,
            filters=s.filters,
            heads=s.heads,
            mixed_precision=s.mixed_precision,
        )

    def _make_volume(self) -> Volume:
        s, f = self.settings, self.feed
        amplitude = self.power[1].sqrt().cpu()
        if s.volume == "fouriernet":
            radius = 0.5 * f.source.preprocessing.particle_diameter_angstrom * s.net_reach
            return FourierNet(
                box=f.box,
                pixel_size=f.pixel_size,
                amplitude=amplitude,
                radius_angstrom=radius,
                width=s.width,
                hidden=s.hidden,
                w0=s.w0,
            )
        scale = float(amplitude[1:].mean())
        if s.volume == "voxel":
            return VoxelGrid(f.box, f.pixel_size, scale)
        return RealVoxels(f.box, f.pixel_size, scale / f.box**1.5)

    def init(self) -> AmortizedState:
        """Random networks; the whole power of the images counts as noise until the volume explains some of it."""
        S = len(self.power[0])
        groups = self.feed.groups
        return AmortizedState(0, self.trainer.weights(), self.power[0].expand(groups, S).clone().cpu())

    def finished(self, state: AmortizedState) -> bool:
        """Whether all rounds are done."""
        return state.round >= self.settings.rounds

    def end_early(self, state: AmortizedState) -> AmortizedState:
        """Any state is a result."""
        return state

    def radius(self, round_: int) -> int:
        """Radius of the comparison in a round, which grows by frequency marching."""
        return marching_radius(self.feed, self.settings, round_)

    def step(self, state: AmortizedState) -> tuple[AmortizedState, StepInfo]:
        """A round of minibatches."""
        s = self.settings
        self.trainer.restore(state.weights)
        self.encoder.train()
        rng = numpy_generator(self.seed, self.name, "round", state.round + 1)
        radius = self.radius(state.round)
        noise = state.noise.clone()
        total, norms, shares = 0.0, {"encoder": 0.0, "volume": 0.0}, 0.0
        for _ in range(s.updates):
            rows = np.sort(rng.choice(len(self.feed), min(s.batch, len(self.feed)), replace=False))
            images = self.feed.images(rows, self.reach, noise)
            fit = candidate_loss(self.volume, images.prefix(radius), self.encode(images))
            loss = fit.loss.mean()
            found = self.trainer.update(loss, self._rate(state.round))
            noise = self._learnt_noise(noise, images.group.cpu(), fit.residual.cpu())
            total += float(loss.detach()) / s.updates
            norms = {k: v + found[k] / s.updates for k, v in norms.items()}
            if s.symmetrised:
                shares += float((fit.branch >= s.heads).float().mean()) / s.updates
        explained = 1 - noise[:, 1 : radius + 1].mean(0).to(self.power) / self.power[0, 1 : radius + 1]
        metrics = [
            ("loss", total),
            ("explained", float(explained.mean())),
            ("radius", float(radius)),
            *((f"gradient_norm_{k}", v) for k, v in norms.items()),
            ("images_seen", float((state.round + 1) * s.updates * s.batch)),
        ]
        if s.symmetrised:
            metrics.append(("half_turned", shares))
        info = StepInfo(self.name, state.round + 1, self.feed.field_of_view / radius, tuple(metrics))
        return AmortizedState(state.round + 1, self.trainer.weights(), noise), info

    def _rate(self, round_: int) -> float:
        """Learning rate relative to the initial one: constant, then falling to a twentieth in the last quarter."""
        left = (self.settings.rounds - round_) / (0.25 * self.settings.rounds)
        return float(min(1.0, max(0.05, left)))

    def _learnt_noise(self, noise: Tensor, group: Tensor, residual: Tensor) -> Tensor:
        """Noise spectra moved towards the power of the residuals, by optics group."""
        share = torch.bincount(group, minlength=len(noise))[:, None] / len(group)
        rate = 1 - (1 - self.settings.noise_rate) ** share
        return ResidualPower.of_shells(residual, group, len(noise)).learnt(noise, rate)

    def expected_costs(self, state: AmortizedState) -> Sequence[float]:
        """Expected cost of the rounds ahead: a part for the encoder, and one that grows with the disc's area."""
        return training_costs(self.feed, self.settings, state.round)

    def result(self, state: AmortizedState) -> Proposed:
        """The encoder with its candidates for all images, and the volume in the band-limited box of its radius."""
        self.trainer.restore(state.weights)
        self.encoder.eval()
        poses = propose(self.encode, self.feed, self.reach, state.noise)
        volume = rebox(self.volume.density_map(self.reach), Band(self.reach).box).contiguous()
        noise = self.feed.noise.clone()
        noise[:, : state.noise.shape[1]] = state.noise
        return Proposed(self.encode, poses, volume, noise)


def marching_radius(feed: ImageFeed, settings: AmortizedSettings, round_: int) -> int:
    """Radius of the comparison in a round, Fourier pixels of the working box."""
    part = min(1.0, round_ / max(1.0, settings.march * settings.rounds))
    return feed.radius_of(settings.first_level + part * (settings.last_level - settings.first_level))


def training_costs(feed: ImageFeed, settings: AmortizedSettings, done: int) -> list[float]:
    """Expected cost of the rounds after `done` (see `runs.loop.Recipe.expected_costs`)."""
    images = settings.updates * settings.batch
    radii = (marching_radius(feed, settings, round_) for round_ in range(done, settings.rounds))
    return [images * (ENCODER_COST + COEFFICIENT_COST * radius**2) for radius in radii]
