"""What the benchmark scripts share: where things lie, children measured from outside, scores, result files.

Nothing here imports cryoloom: the program is judged from outside.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pandas as pd
import starfile

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHARED_BENCH = ROOT.parent / "shared" / "bench"
CRYOLOOM = Path(sys.executable).parent / "cryoloom"


POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """A child that has ended: CPU is user + system of it and its own children; memory is its peak resident set.

    The peak is VmHWM as last seen, at most POLL_S before the end: ru_maxrss would not do, since across fork and exec it
    starts from the resident set of this process.
    """

    returncode: int
    cpu_s: float
    wall_s: float
    peak_rss_bytes: int
    stopped: bool


def _ticks(pid: int) -> float:
    """CPU-seconds so far of a running child, its reaped children included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(x) for x in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _peak_rss(pid: int) -> int:
    """Bytes; 0 once the process has given its memory back."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def run_measured(
    command: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    cpu_budget_s: float | None = None,
    watch: Callable[[float], None] | None = None,
    environment: Mapping[str, str] | None = None,
    nice: int = 0,
) -> Measured:
    """Run a command to its end, or until it has used `cpu_budget_s`; output goes to `log`.

    `watch` is called every POLL_S with the CPU-seconds used so far.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    stopped, peak = False, 0
    words = [str(c) for c in command]
    if nice:
        words = ["nice", "-n", str(nice), *words]  # nice execs the program: the process stays the same
    with open(log, "wb") as out:
        child = subprocess.Popen(
            words, cwd=cwd, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            spent, peak = _ticks(child.pid), max(peak, _peak_rss(child.pid))
            if watch is not None:
                watch(spent)
            if cpu_budget_s is not None and spent > cpu_budget_s and not stopped:
                child.send_signal(signal.SIGTERM)
                stopped = True
            time.sleep(POLL_S)
    child.returncode = os.waitstatus_to_exitcode(status)  # wait4 has reaped it: Popen must not wait again
    return Measured(child.returncode, usage.ru_utime + usage.ru_stime, time.monotonic() - began, peak, stopped)


@cache
def evaluator() -> ModuleType:
    """The independent evaluator, ../shared/bench/evaluate.py, as a module."""
    path = SHARED_BENCH / "evaluate.py"
    if not path.exists():
        raise SystemExit(f"{path} is absent: it scores the benchmarks; put the shared folder beside the repository")
    spec = importlib.util.spec_from_file_location("shared_evaluate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_star(path: Path) -> dict[str, pd.DataFrame]:
    """The tables of a STAR file by name."""
    return cast(dict[str, pd.DataFrame], starfile.read(path, always_dict=True))


def write_star(path: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """A STAR file of tables."""
    starfile.write({name: table for name, table in tables.items()}, path, overwrite=True)


def make_set(name: str, seed: int, sets: Path) -> Path:
    """The folder of a named benchmark set, simulated if it is not there (needs RELION)."""
    folder = sets / f"{name}-s{seed}"
    if not (folder / "truth.star").exists():
        script = SHARED_BENCH / "make_sets.sh"
        environment = {**os.environ, "PY": sys.executable}
        subprocess.run(["bash", str(script), str(sets), str(seed), name], check=True, env=environment)
    return folder


def machine() -> str:
    """Such as '2-core AMD EPYC'."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{len(os.sched_getaffinity(0))}-core {model}"


def commit() -> str:
    """The repository's commit, with a + where tracked files of the package differ from it."""
    return _git("rev-parse", "--short", "HEAD") + _changed()


def program() -> str:
    """What names the package's source as it is committed, with a + where tracked files differ from that; commits that
    leave `src` alone have the same."""
    return _git("rev-parse", "--short=12", "HEAD:src") + _changed()


def _changed() -> str:
    return "+" if _git("status", "--porcelain", "-uno", "--", "src") else ""


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def relion_version() -> str:
    """Of the RELION on PATH."""
    text = subprocess.run(["relion_refine", "--version"], capture_output=True, text=True, check=False)
    words = (text.stdout + text.stderr).split()
    return next((w for w in words if w[:1].isdigit()), "unknown")


def rounded(value: Any, digits: int = 5) -> Any:
    """Floats to so many significant digits, in any nesting; values that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(k): rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """A result file, replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(rounded(document), indent=1) + "\n")
    part.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """A result file, or None where there is none."""
    return json.loads(path.read_text()) if path.exists() else None
