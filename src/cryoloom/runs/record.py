"""run.json, the record of a run: its command, settings, input, machine, timings and verdict.

Settings are a frozen dataclass of the command; they are stored as plain JSON and rebuilt from their type hints. A field
with ``metadata={"may_change": True}`` (e.g. threads) may differ between a run and its resumption.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import socket
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

import cryoloom
from cryoloom.files.durable import write_durably

FORMAT = 2
RECORD = "run.json"
T = TypeVar("T")
RunStatus = Literal["running", "finished", "interrupted", "failed"]


class BadRunFolder(ValueError):
    """A folder that can't be used: it is no run, a run that must not be overwritten, or not writable."""


@dataclass(frozen=True, slots=True)
class StageTiming:
    """Time spent on a stage; CPU is user + system of the process and its children."""

    stage: str
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine on which a run was computed."""

    host: str
    system: str
    cpu_count: int
    threads: int
    device: str
    memory_bytes: int

    @staticmethod
    def here(threads: int, device: str) -> Machine:
        """This machine."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Machine(
            host=socket.gethostname(),
            system=platform.platform(),
            cpu_count=os.cpu_count() or 1,
            threads=threads,
            device=device,
            memory_bytes=memory,
        )


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Contents of run.json.

    Attributes:
        status: state of the run; a killed run stays "running".
        command: the subcommand; argv: its full command line as typed.
        settings: settings of the command as JSON (`read_settings` rebuilds the dataclass).
        settings_hash: hash of the settings that determine the result.
        versions: versions of cryoloom, Python and the numerical libraries.
        input_path, fingerprint: path and fingerprint of the particles.
        input_notes: what was said of the particles when they were opened.
        timings: times of the stages, in order of their first appearance.
        verdict: verdict as JSON; None until the run is finished.
        started, updated: local times of the start and the last update, ISO 8601.
    """

    status: RunStatus
    command: str
    argv: tuple[str, ...]
    settings: Mapping[str, Any]
    settings_hash: str
    versions: Mapping[str, str]
    seed: int
    input_path: str
    fingerprint: str
    machine: Machine
    timings: tuple[StageTiming, ...]
    verdict: Mapping[str, Any] | None
    started: str
    updated: str
    format: int = FORMAT
    input_notes: tuple[str, ...] = ()

    @property
    def wall_s(self) -> float:
        """Seconds of wall time in all stages."""
        return sum(t.wall_s for t in self.timings)

    @property
    def cpu_s(self) -> float:
        """CPU-seconds in all stages."""
        return sum(t.cpu_s for t in self.timings)


def write_record(path: Path, record: RunRecord) -> None:
    """Write run.json durably."""
    write_durably(path, (json.dumps(to_json(record), indent=2, ensure_ascii=False) + "\n").encode())


def read_record(folder: Path) -> RunRecord:
    """The record of a run, which may still be in progress.

    Raises:
        BadRunFolder: when `folder` holds no run.json, or one that cryoloom did not write.
    """
    path = Path(folder) / RECORD
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BadRunFolder(
            f"{folder}: not a run of cryoloom\n  found: no run.json in it\n"
            "  expected: a folder made by 'cryoloom reconstruct --output FOLDER'"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadRunFolder(f"{path}: not readable as JSON ({error}): not a run of cryoloom") from error
    if isinstance(document, dict) and document.get("format", FORMAT) != FORMAT:
        raise BadRunFolder(
            f"{path}: format {document['format']}, this version of cryoloom reads format {FORMAT}\n"
            "  what to do: use the version of cryoloom that made the run, or start it anew with --overwrite"
        )
    return from_json(RunRecord, document, str(path))


def read_settings(folder: Path, settings_type: type[T]) -> T:
    """The settings of a run, rebuilt as the dataclass they came from.

    Raises:
        BadRunFolder: when `folder` is no run, or its settings are not those of `settings_type`.
    """
    return from_json(settings_type, read_record(folder).settings, f"{Path(folder) / 'run.json'}, settings")


def settings_hash(settings: object) -> str:
    """SHA-256 over those fields of a settings dataclass that determine the result."""
    free = {f.name for f in dataclasses.fields(_instance(settings)) if f.metadata.get("may_change")}
    kept = {name: value for name, value in to_json(settings).items() if name not in free}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def differing_settings(settings: object, stored: Mapping[str, Any]) -> list[str]:
    """Lines 'name: here, in the run: there' for the fields in which settings differ from stored ones."""
    here = to_json(settings)
    free = {f.name for f in dataclasses.fields(_instance(settings)) if f.metadata.get("may_change")}
    names = [name for name in here | dict(stored) if name not in free]
    return [
        f"{name}: {here.get(name, 'absent')}, in the run: {stored.get(name, 'absent')}"
        for name in names
        if here.get(name, "absent") != stored.get(name, "absent")
    ]


def library_versions() -> dict[str, str]:
    """Versions of the libraries that affect the results, found without importing them."""
    versions = {"cryoloom": cryoloom.__version__, "python": platform.python_version()}
    for name in ("numpy", "scipy", "torch", "numba"):
        versions[name] = metadata.version(name)
    return versions


def now() -> str:
    """Local time, ISO 8601 to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def to_json(value: Any) -> Any:
    """Dataclasses, paths, enums, tuples and mappings as plain JSON values.

    Raises:
        ValueError: for a number that is not finite or a type that JSON can't hold.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be stored as JSON: use None or a finite number")
    if isinstance(value, Enum):
        return to_json(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    if isinstance(value, np.generic):
        return to_json(value.item())
    raise ValueError(f"{type(value).__name__} {value!r} cannot be stored as JSON")


def from_json(hint: Any, value: Any, where: str) -> Any:
    """The inverse of `to_json`, guided by a type hint.

    Raises:
        BadRunFolder: if the value is not of that type; the message names `where` and the field.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(hint, "from_tables") and isinstance(value, dict):
        try:
            return hint.from_tables(value, lambda kind, plain, table: from_json(kind, plain, f"{where}.{table}"))
        except ValueError as error:
            raise BadRunFolder(str(error) if isinstance(error, BadRunFolder) else f"{where}: {error}") from error
    if dataclasses.is_dataclass(hint):
        return _dataclass_from_json(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return from_json(option, value, where)
            except BadRunFolder:
                continue
    elif origin is Literal and value in arguments:
        return value
    elif origin in (tuple, list) and isinstance(value, list):
        hints = arguments if arguments[-1] is not ... else arguments[:1] * len(value)
        hints = hints * len(value) if origin is list else hints
        if len(hints) == len(value):
            return origin(from_json(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))
    elif hint is Any or ((hint is Mapping or hint is dict or origin is not None) and isinstance(value, dict)):
        return value
    elif hint is type(None) and value is None:
        return None
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint in (bool, int, str) and type(value) is hint:
        return value
    elif isinstance(hint, type) and issubclass(hint, Enum) and value in [member.value for member in hint]:
        return hint(value)
    raise BadRunFolder(f"{where}: found {value!r}, expected {getattr(hint, '__name__', hint)}")


def _dataclass_from_json(cls: type, value: Any, where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(_instance(cls))}
    if not isinstance(value, dict):
        raise BadRunFolder(f"{where}: found {value!r}, expected an object with {', '.join(fields)}")
    needed = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    for problem, names in (("missing", needed - value.keys()), ("unknown", value.keys() - fields.keys())):
        if names:
            raise BadRunFolder(
                f"{where}: {problem}: {', '.join(sorted(names))}\n"
                "  what to do: use the version of cryoloom that made the run (see versions in run.json)"
            )
    hints = typing.get_type_hints(cls)
    return cls(**{name: from_json(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _instance(value: Any) -> Any:
    if not dataclasses.is_dataclass(value):
        raise TypeError(f"expected a dataclass, found {type(value).__name__}")
    return value
