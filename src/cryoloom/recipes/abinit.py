"""Ab initio: online EM from random orientations with frequency marching, several starts judged by held-out images.

Every step matches a small batch against slices of the current map (exhaustively, as matrix products), draws poses from
the posterior and blends the batch's statistics into running ones. Nothing is stored per image. A level ends when the
likelihood of held-out images stops growing. New random starts are made until two of them agree (their aligned maps
correlate); if none agree, the start with the highest likelihood goes on to one more level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.poses.frames import Frame, common_frames
from cryoloom.inference.poses.grids import RotationGrid, cached_rotation_grid, shift_grid, shift_step_angstrom
from cryoloom.inference.poses.search import match, shift_prior, slice_reference
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import Images, Samples
from cryoloom.maps.align import apply_rigid, mirrored
from cryoloom.maps.backprojection import (
    Statistics,
    accumulate,
    moved,
    running_map,
)
from cryoloom.maps.band import Band
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.selection import most_informative
from cryoloom.physics.noise import ResidualPower
from cryoloom.physics.rotations import random_rotations
from cryoloom.recipes.methods.search import AbInitSettings
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.seeds import numpy_generator, torch_generator

DRAWS = 32  # poses drawn from each image's posterior
CHECK_EVERY = 5  # steps between evaluations of the held-out images
FIRST_SIGMA = 0.06  # initial standard deviation of shifts, in box sides; it is then learnt
REACH = 2.5  # range of the shift search, in standard deviations
NOISE_RATE = 0.1
# expected costs (`runs.loop.Recipe.expected_costs`), CPU-seconds per image, rotation and squared Fourier pixel
STEP_COST = 1.2e-8
USUAL_STARTS = 2
USUAL_LENGTH = 1.2  # usual length of a level, relative to its minimum number of steps
# minimum gain of held-out images for a level to go on: in nats per image, and as a share of the gain over no particle
LEAST_GAIN = 0.2
LEAST_SHARE = 0.005


@dataclass(frozen=True)
class RandomStart:
    """One independent start: its running statistics (two sets, updated in turn) and learnt parameters.

    Attributes:
        first, second: statistics updated by even and odd steps; their FSC gives the weight of each shell.
        noise: [G, S]; sigma_angstrom: standard deviation of shifts; level, steps: current level, steps done in it.
        evidence: mean log evidence of the held-out images at the checks of this level, nats per image, newest last.
        strength: the newest evidence relative to no particle; held_poses: [H, 3, 3], poses of held-out images then.
    """

    first: Statistics
    second: Statistics
    noise: Tensor
    sigma_angstrom: float
    level: int
    steps: int
    evidence: tuple[float, ...]
    strength: float
    held_poses: Tensor


@dataclass(frozen=True)
class AbInitState:
    """State carried from step to step.

    Attributes:
        step: steps done so far; current: the current start, None between two starts.
        index: its number; done: starts that reached the end of scouting; scores: their evidence;
        likeness: [n, n], similarity of the maps of done starts; chosen: index of the start carried to the final level,
            None before.
        complete: whether the recipe has finished.
    """

    step: int
    index: int
    current: RandomStart | None
    done: tuple[RandomStart, ...]
    scores: tuple[float, ...]
    likeness: Tensor
    chosen: int | None
    complete: bool


class AbInitRecipe:
    """The stage `abinit`; its result is `result(state)`."""

    name = "abinit"
    state_type = AbInitState

    def __init__(
        self, feed: ImageFeed, settings: AbInitSettings, seed: int, preview: Callable[[Tensor], None] | None = None
    ) -> None:
        """`preview` receives the map of the likeliest start as it develops (see `_volume` for its box)."""
        self.feed, self.settings, self.seed = feed, settings, seed
        self.preview = preview
        self.levels = (*settings.levels, settings.final_level)
        order = numpy_generator(seed, self.name, "images").permutation(len(feed))[: settings.considered]
        count = max(settings.least_used, round(settings.share * len(order)))
        radius, noise = self.radius(len(settings.levels) - 1), feed.noise
        order = most_informative(feed, order, radius, noise, count)
        held = min(settings.held_out, len(order) // 5)
        self.held_out = np.sort(order[:held])
        self.pool = order[held:]

    def radius(self, level: int) -> int:
        """Radius of a level, in Fourier pixels of the working box."""
        return self.feed.radius_of(self.levels[level])

    def init(self) -> AbInitState:
        """State before the first start."""
        return AbInitState(
            step=0, index=0, current=None, done=(), scores=(), likeness=torch.zeros(0, 0), chosen=None, complete=False
        )

    def finished(self, state: AbInitState) -> bool:
        """Whether the chosen start has reached the end of the final level."""
        return state.complete

    def step(self, state: AbInitState) -> tuple[AbInitState, StepInfo]:
        """Process one batch of one start; at the end of a level, advance."""
        start = state.current if state.current is not None else self._new_start(state.index)
        level = start.level
        start, fsc, evidence = self._em_step(start, state.step + 1)
        if self.preview is not None and self._worth_a_look(start, state.scores):
            self.preview(self._volume(start)[0])
        message = None
        if self._level_done(start) or self._agrees_already(state, start):
            following, message = self._advance(replace(state, step=state.step + 1, current=start))
        else:
            following = replace(state, step=state.step + 1, current=start)
        radius = self.radius(level)
        info = StepInfo(
            stage=self.name,
            step=state.step + 1,
            resolution_angstrom=self.feed.field_of_view / radius,
            metrics=(
                ("start", float(state.index)),
                ("level", float(level)),
                ("evidence", evidence),
                ("fsc_at_rim", float(fsc[radius])),
                ("shift_sigma_angstrom", start.sigma_angstrom),
                *_of_done_start(state, following),
            ),
            message=message,
        )
        return following, info

    def _worth_a_look(self, start: RandomStart, scores: tuple[float, ...]) -> bool:
        """Whether the map was just evaluated, is beyond the first level, and is likelier than all earlier starts."""
        if start.level == 0 or start.steps % CHECK_EVERY or not start.evidence:
            return False
        if not scores:
            return True
        # evidence is comparable at one radius only
        return self._scouted(start) and start.evidence[-1] > max(scores)

    def _scouted(self, start: RandomStart) -> bool:
        """Whether a start is in its last scouting level, or beyond."""
        return start.level + 1 >= len(self.settings.levels)

    def _new_start(self, index: int) -> RandomStart:
        """Statistics of a few hundred images at random rotations."""
        rng = numpy_generator(self.seed, self.name, "start", index)
        generator = torch_generator(self.seed, self.name, "start", index)
        radius = self.radius(0)
        noise = self.feed.noise
        rows = np.sort(rng.choice(self.pool, min(400, len(self.pool)), replace=False))
        images = self.feed.images(rows, radius, noise)
        n, device = len(rows), self.feed.device
        samples = Samples(
            torch.arange(n, device=device),
            random_rotations(n, generator).float().to(device),
            torch.zeros(n, 2, device=device),
            torch.ones(n, device=device),
        )
        first = accumulate(images, samples, Band(radius).side)
        sigma = FIRST_SIGMA * self.feed.field_of_view
        return RandomStart(
            first=first,
            second=first,
            noise=noise,
            sigma_angstrom=sigma,
            level=0,
            steps=0,
            evidence=(),
            strength=0.0,
            held_poses=torch.zeros(0, 3, 3),
        )

    def _volume(self, start: RandomStart) -> tuple[Tensor, Tensor]:
        """The current map, masked, Wiener-filtered by the FSC of the two sets; and that FSC."""
        radius = self.radius(start.level)
        return running_map(start.first, start.second, radius, self.feed.mask(Band(radius).box))

    def _em_step(self, start: RandomStart, step: int) -> tuple[RandomStart, Tensor, float]:
        level = start.level
        radius = self.radius(level)
        rng = numpy_generator(self.seed, self.name, "step", step)
        generator = torch_generator(self.seed, self.name, "step", step)
        volume, fsc = self._volume(start)
        grid = volume_to_half(volume)
        rotations = self._turned_grid(self.settings.nside[level], generator)
        reference = slice_reference(grid, rotations, self.feed.prefix(radius))
        spacing = shift_step_angstrom(self.feed.box, self.feed.pixel_size, radius)
        shifts = shift_grid(spacing, max(REACH * start.sigma_angstrom, 1.01 * spacing)).to(self.feed.device)
        prior = shift_prior(shifts, start.sigma_angstrom)
        rows = np.sort(rng.choice(self.pool, min(self.settings.batch[level], len(self.pool)), replace=False))
        images = self.feed.images(rows, radius, start.noise)
        uniform = torch.from_numpy(rng.random(len(rows), dtype=np.float32)).to(self.feed.device)
        posterior = match(images, reference, shifts=shifts, prior=prior, uniform=uniform, draws=DRAWS)
        samples = _drawn(posterior.picks, rotations.R.to(shifts), shifts)
        newest = accumulate(images, samples, Band(radius).side)
        rate = self.settings.rate[level]
        first, second = start.first, start.second
        if start.steps % 2 == 0:
            first = first.blended(newest, rate)
        else:
            second = second.blended(newest, rate)
        evidence, strength, poses = start.evidence, start.strength, start.held_poses
        if (start.steps + 1) % CHECK_EVERY == 0:
            held = self.feed.images(self.held_out, radius, start.noise)
            judged = match(
                held, reference, shifts=shifts, prior=prior, uniform=torch.zeros(len(self.held_out)).to(shifts), draws=1
            )
            strength = float(judged.log_evidence.mean())
            evidence = (*evidence, strength + float(_null_log_likelihood(held).mean()))
            poses = rotations.R.to(shifts)[judged.best[:, 0] % len(rotations.R)]
        noise = self._learnt_noise(start, grid, images, samples) if start.steps >= CHECK_EVERY else start.noise
        sigma = _learnt_sigma(start.sigma_angstrom, samples, spacing, len(rows))
        start = RandomStart(
            first=first,
            second=second,
            noise=noise,
            sigma_angstrom=sigma,
            level=level,
            steps=start.steps + 1,
            evidence=evidence,
            strength=strength,
            held_poses=poses,
        )
        return start, fsc, float(posterior.log_evidence.mean())

    def _turned_grid(self, nside: int, generator: torch.Generator) -> RotationGrid:
        """The grid rotated at random, so that no orientation between its points is missed in all steps."""
        grid = cached_rotation_grid(nside)
        turn = random_rotations(1, generator)[0].float()
        return RotationGrid(nside, (turn @ grid.R).contiguous())

    def _learnt_noise(self, start: RandomStart, grid: Tensor, images: Images, samples: Samples) -> Tensor:
        """Noise spectra moved towards the power of the batch's residuals, for the shells within the radius."""
        return ResidualPower(*dispatch.residual_power(grid, images, samples)).learnt(start.noise, NOISE_RATE)

    def _level_done(self, start: RandomStart) -> bool:
        s = self.settings
        if start.steps < s.least_steps[start.level]:
            return False
        if start.steps >= s.most_steps:
            return True
        seen = start.evidence
        if len(seen) < 3 or start.steps % CHECK_EVERY:
            return False
        # no gain in the last two checks over the best before them, by more than their scatter
        return max(seen[-2:]) < max(seen[:-2]) + max(LEAST_GAIN, LEAST_SHARE * start.strength)

    def _agrees_already(self, state: AbInitState, start: RandomStart) -> bool:
        """Whether a start in its last scouting level has reached the same map as the likeliest earlier start."""
        if state.chosen is not None or not (self._scouted(start) and state.done) or start.steps % CHECK_EVERY:
            return False
        return self._likeness_of(start, state.done[int(np.argmax(state.scores))]) >= self.settings.agreement

    def _advance(self, state: AbInitState) -> tuple[AbInitState, str | None]:
        """To the next level, or from the last scouting level to the next start or the final level of the best start."""
        start = state.current
        assert start is not None
        if state.chosen is not None:
            return replace(state, current=start, complete=True), None
        if not self._scouted(start):
            return replace(state, current=self._marched(start, start.level + 1)), None
        start = self._recentred(start)
        done, scores = (*state.done, start), (*state.scores, max(start.evidence[-2:]))
        likeness = self._likeness(done, state.likeness)
        best = int(np.argmax(scores))
        agreed = len(done) > 1 and float(likeness[best].max()) >= self.settings.agreement
        text = f"start {state.index + 1}: log evidence {scores[-1]:.1f} nats per image"
        if len(done) > 1:
            text += f", similarity to the most similar earlier map {float(likeness[-1].max()):.2f}"
        if agreed:  # a correct map is best improved by refinement
            known = replace(state, done=done, scores=scores, likeness=likeness, chosen=best)
            return replace(known, current=done[best], complete=True), text
        if len(done) >= self.settings.restarts:
            carried = self._marched(done[best], len(self.levels) - 1)
            return replace(state, current=carried, done=done, scores=scores, likeness=likeness, chosen=best), text
        return replace(state, index=state.index + 1, current=None, done=done, scores=scores, likeness=likeness), text

    def _marched(self, start: RandomStart, level: int) -> RandomStart:
        side = Band(self.radius(level)).side
        return replace(
            start, first=start.first.resized(side), second=start.second.resized(side), level=level, steps=0, evidence=()
        )

    def _recentred(self, start: RandomStart) -> RandomStart:
        """The start moved so that the centre of mass of the density lies at the centre of the box."""
        volume, _ = self._volume(start)
        offset = -centre_of_mass(volume)
        return replace(start, first=moved(start.first, offset), second=moved(start.second, offset))

    def _likeness(self, done: tuple[RandomStart, ...], known: Tensor) -> Tensor:
        """Pairwise similarity of the done starts' maps; only the newest row is computed."""
        n = len(done)
        likeness = torch.zeros(n, n)
        likeness[: n - 1, : n - 1] = known
        for i in range(n - 1):
            likeness[i, -1] = likeness[-1, i] = self._likeness_of(done[-1], done[i])
        return likeness

    def _likeness_of(self, a: RandomStart, b: RandomStart) -> float:
        """Similarity of two starts' maps at one level, the higher one of both hands."""
        first, second = self._volume(a)[0], self._volume(b)[0]
        return max(map_likeness(first, second, frame) for frame in common_frames(a.held_poses, b.held_poses))

    def end_early(self, state: AbInitState) -> AbInitState:
        """The best start so far, as it is."""
        if state.current is None or (state.done and state.chosen is None):
            best = int(np.argmax(state.scores))
            return replace(state, current=state.done[best], chosen=best, complete=True)
        return replace(state, chosen=state.chosen or 0, complete=True)

    def expected_costs(self, state: AbInitState) -> Sequence[float]:
        """Expected cost of the steps ahead: those of the current start, and of a second one that may agree."""
        s, last = self.settings, len(self.settings.levels)
        if state.chosen is not None:  # the final level of a start that agrees with no other
            begun = 0 if state.current is None else state.current.steps
            return [self._step_cost(last)] * max(1, s.least_steps[last] - begun)
        costs: list[float] = []
        if state.current is not None:
            costs += self._start_costs(state.current.level, state.current.steps)
        # a start usually agrees with an earlier one; disagreement so far does not predict the next
        more = max(0, min(USUAL_STARTS, s.restarts) - len(state.done) - (state.current is not None))
        return costs + more * self._start_costs(0, 0)

    def _start_costs(self, level: int, steps: int) -> list[float]:
        """Cost of the steps of a start from a step of a level to the end of the last scouting level."""
        costs = []
        for at in range(level, len(self.settings.levels)):
            usual = round(USUAL_LENGTH * self.settings.least_steps[at])
            costs += [self._step_cost(at)] * max(1, usual - (steps if at == level else 0))
        return costs

    def _step_cost(self, level: int) -> float:
        rotations = len(cached_rotation_grid(self.settings.nside[level]).R)
        return STEP_COST * self.settings.batch[level] * rotations * self.radius(level) ** 2

    def result(self, state: AbInitState) -> AbInitResult:
        """The final map and the agreement of the starts."""
        start = state.current
        assert start is not None
        start = self._recentred(start)
        volume, _ = self._volume(start)
        best = state.chosen or 0
        others = [float(x) for i, x in enumerate(state.likeness[best]) if i != best] if len(state.likeness) else []
        return AbInitResult(
            volume=volume,
            radius=self.radius(start.level),
            noise=start.noise,
            sigma_angstrom=start.sigma_angstrom,
            starts=len(state.done),
            likeness=max(others) if others else None,
            agreeing=sum(x >= self.settings.agreement for x in others) + 1,
        )


