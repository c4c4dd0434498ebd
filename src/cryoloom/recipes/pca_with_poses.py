"""Recipe: poses and a family of volumes in turns (heterogeneous ab initio, after a consensus).

EM for the family as in `pca`, with few components and long at low resolution, where large motions are seen and
searches are cheap; in between, poses are found anew under the family of their own half (`family_poses`). What comes out
is poses: the family is then learnt afresh, with as many components as held-out images ask for, since small differences
die out at low resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.family_poses import Family, FamilyPoses
from cryoloom.inference.poses.posed import PosedImages
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import Refined
from cryoloom.particles.feed import ImageFeed
from cryoloom.recipes.family_em import FamilyEM, FamilyState, pass_cost
from cryoloom.recipes.methods.pca import PCASettings, PCAWithPosesSettings
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.seeds import numpy_generator

# expected costs (`runs.loop.Recipe.expected_costs`), CPU-seconds an image and squared Fourier pixel
CLIMB_COST, SEARCH_COST = 1e-6, 6e-6
DOUBTFUL_SHARE = 0.3  # share of the images that a usual later search takes


class PCAWithPosesRecipe(FamilyEM):
    """The stage `turns`: from poses found on one map to poses found along with conformations."""

    name = "turns"
    state_type = FamilyState

    def __init__(
        self,
        posed: PosedImages,
        settings: PCASettings,
        seed: int,
        turns: PCAWithPosesSettings,
        mask: Float[Tensor, "D D D"] | None = None,
    ) -> None:
        """Start from posed images, of which all candidate poses are tried; see `FamilyEM`."""
        super().__init__(
            posed,
            seed,
            most=turns.components,
            pruning=turns.held - 1,
            contrast_sigma=settings.contrast_sigma,
            mask=mask,
        )
        self.settings, self.turns = settings, turns
        self.seeker = FamilyPoses(
            posed.feed, posed.sigma_angstrom, coarse_level=turns.coarse_level, points=turns.points
        )
        self.iterations = turns.iterations

    def radius(self, iteration: int) -> int:
        """Radius of an iteration: low at first, then growing to that of the settings."""
        return turns_radius(self.feed, self.settings, self.turns, iteration)

    def init(self) -> FamilyState:
        """Means of both halves, and random components that are the same for both."""
        return self.first_state()

    def step(self, state: FamilyState) -> tuple[FamilyState, StepInfo]:
        """One iteration of both halves, poses included."""
        following, metrics = self.step_halves(state)
        return following, self.step_info(state, metrics)

    def finished(self, state: FamilyState) -> bool:
        """Whether all iterations are done, or no component shows a gain at low resolution."""
        return state.iteration >= self.iterations or len(state.halves[0]) == 1

    def end_early(self, state: FamilyState) -> FamilyState:
        """Any state is a result."""
        return replace(state, iteration=self.iterations)

    def expected_costs(self, state: FamilyState) -> Sequence[float]:
        """Expected cost of the iterations ahead, those with searches costing more."""
        return turns_costs(self.feed, self.settings, self.turns)[state.iteration :]

    def result(self, state: FamilyState) -> Refined | None:
        """Poses of all images with their covariances and fit, each under the family of its own half set.

        None where nothing was seen: the poses that were given are as good. Images that were left out keep theirs.
        """
        if len(state.halves[0]) == 1:
            return None
        poses, parts, rows, radius = state.poses, [], [], self.radius(self.iterations)
        # images that were left out belong to no half set, but are evaluated as well
        for h, mine in ((0, self.posed.half < 1), (1, self.posed.half == 1)):
            rows.append(np.flatnonzero(mine))
            parts.append(self.seeker.climbed(poses, rows[h], self._family(state, h, radius), radius, 0))
        order = torch.argsort(torch.from_numpy(np.concatenate(rows)))
        return Refined(
            PosePosterior.joined([p.posterior for p in parts]).rows(order),
            torch.cat([p.score for p in parts])[order],
            torch.cat([p.power for p in parts])[order],
            torch.cat([p.log_mass for p in parts])[order],
        )

    def _family(self, state: FamilyState, half: int, radius: int) -> Family:
        return Family(self._boxed(state.halves[half], radius), self.posed.noise, state.contrast_sigma)

    def _kept_on(self, worth: int) -> int:
        return worth and super()._kept_on(worth)

    def _poses(self, state: FamilyState, radius: int) -> PosePosterior:
        """Poses of all images after a climb, and in some iterations a search, under the family of their half set."""
        t, i = self.turns, state.iteration
        if i < t.first_climb:
            return state.poses
        R, at, log_weight = (x.clone() for x in (state.poses.R, state.poses.t, state.poses.log_weight))
        for h in (0, 1):
            rows, family = np.flatnonzero(self.posed.half == h), self._family(state, h, radius)
            refined = self.seeker.climbed(state.poses, rows, family, radius, t.climb_steps)
            index = torch.from_numpy(rows)
            R[index], at[index], log_weight[index] = (getattr(refined.posterior, n) for n in ("R", "t", "log_weight"))
            if i not in t.searches:
                continue
            if t.searches.index(i) >= t.search_all:
                rows = rows[self.seeker.doubtful(refined)]
            if len(rows) == 0:
                continue
            index = torch.from_numpy(rows)
            generator = numpy_generator(self.seed, self.name, "search", i, h)
            found = self.seeker.searched(
                PosePosterior(R, at, log_weight), rows, family=family, radius=radius, level=t.level, generator=generator
            )
            R[index], at[index], log_weight[index] = found.R, found.t, found.log_weight
        return PosePosterior(R, at, log_weight)


def turns_radius(feed: ImageFeed, settings: PCASettings, turns: PCAWithPosesSettings, iteration: int) -> int:
    """Radius of an iteration, Fourier pixels of the working box."""
    if iteration == 0:
        return feed.radius_of(settings.first_level)
    part = min(1.0, max(0, iteration + 1 - turns.held) / turns.march)
    return feed.radius_of(turns.level + part * (settings.last_level - turns.level))


def turns_costs(feed: ImageFeed, settings: PCASettings, turns: PCAWithPosesSettings) -> list[float]:
    """Expected cost of every iteration (see `runs.loop.Recipe.expected_costs`)."""
    costs = []
    for i in range(turns.iterations):
        radius, share = turns_radius(feed, settings, turns, i), 0.0
        if i in turns.searches:
            share = 1.0 if turns.searches.index(i) < turns.search_all else DOUBTFUL_SHARE
        climbs = turns.climb_steps * CLIMB_COST * (i >= turns.first_climb)
        searches = share * turns.points * SEARCH_COST * feed.radius_of(turns.level) ** 2
        own = pass_cost(feed, turns.components + 1, radius)
        costs.append(own + len(feed) * (climbs * radius**2 + searches))
    return costs
