"""The loop that runs a recipe: step, log, checkpoint, resume, and stop when asked to.

A recipe is a sequence of pure steps: the state is all that is carried on, diagnostics are apart (the pattern of
blackjax), and randomness is derived from (seed, stage, step). So a run that resumes from any checkpoint equals one that
was never interrupted, with no state of a generator to store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from cryoloom.runs.checkpoint import BadCheckpoint, Checkpoint
from cryoloom.runs.folder import RunFolder, cpu_seconds
from cryoloom.runs.interrupts import Interrupts, Stopped
from cryoloom.runs.progress import Progress, StagePlan, StepInfo

if TYPE_CHECKING:
    import torch

__all__ = [
    "Interrupts",
    "Recipe",
    "StagePlan",
    "StepInfo",
    "Stopped",
    "numpy_generator",
    "run_recipe",
    "torch_generator",
]

S = TypeVar("S")
# a checkpoint may cost this share of the time at most; large states are then saved less often
_CHECKPOINT_SHARE = 0.05

logger = logging.getLogger(__name__)


class Recipe(Protocol[S]):
    """One stage of a reconstruction. S is a frozen dataclass; no method changes its argument."""

    @property
    def name(self) -> str:
        """Of the stage: lower-case letters, digits and underscores; unique in a run."""
        ...

    def init(self) -> S:
        """The state before the first step."""
        ...

    def step(self, state: S) -> tuple[S, StepInfo]:
        """One step; `info.step` counts from 1 and goes up by one."""
        ...

    def finished(self, state: S) -> bool:
        """Whether the state is the stage's result."""
        ...

    def to_arrays(self, state: S) -> Mapping[str, np.ndarray | torch.Tensor]:
        """The whole state as arrays (a number is an array of dimension 0)."""
        ...

    def from_arrays(self, arrays: Mapping[str, np.ndarray | torch.Tensor]) -> S:
        """The inverse of `to_arrays`; tensors come on the CPU."""
        ...

    def end_early(self, state: S) -> S:
        """The best result that can be had from an unfinished state (at least one step old): the map as it is."""
        ...


def run_recipe(
    recipe: Recipe[S], folder: RunFolder, progress: Progress, interrupts: Interrupts, *, seconds: float = 10.0
) -> S:
    """Run one stage from its newest checkpoint, or from the start, to its result.

    A stage that was finished in an earlier attempt is not repeated: its result comes from its last checkpoint. Call
    this for each stage of a run in order, within ``with folder, interrupts:``.

    Args:
        seconds: of wall time between checkpoints, more where these take long; 0 saves after every step.

    Raises:
        Stopped: after a checkpoint, when asked to by a signal.
        BadCheckpoint, CheckpointMismatch: see `CheckpointStore.newest`.
        OSError: when the disk is full; the last checkpoint stands.
    """
    with interrupts.deferred():
        saved = folder.checkpoints.newest(recipe.name, _warner(progress))
        if saved is not None and saved.complete:
            _tell(progress, f"{recipe.name}: finished before, taken from its checkpoint")
            folder.record_timing(saved.stage, saved.wall_s, saved.cpu_s)
            interrupts.check(f"{recipe.name} is finished and saved")
            return _restore(recipe, saved)
        if saved is None:
            state, step = recipe.init(), 0
        else:
            state, step = _restore(recipe, saved), saved.step
            _tell(progress, f"{recipe.name}: resumed after step {step}")
        keeper = _Keeper(recipe, folder, saved, seconds)
        folder.metrics.cut(recipe.name, step)
        progress.begin(recipe.name, step)
        logger.info("%s begins after step %d", recipe.name, step)
        while not recipe.finished(state):
            if interrupts.stopping:
                keeper.save(state, step)
                interrupts.check(f"{recipe.name} is saved after step {step}")
            if interrupts.ending and step > 0:
                state = recipe.end_early(state)
                _tell(progress, f"{recipe.name}: ended early after step {step}, with the map as it is")
                break
            state, info = recipe.step(state)
            step += 1
            if (info.stage, info.step) != (recipe.name, step):
                raise RuntimeError(f"recipe {recipe.name} reported {info.stage} {info.step} at its step {step}")
            folder.metrics.write(info, *keeper.lap())
            if info.message is not None:
                _tell(progress, info.message)
            progress.update(info)
            if keeper.due():
                keeper.save(state, step)
        keeper.save(state, step, complete=True)
        progress.end(recipe.name)
        logger.info("%s ends after step %d", recipe.name, step)
        interrupts.check(f"{recipe.name} is finished and saved")
        return state