@dataclass(frozen=True)
class AbInitResult:
    """Result of ab initio, from which refinement starts.

    Attributes:
        volume: [m, m, m], band-limited box m = 2 (radius + 2) with the field of view of the working box.
        radius: Fourier pixels; noise: [G, S]; sigma_angstrom: standard deviation of shifts.
        starts: number made; likeness: similarity of the best start's map to the most similar other, or None;
        agreeing: number of starts that agree with the best, itself included.
    """

    volume: Tensor
    radius: int
    noise: Tensor
    sigma_angstrom: float
    starts: int
    likeness: float | None
    agreeing: int


def _of_done_start(before: AbInitState, after: AbInitState) -> list[tuple[str, float]]:
    """Evidence of the start that this step brought to the end of scouting, and the similarity of its map to each
    earlier start's; nothing at other steps."""
    if len(after.done) == len(before.done):
        return []
    likeness = after.likeness[-1, :-1].tolist()
    return [("start_evidence", after.scores[-1]), *((f"likeness_to_{i}", x) for i, x in enumerate(likeness))]


def _drawn(picks: Tensor, R: Tensor, shifts: Tensor) -> Samples:
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


def map_likeness(a: Tensor, b: Tensor, frame: Frame) -> float:
    """Mean FSC of a map with another that is turned into its frame and moved to the peak of the correlation.

    The first two shells are left out: they hold the envelope, in which any two maps of one particle agree.
    """
    other = apply_rigid(mirrored(b) if frame.mirrored else b, frame.Q.to(b), torch.zeros(3).to(b))
    correlation = torch.fft.irfftn(torch.fft.rfftn(a) * torch.fft.rfftn(other).conj(), s=a.shape)
    peak = np.unravel_index(int(correlation.argmax()), a.shape)
    other = other.roll([int(p) for p in peak], (0, 1, 2))
    return float(fourier_shell_correlation(a, other)[3 : a.shape[-1] // 2 - 1].mean())


def _learnt_sigma(sigma: float, samples: Samples, spacing: float, count: int) -> float:
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
