"""Confirmation of a refined map: further random starts, where those of ab initio gave different maps.

Of some particles, one random start in five succeeds: refinement of the best one may be right although no other start
gave the same map. New starts, which know nothing of the refined map, are compared with it until one agrees. Such a
comparison tells more than one of two starts, since the refined map has less noise.
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

RISE = 0.02  # rise of the similarity between two evaluations with which a start in its final level goes on


@dataclass(frozen=True)
class ConfirmState:
    """State carried from step to step.

    Attributes:
        step: steps done so far; current: the current start.
        likeness: similarity to the refined map of the maps of finished starts; last: that of the current start when it
            was last compared, None before.
        complete: whether the recipe has finished.
    """

    step: int
    current: RandomStart
    likeness: tuple[float, ...]
    last: float | None
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
        return ConfirmState(step=0, current=self.starts.new(0), likeness=(), last=None, complete=False)

    def finished(self, state: ConfirmState) -> bool:
        """Whether a start agrees with the refined map, or as many as are allowed do not."""
        return state.complete

    def step(self, state: ConfirmState) -> tuple[ConfirmState, StepInfo]:
        """Process one batch of one start; at the end of its last level, compare."""
        start, number = state.current, len(state.likeness) + 1
        radius, level = self.starts.radius(start.level), start.level
        start, fsc, evidence = self.starts.em_step(start, state.step + 1)
        following = replace(state, step=state.step + 1, current=start)
        done, message = self._level_done(start), None
        likeness = self._likeness(start) if self._to_compare(start, done) else None
        if likeness is not None and (
            likeness >= self.agreement or (done and not self._goes_on(state, start, likeness))
        ):
            following = self._next(following, likeness)
            message = f"further start {number}: similarity to the refined map {likeness:.2f}"
        else:
            following = replace(following, last=state.last if likeness is None else likeness)
            if done and start.level < self._final:
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

    def _level_done(self, start: RandomStart) -> bool:
        """Whether a level has ended; the final one may end whenever its map was evaluated."""
        return self.starts.level_done(start) or (start.level == self._final and self.starts.checked(start))

    def _to_compare(self, start: RandomStart, done: bool) -> bool:
        """Whether the comparison decides: from the last scouting level on, and where a start saw nothing."""
        if not self.starts.scouted(start):
            return done and not self.starts.seen(start)
        return done or self.starts.checked(start)

    def _goes_on(self, state: ConfirmState, start: RandomStart, likeness: float) -> bool:
        """Whether a start goes on to the final level, or in it: its noise may hide that it agrees."""
        if not self.starts.seen(start) or likeness < self.alike_in_part:
            return False
        if start.level < self._final:
            return True
        rises = state.last is None or likeness >= state.last + RISE
        return rises and start.steps < self.starts.schedule.most_steps[-1]

    def _next(self, state: ConfirmState, likeness: float) -> ConfirmState:
        """The end, or the next start."""
        found = (*state.likeness, likeness)
        if likeness >= self.agreement or len(found) >= self.most:
            return replace(state, likeness=found, last=None, complete=True)
        return replace(state, likeness=found, last=None, current=self.starts.new(len(found)))

    def end_early(self, state: ConfirmState) -> ConfirmState:
        """The starts made so far; the current one counts if it has come as far as being compared."""
        start = state.current
        if not self.starts.scouted(start) or not len(start.held_poses):
            return replace(state, complete=True)
        return replace(state, likeness=(*state.likeness, self._likeness(start)), complete=True)

    def expected_costs(self, state: ConfirmState) -> Sequence[float]:
        """Expected cost of the steps ahead: those of the current start and of as many as are allowed after it."""
        start, left = state.current, max(0, self.most - len(state.likeness) - 1)
        final = start.level == self._final
        own = self.starts.final_costs(start.steps) if final else self.starts.costs(start.level, start.steps)
        return own + left * self.starts.costs()

    def result(self, state: ConfirmState) -> tuple[float, ...]:
        """Similarity of each start's map to the refined one, in the order in which they were made."""
        return state.likeness
