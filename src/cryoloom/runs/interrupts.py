"""Ctrl-C and termination signals, handled between steps so that nothing is lost.

During a stage the first SIGINT ends the stage early, and the run continues with its current map; a second one at any
later time stops the run at a checkpoint, a third one at once. SIGTERM and SIGHUP stop the run at a checkpoint. Outside
of stages there is nothing to finish, and signals stop the run at once. The exit status is 128 + the signal's number.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """The run was stopped by a signal and can be resumed."""

    def __init__(self, signal_number: int, where: str = "") -> None:
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
        name = "Ctrl-C" if signal_number == signal.SIGINT else signal.Signals(signal_number).name
        super().__init__(f"stopped by {name}" + (f": {where}" if where else ""))


class Interrupts:
    """Context that turns signals into requests which the run loop reads between steps.

    Args:
        announce: called from within the signal handler with a line for the user; it must be safe there (an os.write).
        end_stages: whether the first Ctrl-C ends the current stage early; otherwise it stops the run at a checkpoint.
    """

    def __init__(self, announce: Callable[[str], None] | None = None, *, end_stages: bool = True) -> None:
        self._announce = announce or (lambda message: None)
        self._end_stages = end_stages
        self._presses = 0
        self._ending = False
        self._stop: int | None = None
        self._deferrals = 0
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number, handler in (
                (signal.SIGINT, self._on_interrupt),
                (signal.SIGTERM, self._on_stop),
                (signal.SIGHUP, self._on_stop),
            ):
                # an ignored SIGHUP is nohup's doing and stays ignored
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not installed from Python and can't be restored
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    @property
    def ending(self) -> bool:
        """Whether the current stage is asked to end early."""
        return self._ending

    @property
    def stopping(self) -> bool:
        """Whether the run is asked to stop at a checkpoint."""
        return self._stop is not None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold signals back until the code inside reads them; a request to end early does not outlive the block."""
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1
            self._ending = False

    def check(self, where: str = "") -> None:
        """Raise `Stopped` if the run is asked to stop."""
        if self._stop is not None:
            raise Stopped(self._stop, where)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self._presses += 1
        if not self._deferrals or self._presses > 2 or (self._stop is not None and not self._end_stages):
            raise KeyboardInterrupt
        if not self._end_stages:
            self._stop = number
            self._announce("Ctrl-C: stopping at a checkpoint after the current step; press again to stop at once")
            return
        if self._presses == 1:
            self._ending = True
            self._announce("Ctrl-C: this stage ends after the current step; press again to stop at a checkpoint")
        else:
            self._stop = number
            self._announce("Ctrl-C again: stopping at a checkpoint after the current step")

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        first = self._stop is None
        self._stop = self._stop or number
        if not self._deferrals and first:
            raise Stopped(number)
