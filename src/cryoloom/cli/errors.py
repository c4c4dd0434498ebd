"""Errors as people should see them: a message and an exit code; the traceback goes to a log.

Exit codes: 2 bad input, 1 failure, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import typer

from cryoloom.runs.display import printable

BAD_INPUT, FAILURE, INTERRUPTED = 2, 1, 130


@dataclass(frozen=True, slots=True)
class Failure:
    """What the user is told, and the exit code; `unexpected` ones leave a traceback in a log."""

    message: str
    exit_code: int
    unexpected: bool = False


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Turn exceptions into a message on stderr and `typer.Exit` with the right code.

    Usage errors, `typer.Exit` and a closed pipe are left to typer.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        # click's exceptions, whichever package they come from, know how to show themselves
        if isinstance(error, typer.Exit | typer.Abort) or (hasattr(error, "show") and hasattr(error, "exit_code")):
            raise
        failure = describe(error)
        lines = [failure.message, *(note for note in notes(error) if not is_log_note(note))]
        logs = [note for note in notes(error) if is_log_note(note)]
        if failure.unexpected and not logs:
            logs = [_write_traceback(error)]
        if failure.unexpected:
            lines.append(f"the traceback is in {logs[-1]}")
        tell("error: " + "\n".join(lines))
        raise typer.Exit(failure.exit_code) from None


def describe(error: BaseException) -> Failure:
    """The message and exit code of an exception."""
    from cryoloom.files.durable import is_disk_full
    from cryoloom.runs.interrupts import Stopped

    kind, text = type(error).__name__, str(error)
    if isinstance(error, Stopped):
        return Failure(text, error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure("interrupted", INTERRUPTED)
    if isinstance(error, UnicodeError):
        # a ValueError for Python, but its text says nothing of use
        return Failure(f"text that is not valid {getattr(error, 'encoding', 'text')}: {text}", BAD_INPUT, True)
    if isinstance(error, ValueError):
        return Failure(text, BAD_INPUT)
    if kind == "OutOfMemoryError":
        return Failure(
            f"the GPU's memory is exhausted: {_first_line(text)}\n  what to do: use a smaller box or --device cpu",
            FAILURE,
            True,
        )
    if isinstance(error, MemoryError):
        return Failure(
            "the memory is exhausted\n  what to do: use a smaller box or fewer particles, or a machine "
            "with more memory",
            FAILURE,
            True,
        )
    if is_disk_full(error):
        assert isinstance(error, OSError)
        where = f" while writing {error.filename}" if error.filename else ""
        return Failure(
            f"the disk is full ({error.strerror}){where}\n  what was saved before is intact\n"
            "  what to do: free some space and resume the run",
            FAILURE,
            True,
        )
    if kind == "BrokenProcessPool":
        return Failure("a worker process was killed (probably because memory ran out)", FAILURE, True)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(f"{error.filename}: {error.strerror}", FAILURE, True)
    return Failure(f"unexpected failure: {kind}: {_first_line(text)}", FAILURE, True)


def tell(message: str) -> None:
    """A message of the program on stderr."""
    print(f"cryoloom: {printable(message)}", file=sys.stderr, flush=True)


def notes(error: BaseException) -> list[str]:
    """The notes that were added to an exception."""
    return getattr(error, "__notes__", [])


def is_log_note(note: str) -> bool:
    """Whether a note is the path of the log that has the exception's traceback."""
    from cryoloom.runs.folder import LogNote

    return isinstance(note, LogNote)


def _write_traceback(error: BaseException) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="cryoloom-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write(" ".join(sys.argv) + "\n")
        file.writelines(traceback.format_exception(error))
    return file.name


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "(no message)"
