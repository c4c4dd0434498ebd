"""Errors as people should see them: a message and an exit code; the traceback goes to a log.

Exit codes: 2 bad input, 1 failure, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import tempfile
import traceback
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

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
        return Failure("a worker process was killed (by the system, for want of memory?)", FAILURE, True)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(f"{error.filename}: {error.strerror}", FAILURE, True)
    return Failure(f"unexpected failure: {kind}: {_first_line(text)}", FAILURE, True)


def tell(message: str) -> None:
    """A message of the program on stderr."""
    print(f"cryoloom: {printable(message)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Text without control characters: names out of files must not steer the terminal."""
    return "".join(c if c == "\n" or not unicodedata.category(c).startswith("C") else "\ufffd" for c in text)


def notes(error: BaseException) -> list[str]:
    """The notes that were added to an exception."""
    return getattr(error, "__notes__", [])


def is_log_note(note: str) -> bool:
    """Whether a note is the path of the log that has the exception's traceback."""
    from cryoloom.runs.folder import LogNote

    return isinstance(note, LogNote)


def check_memory(estimate_bytes: int, what: str = "this run") -> None:
    """Refuse what will not fit into the memory that is free now (the machine's, the container's, the process's limit).

    Raises:
        ValueError: with the estimate and what is available.
    """
    available = available_memory()
    if available is not None and estimate_bytes > available:
        raise ValueError(
            f"not enough memory for {what}\n  needed (estimate): {estimate_bytes / 2**30:.1f} GiB, "
            f"available: {available / 2**30:.1f} GiB\n"
            "  what to do: use a smaller box (--box) or fewer particles, or a machine with more memory"
        )


def available_memory() -> int | None:
    """Bytes that can still be allocated, None where the system does not tell."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    for limit, used, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):
            folder = Path("/sys/fs/cgroup")
            free = int((folder / limit).read_text()) - int((folder / used).read_text())
            statistics = (folder / limit).parent / "memory.stat"
            cached = [line.split()[1] for line in statistics.read_text().splitlines() if line.startswith(reclaimable)]
            found.append(free + sum(int(x) for x in cached))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            found.append(limit - pages * os.sysconf("SC_PAGE_SIZE"))
    return min(found) if found else None


def _write_traceback(error: BaseException) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="cryoloom-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write(" ".join(sys.argv) + "\n")
        file.writelines(traceback.format_exception(error))
    return file.name


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "(no message)"
