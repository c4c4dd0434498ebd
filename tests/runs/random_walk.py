"""A recipe that is a seeded random walk, and a program that runs two of them in a folder: made to be killed.

Usage: python random_walk.py FOLDER [--steps N] [--box N] [--pause S] [--seconds S] [--die KIND:N]
    [--press STAGE:N:TIMES] [--file-limit BYTES]
Each step is printed once it is done. KIND is `write` (half of a checkpoint is written) or `replace` (all of it is,
under its temporary name) and N says which checkpoint of this process it is. --press is Ctrl-C, TIMES in a step.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cryoloom.runs.folder import RunFolder
from cryoloom.runs.interrupts import Interrupts
from cryoloom.runs.progress import StagePlan, StepInfo
from cryoloom.runs.seeds import numpy_generator
from cryoloom.runs.session import Session

STAGES = ("abinit", "refine")


@dataclass(frozen=True, slots=True)
class WalkSettings:
    """Settings of the two walks."""

    seed: int = 7
    steps: int = 20
    box: int = 8
    threads: int = field(default=1, metadata={"may_change": True})


@dataclass(frozen=True, slots=True)
class WalkState:
    """Where the walk is, and where it was."""

    step: int
    position: np.ndarray
    trace: np.ndarray


@dataclass(frozen=True)
class RandomWalk:
    """One stage; it starts at `start`, so that a second stage depends on the result of the first."""

    name: str
    settings: WalkSettings
    start: np.ndarray
    pause: float = 0.0
    state_type: type[WalkState] = WalkState

    def init(self) -> WalkState:
        return WalkState(0, self.start, np.zeros(0, np.complex128))

    def step(self, state: WalkState) -> tuple[WalkState, StepInfo]:
        time.sleep(self.pause)
        step = state.step + 1
        random = numpy_generator(self.settings.seed, self.name, step)
        position = 0.9 * state.position + random.standard_normal(state.position.shape)
        trace = np.append(state.trace, position.reshape(-1)[:64] + 1j * step)
        metrics = (("mean", float(position.mean())), ("nan", float("nan")))
        return WalkState(step, position, trace), StepInfo(self.name, step, 100.0 / step, metrics)

    def finished(self, state: WalkState) -> bool:
        return state.step >= self.settings.steps

    def expected_costs(self, state: WalkState) -> list[float]:
        return [1.0] * (self.settings.steps - state.step)

    def result(self, state: WalkState) -> WalkState:
        return state

    def end_early(self, state: WalkState) -> WalkState:
        return WalkState(state.step, state.position + 1000, state.trace)


class PrintingProgress:
    """Prints each step at once, so that a test knows where the run stands; presses Ctrl-C in one of them."""

    def __init__(self, press: str = "") -> None:
        self.press = press

    def plan(self, stages: Sequence[StagePlan]) -> None: ...
    def begin(self, stage: str, step: int) -> None: ...
    def end(self, stage: str) -> None: ...

    def update(self, info: StepInfo) -> None:
        print(info.stage, info.step, flush=True)
        for times in range(1, 3):
            if self.press == f"{info.stage}:{info.step}:{times}":
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)

    def say(self, message: str, *, warning: bool = False) -> None:
        print(("warning: " if warning else "said: ") + message, flush=True)


def open_folder(path: Path, settings: WalkSettings) -> RunFolder:
    """A new run, or the one that is there."""
    if (path / "run.json").exists():
        return RunFolder.resume(path, settings, "data", threads=settings.threads, device="cpu")
    return RunFolder.create(
        path, settings, "data", "walk", input_path=Path("in.star"), seed=settings.seed, threads=1, device="cpu"
    )


def walk(
    path: Path, settings: WalkSettings, progress=None, seconds: float = 0.0, pause: float = 0.0, finish: bool = True
) -> WalkState:
    """Both stages in a folder, begun or resumed; the last state."""
    progress = progress or PrintingProgress()
    with Interrupts() as interrupts, open_folder(path, settings) as folder:
        start = np.zeros((settings.box,) * 3)
        state = None
        session = Session(folder, progress, interrupts, seconds=seconds)
        for stage in STAGES:
            state = session.run(RandomWalk(stage, settings, start, pause))
            start = state.position
        assert state is not None
        if finish:
            np.savez(path / "state.npz", position=state.position, trace=state.trace)
            folder.finish({"converged": True})
    return state


def die_in_checkpoint(kind: str, number: int) -> None:
    """Make this process kill itself in the midst of its checkpoint of that number."""
    module = sys.modules["cryoloom.runs.checkpoint"]
    original, count = module.write_durably, 0

    def dying(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == number and kind == "write":
            path.with_name(f".{path.name}.{os.getpid()}.cryoloom-tmp").write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        if count == number:
            os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
        original(path, data)

    module.write_durably = dying


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--box", type=int, default=8)
    parser.add_argument("--press", default="")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--die")
    parser.add_argument("--file-limit", type=int)
    a = parser.parse_args()
    if a.die:
        kind, number = a.die.split(":")
        die_in_checkpoint(kind, int(number))
    if a.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (a.file_limit, a.file_limit))
    import typer

    from cryoloom.cli.errors import report_errors

    try:
        with report_errors():
            progress = PrintingProgress(a.press)
            walk(a.folder, WalkSettings(steps=a.steps, box=a.box), progress, seconds=a.seconds, pause=a.pause)
    except typer.Exit as done:
        sys.exit(done.exit_code)


if __name__ == "__main__":
    main()
