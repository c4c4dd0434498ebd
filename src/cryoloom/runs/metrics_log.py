"""metrics.jsonl: one line per step. After a resume it equals the file of an uninterrupted run except for the times."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from cryoloom.runs.progress import StepInfo


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """A line of metrics.jsonl: the step and the time it took (CPU: user + system, children included)."""

    info: StepInfo
    wall_s: float
    cpu_s: float


class MetricsLog:
    """Appends steps to metrics.jsonl. Call `cut` before the first `write` of a stage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: set[tuple[str, int]] = set()

    def cut(self, stage: str, step: int) -> None:
        """Remove the lines of a stage after `step` steps, where it resumes, and a last line left incomplete by a kill.

        If lines of later stages follow, the stage keeps all of its own: it was finished before, but its last checkpoint
        was damaged. Its steps are then repeated exactly, so their lines stay valid.
        """
        lines, end = _intact_lines(self.path)
        known: list[tuple[str, int]] = []
        beyond = len(lines)
        if lines and lines[-1][1].info.stage == stage:
            inside = (i for i, (_, line) in enumerate(lines) if line.info.stage == stage and line.info.step > step)
            beyond = next(inside, len(lines))
        for offset, line in lines[:beyond]:
            known.append((line.info.stage, line.info.step))
            end = offset
        self._known = set(known)
        if self.path.exists():
            os.truncate(self.path, end if known else 0)

    def write(self, info: StepInfo, wall_s: float, cpu_s: float) -> None:
        """Append one step, flushed to the system; a step that is already in the file is not written again."""
        key = (info.stage, info.step)
        if key in self._known:
            return
        with open(self.path, "ab") as file:
            file.write(_encode(LoggedStep(info, wall_s, cpu_s)))
        self._known.add(key)

    def sync(self) -> None:
        """Make all lines durable; called before the checkpoint that relies on them is written."""
        if self.path.exists():
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def read_metrics(path: Path) -> tuple[LoggedStep, ...]:
    """The lines of a metrics.jsonl in order; an unfinished last line is left out. Values that were not finite are NaN.

    Raises:
        ValueError: for a line that cryoloom did not write; the message names file and line.
    """
    lines, end = _intact_lines(path)
    data = path.read_bytes() if path.exists() else b""
    if data.find(b"\n", end) >= 0:
        raise ValueError(
            f"{path}, line {len(lines) + 1}: not a line of a metrics log\n"
            f"  found: {data[end:].split(bytes([10]))[0][:80]!r}\n  expected: a JSON object written by cryoloom"
        )
    return tuple(line for _, line in lines)


def _intact_lines(path: Path) -> tuple[list[tuple[int, LoggedStep]], int]:
    """Complete lines up to the first bad one, each with the offset of its end, and the end of the last one."""
    found: list[tuple[int, LoggedStep]] = []
    end = 0
    if path.exists():
        for raw in path.read_bytes().splitlines(keepends=True):
            line = _decode(raw)
            if line is None:
                break
            end += len(raw)
            found.append((end, line))
    return found, end


def _encode(line: LoggedStep) -> bytes:
    info = line.info
    document = {
        "stage": info.stage,
        "step": info.step,
        "total": info.total,
        "resolution_angstrom": _finite(info.resolution_angstrom),
        "metrics": {name: _finite(value) for name, value in info.metrics},
        "message": info.message,
        "wall_s": round(line.wall_s, 6),
        "cpu_s": round(line.cpu_s, 6),
    }
    return json.dumps(document, allow_nan=False).encode() + b"\n"


def _decode(raw: bytes) -> LoggedStep | None:
    if not raw.endswith(b"\n"):
        return None
    try:
        d = json.loads(raw)
        metrics = tuple((str(k), math.nan if v is None else float(v)) for k, v in d["metrics"].items())
        info = StepInfo(
            stage=str(d["stage"]),
            step=int(d["step"]),
            total=d["total"],
            resolution_angstrom=d["resolution_angstrom"],
            metrics=metrics,
            message=d["message"],
        )
        return LoggedStep(info, float(d["wall_s"]), float(d["cpu_s"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _finite(value: float | None) -> float | None:
    # JSON has no NaN
    return None if value is None or not math.isfinite(value) else float(value)
