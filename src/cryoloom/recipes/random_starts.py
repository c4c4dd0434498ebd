"""Random starts of ab initio: online EM of one map from images at random rotations, judged by held-out images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.poses.frames import Frame, common_frames
from cryoloom.inference.poses.grids import (
    RotationGrid,
    cached_rotation_grid,
    in_asymmetric_unit,
    shift_grid,
    shift_step_angstrom,
)
from cryoloom.inference.poses.search import FIRST_SIGMA, Reference, match, shift_prior, slice_reference
from cryoloom.kernels import dispatch
from cryoloom.kernels.dispatch import Insertion
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import Images, Samples
from cryoloom.kernels.side_by_side import small_arrays
from cryoloom.maps.align import apply_rigid, mirrored
from cryoloom.maps.backprojection import (
    Statistics,
    moved,
    negated_about_spheres,
    running_map,
)
from cryoloom.maps.band import Band
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.maps.mask import without_radial_mean
from cryoloom.maps.symmetric_sums import SymmetricSums
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.noise import ResidualPower
from cryoloom.physics.rotations import random_rotations
from cryoloom.recipes.methods.search import UNSEEN, Schedule
from cryoloom.runs.seeds import numpy_generator, torch_generator

DRAWS = 32  # poses drawn from each image's posterior
REACH = 2.5  # range of the shift search, in standard deviations
NOISE_RATE = 0.1
NOISE_AFTER = 5  # steps of a level before the noise is learnt from residuals
# expected costs (`runs.loop.Recipe.expected_costs`), CPU-seconds per image, rotation and squared Fourier pixel
STEP_COST = 1.5e-9
USUAL_LENGTH = 1.2  # usual length of a level, relative to its minimum number of steps
# minimum gain of held-out images for a level to go on: in nats per image, and as a share of the gain over no particle
LEAST_GAIN = 0.2
LEAST_SHARE = 0.005
# minimum gain that tells a map that has taken shape, as a share of the lowest evidence over no particle. The map of the
# first images, at random rotations, shows the envelope already: on five molecules, maps that took shape gained 26 % and
# more over it, others 9 % and less
SHAPED = 0.15


@dataclass(frozen=True)
class RandomStart:
    """One independent start: its running statistics (two sets, updated in turn) and learnt parameters.

    Attributes:
        first, second: statistics updated by even and odd steps; their FSC gives the weight of each shell.
        noise: [G, S]; sigma_angstrom: standard deviation of shifts; level, steps: current level, steps done in it.
        evidence: mean log evidence of the held-out images at the checks of this level, nats per image, newest last.
        strengths: the same relative to no particle.
        held_poses: [H, 3, 3], poses of the held-out images at the newest check.
    """

    first: Statistics
    second: Statistics
    noise: Tensor
    sigma_angstrom: float
    level: int
    steps: int
    evidence: tuple[float, ...]
    strengths: tuple[float, ...]
    held_poses: Tensor

    @property
    def strength(self) -> float | None:
        """The newest evidence relative to no particle, nats per image; None before the first check of a level."""
        return self.strengths[-1] if self.strengths else None


class RandomStarts:
    """Random starts that follow one schedule."""

    def __init__(
        self,
        feed: ImageFeed,
        schedule: Schedule,
        pool: np.ndarray,
        held_out: np.ndarray,
        *,
        seed: int,
        stage: str,
        group: Tensor,
    ) -> None:
        """`pool`: rows that are learnt from; `held_out`: rows that judge; seed and stage name the random generators;
        `group`: [G, 3, 3], symmetry that maps have from the first step on, about the standard axes."""
        self.feed, self.schedule, self.pool, self.held_out = feed, schedule, pool, held_out
        self.seed, self.stage = seed, stage
        self.group = group.float()
        self.symmetric = SymmetricSums.of(self.group)
        self.free = len(group) == 1

    def radius(self, level: int) -> int:
        """Radius of a level, in Fourier pixels of the working box."""
        return self.feed.radius_of(self.schedule.radii[level])

    def new(self, index: int) -> RandomStart:
        """A new start: statistics of a few hundred images at random rotations."""
        rng = numpy_generator(self.seed, self.stage, "start", index)
        generator = torch_generator(self.seed, self.stage, "start", index)
        radius = self.radius(0)
        noise = self.feed.noise
        rows = np.sort(rng.choice(self.pool, min(400, len(self.pool)), replace=False))
        images = self.feed.images(rows, radius, noise)
        samples = random_samples(len(rows), generator, self.feed.device)
        first = self._inserted(images, samples, radius)
        sigma = FIRST_SIGMA * self.feed.field_of_view
        return RandomStart(
            first=first,
            second=first,
            noise=noise,
            sigma_angstrom=sigma,
            level=0,
            steps=0,
            evidence=(),
            strengths=(),
            held_poses=torch.zeros(0, 3, 3),
        )

    def counterpart(self, start: RandomStart) -> RandomStart:
        """A start from the map of another one in which what differs from the mean over each sphere is negated.

        Of a shell, images at wrong poses can make a map whose density is low where it is high in truth: a stable one,
        to which most random starts may lead. The counterpart has its shape, and begins at the last scouting level.
        """
        last = self.marched(start, len(self.schedule.levels) - 1)
        return replace(
            last,
            first=negated_about_spheres(last.first),
            second=negated_about_spheres(last.second),
            held_poses=torch.zeros(0, 3, 3),
        )

    def volume(self, start: RandomStart) -> tuple[Tensor, Tensor]:
        """The current map, masked, Wiener-filtered by the FSC of the two sets; and that FSC."""
        radius = self.radius(start.level)
        return running_map(start.first, start.second, radius, self.feed.mask(Band(radius).box))

    def em_step(self, start: RandomStart, step: int) -> tuple[RandomStart, Tensor, float]:
        """The start after one batch, the FSC of its two sets before, and the batch's mean log evidence."""
        level, radius = start.level, self.radius(start.level)
        rng = numpy_generator(self.seed, self.stage, "step", step)
        generator = torch_generator(self.seed, self.stage, "step", step)
        rows = np.sort(rng.choice(self.pool, min(self.schedule.batch[level], len(self.pool)), replace=False))
        images, held = self.feed.images(rows, radius, start.noise), None
        if (start.steps + 1) % self.schedule.check_every == 0:
            held = self.feed.images(self.held_out, radius, start.noise)
        with small_arrays():
            return self._step_with(start, images, held, rng=rng, generator=generator)

    def _step_with(
        self,
        start: RandomStart,
        images: Images,
        held: Images | None,
        *,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> tuple[RandomStart, Tensor, float]:
        """The step with a batch of images, and with the held-out images where these are to judge the map."""
        level, radius = start.level, self.radius(start.level)
        volume, fsc = self.volume(start)
        grid = volume_to_half(volume)
        rotations = self._turned_grid(self.schedule.nside[level], generator)
        reference = slice_reference(grid, rotations, self.feed.prefix(radius))
        spacing = shift_step_angstrom(self.feed.box, self.feed.pixel_size, radius)
        shifts = shift_grid(spacing, max(REACH * start.sigma_angstrom, 1.01 * spacing)).to(self.feed.device)
        prior = shift_prior(shifts, start.sigma_angstrom)
        uniform = torch.from_numpy(rng.random(len(images), dtype=np.float32)).to(self.feed.device)
        posterior = match(images, reference, shifts=shifts, prior=prior, uniform=uniform, draws=DRAWS)
        samples = drawn(posterior.picks, rotations.R.to(shifts), shifts)
        newest = self._inserted(images, samples, radius)
        rate = self.schedule.rate[level]
        first, second = start.first, start.second
        if start.steps % 2 == 0:
            first = first.blended(newest, rate)
        else:
            second = second.blended(newest, rate)
        if held is not None:
            start = self._judged(start, held, reference, shifts, prior)
        noise = start.noise
        if start.steps >= NOISE_AFTER:
            residuals = ResidualPower(*dispatch.residual_power(grid, images, samples))
            noise = residuals.learnt(noise, NOISE_RATE)
        sigma = learnt_sigma(start.sigma_angstrom, samples, spacing, len(images))
        start = replace(start, first=first, second=second, noise=noise, sigma_angstrom=sigma, steps=start.steps + 1)
        return start, fsc, float(posterior.log_evidence.mean())

    def _inserted(self, images: Images, samples: Samples, radius: int) -> Statistics:
        """Normal equations of images at samples and all their symmetry mates."""
        inserted = Insertion(Band(radius).side, self.feed.device)
        inserted.add(images, self.symmetric.at_mates(samples))
        sums = self.symmetric.imposed(inserted)
        return Statistics(sums.num.contiguous(), sums.den.contiguous())

    def _judged(
        self, start: RandomStart, held: Images, reference: Reference, shifts: Tensor, prior: Tensor
    ) -> RandomStart:
        """The start with the log evidence and the poses of the held-out images on the present map.

        The evidence is a mean over rotations and the prior of shifts: their number and width differ between steps.
        """
        none = torch.zeros(len(self.held_out)).to(shifts)
        judged = match(held, reference, shifts=shifts, prior=prior, uniform=none, draws=1)
        R = reference.grid.R.to(shifts)
        strength = float(judged.log_evidence.mean() - prior.logsumexp(0)) - float(np.log(len(R)))
        evidence = (*start.evidence, strength + float(_null_log_likelihood(held).mean()))
        held_poses = R[judged.best[:, 0] % len(R)]
        return replace(start, evidence=evidence, strengths=(*start.strengths, strength), held_poses=held_poses)

    def _turned_grid(self, nside: int, generator: torch.Generator) -> RotationGrid:
        """The grid rotated at random, so that no orientation between its points is missed in all steps."""
        grid = cached_rotation_grid(nside)
        turn = random_rotations(1, generator)[0].float()
        R = turn @ grid.R
        if not self.free:
            groups = R.view(4, -1, 3, 3)
            R = groups[:, in_asymmetric_unit(R, self.group)].reshape(-1, 3, 3)
        return RotationGrid(nside, R.contiguous())

    def level_done(self, start: RandomStart) -> bool:
        """Whether the level has had its steps, and held-out images have not gained for a while."""
        s = self.schedule
        if start.steps < s.least_steps[start.level]:
            return False
        if start.steps >= s.most_steps[start.level] or not self.seen(start):
            return True
        seen, last = start.evidence, s.patience
        if len(seen) <= last or not self.checked(start) or not self.shaped(start):
            return False
        # no gain in the last checks over the best before them, by more than their scatter
        return max(seen[-last:]) < max(seen[:-last]) + max(LEAST_GAIN, LEAST_SHARE * start.strengths[-1])

    def shaped(self, start: RandomStart) -> bool:
        """Whether the map has taken shape, where the schedule waits for it."""
        rise = self.schedule.rise[start.level]
        if rise == 0 or not start.strengths:
            return rise == 0
        lowest = min(start.strengths)
        return max(start.strengths) - lowest >= max(rise, SHAPED * lowest)

    def seen(self, start: RandomStart) -> bool:
        """Whether the map makes held-out images likelier than no particle does; True before it is evaluated."""
        return start.strength is None or start.strength > UNSEEN

    def scouted(self, start: RandomStart) -> bool:
        """Whether a start is in its last scouting level, or beyond."""
        return start.level + 1 >= len(self.schedule.levels)

    def checked(self, start: RandomStart) -> bool:
        """Whether the last step evaluated the held-out images."""
        return bool(start.evidence) and start.steps % self.schedule.check_every == 0

    def marched(self, start: RandomStart, level: int) -> RandomStart:
        """The start at the beginning of another level."""
        side = Band(self.radius(level)).side
        return replace(
            start,
            first=start.first.resized(side),
            second=start.second.resized(side),
            level=level,
            steps=0,
            evidence=(),
            strengths=(),
        )

    def recentred(self, start: RandomStart) -> RandomStart:
        """The start moved so that the centre of mass of the density lies at the centre of the box, where it may be."""
        if not self.free:
            return start
        volume, _ = self.volume(start)
        offset = -centre_of_mass(volume)
        return replace(start, first=moved(start.first, offset), second=moved(start.second, offset))

    def likeness(self, a: RandomStart, b: RandomStart) -> float:
        """Similarity of two starts' maps at one level, the higher one of both hands."""
        return self.likeness_to(a, self.volume(b)[0], b.held_poses)

    def likeness_to(self, start: RandomStart, volume: Tensor, R: Tensor) -> float:
        """Similarity of a start's map to another of its size, in which the held-out images have rotations R [H, 3, 3];
        the higher one of both hands."""
        frames = common_frames(start.held_poses, R) if self.free else frames_on_axes()
        last = round(self.schedule.compared * self.radius(start.level))
        own = self.volume(start)[0]
        return max(map_likeness(own, volume, frame, last) for frame in frames)

    def costs(self, level: int = 0, steps: int = 0) -> list[float]:
        """Cost of the steps of a start from a step of a level to the end of the last scouting level."""
        costs = []
        for at in range(level, len(self.schedule.levels)):
            usual = round(USUAL_LENGTH * self.schedule.least_steps[at])
            costs += [self.step_cost(at)] * max(1, usual - (steps if at == level else 0))
        return costs

    def final_costs(self, steps: int) -> list[float]:
        """Cost of the steps ahead of a start in the final level."""
        last = len(self.schedule.levels)
        return [self.step_cost(last)] * max(1, self.schedule.least_steps[last] - steps)

    def step_cost(self, level: int) -> float:
        """Expected cost of a step."""
        rotations = len(cached_rotation_grid(self.schedule.nside[level]).R)
        return STEP_COST * self.schedule.batch[level] * rotations * self.radius(level) ** 2


def step_metrics(
    index: int, level: int, evidence: float, rim: Tensor, sigma_angstrom: float
) -> tuple[tuple[str, float], ...]:
    """What is logged of a step: of which start and level, the evidence of its batch, the FSC at the rim of its map."""
    return (
        ("start", float(index)),
        ("level", float(level)),
        ("evidence", evidence),
        ("fsc_at_rim", float(rim)),
        ("shift_sigma_angstrom", sigma_angstrom),
    )


def random_samples(count: int, generator: torch.Generator, device: torch.device) -> Samples:
    """One sample of each image, at a random rotation and without a shift."""
    return Samples(
        torch.arange(count, device=device),
        random_rotations(count, generator).float().to(device),
        torch.zeros(count, 2, device=device),
        torch.ones(count, device=device),
    )


def drawn(picks: Tensor, R: Tensor, shifts: Tensor) -> Samples:
    """Draws [B, S] of equal weight, merged into distinct weighted samples."""
    B, S = picks.shape
    M = len(R)
    image = torch.arange(B, device=picks.device).repeat_interleave(S)
    pairs, counts = torch.unique(image * (M * len(shifts)) + picks.reshape(-1), return_counts=True)
    image, key = pairs // (M * len(shifts)), pairs % (M * len(shifts))
    return Samples(image, R[key % M].contiguous(), shifts[key // M].contiguous(), counts.float() / S)


def _null_log_likelihood(images: Images) -> Tensor:
    """log p(Y | no particle) of each image, up to constants of the disc; scores are relative to it, and it depends on
    the noise spectrum."""
    h, s2 = images.disc.weight, images.variance[images.group]
    return -0.5 * (h * images.observed.abs().square() / s2).sum(1) - 0.5 * (h * s2.log()).sum(1)


def frames_on_axes() -> list[Frame]:
    """Frames in which two maps of one polyhedral group about the standard axes may agree.

    A quarter turn about z is no symmetry of T or I, but maps the axes of T onto themselves.
    """
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    none = torch.zeros(0)
    return [Frame(Q, hand, none, 0.0) for Q in (torch.eye(3), quarter) for hand in (False, True)]


def map_likeness(a: Tensor, b: Tensor, frame: Frame, last: int) -> float:
    """Mean FSC, up to shell `last`, of a map with another that is turned into its frame and moved to the peak of the
    correlation.

    The first two shells are left out: they hold the envelope, in which any two maps of one particle agree. So do the
    radial means about the centre, in which any two balls or shells agree, however wrong their poses are.
    """
    other = apply_rigid(mirrored(b) if frame.mirrored else b, frame.Q.to(b), torch.zeros(3).to(b))
    correlation = torch.fft.irfftn(torch.fft.rfftn(a) * torch.fft.rfftn(other).conj(), s=a.shape)
    peak = np.unravel_index(int(correlation.argmax()), a.shape)
    # the mean is taken about one centre, once the maps lie on each other
    a, other = (without_radial_mean(v) for v in (a, other.roll([int(p) for p in peak], (0, 1, 2))))
    return float(fourier_shell_correlation(a, other)[3 : last + 1].mean())


def learnt_sigma(sigma: float, samples: Samples, spacing: float, count: int) -> float:
    """S.d. of shifts moved towards that of the batch, including the width of a cell of the shift grid."""
    square = float((samples.weight[:, None] * samples.t.square()).sum()) / (2 * count) + spacing**2 / 12
    return float(np.sqrt(0.8 * sigma**2 + 0.2 * square))


def centre_of_mass(volume: Tensor) -> Tensor:
    """Centre (x, y, z) in voxels from D // 2 of the density above a fifth of its peak."""
    box = volume.shape[-1]
    dense = (volume - 0.2 * volume.max()).clamp(min=0)
    axis = torch.arange(box, device=volume.device, dtype=volume.dtype) - box // 2
    total = dense.sum().clamp(min=1e-20)
    return (
        torch.stack(
            [(dense.sum((0, 1)) * axis).sum(), (dense.sum((0, 2)) * axis).sum(), (dense.sum((1, 2)) * axis).sum()]
        )
        / total
    )
