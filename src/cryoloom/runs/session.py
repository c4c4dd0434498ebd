"""Sessions, which run recipes in a run folder, with checkpoints and a log, or in memory."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from cryoloom.runs.checkpoint import BadCheckpoint, Checkpoint
from cryoloom.runs.folder import RunFolder, cpu_seconds
from cryoloom.runs.interrupts import Interrupts
from cryoloom.runs.loop import Recipe, run_steps
from cryoloom.runs.pack import pack, unpack
from cryoloom.runs.progress import Progress, SilentProgress, StagePlan, StepInfo

S = TypeVar("S")
R = TypeVar("R")
# checkpoints may take at most this share of the time; large states are saved less often
_CHECKPOINT_SHARE = 0.05

logger = logging.getLogger(__name__)


class Session:
    """Runs recipes one after the other and shows their progress.

    With a folder each recipe continues from its newest checkpoint, and a finished one is not repeated: its result comes
    from its last checkpoint. Run the recipes of a run in order, within ``with folder, interrupts:``.

    Attributes:
        folder: open run folder; None in memory.
        progress: display of the progress; interrupts: signals taken between steps.
    """

    def __init__(
        self, folder: RunFolder | None, progress: Progress, interrupts: Interrupts, *, seconds: float = 10.0
    ) -> None:
        """`seconds`: wall time between checkpoints, more where these take long; 0 saves after every step."""
        self.folder, self.progress = folder, progress
        self.interrupts, self._seconds = interrupts, seconds

    @staticmethod
    def in_memory(progress: Progress | None = None, interrupts: Interrupts | None = None) -> Session:
        """A session that leaves no files; by default it shows nothing, and Ctrl-C stops it at once."""
        return Session(None, progress or SilentProgress(), interrupts or Interrupts())

    @property
    def path(self) -> Path | None:
        """The run's folder; None in memory."""
        return None if self.folder is None else self.folder.path

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """Announce the stages ahead, for the estimate of the time left."""
        self.progress.plan(stages)

    def say(self, message: str, *, warning: bool = False) -> None:
        """Show a line to the user and log it."""
        logger.log(logging.WARNING if warning else logging.INFO, "%s", message)
        self.progress.say(message, warning=warning)

    def run(self, recipe: Recipe[S, R]) -> R:
        """Run one recipe to its result.

        Raises:
            Stopped: after a checkpoint, when asked to by a signal.
            BadCheckpoint, CheckpointMismatch: see `CheckpointStore.newest`.
            OSError: when the disk is full; the last checkpoint remains.
        """
        return recipe.result(self.state(recipe))

    def state(self, recipe: Recipe[S, R]) -> S:
        """Run one recipe as `run` does and return its last state instead of its result."""
        interrupts = contextlib.nullcontext() if self.folder is None else self.interrupts.deferred()
        with interrupts:
            if self.folder is None:
                return run_steps(recipe, recipe.init(), 0, interrupts=self.interrupts, teller=self, keeper=_Forgetful())
            return self._in_folder(recipe, self.folder)

    def _in_folder(self, recipe: Recipe[S, R], folder: RunFolder) -> S:
        saved = folder.checkpoints.newest(recipe.name, lambda message: self.say(message, warning=True))
        if saved is not None and saved.complete:
            self.say(f"{recipe.name}: finished before, taken from its checkpoint")
            folder.record_timing(saved.stage, saved.wall_s, saved.cpu_s)
            self.interrupts.check(f"{recipe.name} is finished and saved")
            return _restored(recipe, saved)
        if saved is None:
            state, step = recipe.init(), 0
        else:
            state, step = _restored(recipe, saved), saved.step
            self.say(f"{recipe.name}: resumed after step {step}")
        folder.metrics.cut(recipe.name, step)
        keeper = _Keeper(recipe.name, folder, saved, self._seconds)
        return run_steps(recipe, state, step, interrupts=self.interrupts, teller=self, keeper=keeper)

    @contextlib.contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Time the code inside as a stage without steps, e.g. the final maps."""
        wall, cpu = time.monotonic(), cpu_seconds()
        yield
        if self.folder is not None:
            self.folder.record_timing(stage, time.monotonic() - wall, cpu_seconds() - cpu)


class _Forgetful:
    """Keeps nothing."""

    def stepped(self, info: StepInfo) -> None:
        """Ignored."""

    def due(self) -> bool:
        """Never."""
        return False

    def save(self, state: object, step: int, complete: bool = False) -> None:
        """Ignored."""


class _Keeper:
    """Times a stage in a run folder, logs its steps, and saves its state when that is due."""

    def __init__(self, stage: str, folder: RunFolder, saved: Checkpoint | None, seconds: float) -> None:
        self._stage = stage
        self._folder = folder
        self._interval = seconds
        self._seconds = seconds
        spent = (0.0, 0.0) if saved is None else (saved.wall_s, saved.cpu_s)
        self._start = (time.monotonic() - spent[0], cpu_seconds() - spent[1])
        self._lap = (time.monotonic(), cpu_seconds())
        self._last_save = time.monotonic()
        self._saved: tuple[int, bool] | None = None if saved is None else (saved.step, saved.complete)

    def stepped(self, info: StepInfo) -> None:
        """Log a step with the wall and CPU seconds that it took."""
        now, before = (time.monotonic(), cpu_seconds()), self._lap
        self._lap = now
        self._folder.metrics.write(info, now[0] - before[0], now[1] - before[1])

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._last_save >= self._interval

    def save(self, state: object, step: int, complete: bool = False) -> None:
        """Make the state durable, the metrics that belong to it first."""
        if self._saved == (step, complete):
            return
        began = time.monotonic()
        wall, cpu = began - self._start[0], cpu_seconds() - self._start[1]
        self._folder.metrics.sync()
        self._folder.checkpoints.save(self._stage, step, pack(state), complete=complete, wall_s=wall, cpu_s=cpu)
        self._folder.record_timing(self._stage, wall, cpu)
        self._saved = (step, complete)
        self._last_save = time.monotonic()
        if self._seconds:
            self._interval = max(self._seconds, (self._last_save - began) / _CHECKPOINT_SHARE)


def _restored(recipe: Recipe[S, R], saved: Checkpoint) -> S:
    try:
        return unpack(recipe.state_type, saved.arrays)
    except KeyError as error:
        raise BadCheckpoint(
            f"checkpoint of {saved.stage}, step {saved.step}: its arrays are not those of this version ({error}): "
            f"it was written by cryoloom {saved.version}\n"
            "  what to do: use that version, or start the run anew with --overwrite"
        ) from error
