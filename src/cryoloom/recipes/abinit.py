"""Ab initio: online EM from random orientations with frequency marching, several starts judged by each other.

Every step matches a small batch against slices of the current map (exhaustively, as matrix products), draws poses from
the posterior and blends the batch's statistics into running ones. Nothing is stored per image. A level ends when the
likelihood of held-out images stops growing. New random starts are made until two of them agree (their aligned maps
correlate). Where the first ones, which march from low resolution, disagree, the others begin at higher resolution, in
smaller batches and with more steps. If none agree, the start with the highest likelihood goes on. Where a fine start
makes held-out images no likelier than no particle does, no other is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.particles.feed import ImageFeed
from cryoloom.particles.selection import most_informative
from cryoloom.physics.rotations import is_polyhedral, symmetry_group
from cryoloom.recipes.methods.search import AbInitSettings
from cryoloom.recipes.random_starts import RandomStart, RandomStarts, step_metrics
from cryoloom.runs.progress import StepInfo
from cryoloom.runs.seeds import numpy_generator

USUAL_STARTS = 2
FINER = (
    "These starts disagree: the next ones begin at {:.0f} angstrom, in smaller batches and with more steps (at most "
    "{} each)."
)


@dataclass(frozen=True)
class AbInitState:
    """State carried from step to step.

    Attributes:
        step: steps done so far; current: the current start, None between two starts.
        index: its number; fine: whether it follows the fine schedule; coarse: number of coarse starts before fine ones.
        done: starts of the same schedule that reached the end of scouting; scores: their evidence;
        likeness: [n, n], similarity of the maps of done starts; chosen: index of the start carried to the final level,
            None before.
        complete: whether the recipe has finished.
    """

    step: int
    index: int
    fine: bool
    coarse: int
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
        self,
        feed: ImageFeed,
        settings: AbInitSettings,
        seed: int,
        preview: Callable[[Tensor], None] | None = None,
        symmetry: str = "C1",
    ) -> None:
        """`preview` receives the map of the likeliest start as it develops, on the grid of its radius.

        A polyhedral symmetry is imposed from the first step on, and starts are fine from the beginning: at low
        resolution such particles are spheres or shells. Other groups are ignored: their axes are found on the map.
        """
        self.feed, self.settings, self.seed = feed, settings, seed
        self.preview = preview
        group = symmetry_group(symmetry)
        self.imposed = is_polyhedral(symmetry)
        self.agreement = max(settings.agreement, settings.polyhedral_agreement if self.imposed else 0.0)
        if not self.imposed:
            group = group[:1]
        order = numpy_generator(seed, self.name, "images").permutation(len(feed))[: settings.considered]
        count = max(settings.least_used, round(settings.share * len(order)))
        order = most_informative(feed, order, feed.radius_of(settings.levels[-1]), feed.noise, count)
        held = min(settings.held_out, len(order) // 5)
        self.held_out = np.sort(order[:held])
        self.pool = order[held:]
        self.coarse, self.fine = (
            RandomStarts(feed, schedule, self.pool, self.held_out, seed=seed, stage=self.name, group=group)
            for schedule in (settings.coarse(), settings.fine(self.imposed))
        )

    def starts(self, state: AbInitState) -> RandomStarts:
        """The schedule that the current start follows."""
        return self.fine if state.fine else self.coarse

    def init(self) -> AbInitState:
        """State before the first start."""
        return AbInitState(
            step=0,
            index=0,
            fine=self.imposed,
            coarse=0,
            current=None,
            done=(),
            scores=(),
            likeness=torch.zeros(0, 0),
            chosen=None,
            complete=False,
        )

    def finished(self, state: AbInitState) -> bool:
        """Whether two starts agree, or the chosen start has reached the end of the final level."""
        return state.complete

    def step(self, state: AbInitState) -> tuple[AbInitState, StepInfo]:
        """Process one batch of one start; at the end of a level, advance."""
        starts = self.starts(state)
        start = state.current if state.current is not None else self._new(state)
        radius, level = starts.radius(start.level), start.level
        start, fsc, evidence = starts.em_step(start, state.step + 1)
        if self.preview is not None and self._worth_a_look(state, start):
            self.preview(starts.volume(start)[0])
        message: str | None = None
        compared: tuple[tuple[str, float], ...] = ()
        following = replace(state, step=state.step + 1, current=start)
        if starts.level_done(start) or self._agrees_already(state, start):
            if state.chosen is not None:
                following = replace(following, complete=True)
            elif not starts.scouted(start) and self._hopeful(state, start):
                following = replace(following, current=starts.marched(start, start.level + 1))
            else:
                following = self._compared(following)
                compared = _of_newest(following)
                following, message = self._next(following)
        info = StepInfo(
            stage=self.name,
            step=state.step + 1,
            resolution_angstrom=self.feed.field_of_view / radius,
            metrics=(*step_metrics(state.index, level, evidence, fsc[radius], start.sigma_angstrom), *compared),
            message=message,
        )
        return following, info

    def _new(self, state: AbInitState) -> RandomStart:
        """The next start: a random one; of a shell, every other one is the counterpart of the start before."""
        if self.imposed and state.index % 2 == 1:
            return self.fine.counterpart(state.done[-1])
        return self.starts(state).new(state.index)

    def _worth_a_look(self, state: AbInitState, start: RandomStart) -> bool:
        """Whether the map was just evaluated, is no longer shapeless, and is likelier than those of earlier starts."""
        starts = self.starts(state)
        if not starts.checked(start) or (start.level == 0 and not state.fine):
            return False
        if not state.scores:
            return True
        # evidence is comparable at one radius only
        return starts.scouted(start) and start.evidence[-1] > max(state.scores)

    def _agrees_already(self, state: AbInitState, start: RandomStart) -> bool:
        """Whether a start in its last scouting level has reached the same map as the likeliest earlier start."""
        starts = self.starts(state)
        if state.chosen is not None or not (starts.scouted(start) and state.done) or not starts.checked(start):
            return False
        return starts.likeness(start, state.done[int(np.argmax(state.scores))]) >= self.agreement

    def _compared(self, state: AbInitState) -> AbInitState:
        """The current start among those that have reached the end of scouting, compared with them."""
        start, starts = state.current, self.starts(state)
        assert start is not None
        start = starts.recentred(start)
        done = (*state.done, start)
        likeness = self._likeness(starts, done, state.likeness)
        return replace(state, done=done, scores=(*state.scores, max(start.evidence[-2:])), likeness=likeness)

    def _next(self, state: AbInitState) -> tuple[AbInitState, str]:
        """To the end if two starts agree, else to the next start, or to the final level of the best one."""
        done, scores, likeness = state.done, state.scores, state.likeness
        text = f"start {state.index + 1}: log evidence {scores[-1]:.1f} nats per image"
        if len(done) > 1:
            text += f", similarity to the most similar earlier map {float(likeness[-1].max()):.2f}"
        best = int(np.argmax(scores))
        if len(done) > 1 and float(likeness[best].max()) >= self.agreement:
            # a correct map is best improved by refinement
            return replace(state, current=done[best], chosen=best, complete=True), text
        newest = state.current
        assert newest is not None
        if self._hopeful(state, newest) and len(done) < self._most_starts(state):
            return replace(state, index=state.index + 1, current=None), text
        if not state.fine and self.settings.restarts >= len(done) + USUAL_STARTS:  # one alone could not be compared
            resolution = self.feed.field_of_view / self.fine.radius(0)
            return self._finer(state), f"{text}. {FINER.format(resolution, sum(self.fine.schedule.most_steps))}"
        return self._carried_on(replace(state, current=done[best], chosen=best)), text

    def _hopeful(self, state: AbInitState, start: RandomStart) -> bool:
        """Whether more is to be expected of the schedule: what a fine start does not see, no other will."""
        return not state.fine or self.fine.seen(start)

    def _most_starts(self, state: AbInitState) -> int:
        """Number of starts that follow the current schedule, at most."""
        s = self.settings
        if self.imposed:  # counterparts, which are short, are not counted
            return 2 * s.restarts - 1
        if state.fine:
            return s.restarts - state.coarse
        # where two are alike in part, one of them is on its way, and a third one is likely to agree with the other
        alike = len(state.done) >= s.coarse_starts and float(state.likeness.max()) >= s.alike_in_part
        coarse = s.coarse_starts + alike
        return s.restarts if s.restarts < coarse + USUAL_STARTS else coarse

    def _finer(self, state: AbInitState) -> AbInitState:
        """The first start of the fine schedule; starts of another radius can't be compared with it."""
        index = state.index + 1
        return replace(
            state,
            index=index,
            fine=True,
            coarse=len(state.done),
            current=self.fine.new(index),
            done=(),
            scores=(),
            likeness=torch.zeros(0, 0),
        )

    def _carried_on(self, state: AbInitState) -> AbInitState:
        """The chosen start at the beginning of the final level, if its schedule has one."""
        starts = self.starts(state)
        assert state.current is not None
        if starts.schedule.final is None:
            return replace(state, complete=True)
        return replace(state, current=starts.marched(state.current, len(starts.schedule.levels)))

    def _likeness(self, starts: RandomStarts, done: tuple[RandomStart, ...], known: Tensor) -> Tensor:
        """Pairwise similarity of the done starts' maps; only the newest row is computed."""
        n = len(done)
        likeness = torch.zeros(n, n)
        likeness[: n - 1, : n - 1] = known
        for i in range(n - 1):
            likeness[i, -1] = likeness[-1, i] = starts.likeness(done[-1], done[i])
        return likeness

    def end_early(self, state: AbInitState) -> AbInitState:
        """The best start so far, as it is."""
        if state.current is None or (state.done and state.chosen is None):
            best = int(np.argmax(state.scores))
            return replace(state, current=state.done[best], chosen=best, complete=True)
        return replace(state, chosen=state.chosen or 0, complete=True)

    def expected_costs(self, state: AbInitState) -> Sequence[float]:
        """Expected cost of the steps ahead: those of the current start, and of a second one that may agree."""
        starts, start = self.starts(state), state.current
        if state.chosen is not None and start is not None:  # the final level of a start that agrees with no other
            return starts.final_costs(start.steps)
        costs = starts.costs(start.level, start.steps) if start is not None else []
        # a start usually agrees with an earlier one; disagreement so far does not predict the next
        usual = min(USUAL_STARTS, self._most_starts(state))
        return costs + max(0, usual - len(state.done) - (start is not None)) * starts.costs()

    def result(self, state: AbInitState) -> AbInitResult:
        """The final map and the agreement of the starts."""
        starts, start = self.starts(state), state.current
        assert start is not None
        start = starts.recentred(start)
        volume, _ = starts.volume(start)
        best = state.chosen or 0
        others = [float(x) for i, x in enumerate(state.likeness[best]) if i != best] if len(state.likeness) else []
        return AbInitResult(
            volume=volume,
            radius=starts.radius(start.level),
            noise=start.noise,
            sigma_angstrom=start.sigma_angstrom,
            starts=state.coarse + len(state.done),
            likeness=max(others) if others else None,
            agreeing=sum(x >= self.agreement for x in others) + 1,
            strength=start.strength,
        )


@dataclass(frozen=True)
class AbInitResult:
    """Result of ab initio, from which refinement starts.

    Attributes:
        volume: [m, m, m], band-limited box m = 2 (radius + 2) with the field of view of the working box.
        radius: Fourier pixels; noise: [G, S]; sigma_angstrom: standard deviation of shifts.
        starts: number made; likeness: similarity of the best start's map to the most similar
            other, or None;
        agreeing: number of starts that agree with the best, itself included.
        strength: by how much its map makes held-out images likelier than no particle does, nats per image; None if it
            was not evaluated.
    """

    volume: Tensor
    radius: int
    noise: Tensor
    sigma_angstrom: float
    starts: int
    likeness: float | None
    agreeing: int
    strength: float | None


def _of_newest(state: AbInitState) -> tuple[tuple[str, float], ...]:
    """Evidence of the newest done start, and the similarity of its map to that of each earlier one."""
    likeness = state.likeness[-1, :-1].tolist()
    return (("start_evidence", state.scores[-1]), *((f"likeness_to_{i}", x) for i, x in enumerate(likeness)))
