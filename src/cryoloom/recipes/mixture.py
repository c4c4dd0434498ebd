"""Ab initio of several molecules: online EM over (class, pose) from random starts, all maps at once.

Every step matches a batch against slices of all maps; an image is shared out among them by their evidence, and inserted
at poses drawn from the posterior of each. There are more maps than molecules are expected, as two of them may begin to
show one molecule; at the ends of levels, maps that explain no images of their own are dropped. At first, all maps get
equal shares of the images and the posterior over classes is wide (a temperature): otherwise the first map that takes
shape takes all images. Where the number of molecules is not given and few maps are dropped, there may be more of
them: the search begins anew with twice as many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.mixtures.generic import UnknownBody, slice_power
from cryoloom.inference.mixtures.shares import beyond_unknown, even_offsets, needless
from cryoloom.inference.poses.grids import RotationGrid, cached_rotation_grid, shift_grid, shift_step_angstrom
from cryoloom.inference.poses.search import FIRST_SIGMA, Reference, match, shift_prior, slice_reference
from cryoloom.kernels import dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import GridPosterior, Images, Samples
from cryoloom.maps.backprojection import Statistics, accumulate, running_map
from cryoloom.maps.band import Band
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.noise import ResidualPower
from cryoloom.physics.rotations import random_rotations
from cryoloom.recipes.methods.mixture import MixtureSettings
from cryoloom.recipes.random_starts import (
    DRAWS,
    NOISE_AFTER,
    NOISE_RATE,
    REACH,
    STEP_COST,
    drawn,
    learnt_sigma,
    random_samples,
)
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.seeds import numpy_generator, torch_generator

FIRST_IMAGES = 400  # at random rotations, from which each map begins
SHARE_RATE = 0.2  # weight of the newest batch in the shares of the classes
LEAST_WEIGHT = 1e-4  # below this share of an image, a class does without it


@dataclass(frozen=True)
class RunningClass:
    """One map: its running statistics (two sets, updated in turn), its share of the images.

    Attributes:
        first, second: statistics updated by even and odd steps; their FSC gives the weight of each shell.
        share: of the images.
    """

    first: Statistics
    second: Statistics
    share: float


@dataclass(frozen=True)
class MixtureState:
    """State carried from step to step.

    Attributes:
        step: steps done; done: steps done since the search began, anew perhaps; begun: number of maps it began with.
        classes: the maps; shelved: maps dropped on trial.
        noise: [G, S]; sigma_angstrom: standard deviation of shifts; complete: whether the stage is finished.
    """

    step: int
    done: int
    begun: int
    classes: tuple[RunningClass, ...]
    shelved: tuple[RunningClass, ...]
    noise: Tensor
    sigma_angstrom: float
    complete: bool


@dataclass(frozen=True)
class MixtureResult:
    """Maps of several molecules.

    Attributes:
        volumes: [m, m, m] each, band-limited box m = 2 (radius + 2) with the field of view of the working box.
        shares: of the images, as far as they are explained; radius: Fourier pixels.
        noise: [G, S]; sigma_angstrom: standard deviation of shifts; begun: number of maps the search began with.
    """

    volumes: tuple[Tensor, ...]
    shares: tuple[float, ...]
    radius: int
    noise: Tensor
    sigma_angstrom: float
    begun: int


@dataclass(frozen=True, slots=True)
class _Grid:
    """The poses of a step: rotations, shifts and their log prior; `volume` normalises evidence to a mean over them."""

    rotations: RotationGrid
    shifts: Tensor
    prior: Tensor

    @property
    def volume(self) -> float:
        """Log of the sum of the prior over all poses."""
        return float(self.prior.logsumexp(0)) + math.log(len(self.rotations.R))


@dataclass(frozen=True, slots=True)
class _Matched:
    """A batch matched with all maps.

    Attributes:
        evidence: [B, K], log p(image | class) - log p(image | no particle), a mean over poses; -inf where not computed.
        generic: [B], the same of an unknown body.
        rows: images matched with each class; posteriors: their posteriors over the grid.
        grids: half grids of the maps; rim: FSC at the rim of each.
    """

    evidence: Tensor
    generic: Tensor
    rows: tuple[Tensor, ...]
    posteriors: tuple[GridPosterior, ...]
    grids: tuple[Tensor, ...]
    rim: tuple[float, ...]


class MixtureRecipe:
    """The stage `mixture`: maps of the molecules in a set of images."""

    state_type = MixtureState

    def __init__(
        self,
        feed: ImageFeed,
        settings: MixtureSettings,
        seed: int,
        classes: int | None,
        name: str = "mixture",
        one_may_do: bool = False,
        none_may_do: bool = False,
    ) -> None:
        """Find the molecules of all images of a feed.

        Args:
            classes: expected number of molecules, None if it is not known; one_may_do, none_may_do: whether there may
                as well be one, or none: the search ends, without maps, where all of them show junk.
        """
        self.none_may_do = none_may_do
        self.one_may_do = classes is None or one_may_do
        self.feed, self.settings, self.seed, self.expected, self.name = feed, settings, seed, classes, name
        self._order = numpy_generator(seed, name, "images").permutation(len(feed))

    def radius(self, level: int) -> int:
        """Radius of a level, in Fourier pixels of the working box."""
        return self.feed.radius_of(self.settings.levels[level])

    def level(self, done: int) -> int:
        """The level of a step."""
        ends = np.cumsum(self.settings.steps)
        return int(np.searchsorted(ends, done, side="right"))

    def init(self) -> MixtureState:
        """Maps of images at random rotations."""
        begun = self.settings.first_guess if self.expected is None else self.settings.with_surplus(self.expected)
        return self._begun(begun, 0)

    def _begun(self, count: int, step: int) -> MixtureState:
        noise, radius = self.feed.noise, self.radius(0)
        classes = tuple(self._new(index, step, count, noise, radius) for index in range(count))
        sigma = FIRST_SIGMA * self.feed.field_of_view
        return MixtureState(step, 0, count, classes, (), noise, sigma, complete=False)

    def _new(self, index: int, step: int, count: int, noise: Tensor, radius: int) -> RunningClass:
        rng = numpy_generator(self.seed, self.name, "start", step, index)
        generator = torch_generator(self.seed, self.name, "start", step, index)
        rows = _some(rng, self.pool(count), FIRST_IMAGES)
        samples = random_samples(len(rows), generator, self.feed.device)
        first = accumulate(self.feed.images(rows, radius, noise), samples, Band(radius).side)
        return RunningClass(first, first, 1.0 / count)

    def finished(self, state: MixtureState) -> bool:
        """Whether the last level has ended."""
        return state.complete

    def step(self, state: MixtureState) -> tuple[MixtureState, StepInfo]:
        """One batch; at the end of a level, maps that explain nothing are dropped."""
        level, radius = self.level(state.done), self.radius(self.level(state.done))
        rng = numpy_generator(self.seed, self.name, "step", state.step)
        rows = _some(rng, self.pool(state.begun), self.settings.batch * len(state.classes))
        images = self.feed.images(rows, radius, state.noise)
        grid = self._grid(state, level)
        matched = self._match(state, images, grid, level, rng)
        weights = self._weights(state, matched)
        following = self._updated(state, level, images, grid, matched, weights)
        message = None
        if self.one_may_do and following.done == round(self.settings.one_left_at * self.settings.steps[0]):
            following = self._one_left(following)
        if following.done == sum(self.settings.steps[: level + 1]):
            following, message = self._level_ended(following, level)
        # mean over the batch of the log evidence of the mixture
        shares = torch.tensor([c.share for c in state.classes], device=matched.evidence.device)
        evidence = float(torch.logsumexp(matched.evidence + shares.log(), 1).mean())
        info = StepInfo(
            stage=self.name,
            step=state.step + 1,
            resolution_angstrom=self.feed.field_of_view / radius,
            metrics=(
                ("level", float(level)),
                ("classes", float(len(state.classes))),
                ("evidence", evidence),
                ("fsc_at_rim", float(np.mean(matched.rim))),
                ("shift_sigma_angstrom", following.sigma_angstrom),
            ),
            message=message,
        )
        return following, info

    def pool(self, begun: int) -> np.ndarray:
        """The images of which maps are made."""
        return self._order[self._judges(begun) :]

    def held_out(self, begun: int) -> np.ndarray:
        """The images that judge maps and are in none: an image's own noise makes it fit its map, by 10 % of its log
        evidence where the running map holds 300 images."""
        return np.sort(self._order[: self._judges(begun)])

    def _judges(self, begun: int) -> int:
        return min(len(self.feed) // 4, self.settings.judged * begun)

    def _grid(self, state: MixtureState, level: int) -> _Grid:
        """The poses of a step; the rotations are turned at random, so that none between them is missed in all steps."""
        radius, device = self.radius(level), self.feed.device
        grid = cached_rotation_grid(self.settings.nside[level])
        turn = random_rotations(1, torch_generator(self.seed, self.name, "turn", state.step, level))[0].float()
        spacing = shift_step_angstrom(self.feed.box, self.feed.pixel_size, radius)
        shifts = shift_grid(spacing, max(REACH * state.sigma_angstrom, 1.01 * spacing)).to(device)
        rotations = RotationGrid(grid.nside, (turn @ grid.R).contiguous())
        return _Grid(rotations, shifts, shift_prior(shifts, state.sigma_angstrom))

    def _match(
        self, state: MixtureState, images: Images, grid: _Grid, level: int, rng: np.random.Generator
    ) -> _Matched:
        """All images with all maps; above the lowest levels, only with those that a match at lower radius leaves."""
        radius, device = self.radius(level), self.feed.device
        B, K = len(images), len(state.classes)
        uniform = torch.from_numpy(rng.random(B, dtype=np.float32)).to(device)
        volumes = [running_map(c.first, c.second, radius, self.feed.mask(Band(radius).box)) for c in state.classes]
        halves = tuple(volume_to_half(volume) for volume, _ in volumes)
        likely = self._likely(state, images, halves, level)
        evidence = torch.full((B, K), -torch.inf, device=device)
        disc, rows, posteriors, references = self.feed.prefix(radius), [], [], []
        for k, half in enumerate(halves):
            reference = slice_reference(half, grid.rotations, disc)
            mine = torch.nonzero(likely[:, k])[:, 0]
            found = match(
                images.rows(mine), reference, grid.shifts, grid.prior, uniform=uniform[mine].contiguous(), draws=DRAWS
            )
            evidence[mine, k] = found.log_evidence - grid.volume
            rows.append(mine)
            posteriors.append(found)
            references.append(Reference(reference.grid, reference.disc, reference.quarter))
        shares = torch.tensor([c.share for c in state.classes])
        generic = self._body_evidence(images, references, shares)
        rim = tuple(float(fsc[-1]) for _, fsc in volumes)
        return _Matched(evidence, generic, tuple(rows), tuple(posteriors), halves, rim)

    def _body_evidence(self, images: Images, references: Sequence[Reference], shares: Tensor) -> Tensor:
        """Evidence of an unknown body at low resolution."""
        disc = self.feed.prefix(min(references[0].disc.radius, self.feed.radius_of(self.settings.body_level)))
        body = UnknownBody(disc, self.feed.source.preprocessing.particle_diameter_angstrom)
        power = slice_power(references, shares)[: len(disc.weight)]
        return body.evidence(images.prefix(disc.radius), power)

    def _likely(self, state: MixtureState, images: Images, halves: Sequence[Tensor], level: int) -> Tensor:
        """Classes that each image may belong to, bool [B, K]: by a match at low radius where that is much cheaper."""
        B, K = len(images), len(halves)
        if level < self.settings.pruned_from:
            return torch.ones(B, K, dtype=torch.bool, device=self.feed.device)
        low = self.settings.pruned_from - 1
        radius, grid = self.radius(low), self._grid(state, low)
        disc, none = self.feed.prefix(radius), torch.zeros(B, device=self.feed.device)
        few = images.prefix(radius)
        evidence = torch.stack(
            [
                match(
                    few,
                    slice_reference(half, grid.rotations, disc),
                    grid.shifts,
                    grid.prior,
                    uniform=none,
                    draws=1,
                ).log_evidence
                for half in halves
            ],
            1,
        )
        likely = evidence >= evidence.amax(1, keepdim=True) - self.settings.window_nats
        likely[evidence.argmax(0), torch.arange(K, device=likely.device)] = True  # no map is without any image
        return likely

    def _weights(self, state: MixtureState, matched: _Matched) -> Tensor:
        """Share of each image that each class gets, [B, K]."""
        s, total = self.settings, sum(self.settings.steps)
        progress = state.done / total
        temperature = 1 + (s.temperature - 1) * _left(progress, s.cooled_at)
        even = _left(progress, s.even_until)
        shares = torch.tensor([c.share for c in state.classes], device=matched.evidence.device)
        offset = (1 - even) * shares.log() / temperature
        if even > 0:
            # classes that are not computed are as unlikely as the window says
            L = torch.where(
                torch.isfinite(matched.evidence),
                matched.evidence,
                matched.evidence.amax(1, keepdim=True) - s.window_nats,
            )
            offset = offset + even * even_offsets(L, temperature)
        return torch.softmax(matched.evidence / temperature + offset, 1)

    def _updated(
        self, state: MixtureState, level: int, images: Images, grid: _Grid, matched: _Matched, weights: Tensor
    ) -> MixtureState:
        """The maps with the batch blended in; shares, noise and shifts learnt from it."""
        side, rate = Band(self.radius(level)).side, self.settings.rate[level]
        R = grid.rotations.R.to(grid.shifts)
        classes, residuals, all_samples = [], None, []
        for k, before in enumerate(state.classes):
            found = drawn(matched.posteriors[k].picks, R, grid.shifts)
            image = matched.rows[k][found.image]
            weight = found.weight * weights[image, k]
            kept = weight > LEAST_WEIGHT
            samples = Samples(
                image[kept].contiguous(),
                found.R[kept].contiguous(),
                found.t[kept].contiguous(),
                weight[kept].contiguous(),
            )
            newest = accumulate(images, samples, side)
            share = (1 - SHARE_RATE) * before.share + SHARE_RATE * float(weights[:, k].mean())
            first, second = before.first, before.second
            if state.done % 2 == 0:
                first = first.blended(newest, rate)
            else:
                second = second.blended(newest, rate)
            classes.append(RunningClass(first, second, max(share, 1e-4)))
            power = ResidualPower(*dispatch.residual_power(matched.grids[k], images, samples))
            residuals = power if residuals is None else residuals + power
            all_samples.append(samples)
        assert residuals is not None
        noise = residuals.learnt(state.noise, NOISE_RATE) if state.done >= NOISE_AFTER else state.noise
        joined = Samples(
            *(torch.cat(parts) for parts in zip(*((s.image, s.R, s.t, s.weight) for s in all_samples), strict=True))
        )
        spacing = shift_step_angstrom(self.feed.box, self.feed.pixel_size, self.radius(level))
        sigma = learnt_sigma(state.sigma_angstrom, joined, spacing, len(images))
        return replace(
            state,
            step=state.step + 1,
            done=state.done + 1,
            classes=tuple(classes),
            noise=noise,
            sigma_angstrom=sigma,
        )

    def _level_ended(self, state: MixtureState, level: int) -> tuple[MixtureState, str | None]:
        """Without the maps that explain no images of their own; at the next level, at an end, or begun anew."""
        message = None
        may_end, may_drop = self.none_may_do and level == self.settings.shelved_at, self.settings.least_loss[level] > 0
        if may_end or may_drop:
            matched = self._judged(state, level)
            if may_end and not beyond_unknown(matched.evidence, matched.generic, self.settings.junk_loss):
                return replace(state, classes=(), complete=True), "no map explains images better than an unknown body"
            if may_drop:
                state = self._without_needless(state, matched, level)
        if level == self.settings.shelved_at + 1:
            state = self._reinstated(state, level)
            message = f"{len(state.classes)} of {state.begun} maps explain images that no other map explains"
            if self.expected is None and not self._enough(state, level):
                count = min(2 * state.begun, self.settings.most)
                message += f": there may be more molecules, the search begins anew with {count} maps"
                return self._begun(count, state.step), message
        if level + 1 == len(self.settings.levels):
            return replace(state, complete=True), message
        side = Band(self.radius(level + 1)).side
        classes, shelved = (
            tuple(replace(c, first=c.first.resized(side), second=c.second.resized(side)) for c in some)
            for some in (state.classes, state.shelved)
        )
        return replace(state, classes=classes, shelved=shelved), message

    def _enough(self, state: MixtureState, level: int) -> bool:
        """Whether the search began with more maps than there are molecules; maps of junk are none."""
        most = state.begun - max(self.settings.least_surplus, round(state.begun * self.settings.spare))
        if len(state.classes) <= most or state.begun >= self.settings.most:
            return True
        matched = self._judged(state, level)
        return len(beyond_unknown(matched.evidence, matched.generic, self.settings.body_loss)) <= most

    def _one_left(self, state: MixtureState) -> MixtureState:
        """One map, where all show the same already: a single molecule need not be matched with many maps."""
        matched = self._judged(state, 0)
        dropped = needless(matched.evidence, matched.generic, self.settings.one_left_loss)
        if len(dropped) + 1 < len(state.classes):
            return state
        return replace(state, classes=_normalised([c for k, c in enumerate(state.classes) if k not in dropped]))

    def _without_needless(self, state: MixtureState, matched: _Matched, level: int) -> MixtureState:
        dropped = needless(matched.evidence, matched.generic, self.settings.least_loss[level])
        left = [c for k, c in enumerate(state.classes) if k not in dropped]
        shelved = [state.classes[k] for k in dropped] if level == self.settings.shelved_at else []
        return replace(state, classes=_normalised(left), shelved=tuple(shelved))

    def _reinstated(self, state: MixtureState, level: int) -> MixtureState:
        """With those of the shelved maps whose images no other map has come to explain."""
        if not state.shelved:
            return state
        count = len(state.classes)
        everything = replace(state, classes=(*state.classes, *state.shelved), shelved=())
        matched = self._judged(everything, level)
        dropped = needless(
            matched.evidence, matched.generic, self.settings.lasting_loss, range(count, len(everything.classes))
        )
        left = [c for k, c in enumerate(everything.classes) if k not in dropped]
        return replace(everything, classes=_normalised(left))

    def _judged(self, state: MixtureState, level: int) -> _Matched:
        """The held-out images matched with the maps at the end of a level."""
        rng = numpy_generator(self.seed, self.name, "judged", state.step)
        rows = self.held_out(state.begun)
        images = self.feed.images(rows, self.radius(level), state.noise)
        return self._match(state, images, self._grid(state, level), level, rng)

    def end_early(self, state: MixtureState) -> MixtureState:
        """The maps as they are, those dropped on trial included."""
        return replace(state, classes=_normalised((*state.classes, *state.shelved)), shelved=(), complete=True)

    def expected_costs(self, state: MixtureState) -> Sequence[float]:
        """Expected cost of the steps ahead, without beginning anew."""
        s, count = self.settings, len(state.classes)
        costs = []
        for done in range(state.done, sum(s.steps)):
            level = self.level(done)
            matched = count if level < s.pruned_from else min(count, s.usual_classes)
            rotations = len(cached_rotation_grid(s.nside[level]).R)
            batch = min(s.batch * count, len(self.feed))
            costs.append(STEP_COST * batch * matched * rotations * self.radius(level) ** 2)
        return costs

    def result(self, state: MixtureState) -> MixtureResult:
        """The maps, the one with the largest share first; none where a search that may find nothing found nothing."""
        # at the end of a level the statistics are those of the next one's radius already
        radius = Band.of_box(state.classes[0].first.side // 2).radius if state.classes else self.radius(0)
        ordered = sorted(state.classes, key=lambda c: -c.share)
        volumes = tuple(running_map(c.first, c.second, radius, self.feed.mask(Band(radius).box))[0] for c in ordered)
        shares = tuple(c.share for c in ordered)
        return MixtureResult(volumes, shares, radius, state.noise, state.sigma_angstrom, state.begun)


def _left(progress: float, until: float) -> float:
    """What is left of 1 that falls to 0 at `until`."""
    return max(0.0, 1 - progress / until) if until > 0 else 0.0


def _some(rng: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the rows, drawn at random, in ascending order."""
    return np.sort(rng.choice(rows, min(count, len(rows)), replace=False))


def _normalised(classes: Sequence[RunningClass]) -> tuple[RunningClass, ...]:
    """The classes with shares that add up to 1."""
    total = sum(c.share for c in classes)
    return tuple(replace(c, share=c.share / total) for c in classes)
