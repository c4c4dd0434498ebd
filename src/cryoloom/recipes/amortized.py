"""cryoAI: encoder and volume learn together from the images alone (Levy et al. 2022).

Every image is encoded to a pose, the volume's slice at that pose is compared with the image, and the gradient goes into
both networks. Nothing is stored for an image, and none is searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.poses.encoder import COMPACT, PAPER, PoseEncoder, VGGEncoder
from cryoloom.inference.poses.encoder_file import TrainedEncoder
from cryoloom.inference.poses.misfit import misfit
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.proposals import propose
from cryoloom.inference.training import Trainer, Weights, from_arrays, to_arrays
from cryoloom.maps.band import Band
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.physics.noise import ResidualPower, shell_means
from cryoloom.runs.loop import numpy_generator
from cryoloom.runs.progress import StepInfo
from cryoloom.volumes.fourier_net import FourierNet
from cryoloom.volumes.interface import Volume
from cryoloom.volumes.voxel_grid import RealVoxels, VoxelGrid

STAGE_INDEX = 5
SAMPLE = 1000  # images from which power spectra are measured


@dataclass(frozen=True, slots=True)
class AmortizedSettings:
    """Encoder and volume learnt together from random networks: `--poses amortized`."""

    encoder: Literal["paper", "compact"] = "compact"
    """VGG16-like as published, or a narrow one for CPUs."""

    filters: int = 5
    """Gaussian low-pass filters in front of it."""

    heads: int = 1
    """Hypotheses of the encoder."""

    mixed_precision: bool = False
    """Whether the encoder's layers compute in bfloat16 (for a GPU); the physics stays float32."""

    symmetrised: bool = True
    """Whether an image and its half-turn are both tried, the better one counts."""

    volume: Literal["fouriernet", "voxel", "real"] = "fouriernet"
    """A network in Fourier space, a grid of Fourier coefficients, or densities (transformed at every step)."""

    width: int = 64
    """Of FourierNet's layers (256 as published)."""

    hidden: int = 2
    """Their number."""

    w0: float = 30.0
    """Frequency of its sines."""

    net_reach: float = 0.33
    """Of its first layer: the plane waves it begins with, in radii of the particle. From the whole
    radius volumes are learnt more slowly (docs/amortized.md)."""

    first_level: float = 5.0
    """Radius at which training begins, Fourier pixels of a box as large as the particle. Cold starts
    from lower levels converged more slowly (docs/amortized.md)."""

    last_level: float = 8.0
    """Radius at which it ends."""

    march: float = 1.0
    """Share of the rounds over which the radius grows."""

    rounds: int = 300
    """Of training."""

    updates: int = 50
    """Minibatches a round."""

    batch: int = 32
    """Images a minibatch."""

    encoder_rate: float = 1e-3
    """Learning rate of the encoder."""

    volume_rate: float = 1e-3
    """Learning rate of the volume."""

    noise_rate: float = 0.02
    """Of the learnt noise spectrum, an update; with 0 all that the images hold counts as noise to the end."""

    polish: bool = False
    """Whether the poses that the encoder gives are refined afterwards."""


@dataclass(frozen=True)
class AmortizedState:
    """Carried from round to round: rounds done, both networks with their optimiser, and the learnt noise [G, S]."""

    round: int
    weights: Weights
    noise: Tensor


class AmortizedRecipe:
    """The stage `amortized`: from random networks to an encoder and a volume."""

    name = "amortized"

    def __init__(self, feed: ImageFeed, settings: AmortizedSettings, seed: int) -> None:
        self.feed, self.settings, self.seed = feed, settings, seed
        self.reach = feed.radius_of(settings.last_level)
        self.power = self._power()
        generator = numpy_generator(seed, STAGE_INDEX, 0)
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
        """E|Y|^2 by shell of the images, [S], and E|V|^2 of the volume that explains what noise does not, [S]."""
        rows = np.linspace(0, len(self.feed) - 1, min(SAMPLE, len(self.feed))).astype(np.int64)
        noise = self.feed.source.preprocessing.noise.float()
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
            pixel_size=f.box * f.pixel_size / box,
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
        """Random networks; all that the images hold is noise until the volume explains some of it."""
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
        """The march: of the comparison in a round."""
        s = self.settings
        part = min(1.0, round_ / max(1.0, s.march * s.rounds))
        return self.feed.radius_of(s.first_level + part * (s.last_level - s.first_level))

    def step(self, state: AmortizedState) -> tuple[AmortizedState, StepInfo]:
        """A round of minibatches."""
        s = self.settings
        self.trainer.restore(state.weights)
        self.encoder.train()
        rng = numpy_generator(self.seed, STAGE_INDEX, state.round + 1)
        radius = self.radius(state.round)
        noise = state.noise.clone()
        total, norms, shares = 0.0, {"encoder": 0.0, "volume": 0.0}, 0.0
        for _ in range(s.updates):
            rows = np.sort(rng.choice(len(self.feed), min(s.batch, len(self.feed)), replace=False))
            images = self.feed.images(rows, self.reach, noise)
            fit = misfit(self.volume, images.prefix(radius), self.encode(images))
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
        info = StepInfo(
            self.name, state.round + 1, s.rounds, self.feed.box * self.feed.pixel_size / radius, tuple(metrics)
        )
        return AmortizedState(state.round + 1, self.trainer.weights(), noise), info

    def _rate(self, round_: int) -> float:
        """Full until the last quarter, then falling to a twentieth."""
        left = (self.settings.rounds - round_) / (0.25 * self.settings.rounds)
        return float(min(1.0, max(0.05, left)))

    def _learnt_noise(self, noise: Tensor, group: Tensor, residual: Tensor) -> Tensor:
        """Spectra drawn towards the power of the residuals, group by group."""
        share = torch.bincount(group, minlength=len(noise))[:, None] / len(group)
        rate = 1 - (1 - self.settings.noise_rate) ** share
        return ResidualPower.of_shells(residual, group, len(noise)).learnt(noise, rate)

    def proposals(self, state: AmortizedState) -> PosePosterior:
        """The encoder's candidates for all images, on the CPU."""
        self.trainer.restore(state.weights)
        self.encoder.eval()
        return propose(self.encode, self.feed, self.reach, state.noise)

    def map(self, state: AmortizedState) -> Tensor:
        """The volume in the band-limited box of its radius, as refinement begins with."""
        self.trainer.restore(state.weights)
        return rebox(self.volume.density_map(self.reach), Band(self.reach).box).contiguous()

    def to_arrays(self, state: AmortizedState) -> Mapping[str, np.ndarray | Tensor]:
        """Flat arrays."""
        return {"round": np.array(state.round), "noise": state.noise, **to_arrays(state.weights, "weights.")}

    def from_arrays(self, arrays: Mapping[str, np.ndarray | Tensor]) -> AmortizedState:
        """The inverse of `to_arrays`."""
        return AmortizedState(
            int(np.asarray(arrays["round"])), from_arrays(arrays, "weights."), torch.as_tensor(arrays["noise"])
        )
