"""The folder of one run: its files, lock, record and log."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from cryoloom.files.durable import is_leftover, remove_leftovers
from cryoloom.runs.checkpoint import CheckpointStore
from cryoloom.runs.interrupts import Stopped
from cryoloom.runs.lock import RunLock
from cryoloom.runs.metrics_log import MetricsLog
from cryoloom.runs.record import (
    RECORD,
    BadRunFolder,
    Machine,
    RunRecord,
    RunStatus,
    StageTiming,
    differing_settings,
    library_versions,
    now,
    read_record,
    read_settings,
    settings_hash,
    to_json,
    write_record,
)

__all__ = ["BadRunFolder", "LogNote", "RunFolder", "check_output_folder", "cpu_seconds", "read_record", "read_settings"]

METRICS, LOG, LOCK, CHECKPOINTS = "metrics.jsonl", "run.log", "run.lock", "checkpoints"
_HARMLESS = (LOCK, LOG)  # left by a run that died before it had written run.json

logger = logging.getLogger(__name__)


class LogNote(str):
    """Note on an exception that names the log which holds its traceback."""

    __slots__ = ()


class RunFolder:
    """A locked run folder; use it as a context, which records how the run ended and releases the lock.

    Attributes:
        path: path of the folder.
        log, lock_path: paths of its log and its lock.
        checkpoints, metrics: stores of checkpoints and metrics, which `Session` uses.
        record: contents of run.json.
        part: whether the run is a part of another one, which is resumed as a whole.
    """

    def __init__(self, path: Path, lock: RunLock, record: RunRecord, part: bool = False) -> None:
        self.path, self.part = path, part
        self.log = path / LOG
        self.lock_path = path / LOCK
        self.record = record
        self.checkpoints = CheckpointStore(path / CHECKPOINTS, record.fingerprint, record.settings_hash)
        self.metrics = MetricsLog(path / METRICS)
        self._lock = lock
        self._handler = _attach_log(self.log)
        if lock.stale is not None:
            logger.warning("took over the lock of process %d on %s, which died", lock.stale.pid, lock.stale.host)

    @staticmethod
    def create(
        path: Path,
        settings: object,
        fingerprint: str,
        command: str,
        *,
        input_path: Path,
        seed: int,
        threads: int,
        device: str,
        argv: tuple[str, ...] = (),
        input_notes: tuple[str, ...] = (),
        overwrite: Iterable[str] | None = None,
        part: bool = False,
    ) -> RunFolder:
        """Start a run in a new or empty folder, or in the folder of an earlier run, whose files are then removed.

        Args:
            settings: frozen dataclass of the command (see `record`); fingerprint: of the input particles.
            command: the subcommand, by which `cryoloom resume` knows how to continue.
            input_notes: what was said of the particles when they were opened.
            overwrite: glob patterns of the results that an earlier run may have left, relative to the folder; None
                refuses the folder of an earlier run.
            part: see the class.

        Raises:
            BadRunFolder: as in `check_output_folder`.
            RunLocked: when another run is using the folder.
        """
        path = Path(path).absolute()
        check_output_folder(path, overwrite is not None)
        hashed = settings_hash(settings)
        lock = RunLock.acquire(path / LOCK)
        try:
            # again, now that no other run can start in between
            check_output_folder(path, overwrite is not None)
            _remove_run(path, overwrite or ())
            record = RunRecord(
                status="running",
                command=command,
                argv=argv,
                settings=to_json(settings),
                settings_hash=hashed,
                versions=library_versions(),
                seed=seed,
                input_path=str(Path(input_path).absolute()),
                fingerprint=fingerprint,
                machine=Machine.here(threads, device),
                timings=(),
                verdict=None,
                started=now(),
                updated=now(),
                input_notes=input_notes,
            )
            write_record(path / RECORD, record)
            return RunFolder(path, lock, record, part)
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def resume(
        path: Path, settings: object, fingerprint: str, *, threads: int, device: str, part: bool = False
    ) -> RunFolder:
        """Continue a run that was interrupted, with the same data and settings; `part`: see the class.

        Raises:
            BadRunFolder: if there is no run, it is finished, or data or settings differ (the message names them).
            RunLocked: if it is still running.
        """
        path = Path(path).absolute()
        read_record(path)
        lock = RunLock.acquire(path / LOCK)
        try:
            record = read_record(path)
            if record.status == "finished":
                raise BadRunFolder(f"{path}: this run is finished: there is nothing to resume")
            _check_same(path, record, settings, fingerprint)
            remove_leftovers(path)
            record = replace(
                record,
                status="running",
                machine=Machine.here(threads, device),
                versions=library_versions(),
                settings=to_json(settings),
                updated=now(),
            )
            write_record(path / RECORD, record)
            folder = RunFolder(path, lock, record, part)
        except BaseException:
            lock.release()
            raise
        remove_leftovers(folder.checkpoints.folder)
        logger.info("resumed")
        return folder

    def record_timing(self, stage: str, wall_s: float, cpu_s: float) -> None:
        """Note the time that a stage has taken so far, over all resumptions, in run.json."""
        timing = StageTiming(stage, round(wall_s, 3), round(cpu_s, 3))
        known = [t.stage for t in self.record.timings]
        if stage in known:
            timings = tuple(timing if t.stage == stage else t for t in self.record.timings)
        else:
            timings = (*self.record.timings, timing)
        self._update(timings=timings)

    @contextlib.contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Time the code inside as a stage without steps, e.g. the final maps."""
        wall, cpu = time.monotonic(), cpu_seconds()
        yield
        self.record_timing(stage, time.monotonic() - wall, cpu_seconds() - cpu)

    def finish(self, verdict: object, *, keep_checkpoints: bool = False) -> None:
        """Record the verdict (a dataclass) of a run whose outputs are written, and remove its checkpoints."""
        self._update(status="finished", verdict=to_json(verdict))
        logger.info("finished")
        if not keep_checkpoints:
            self.checkpoints.clear()

    def close(self, status: RunStatus = "interrupted") -> None:
        """Release the lock; a run that is not finished gets `status`."""
        # a full disk must not hide the error for which the run is being closed
        with contextlib.suppress(OSError):
            if self.record.status == "running":
                self._update(status=status)
        logging.getLogger("cryoloom").removeHandler(self._handler)
        self._handler.close()
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close("interrupted")
        elif isinstance(error, Stopped | KeyboardInterrupt):
            logger.info("%s", error if isinstance(error, Stopped) else "interrupted")
            if self.record.status == "running" and not self.part:
                error.add_note(f"resume with: cryoloom resume {shlex.quote(str(self.path))}")
            self.close("interrupted")
        else:
            logger.error("the run failed", exc_info=error)
            error.add_note(LogNote(self.log))
            self.close("failed")

    def _update(self, **changes: Any) -> None:
        self.record = replace(self.record, updated=now(), **changes)
        write_record(self.path / RECORD, self.record)


