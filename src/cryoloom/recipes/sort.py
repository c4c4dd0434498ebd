"""Sorting: the evidence of every image for every class, and that it belongs to none.

All images are first matched with all maps at low radius, which costs little; then only with the maps that this leaves,
at the radius that the maps deserve. Evidence is a mean over all poses, so that it may be compared between maps: by sums
over a grid, or, where images are searched on the fine grid, by Laplace's method at refined poses. Where the half sets
have maps of their own, an image is compared with those of its own half set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.inference.mixtures.generic import UnknownBody, slice_power
from cryoloom.inference.mixtures.shares import ClassShares, class_shares
from cryoloom.inference.poses.global_search import candidates_of, references_of, search, shifts_of
from cryoloom.inference.poses.grids import cached_rotation_grid
from cryoloom.inference.poses.posed import in_batches
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import refine_poses
from cryoloom.inference.poses.search import match, shift_prior, slice_reference
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import Images
from cryoloom.maps.band import Band
from cryoloom.particles.feed import ImageFeed
from cryoloom.physics.fourier import rebox
from cryoloom.recipes.methods.mixture import MixtureSettings
from cryoloom.recipes.random_starts import STEP_COST
from cryoloom.runs.progress import StepInfo

BATCH = 500  # images at once
# of the poses found on the fine grid, and steps in which they are refined: on a grid, the evidence of an image depends
# on how its pose lies between the grid points of a map's frame, by a tenth
CANDIDATES, CLIMB_STEPS = 3, 4
CLEAR_NATS = 10.0  # more than the shares of classes change
LOW_NSIDE, MIDDLE_NSIDE = 3, 4  # of the grids at low radius, and where the fine grid is not needed


@dataclass(frozen=True)
class SortState:
    """State carried from step to step.

    Attributes:
        step: steps done: the match at low radius, then a class in each.
        radius: of `evidence`, in Fourier pixels: the full one, or the low one if the stage was ended early.
        low: [N, K], evidence at low radius; evidence: [N, K], at full radius, -inf where it was not computed.
        generic, low_generic: [N], that of an unknown body at either radius.
    """

    step: int
    radius: int
    low: Tensor
    evidence: Tensor
    generic: Tensor
    low_generic: Tensor


@dataclass(frozen=True, slots=True)
class KnownPoses:
    """Candidate poses of some images in the frame of a map; `rows` are ascending."""

    rows: np.ndarray
    poses: PosePosterior

    def of(self, rows: np.ndarray) -> PosePosterior:
        """Those of some of its images."""
        return self.poses.rows(torch.from_numpy(np.searchsorted(self.rows, rows))).bare()


@dataclass(frozen=True)
class Sorted:
    """Result of sorting.

    Attributes:
        radius: of `evidence`, in Fourier pixels.
        low: [N, K], log p(image | class) - log p(image | no particle), nats, at low radius.
        evidence: [N, K], the same at full radius, -inf where it is known to be low.
        generic: [N], that of an unknown body; shares: posterior over classes, and shares.
    """

    radius: int
    low: Tensor
    evidence: Tensor
    generic: Tensor

    @property
    def shares(self) -> ClassShares:
        """Posterior over the classes and none of them, with shares."""
        return class_shares(self.evidence, self.generic)

    def of(self, classes: Sequence[int]) -> Sorted:
        """The same with some of the classes only."""
        kept = list(classes)
        return replace(self, low=self.low[:, kept], evidence=self.evidence[:, kept])


class SortRecipe:
    """A stage that compares all images with the maps of all classes."""

    state_type = SortState

    def __init__(
        self,
        feed: ImageFeed,
        settings: MixtureSettings,
        maps: Sequence[tuple[Tensor, Tensor]],
        *,
        half: np.ndarray,
        noise: Tensor,
        sigma_angstrom: float,
        name: str,
        radius: int,
        fine: bool,
        known: Sequence[KnownPoses] = (),
        sinks: int = 0,
        before: Sorted | None = None,
        unlikely: Tensor | None = None,
    ) -> None:
        """Sort all images of `feed`.

        Args:
            maps: [m, m, m] of either half set, for each class; the same tensor twice where they have one in common.
            half: [N] of 0 and 1; noise: [G, S]; sigma_angstrom: standard deviation of shifts.
            radius: of the comparison, Fourier pixels; fine: whether poses are searched on the fine grid and refined.
            known: poses in the frame of each of the first maps, which are refined without a search, if `fine`.
            sinks: how many of the maps, the last ones, show no molecule. Images that are likelier to be an unknown body
                than to belong to a class by `CLEAR_NATS` are not compared with these.
            before: what was found for the first of these; it is used if the radius was the same.
            unlikely: bool [N, K], maps that an image is not compared with, except those in which its pose is known.
        """
        self.classes = len(maps) - sinks
        self.before = before if before is not None and before.radius == radius else None
        found = 0 if self.before is None else self.before.low.shape[1]
        self.done = range(self.classes, self.classes + found)  # maps of which the evidence is known
        self.known = dict(enumerate(known)) if fine else {}
        self.unlikely = unlikely
        self.feed, self.settings, self.maps, self.half = feed, settings, maps, half
        self.noise, self.sigma, self.name, self.radius, self.fine = noise, sigma_angstrom, name, radius, fine
        self.low_radius = min(radius, feed.radius_of(settings.levels[settings.pruned_from - 1]))

    def init(self) -> SortState:
        """Nothing is compared yet."""
        N, K = len(self.feed), len(self.maps)
        low, evidence = torch.zeros(N, K), torch.full((N, K), -torch.inf)
        if self.before is not None:
            low[:, self.done], evidence[:, self.done] = self.before.low, self.before.evidence
        return SortState(0, self.radius, low, evidence, torch.zeros(N), torch.zeros(N))

    def finished(self, state: SortState) -> bool:
        """Whether all classes are done."""
        return state.step > len(self.maps)

    def step(self, state: SortState) -> tuple[SortState, StepInfo]:
        """The match at low radius, or one class at full radius."""
        following = self._low(state) if state.step == 0 else self._class(state, state.step - 1)
        following = replace(following, step=state.step + 1)
        resolution = self.feed.field_of_view / (self.low_radius if state.step == 0 else self.radius)
        matched = float(torch.isfinite(following.evidence).float().sum(1).mean())
        return following, StepInfo(self.name, state.step + 1, resolution, (("matched", matched),))

    def _low(self, state: SortState) -> SortState:
        low, generic, low_generic = state.low.clone(), state.generic.clone(), state.low_generic.clone()
        grid, disc = cached_rotation_grid(LOW_NSIDE), self.feed.prefix(self.low_radius)
        shifts = shifts_of(self.feed, self.low_radius, self.sigma)
        prior = shift_prior(shifts, self.sigma)
        volume = float(prior.logsumexp(0)) + math.log(len(grid.R))
        for h in (0, 1):
            halves = [volume_to_half(rebox(maps[h], Band(self.radius).box)) for maps in self.maps]
            references = [slice_reference(half, grid, disc) for half in halves]
            coarse = self.feed.prefix(min(self.radius, self.feed.radius_of(self.settings.body_level)))
            diameter = self.feed.source.preprocessing.particle_diameter_angstrom
            body, low_body = UnknownBody(coarse, diameter), UnknownBody(disc, diameter)
            wider = [slice_reference(half, grid, coarse) for half in halves]
            rows_of_half = np.flatnonzero(self.half == h)
            for rows in in_batches(rows_of_half, self.feed.at_once(self.radius, BATCH)):
                images, index = self._images(rows), torch.from_numpy(rows)
                few, none = images.prefix(self.low_radius), torch.zeros(len(rows), device=self.feed.device)
                for k, reference in enumerate(references):
                    if k in self.done:
                        continue
                    found = match(few, reference, shifts, prior, uniform=none, draws=1).log_evidence
                    low[index, k] = (found - volume).cpu()
                likely = torch.softmax(low[index], 1).mean(0)
                generic[index] = body.evidence(images.prefix(coarse.radius), slice_power(wider, likely)).cpu()
                low_generic[index] = low_body.evidence(few, slice_power(references, likely)).cpu()
        return replace(state, low=low, generic=generic, low_generic=low_generic)

    def _class(self, state: SortState, k: int) -> SortState:
        evidence = state.evidence.clone()
        low = state.low if self.unlikely is None else state.low.masked_fill(self.unlikely, -torch.inf)
        best = low.amax(1)
        likely = (torch.isfinite(best) & (low[:, k] >= best - self.settings.window_nats)).numpy()
        if 0 < self.classes <= k:
            best = state.evidence[:, : self.classes].amax(1)
            likely &= (best + CLEAR_NATS > state.generic).numpy()
        likely &= ~torch.isfinite(evidence[:, k]).numpy()  # what was found before
        known = np.zeros(len(self.feed), bool)
        if k in self.known:
            known[self.known[k].rows] = True
        same = self.maps[k][0] is self.maps[k][1]
        for h in (0,) if same else (0, 1):
            here = np.ones(len(self.feed), bool) if same else self.half == h
            half = volume_to_half(rebox(self.maps[k][h], Band(self.radius).box))
            unknown = np.flatnonzero(likely & here & ~known)
            if len(unknown):
                matched = self._fine(self.maps[k][h], half) if self.fine else self._middle(half)
                for rows in in_batches(unknown, self.feed.at_once(self.radius, BATCH)):
                    evidence[torch.from_numpy(rows), k] = matched(self._images(rows)).cpu()
            for rows in in_batches(np.flatnonzero(here & known), self.feed.at_once(self.radius, BATCH)):
                start = self.known[k].of(rows).to(self.feed.device)
                evidence[torch.from_numpy(rows), k] = self._refined(half, self._images(rows), start).cpu()
        return replace(state, evidence=evidence)

    def _images(self, rows: np.ndarray) -> Images:
        return self.feed.images(rows, self.radius, self.noise)

    def _fine(self, volume: Tensor, half: Tensor) -> Callable[[Images], Tensor]:
        references = references_of(self.feed, volume, self.settings.coarse_level, self.radius)

        def matched(images: Images) -> Tensor:
            found = search(self.feed, images, references, self.sigma)
            start = candidates_of(self.feed, [found], self.radius, self.sigma, count=CANDIDATES)
            return self._refined(half, images, start)

        return matched

    def _refined(self, half: Tensor, images: Images, start: PosePosterior) -> Tensor:
        return refine_poses(half, images, start, self.sigma, CLIMB_STEPS).log_evidence(self.sigma)

    def _middle(self, half: Tensor) -> Callable[[Images], Tensor]:
        grid = cached_rotation_grid(MIDDLE_NSIDE)
        reference = slice_reference(half, grid, self.feed.prefix(self.radius))
        shifts = shifts_of(self.feed, self.radius, self.sigma)
        prior = shift_prior(shifts, self.sigma)
        poses = float(prior.logsumexp(0)) + math.log(len(grid.R))

        def matched(images: Images) -> Tensor:
            none = torch.zeros(len(images), device=half.device)
            return match(images, reference, shifts, prior, uniform=none, draws=1).log_evidence - poses

        return matched

    def end_early(self, state: SortState) -> SortState:
        """Evidence at low radius for all classes: that of two radii can't be compared."""
        done = len(self.maps) + 1
        return replace(state, step=done, radius=self.low_radius, evidence=state.low, generic=state.low_generic)

    def expected_costs(self, state: SortState) -> Sequence[float]:
        """Expected cost of the steps ahead."""
        N, K = len(self.feed), len(self.maps)
        low = STEP_COST * N * (K - len(self.done)) * len(cached_rotation_grid(LOW_NSIDE).R) * self.low_radius**2
        share = min(1.0, self.settings.usual_classes / max(1, K))
        one = STEP_COST * N * share * len(cached_rotation_grid(MIDDLE_NSIDE).R) * self.radius**2
        return [low, *(0.0 if k in self.done else one for k in range(K))][state.step :]

    def result(self, state: SortState) -> Sorted:
        """Evidence of all images."""
        return Sorted(state.radius, state.low, state.evidence, state.generic)
