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
        total: steps expected in this stage, None where that is not known.
        resolution_angstrom: of the present map, by the stage's own estimate.
        metrics: names and values, logged to metrics.jsonl.
        message: something a person should read, shown and logged once.
    """

    stage: str
    step: int
    total: int | None = None
    resolution_angstrom: float | None = None
    metrics: tuple[tuple[str, float], ...] = ()
    message: str | None = None


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage ahead: the expected cost of each of its steps, in any unit that all stages share (FLOP, CPU-seconds)."""

    stage: str
    step_weights: tuple[float, ...]


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
    """Estimate of the time left: seconds per unit of weight, measured in the present stage, times the weight ahead.

    Without a plan all steps of a stage weigh the same and later stages are unknown, so the estimate is the stage's.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._plan: dict[str, tuple[float, ...]] = {}
        self._stage = ""
        self._began = 0.0
        self._first = self._step = 0
        self._total: int | None = None
        self._seconds_per_weight: float | None = None

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """The stages of the run, in order."""
        self._plan = {s.stage: s.step_weights for s in stages}

    def begin(self, stage: str, step: int) -> None:
        """A stage starts after `step` steps."""
        self._stage, self._first, self._step, self._total = stage, step, step, None
        self._began = self._clock()
        if stage not in self._plan:
            self._seconds_per_weight = None

    def update(self, info: StepInfo) -> None:
        """A step is done."""
        self._step, self._total = info.step, info.total
        weights = self._weights()
        done = sum(weights[self._first : self._step])
        if done > 0:
            self._seconds_per_weight = (self._clock() - self._began) / done

    def seconds(self) -> float | None:
        """Expected time from the last step to the end of the run, or None while it can't be told."""
        weights = self._weights()
        if self._seconds_per_weight is None or not weights:
            return None
        ahead = sum(weights[self._step :])
        names = list(self._plan)
        if self._stage in self._plan:
            ahead += sum(sum(self._plan[name]) for name in names[names.index(self._stage) + 1 :])
        return self._seconds_per_weight * ahead

    def _weights(self) -> tuple[float, ...]:
        planned = self._plan.get(self._stage)
        if planned is not None and self._total in (None, len(planned)):
            return planned
        if self._total is None:
            return ()
        # the stage turned out longer or shorter than planned: keep its mean weight, so that later stages still count
        mean = sum(planned) / len(planned) if planned else 1.0
        return (mean,) * self._total
