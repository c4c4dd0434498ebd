"""What a running recipe tells the outside: the result of each step, and the small protocol by which it is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StepInfo:
    """Diagnostics of one step; nothing here is carried on.

    Attributes:
        stage: name of the recipe.
        step: steps done in this stage, this one included (the first is 1).
        resolution_angstrom: of the present map, by the stage's own estimate.
        metrics: names and values, logged to metrics.jsonl.
        message: something a person should read, shown and logged once.
        total: steps expected in this stage; cost, cost_ahead: expected cost of this step, and of the stage's steps
            that are still ahead, in the unit of `Recipe.expected_costs`. The loop fills them in.
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
    """Where a run shows how it goes. Called from the main thread only."""

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """The stages of the whole run, for the estimate of the time left."""
        ...

    def begin(self, stage: str, step: int) -> None:
        """A stage starts after `step` steps (0 unless resumed)."""
        ...

    def update(self, info: StepInfo) -> None:
        """A step is done."""
        ...

    def say(self, message: str, *, warning: bool = False) -> None:
        """A line for the user."""
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

    The speed, seconds per unit of expected cost, is measured on the steps that were done, the last ones counting most;
    times the cost still ahead, in the present stage and in later ones, it gives the time left. The first step is not
    counted: kernels are compiled or loaded in it.
    """

    # weight of a step relative to the next one: stages differ in how well their costs are known
    _MEMORY = 0.8

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._plan: dict[str, float] = {}
        self._stage = ""
        self._last = clock()
        self._spent = self._cost = 0.0
        self._warm = False
        self._ahead: float | None = None

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """Take the stages of the run, in order."""
        self._plan = {s.stage: s.cost for s in stages}

    def begin(self, stage: str, step: int) -> None:
        """Note that a stage starts."""
        self._stage, self._last = stage, self._clock()
        self._ahead = self._plan.get(stage)

    def update(self, info: StepInfo) -> None:
        """Note that a step is done."""
        now = self._clock()
        if self._warm:
            self._spent = self._MEMORY * self._spent + now - self._last
            self._cost = self._MEMORY * self._cost + info.cost
        self._last, self._ahead, self._warm = now, info.cost_ahead, True

    def seconds(self) -> float | None:
        """Expected seconds from the last step to the end of the run; None while nothing has been measured."""
        if self._cost <= 0 or self._ahead is None:
            return None
        names = list(self._plan)
        later = names[names.index(self._stage) + 1 :] if self._stage in self._plan else []
        return self._spent / self._cost * (self._ahead + sum(self._plan[name] for name in later))