def check_output_folder(path: Path, overwrite: bool = False) -> None:
    """Make sure, before anything is computed, that a run can be started in `path`; creates the folder.

    Raises:
        BadRunFolder: if the folder can't be created or written to, holds files that are not of a run, or holds a run
            and `overwrite` is not set. Files that are not of a run are never overwritten.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"x")
            probe.flush()
    except OSError as error:
        hint = "free some space" if error.errno == errno.ENOSPC else "choose a folder that you can write to"
        raise BadRunFolder(f"{path}: can't write here: {error.strerror}\n  what to do: {hint} (--output)") from error
    if (path / RECORD).is_file():
        if overwrite:
            read_record(path)  # raises for a run.json that is not of cryoloom, which must not be removed
            return
        status = read_record(path).status
        advice = "" if status == "finished" else f"continue it with 'cryoloom resume {path}', "
        raise BadRunFolder(
            f"{path}: there is a run in this folder already (its run.json says: {status})\n"
            f"  what to do: {advice}choose another folder (--output), or replace it with --overwrite"
        )
    foreign = sorted(p.name for p in path.iterdir() if p.name not in _HARMLESS and not is_leftover(p.name))
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise BadRunFolder(
            f"{path}: the folder is not empty and holds no run of cryoloom\n"
            f"  found: {', '.join(foreign[:5])}{more}\n  what to do: choose a new or empty folder (--output)"
        )


def cpu_seconds() -> float:
    """User + system time of this process, all its threads and its finished children."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def _check_same(path: Path, record: RunRecord, settings: object, fingerprint: str) -> None:
    if fingerprint != record.fingerprint:
        raise BadRunFolder(
            f"{path}: the input is not the one this run began with\n  input: {record.input_path}\n"
            f"  fingerprint found: {fingerprint[:16]}, expected: {record.fingerprint[:16]}\n"
            "  what to do: restore the input files, or start a new run in another folder"
        )
    if settings_hash(settings) != record.settings_hash:
        changed = "\n    ".join(differing_settings(settings, record.settings))
        raise BadRunFolder(
            f"{path}: the settings are not those this run began with\n    {changed}\n"
            "  what to do: resume without these options, or start a new run in another folder"
        )


def _remove_run(path: Path, results: Iterable[str]) -> None:
    """Remove the files of an earlier run and the results that match the given patterns, nothing else."""
    remove_leftovers(path)
    CheckpointStore(path / CHECKPOINTS, "", "").clear()
    emptied = set()
    for pattern in (*results, METRICS, LOG, RECORD):
        for stale in path.glob(pattern):
            stale.unlink()
            emptied.add(stale.parent)
    for folder in sorted(emptied - {path}, key=lambda folder: -len(folder.parts)):
        for inner in (folder, folder.parent):  # the folder of a class may have held nothing but others
            with contextlib.suppress(OSError):  # the user's own files stay
                if inner != path:
                    inner.rmdir()


class _RunLogHandler(logging.FileHandler):
    """Log file that prints no tracebacks on a full disk, which the run itself reports."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignored: the line is lost."""


def _attach_log(path: Path) -> logging.Handler:
    handler = _RunLogHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger("cryoloom")
    root.addHandler(handler)
    if root.getEffectiveLevel() > logging.INFO:
        root.setLevel(logging.INFO)
    return handler
