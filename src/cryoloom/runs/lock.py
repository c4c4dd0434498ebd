"""One run in a folder at a time: a lock file that names process and host, so that a dead holder is recognised."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path


class RunLocked(ValueError):
    """Another run is using the folder."""


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Who holds a lock.

    Attributes:
        pid, host: process ID and host name of the holder.
        born: start of the process in clock ticks since boot (Linux), so that a reused PID is not mistaken for it.
        since: time at which the lock was taken, for messages.
    """

    pid: int
    host: str
    born: int | None
    since: str

    @staticmethod
    def here() -> LockHolder:
        """This process as a holder."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        return LockHolder(os.getpid(), socket.gethostname(), _process(os.getpid())[1], now)

    def lives(self) -> bool | None:
        """Whether the process still runs; None if it is on another host, where this can't be checked."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        state, born = _process(self.pid)
        # a zombie is dead, it only waits to be collected
        return state != "Z" and (self.born is None or born in (self.born, None))


class RunLock:
    """A lock that this process holds until `release`."""

    def __init__(self, path: Path, holder: LockHolder, stale: LockHolder | None) -> None:
        self.path = path
        self.holder = holder
        self.stale = stale

    @staticmethod
    def acquire(path: Path) -> RunLock:
        """Take the lock, also from a process that died on this host (`stale` then names it).

        Raises:
            RunLocked: if another process holds it, or may hold it on another host.
        """
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                # held for this section only: two processes must not take over the same stale lock
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if not _same_file(descriptor, path):
                    continue
                previous = _decode(os.read(descriptor, 4096))
                if previous is not None and previous.lives() is not False:
                    raise RunLocked(_refusal(path, previous))
                holder = LockHolder.here()
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(asdict(holder)).encode() + b"\n", 0)
                os.fsync(descriptor)
                return RunLock(path, holder, previous)
            finally:
                os.close(descriptor)

    def release(self) -> None:
        """Release the lock, unless another process has taken it over."""
        with contextlib.suppress(OSError):
            if _decode(self.path.read_bytes()) == self.holder:
                self.path.unlink()


def lock_holder(path: Path) -> LockHolder | None:
    """The holder of the lock at `path`; None if there is none, or if its process is known to be dead."""
    holder = _decode(path.read_bytes()) if path.exists() else None
    return None if holder is None or holder.lives() is False else holder


def _refusal(path: Path, holder: LockHolder) -> str:
    if holder.lives() is None:
        advice = f"if no run is alive on {holder.host}, delete {path} and try again (this can't be checked from here)"
    else:
        advice = "wait for it, stop it (kill " + str(holder.pid) + "), or choose another folder"
    return (
        f"{path.parent}: another run works in this folder\n"
        f"  process {holder.pid} on {holder.host}, since {holder.since}\n  what to do: {advice}"
    )


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _process(pid: int) -> tuple[str, int | None]:
    """State letter and start time from /proc (fields 3 and 22 of stat, after the command's last parenthesis)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return "", None


def _decode(raw: bytes) -> LockHolder | None:
    """None for an empty or garbled lock: its writer died before it had the lock."""
    try:
        document = json.loads(raw)
        pid, born = int(document["pid"]), document["born"]
        if not 0 < pid < 2**31:
            return None
        return LockHolder(pid, str(document["host"]), None if born is None else int(born), str(document["since"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
