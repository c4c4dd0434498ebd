"""Confirmation of a refined map: further random starts, where those of ab initio gave different maps.

Refinement of the best start may show a map that looks right although no other start led to it: of some particles, one
random start in five succeeds. Then new starts, which know nothing of that map, are compared with it until one agrees.
The comparison tells more than one of two starts: the refined map is finer than a start's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from cryoloom.maps.band import Band
from cryoloom.physics.fourier import rebox
from cryoloom.recipes.abinit import AbInitRecipe
from cryoloom.recipes.random_starts import RandomStart, RandomStarts, step_metrics
from cryoloom.runs.progress import StepInfo


@dataclass(frozen=True)
class ConfirmState:
    """State carried from step to step.

    Attributes:
        step: steps done so far; current: the current start; likeness: similarity of the maps of finished starts to the
            refined map.
        complete: whether the recipe has finished.
    """

    step: int
    current: RandomStart
    likeness: tuple[float, ...]
    complete: bool


class ConfirmRecipe:
    """The stage `confirm`; its result is the similarity to the refined map of each start made."""

    name = "confirm"
    state_type = ConfirmState

    def __init__(self, abinit: AbInitRecipe, volume: Tensor, R: Tensor) -> None:
        """The fine starts of `abinit`, with its images, are compared with a map.

        Args:
            volume: [D, D, D], the refined map in the working box; R: [N, 3, 3], the rotations of all images.
        """
        self.most = abinit.settings.further_starts
        self.agreement, self.alike_in_part = abinit.agreement, abinit.settings.alike_in_part
        self.feed = abinit.feed
        self.starts = RandomStarts(
            abinit.feed,
            abinit.settings.further(abinit.imposed),
            abinit.pool,
            abinit.held_out,
            seed=abinit.seed,
            stage=self.name,
            group=abinit.fine.group,
        )
        self._final = len(self.starts.schedule.levels)  # index of the final level
        box = Band(self.starts.radius(0)).box
        self.volume = rebox(volume.to(self.feed.device), box) * self.feed.mask(box)
        self.R = R[abinit.held_out].float().to(self.feed.device)

    def init(self) -> ConfirmState:
        """State before the first start."""
        return ConfirmState(step=0, current=self.starts.new(0), likeness=(), complete=False)

    def finished(self, state: ConfirmState) -> bool:
        """Whether a start agrees with the refined map, or as many as are allowed do not."""
        return state.complete

    def step(self, state: ConfirmState) -> tuple[ConfirmState, StepInfo]:
        """Process one batch of one start; at the end of its last level, compare."""
        start, number = state.current, len(state.likeness) + 1
        radius, level = self.starts.radius(start.level), start.level
        start, fsc, evidence = self.starts.em_step(start, state.step + 1)
        following = replace(state, step=state.step + 1, current=start)
        done, message = self.starts.level_done(start), None
        compared = done or (self.starts.scouted(start) and self.starts.checked(start))
        likeness = self._likeness(start) if compared else None
        if likeness is not None and (likeness >= self.agreement or (done and not self._goes_on(start, likeness))):
            following = self._next(following, likeness)
            message = f"further start {number}: similarity to the refined map {likeness:.2f}"
        elif done:
            following = replace(following, current=self.starts.marched(start, start.level + 1))
        info = StepInfo(
            stage=self.name,
            step=state.step + 1,
            resolution_angstrom=self.feed.field_of_view / radius,
            metrics=(
                *step_metrics(number - 1, level, evidence, fsc[radius], start.sigma_angstrom),
                *(() if message is None or likeness is None else (("likeness", likeness),)),
            ),
            message=message,
        )
        return following, info

    def _likeness(self, start: RandomStart) -> float:
        """Similarity of a start's map to the refined one."""
        return self.starts.likeness_to(self.starts.recentred(start), self.volume, self.R)

    def _goes_on(self, start: RandomStart, likeness: float) -> bool:
        """Whether there is a level ahead: the final one is for maps whose noise may hide that they agree."""
        if not self.starts.scouted(start):
            return self.starts.seen(start)
        return start.level < self._final and likeness >= self.alike_in_part

    def _next(self, state: ConfirmState, likeness: float) -> ConfirmState:
        """The end, or the next start."""
        found = (*state.likeness, likeness)
        if likeness >= self.agreement or len(found) >= self.most:
            return replace(state, likeness=found, complete=True)
        return replace(state, likeness=found, current=self.starts.new(len(found)))

    def end_early(self, state: ConfirmState) -> ConfirmState:
        """The starts that were compared so far; the current one is left out."""
        return replace(state, complete=True)

    def expected_costs(self, state: ConfirmState) -> Sequence[float]:
        """Expected cost of the steps ahead: those of the current start and of as many as are allowed after it."""
        start, left = state.current, max(0, self.most - len(state.likeness) - 1)
        final = start.level == self._final
        own = self.starts.final_costs(start.steps) if final else self.starts.costs(start.level, start.steps)
        return own + left * self.starts.costs()

    def result(self, state: ConfirmState) -> tuple[float, ...]:
        """Similarity of each start's map to the refined one, in the order in which they were made."""
        return state.likeness
