"""Compilation of the CPU kernels: numba, run on plain threads."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from numba import njit

FAST: dict[str, Any] = dict(cache=True, fastmath=True, nogil=True, error_model="numpy")
# A helper that is compiled by itself is there twice, the second time within each kernel, and which of the copies runs
# depends on whether the kernel came from the cache: sums would be rounded otherwise in the first run than in later ones
HELPER: dict[str, Any] = FAST | dict(inline="always")


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "cryoloom-kernel")


def threaded(kernel: Callable[..., None]) -> Callable[..., None]:
    """Compiles a kernel f(thread, ..., threads, ...) and runs it once for each thread; arguments may be named.

    The kernels release the GIL and run on plain threads: numba's own parallel loops take four times as long to compile
    and would add a thread pool beside torch's.
    """
    compiled = njit(**FAST)(kernel)
    names = list(inspect.signature(kernel).parameters)[1:]
    place = names.index("threads")

    @functools.wraps(kernel)
    def run(*args, **named) -> None:
        args = (*args, *(named[name] for name in names[len(args) :]))
        threads = args[place]
        # the calling thread takes a share, too: it is awake, and on a core of its own
        others = [_pool(threads - 1).submit(compiled, thread, *args) for thread in range(1, threads)]
        try:
            compiled(0, *args)
        finally:
            wait(others)
        for done in others:
            done.result()

    return run
