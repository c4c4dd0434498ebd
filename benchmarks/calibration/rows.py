"""The results file: one JSON line a run, appended when the run is finished; several programs may append to it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import rounded
from calibration.plan import Case

Row = dict[str, Any]


def append(path: Path, row: Row) -> None:
    """Add a row durably; the rest of a line that was cut off by a kill is removed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(rounded(row), separators=(",", ":")).encode() + b"\n"
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> dict[str, Row]:
    """The newest row of each case, by id; a last line without its end is left out.

    Raises:
        SystemExit: for a line that is no row.
    """
    found: dict[str, Row] = {}
    if not path.exists():
        return found
    whole = path.read_text().rpartition("\n")[0]
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            row = json.loads(line)
            found[row["case"]["id"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(
                f"{path}, line {number}: {error}; expected a JSON object with a case\n"
                "  what to do: remove the line, its run will be made again"
            ) from None
    return found


def missing(cases: list[Case], path: Path, programs: Collection[str] = ()) -> list[Case]:
    """The cases that have no row, or one that was made of another case of this name, or by a program that is none of
    those named (see `bench.program`), if any are."""
    done = read(path)
    return [
        c
        for c in cases
        if c.id not in done
        or done[c.id]["case"] != rounded(c.to_json())
        or (programs and done[c.id].get("program") not in programs)
    ]


@contextmanager
def claimed(case: Case, folder: Path) -> Iterator[bool]:
    """Whether this process has a case for itself while the context lasts; the claim ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{case.id}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
