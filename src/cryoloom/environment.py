"""Environment variables that the numerical libraries read when they are imported.

Nothing here imports a numerical library. Call `prepare_environment` (and `set_threads`, where the number of threads is
known) before the first import of torch, numpy or numba.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import sys
import tempfile
from pathlib import Path

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

# glibc's numbers of its settings (malloc.h); the largest blocks that it can keep, and how much at the end of the heap
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BLOCK, _KEPT_AT_MOST = 32 << 20, 256 << 20
_ARENAS = 2  # with one for each thread, all keep what one of them may need
_MALLOC_VARIABLES = (
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_ARENA_MAX",
    "GLIBC_TUNABLES",
)


def prepare_environment() -> None:
    """Set how idle threads wait, where compiled kernels are cached, and that freed memory is kept.

    Variables that are already set are kept. Idle threads must sleep: an OpenMP pool that spins takes a quarter of a
    run's CPU time, and more on shared cores. Compiled kernels are cached in the user's cache folder: the package's own
    may be read-only.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    if "NUMBA_CACHE_DIR" not in os.environ:
        os.environ["NUMBA_CACHE_DIR"] = str(_kernel_cache())
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks for the next arrays of their size, rather than give them back at once.

    The system clears every page that it hands out: arrays that are taken anew in each step of a loop cost as much time
    in the kernel as in the loop. Larger arrays still go back when they are freed. Does nothing where the C library is
    not glibc, or the user has set its variables.
    """
    if any(name in os.environ for name in _MALLOC_VARIABLES):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_MOST)
    mallopt(_M_ARENA_MAX, _ARENAS)


def set_threads(count: int | None = None) -> int:
    """Set the number of threads of the numerical libraries and return it; None takes all cores that may be used.

    Libraries that are imported later read the environment; torch and numba are told directly if they are loaded.

    Raises:
        ValueError: for less than one thread.
    """
    count = available_threads() if count is None else count
    if count < 1:
        raise ValueError(f"{count} threads: expected 1 or more")
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    if "numba" in sys.modules:
        numba = sys.modules["numba"]
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    return count


def available_threads() -> int:
    """Cores that this process may use, within its CPU affinity and the limit of its container."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    count = len(affinity)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no such limit
    return max(1, count)


def _kernel_cache() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cryoloom" / "numba"
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(cache, os.W_OK):
            return cache
    except OSError:
        pass
    # numba unpickles its cache: a fresh private folder, never a name in /tmp that another user could have made
    private = Path(tempfile.mkdtemp(prefix="cryoloom-numba-"))
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return private
