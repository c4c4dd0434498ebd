"""Wake-sleep: an encoder learns poses from dreams of the current volume; awake, the volume learns from real images.

Asleep (Hinton et al. 1995): images are simulated from the volume at random known poses, with CTFs, noise and shifts as
in the data, and the encoder is trained on them, supervised and without local minima. Awake: it proposes candidates for
real images, these are weighted by their likelihood, and their statistics are blended into the volume's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.poses.dreams import dream
from cryoloom.inference.poses.encoder import PoseEncoder, best_of_candidates_degrees
from cryoloom.inference.poses.encoder_file import TrainedEncoder
from cryoloom.inference.poses.polar_encoder import PolarEncoder
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.proposals import Proposed, propose
from cryoloom.inference.poses.refine import refine_poses
from cryoloom.inference.poses.samples import posterior_samples
from cryoloom.inference.training import Trainer, Weights
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.maps.backprojection import Statistics, accumulate, running_map
from cryoloom.maps.band import Band
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.noise import shell_means
from cryoloom.physics.rotations import random_rotations
from cryoloom.recipes.methods.hybrid import WakeSleepSettings
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.seeds import numpy_generator, torch_generator

# expected cost (`runs.loop.Recipe.expected_costs`), CPU-seconds per image
IMAGE_COST = 8e-4
JUDGED = 512  # number of dreams, not used for training, on which the encoder is evaluated


@dataclass(frozen=True)
class WakeSleepState:
    """State carried from round to round.

    Attributes:
        round: rounds done so far; weights: the encoder and its optimiser.
        first, second: statistics of the volume, updated in turn by wake steps; None before their first update.
        volume: [m, m, m], from which dreams are simulated.
    """

    round: int
    weights: Weights
    first: Statistics | None
    second: Statistics | None
    volume: Tensor


class WakeSleepRecipe:
    """The stage `encoder`: from a volume to an encoder that knows it."""

    name = "encoder"
    state_type = WakeSleepState

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
        """An untrained encoder."""
        return WakeSleepState(0, self.trainer.weights(), None, None, self.volume)

    def finished(self, state: WakeSleepState) -> bool:
        """Whether all rounds are done: the learning rate has fallen to zero."""
        return state.round >= self.settings.rounds

    def end_early(self, state: WakeSleepState) -> WakeSleepState:
        """Any state is a result."""
        return state

    def step(self, state: WakeSleepState) -> tuple[WakeSleepState, StepInfo]:
        """One round of training on dreams and, every few rounds, one batch of real images."""
        s = self.settings
        self.trainer.restore(state.weights)
        generator = torch_generator(self.seed, self.name, "round", state.round + 1)
        rng = numpy_generator(self.seed, self.name, "round", state.round + 1)
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
            self.feed.field_of_view / self.radius,
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
        """Learning rate relative to its maximum: warm-up, then a cosine to zero."""
        total = self.settings.rounds * self.settings.updates
        return min(1.0, (update + 1) / 50) * 0.5 * (1 + math.cos(math.pi * update / total))

    def _like(self, rng: np.random.Generator, count: int) -> dispatch.Images:
        """Real images from which dreams take CTF and noise."""
        rows = np.sort(rng.integers(0, len(self.feed), count))
        return self.feed.images(rows, self.radius, self.noise)

    def _awake(self, state: WakeSleepState, rng: np.random.Generator, generator: torch.Generator) -> WakeSleepState:
        """Refine candidate poses of real images by a few steps, weight them, and blend the images into the volume."""
        s = self.settings
        rows = np.sort(rng.choice(len(self.feed), min(s.wake_batch, len(self.feed)), replace=False))
        images = self.feed.images(rows, self.radius, self.noise)
        grid = volume_to_half(state.volume)
        with torch.no_grad():
            found = self.encode(images)
        equal = PosePosterior(found.R, found.t, torch.zeros_like(found.log_weight))
        climbed = refine_poses(grid, images, equal, self.sigma, 3).posterior
        newest = accumulate(images, posterior_samples(climbed, generator, self.radius), Band(self.radius).side)
        first, second = state.first, state.second
        if state.round // s.wake_every % 2 == 0:
            second = newest if second is None else second.blended(newest, s.wake_rate)
        else:
            first = newest if first is None else first.blended(newest, s.wake_rate)
        volume = state.volume
        if first is not None and second is not None:
            volume = running_map(first, second, self.radius, self.feed.mask(Band(self.radius).box))[0]
        return WakeSleepState(state.round, state.weights, first, second, volume)

    def expected_costs(self, state: WakeSleepState) -> Sequence[float]:
        """Expected cost of the rounds ahead: all cost the same."""
        s = self.settings
        return [training_cost(s) / s.rounds] * (s.rounds - state.round)

    def result(self, state: WakeSleepState) -> Proposed:
        """The trained encoder with its candidates for all images, and the volume that has learnt from real images."""
        self.trainer.restore(state.weights)
        self.encoder.eval()
        poses = propose(self.encode, self.feed, self.encoder.radius, self.noise)
        return Proposed(self.encode, poses, state.volume, self.noise)


def training_cost(settings: WakeSleepSettings) -> float:
    """Expected cost of the whole training (see `runs.loop.Recipe.expected_costs`)."""
    return IMAGE_COST * settings.rounds * settings.updates * settings.batch


def make_encoder(
    feed: ImageFeed, settings: WakeSleepSettings, seed: int, volume: Tensor, sigma_angstrom: float
) -> PoseEncoder:
    """An untrained encoder for the particle of a map; its initial weights depend only on the seed."""
    radius = Band.of_box(volume.shape[-1]).radius
    disc = feed.prefix(radius)
    views = random_rotations(300, torch_generator(seed, WakeSleepRecipe.name, "views")).float().to(volume.device)
    power = dispatch.slices(volume_to_half(volume), views, disc).abs().square().mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(numpy_generator(seed, WakeSleepRecipe.name, "weights").integers(2**62)))
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
