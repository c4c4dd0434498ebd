"""Progress of a run: the diagnostics of each step, the protocol of displays, and the estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StepInfo:
    """Diagnostics of one step; they are not part of the state.

    Attributes:
        stage: name of the recipe.
        step: steps done in this stage, this one included (the first is 1).
        resolution_angstrom: resolution of the current map as the stage estimates it.
        metrics: names and values, logged to metrics.jsonl.
        message: message to the user, shown and logged once.
        total: number of steps expected in this stage.
        cost, cost_ahead: expected cost of this step and of the remaining steps of the stage, in the unit of
            `Recipe.expected_costs`. The loop fills in these and `total`.
    """

    stage: str
    step: int
    resolution_angstrom: float | None = None
    metrics: tuple[tuple[str, float], ...] = ()
    message: str | None = None
    total: int | None = None
    cost: float = 0.0
    cost_ahead: float = 0.0


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage of the run and its expected cost, in the unit of `Recipe.expected_costs`."""

    stage: str
    cost: float


class Progress(Protocol):
    """Display of the progress of a run; called from the main thread only."""

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """Take the stages of the whole run, for the estimate of the time left."""
        ...

    def begin(self, stage: str, step: int) -> None:
        """A stage starts after `step` steps (0 unless resumed)."""
        ...

    def update(self, info: StepInfo) -> None:
        """A step is done."""
        ...

    def say(self, message: str, *, warning: bool = False) -> None:
        """Show a line to the user."""
        ...

    def end(self, stage: str) -> None:
        """The stage is done."""
        ...


class SilentProgress:
    """Shows nothing: for use as a library."""

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """Ignored."""

    def begin(self, stage: str, step: int) -> None:
        """Ignored."""

    def update(self, info: StepInfo) -> None:
        """Ignored."""

    def say(self, message: str, *, warning: bool = False) -> None:
        """Ignored."""

    def end(self, stage: str) -> None:
        """Ignored."""


class RemainingTime:
    """Estimate of the time left in a run.

    The speed, in seconds per unit of expected cost, is measured on the steps done so far, with most weight on the last
    ones. The time left is the speed times the expected cost still ahead, in this stage and in later ones. The first
    step is not counted, because it compiles or loads kernels.

    The plan may name parts of a run whose stages are not known yet: stages that it does not name use these up.
    """

    # weight of a step relative to the next one: stages differ in how well their costs are known
    _MEMORY = 0.8

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._later: dict[str, float] = {}
        self._named = False
        self._last = clock()
        self._spent = self._cost = 0.0
        self._warm = False
        self._ahead: float | None = None

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """Take the stages of the run, in order."""
        self._later = {s.stage: s.cost for s in stages}

    def begin(self, stage: str, step: int) -> None:
        """Note that a stage starts."""
        self._last, self._named = self._clock(), stage in self._later
        if self._named:
            names = list(self._later)
            self._ahead = self._later[stage]
            self._later = {name: self._later[name] for name in names[names.index(stage) + 1 :]}
        else:
            self._ahead = 0.0 if self._later else None

    def update(self, info: StepInfo) -> None:
        """Note that a step is done."""
        now = self._clock()
        if self._warm:
            self._spent = self._MEMORY * self._spent + now - self._last
            self._cost = self._MEMORY * self._cost + info.cost
        self._last, self._ahead, self._warm = now, info.cost_ahead, True
        if not self._named:
            self._use_up(info.cost)

    def seconds(self) -> float | None:
        """Expected seconds from the last step to the end of the run; None while nothing has been measured."""
        if self._cost <= 0 or self._ahead is None:
            return None
        later = sum(self._later.values())
        return self._spent / self._cost * (self._ahead + later if self._named else max(self._ahead, later))

    def _use_up(self, cost: float) -> None:
        for name, left in self._later.items():
            self._later[name] = max(0.0, left - cost)
            cost -= left - self._later[name]


def clock_time(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"
