"""Wake-sleep: an encoder learns poses from dreams of the present volume; awake, the volume learns from real images.

Asleep (Hinton et al. 1995): images are made of the volume at random known poses, with CTFs, noise and shifts as in the
data, and the encoder is trained on them, supervised and without local minima. Awake: it proposes candidates for real
images, these are weighed by their likelihood, and their statistics are blended into the volume's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.poses.dreams import dream
from cryoloom.inference.poses.encoder import PoseEncoder, best_of_candidates_degrees
from cryoloom.inference.poses.encoder_file import TrainedEncoder
from cryoloom.inference.poses.polar_encoder import PolarEncoder
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.proposals import propose
from cryoloom.inference.poses.refine import refine_poses
from cryoloom.inference.poses.samples import posterior_samples
from cryoloom.inference.training import Trainer, Weights, from_arrays, to_arrays
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.backprojection import Statistics, accumulate, running_map
from cryoloom.maps.band import Band
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.noise import shell_means
from cryoloom.physics.rotations import random_rotations
from cryoloom.runs.loop import numpy_generator, torch_generator
from cryoloom.runs.progress import StepInfo

STAGE_INDEX = 4
JUDGED = 512  # dreams that no update saw, by which the encoder is judged


@dataclass(frozen=True, slots=True)
class WakeSleepSettings:
    """An encoder learnt from dreams of ab initio's map: `--poses hybrid`."""

    rounds: int = 100
    """Of training; the learning rate falls to zero over them."""

    updates: int = 20
    """Steps of the optimiser a round."""

    batch: int = 128
    """Dreams a step: 256,000 images with rounds and updates as they are."""

    learning_rate: float = 2e-3
    """Of Adam, at its highest."""

    wake_every: int = 5
    """Rounds between two waking steps, in which the volume learns from real images."""

    wake_batch: int = 500
    """Real images a waking step."""

    wake_rate: float = 0.4
    """Weight of the newest images in the volume's statistics."""

    candidates: int = 8
    """Poses proposed for an image. Measured on a 70S ribosome (SNR 0.1) after 150 CPU-s: the best of 1, 2, 4, 8 lies
    within 15 degrees for 72, 81, 86, 88 % of the images."""

    nside: int = 4
    """HEALPix grid of viewing directions (4 is 15 degrees); offsets within cells are learnt."""

    rings: int = 16
    """Radii at which images are read."""

    angles: int = 48
    """In-plane angles."""

    channels: int = 128
    """Width of the network."""

    layers: int = 4
    """Its depth."""


@dataclass(frozen=True)
class WakeSleepState:
    """Carried from round to round.

    Attributes:
        round: done so far; weights: the encoder and its optimiser.
        first, second: statistics of the volume, fed in turn by waking rounds; None before the first of each.
        volume: [m, m, m], that dreams are made of.
    """

    round: int
    weights: Weights
    first: Statistics | None
    second: Statistics | None
    volume: Tensor


