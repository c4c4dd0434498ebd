"""The protocol of a recipe, and the loop that runs its steps.

A recipe is a sequence of pure steps: only the state is carried from step to step, diagnostics are returned beside it
(the pattern of blackjax), and randomness is derived from the seed by name (`runs.seeds`). So a run that resumes from
any checkpoint equals one that was never interrupted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from cryoloom.runs.interrupts import Interrupts
from cryoloom.runs.progress import Progress, StepInfo

S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)

logger = logging.getLogger(__name__)


class Recipe(Protocol[S, R_co]):
    """One stage of a run. S, its state, is a frozen dataclass; no method changes its argument."""

    @property
    def name(self) -> str:
        """Name of the stage: lower-case letters, digits and underscores; unique in a run."""
        ...

    @property
    def state_type(self) -> type[S]:
        """The class of the state, whose type hints say how it is stored (`runs.pack`)."""
        ...

    def init(self) -> S:
        """The state before the first step."""
        ...

    def step(self, state: S) -> tuple[S, StepInfo]:
        """One step; `info.step` counts from 1 and goes up by one."""
        ...

    def finished(self, state: S) -> bool:
        """Whether the state is that of a finished stage."""
        ...

    def end_early(self, state: S) -> S:
        """The best finished state that can be made of an unfinished one, after at least one step."""
        ...

    def expected_costs(self, state: S) -> Sequence[float]:
        """Expected cost of each remaining step, in CPU-seconds of one core of a usual machine.

        Within a stage only proportions matter; the unit makes costs comparable between stages. There are as many costs
        as expected steps.
        """
        ...

    def result(self, state: S) -> R_co:
        """The result of the stage, from a finished state."""
        ...


class Keeper(Protocol):
    """Storage to which the loop gives steps and states."""

    def stepped(self, info: StepInfo) -> None:
        """Log a finished step."""
        ...

    def due(self) -> bool:
        """Whether a state should be saved now."""
        ...

    def save(self, state: Any, step: int, complete: bool = False) -> None:
        """Save a state."""
        ...


class Teller(Protocol):
    """Display and log to which the loop gives its messages."""

    @property
    def progress(self) -> Progress:
        """The display."""
        ...

    def say(self, message: str, *, warning: bool = False) -> None:
        """Show a line to the user and log it."""
        ...


def run_steps(
    recipe: Recipe[S, R_co], state: S, step: int, interrupts: Interrupts, teller: Teller, keeper: Keeper
) -> S:
    """Run a recipe from its state after `step` steps to the end of its stage; log steps and save checkpoints.

    Raises:
        Stopped: if a signal asks the run to stop, after the state is saved.
    """
    teller.progress.begin(recipe.name, step)
    logger.info("%s begins after step %d", recipe.name, step)
    while not recipe.finished(state):
        if interrupts.stopping:
            keeper.save(state, step)
            interrupts.check(f"{recipe.name} is saved after step {step}")
        if interrupts.ending and step > 0:
            state = recipe.end_early(state)
            teller.say(f"{recipe.name}: ended early after step {step}, with the result as it is")
            break
        cost = next(iter(recipe.expected_costs(state)), 0.0)
        state, info = recipe.step(state)
        step += 1
        if (info.stage, info.step) != (recipe.name, step):
            raise RuntimeError(f"recipe {recipe.name} reported {info.stage} {info.step} at its step {step}")
        ahead = () if recipe.finished(state) else recipe.expected_costs(state)
        info = replace(info, total=step + len(ahead), cost=cost, cost_ahead=float(sum(ahead)))
        keeper.stepped(info)
        if info.message is not None:
            teller.say(info.message)
        teller.progress.update(info)
        if keeper.due():
            keeper.save(state, step)
    keeper.save(state, step, complete=True)
    teller.progress.end(recipe.name)
    logger.info("%s ends after step %d", recipe.name, step)
    interrupts.check(f"{recipe.name} is finished and saved")
    return state