def numpy_generator(seed: int, stage_index: int, step: int) -> np.random.Generator:
    """The random generator of one step: the same whether or not the run was interrupted before it."""
    return np.random.default_rng(_sequence(seed, stage_index, step))


def torch_generator(seed: int, stage_index: int, step: int, device: str = "cpu") -> torch.Generator:
    """As `numpy_generator`, for torch."""
    import torch

    words = _sequence(seed, stage_index, step).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(words[0] >> 1))


def _sequence(seed: int, stage_index: int, step: int) -> np.random.SeedSequence:
    if min(seed, stage_index, step) < 0:
        raise ValueError(f"seed {seed}, stage {stage_index}, step {step}: expected numbers that are not negative")
    return np.random.SeedSequence((seed, stage_index, step))


class _Keeper(Generic[S]):
    """Times a stage and saves its state when that is due."""

    def __init__(self, recipe: Recipe[S], folder: RunFolder, saved: Checkpoint | None, seconds: float) -> None:
        self._recipe = recipe
        self._folder = folder
        self._interval = seconds
        self._seconds = seconds
        spent = (0.0, 0.0) if saved is None else (saved.wall_s, saved.cpu_s)
        self._start = (time.monotonic() - spent[0], cpu_seconds() - spent[1])
        self._lap = (time.monotonic(), cpu_seconds())
        self._last_save = time.monotonic()
        self._saved: tuple[int, bool] | None = None if saved is None else (saved.step, saved.complete)

    def lap(self) -> tuple[float, float]:
        """Wall and CPU seconds since the last lap."""
        now, before = (time.monotonic(), cpu_seconds()), self._lap
        self._lap = now
        return now[0] - before[0], now[1] - before[1]

    def due(self) -> bool:
        return time.monotonic() - self._last_save >= self._interval

    def save(self, state: S, step: int, complete: bool = False) -> None:
        """Make the state durable, the metrics that belong to it first."""
        if self._saved == (step, complete):
            return
        began = time.monotonic()
        wall, cpu = began - self._start[0], cpu_seconds() - self._start[1]
        self._folder.metrics.sync()
        arrays = self._recipe.to_arrays(state)
        self._folder.checkpoints.save(self._recipe.name, step, arrays, complete=complete, wall_s=wall, cpu_s=cpu)
        self._folder.record_timing(self._recipe.name, wall, cpu)
        self._saved = (step, complete)
        self._last_save = time.monotonic()
        if self._seconds:
            self._interval = max(self._seconds, (self._last_save - began) / _CHECKPOINT_SHARE)


def _restore(recipe: Recipe[S], saved: Checkpoint) -> S:
    try:
        return recipe.from_arrays(saved.arrays)
    except KeyError as error:
        raise BadCheckpoint(
            f"checkpoint of {saved.stage}, step {saved.step}: array {error} is missing: written by cryoloom "
            f"{saved.version}?\n  what to do: use that version, or start the run anew with --overwrite"
        ) from error


def _tell(progress: Progress, message: str) -> None:
    logger.info("%s", message)
    progress.say(message)


def _warner(progress: Progress) -> Callable[[str], None]:
    def warn(message: str) -> None:
        logger.warning("%s", message)
        progress.say(message, warning=True)

    return warn
