"""Recipe: poses and a family of volumes in turns (heterogeneous ab initio, after a consensus).

EM for the family as in `subspace`, with few components and long at low resolution, where large motions are seen and
searches are cheap; in between, poses are found anew under the family of their own half (`family_poses`). What comes out
is poses: the family is then learnt afresh, with as many components as held-out images ask for, since small differences
die out at low resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.inference.conformations.family_poses import Family, FamilyPoses
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.inference.poses.refine import Refined
from cryoloom.particles.feed import ImageFeed
from cryoloom.recipes.pca import SubspaceRecipe, SubspaceState
from cryoloom.runs.loop import numpy_generator

STAGE_INDEX = 11


@dataclass(frozen=True, slots=True)
class TurnsSettings:
    """Conformations and poses found in turns: `--poses search`.

    Measured on adenylate kinase's path (10,000 images, SNR 0.1): three quarters of the poses found on one map are
    right to 10 degrees and the latents' rank correlation with the state is 0.90; afterwards 98 % and 0.957.
    """

    components: int = 4
    """Directions of the family that poses are found along with."""

    iterations: int = 12
    """Of EM over all images, in either half."""

    held: int = 8
    """Iterations at low resolution, where large motions are seen and searches are cheap."""

    march: int = 3
    """Iterations over which the radius then grows to `SubspaceSettings.last_level`."""

    first_climb: int = 2
    """Iteration from which poses climb along with the latents."""

    climb_steps: int = 2
    """Of every pose in an iteration."""

    searches: tuple[int, ...] = (2, 5, 9)
    """Iterations in which images are also searched globally."""

    search_all: int = 2
    """In so many of the first searches all images take part, then those whose pose is in doubt."""

    points: int = 3
    """Of the latent space whose maps images are searched against; 5 find no more."""

    coarse_level: float = 6.0
    """Radius of a search's coarse match, Fourier pixels of a box as large as the particle."""

    level: float = 7.5
    """Radius of its fine match and of the iterations at low resolution, likewise."""


class TurnsRecipe(SubspaceRecipe):
    """The stage `turns`: from poses found on one map to poses that know of conformations."""

    name = "turns"

    def __init__(
        self,
        feed: ImageFeed,
        settings: SubspaceSettings,
        seed: int,
        poses: PosePosterior,
        half: np.ndarray,
        noise: Tensor,
        sigma_angstrom: float,
        turns: TurnsSettings,
        mask: Float[Tensor, "D D D"] | None = None,
    ) -> None:
        """As `SubspaceRecipe`; of `poses` all candidates are tried. sigma_angstrom: of shifts."""
        super().__init__(feed, settings, seed=seed, poses=poses, half=half, noise=noise, mask=mask)
        self.turns = turns
        self.most = turns.components
        self.seeker = FamilyPoses(feed, sigma_angstrom, coarse_level=turns.coarse_level, points=turns.points)
        self.iterations = turns.iterations
        self.pruning = turns.held - 1

    def radius(self, iteration: int) -> int:
        """Low for long, then growing to that of the settings."""
        s, t = self.settings, self.turns
        if iteration == 0:
            return self.feed.radius_of(s.first_level)
        part = min(1.0, max(0, iteration + 1 - t.held) / t.march)
        return self.feed.radius_of(t.level + part * (s.last_level - t.level))

    def finished(self, state: SubspaceState) -> bool:
        """Whether all turns are done, or nothing is to be seen at low resolution."""
        return state.iteration >= self.iterations or len(state.halves[0]) == 1

    def end_early(self, state: SubspaceState) -> SubspaceState:
        """Any state is a result."""
        return replace(state, iteration=self.iterations)

    def posed(self, state: SubspaceState) -> Refined | None:
        """Poses of all images with their covariances, and how well they fit, each under the family of its own half.

        None where nothing was seen: the poses that were given are as good. Images that were left out keep theirs.
        """
        if len(state.halves[0]) == 1:
            return None
        poses, parts, rows = state.poses, [], []
        # those left out are no part of a half, but are to be judged as well
        for h, mine in ((0, self.half < 1), (1, self.half == 1)):
            rows.append(np.flatnonzero(mine))
            parts.append(
                self.seeker.climbed(poses, rows[h], self._family(state, h, self.last_radius), self.last_radius, 0)
            )
        order = torch.argsort(torch.from_numpy(np.concatenate(rows)))
        return Refined(
            PosePosterior.joined([p.posterior for p in parts]).rows(order),
            torch.cat([p.score for p in parts])[order],
            torch.cat([p.power for p in parts])[order],
        )

    def _family(self, state: SubspaceState, half: int, radius: int) -> Family:
        return Family(self._boxed(state.halves[half], radius), self.noise, state.contrast_sigma)

    def _kept_on(self, worth: int) -> int:
        return worth and super()._kept_on(worth)

    def _poses(self, state: SubspaceState, radius: int) -> PosePosterior:
        """All poses after a climb, and perhaps a search, in the family of their own half."""
        t, i = self.turns, state.iteration
        if i < t.first_climb:
            return state.poses
        R, at, log_weight = (x.clone() for x in (state.poses.R, state.poses.t, state.poses.log_weight))
        for h in (0, 1):
            rows, family = np.flatnonzero(self.half == h), self._family(state, h, radius)
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
            generator = numpy_generator(self.seed, STAGE_INDEX, 1 + 2 * i + h)
            found = self.seeker.searched(
                PosePosterior(R, at, log_weight), rows, family=family, radius=radius, level=t.level, generator=generator
            )
            R[index], at[index], log_weight[index] = found.R, found.t, found.log_weight
        return PosePosterior(R, at, log_weight)
