"""Progress of a run, on stderr: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from cryoloom.runs.progress import Progress, RemainingTime, StagePlan, StepInfo, clock_time

if TYPE_CHECKING:
    from rich.console import RenderableType

_SECONDS_BETWEEN_LINES = 5.0
_REFRESHES_PER_SECOND = 2


@contextlib.contextmanager
def open_progress(quiet: bool = False) -> Iterator[Progress]:
    """The progress display that fits stderr: live, plain lines, or (`quiet`) warnings only."""
    if quiet:
        yield PlainProgress(sys.stderr, quiet=True)
    elif in_terminal():
        with LiveProgress() as live:
            yield live
    else:
        yield PlainProgress(sys.stderr)


def in_terminal() -> bool:
    """Whether stderr is a terminal in which lines can be redrawn."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def announce(message: str) -> None:
    """Show a line to the user from within a signal handler, where Python's own streams must not be used."""
    with contextlib.suppress(OSError):
        os.write(2, f"\ncryoloom: {message}\n".encode())


class _Meter:
    """What both displays show: the last step, the time left, wall and CPU time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._estimated_at = self._began
        self._remaining = RemainingTime(clock)
        self.stage = ""
        self.info: StepInfo | None = None

    def plan(self, stages: Sequence[StagePlan]) -> None:
        self._remaining.plan(stages)

    def begin(self, stage: str, step: int) -> None:
        self.stage, self.info = stage, None
        self._remaining.begin(stage, step)

    def update(self, info: StepInfo) -> None:
        self.info = info
        self._remaining.update(info)
        self._estimated_at = self._clock()

    def times(self) -> list[str]:
        elapsed = self._clock() - self._began
        parts = [clock_time(elapsed)]
        left = self._remaining.seconds()
        if left is not None:
            parts.append(f"about {clock_time(max(0.0, left - (self._clock() - self._estimated_at)))} left")
        t = os.times()
        parts.append(f"CPU {clock_time(t.user + t.system + t.children_user + t.children_system)}")
        return parts

    def step(self) -> list[str]:
        if self.info is None:
            return []
        total = "" if self.info.total is None else f"/{self.info.total}"
        parts = [f"step {self.info.step}{total}"]
        if self.info.resolution_angstrom is not None:
            parts.append(f"{self.info.resolution_angstrom:.1f} Å")
        return parts


class PlainProgress:
    """Plain lines for logs and pipes, at most one every five seconds while a stage runs."""

    def __init__(self, stream: TextIO, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._quiet = quiet
        self._clock = clock
        self._meter = _Meter(clock)
        self._last: float | None = None

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """The stages of the run."""
        self._meter.plan(stages)

    def begin(self, stage: str, step: int) -> None:
        """Shows that a stage begins."""
        self._meter.begin(stage, step)
        self._line(f"{stage}: begins" + (f" after step {step}" if step else ""))
        self._last = self._clock()

    def update(self, info: StepInfo) -> None:
        """Shows the step if the last line is old enough."""
        self._meter.update(info)
        if self._last is None or self._clock() - self._last >= _SECONDS_BETWEEN_LINES:
            self._line(
                ", ".join(
                    [f"{info.stage}: {' '.join(self._meter.step()[:1])}", *self._meter.step()[1:], *self._meter.times()]
                )
            )
            self._last = self._clock()

    def say(self, message: str, *, warning: bool = False) -> None:
        """Shows a message; when quiet, only a warning."""
        if warning or not self._quiet:
            self._write(("warning: " if warning else "") + message)

    def end(self, stage: str) -> None:
        """Shows that a stage is done."""
        self._line(", ".join([f"{stage}: done", *self._meter.step(), *self._meter.times()]))

    def _line(self, text: str) -> None:
        if not self._quiet:
            self._write(text)

    def _write(self, text: str) -> None:
        print(printable(text), file=self._stream, flush=True)


class LiveProgress:
    """One line in the terminal with a progress bar, redrawn in place; messages scroll by above it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console
        from rich.live import Live

        self._meter = _Meter(clock)
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            transient=True,
            refresh_per_second=_REFRESHES_PER_SECOND,
            redirect_stdout=False,
        )

    def __enter__(self) -> LiveProgress:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def plan(self, stages: Sequence[StagePlan]) -> None:
        """The stages of the run."""
        self._meter.plan(stages)

    def begin(self, stage: str, step: int) -> None:
        """Shows a stage in the line."""
        self._meter.begin(stage, step)

    def update(self, info: StepInfo) -> None:
        """Shows a step at the next refresh."""
        self._meter.update(info)

    def say(self, message: str, *, warning: bool = False) -> None:
        """Prints a message above the line."""
        from rich.text import Text

        text = Text(("warning: " if warning else "") + printable(message), style="yellow" if warning else "")
        self._console.print(text, soft_wrap=True)

    def end(self, stage: str) -> None:
        """Prints the last step of a stage above the line."""
        self.say("  ".join([f"{stage}: done", *self._meter.step(), *self._meter.times()]))
        self._meter.stage = ""

    def _render(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if not self._meter.stage:
            return Text("  ".join(self._meter.times()))
        line = Table.grid(padding=(0, 2))
        info = self._meter.info
        cells: list[RenderableType] = [Text(self._meter.stage, style="bold")]
        if info is not None and info.total:
            cells.append(ProgressBar(total=info.total, completed=info.step, width=24))
        cells += [Text(part) for part in (*self._meter.step(), *self._meter.times())]
        line.add_row(*cells)
        return line


def printable(text: str) -> str:
    """Text without control characters: names from files must not control the terminal."""
    return "".join(c if c == "\n" or not unicodedata.category(c).startswith("C") else "\ufffd" for c in text)