class WakeSleepRecipe:
    """The stage `encoder`: from a volume to an encoder that knows it."""

    name = "encoder"

    def __init__(
        self,
        feed: ImageFeed,
        settings: WakeSleepSettings,
        seed: int,
        volume: Tensor,
        noise: Tensor,
        sigma_angstrom: float,
    ) -> None:
        """Start from a map [m, m, m] with the field of view of the working box, m = 2 (radius + 2)."""
        self.feed, self.settings, self.seed = feed, settings, seed
        self.noise, self.sigma = noise, sigma_angstrom
        self.radius = Band.of_box(volume.shape[-1]).radius
        self.volume = volume
        self.encoder = make_encoder(feed, settings, seed, volume, sigma_angstrom)
        self.encode = TrainedEncoder(self.encoder, False, feed.source.preprocessing.particle_diameter_angstrom)
        self.trainer = Trainer({"encoder": self.encoder}, {"encoder": settings.learning_rate})

    def init(self) -> WakeSleepState:
        """An encoder that has seen nothing."""
        return WakeSleepState(0, self.trainer.weights(), None, None, self.volume)

    def finished(self, state: WakeSleepState) -> bool:
        """Whether all rounds are done: the learning rate has fallen to zero."""
        return state.round >= self.settings.rounds

    def end_early(self, state: WakeSleepState) -> WakeSleepState:
        """Any state is a result."""
        return state

    def step(self, state: WakeSleepState) -> tuple[WakeSleepState, StepInfo]:
        """One round asleep and, in turn, one batch awake."""
        s = self.settings
        self.trainer.restore(state.weights)
        generator = torch_generator(self.seed, STAGE_INDEX, state.round + 1)
        rng = numpy_generator(self.seed, STAGE_INDEX, state.round + 1)
        grid = volume_to_half(state.volume)
        loss, norm = 0.0, 0.0
        self.encoder.train()
        for i in range(s.updates):
            dreamt = dream(grid, self._like(rng, s.batch), self.sigma, generator)
            value = self.encoder.dream_loss(dreamt.images, dreamt.R, dreamt.t)
            norms = self.trainer.update(value, self._rate(state.round * s.updates + i))
            loss += float(value.detach()) / s.updates
            norm += norms["encoder"] / s.updates
        self.encoder.eval()
        judged = dream(grid, self._like(rng, JUDGED), self.sigma, generator)
        with torch.no_grad():
            error = best_of_candidates_degrees(self.encoder(judged.images), judged.R, s.candidates)
        following = WakeSleepState(state.round + 1, self.trainer.weights(), state.first, state.second, state.volume)
        if (state.round + 1) % s.wake_every == 0:
            following = self._awake(following, rng, generator)
        info = StepInfo(
            self.name,
            state.round + 1,
            s.rounds,
            self.feed.box * self.feed.pixel_size / self.radius,
            (
                ("loss", loss),
                ("gradient_norm", norm),
                ("dream_best_degrees", float(error.median())),
                ("dream_within_15", float((error < 15).float().mean())),
                ("images_seen", float((state.round + 1) * s.updates * s.batch)),
            ),
        )
        return following, info

    def _rate(self, update: int) -> float:
        """Warm-up, then a cosine to zero."""
        total = self.settings.rounds * self.settings.updates
        return min(1.0, (update + 1) / 50) * 0.5 * (1 + math.cos(math.pi * update / total))

    def _like(self, rng: np.random.Generator, count: int) -> dispatch.Images:
        """Real images whose CTF and noise dreams take over."""
        rows = np.sort(rng.integers(0, len(self.feed), count))
        return self.feed.images(rows, self.radius, self.noise)

    def _awake(self, state: WakeSleepState, rng: np.random.Generator, generator: torch.Generator) -> WakeSleepState:
        """Candidates of real images climb a little, are weighed, and blended into the volume."""
        s = self.settings
        rows = np.sort(rng.choice(len(self.feed), min(s.wake_batch, len(self.feed)), replace=False))
        images = self.feed.images(rows, self.radius, self.noise)
        grid = volume_to_half(state.volume)
        with torch.no_grad():
            found = self.encode(images)
        equal = PosePosterior(found.R, found.t, torch.zeros_like(found.log_weight))
        climbed = refine_poses(grid, images, equal, self.sigma, 3).posterior
        newest = accumulate(images, posterior_samples(climbed, generator), Band(self.radius).side)
        first, second = state.first, state.second
        if state.round // s.wake_every % 2 == 0:
            second = newest if second is None else second.blended(newest, s.wake_rate)
        else:
            first = newest if first is None else first.blended(newest, s.wake_rate)
        volume = state.volume
        if first is not None and second is not None:
            volume = running_map(first, second, self.radius, self.feed.mask(Band(self.radius).box))[0]
        return WakeSleepState(state.round, state.weights, first, second, volume)

    def to_arrays(self, state: WakeSleepState) -> Mapping[str, np.ndarray | Tensor]:
        """Flat arrays."""
        arrays: dict[str, np.ndarray | Tensor] = {
            "round": np.array(state.round),
            "volume": state.volume.cpu(),
            **to_arrays(state.weights, "weights."),
        }
        for name, value in (("first", state.first), ("second", state.second)):
            if value is not None:
                arrays[f"{name}.num"], arrays[f"{name}.den"] = value.num.cpu(), value.den.cpu()
        return arrays

    def from_arrays(self, arrays: Mapping[str, np.ndarray | Tensor]) -> WakeSleepState:
        """The inverse of `to_arrays`."""
        device = self.feed.device

        def statistics(name: str) -> Statistics | None:
            if f"{name}.num" not in arrays:
                return None
            num, den = (torch.as_tensor(arrays[f"{name}.{x}"]).to(device) for x in ("num", "den"))
            return Statistics(num, den)

        return WakeSleepState(
            int(np.asarray(arrays["round"])),
            from_arrays(arrays, "weights."),
            statistics("first"),
            statistics("second"),
            torch.as_tensor(arrays["volume"]).to(device),
        )

    def proposals(self, state: WakeSleepState) -> PosePosterior:
        """The trained encoder's candidates for all images, on the CPU."""
        self.trainer.restore(state.weights)
        self.encoder.eval()
        return propose(self.encode, self.feed, self.encoder.radius, self.noise)


def make_encoder(
    feed: ImageFeed, settings: WakeSleepSettings, seed: int, volume: Tensor, sigma_angstrom: float
) -> PoseEncoder:
    """A fresh encoder for particles like those of a map; its weights depend on the seed alone."""
    radius = Band.of_box(volume.shape[-1]).radius
    disc = feed.prefix(radius)
    views = random_rotations(300, torch_generator(seed, STAGE_INDEX, 0)).float().to(volume.device)
    power = dispatch.slices(volume_to_half(volume), views, disc).abs().square().mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(numpy_generator(seed, STAGE_INDEX, 0).integers(2**62)))
        encoder = PolarEncoder(
            disc=disc,
            diameter_angstrom=feed.source.preprocessing.particle_diameter_angstrom,
            signal=shell_means(power, disc),
            shift_sigma_angstrom=sigma_angstrom,
            candidates=settings.candidates,
            nside=settings.nside,
            rings=settings.rings,
            angles=settings.angles,
            channels=settings.channels,
            layers=settings.layers,
        )
    return encoder.to(feed.device)
