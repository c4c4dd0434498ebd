"""Threads: how many the kernels take, work on several items at once, and torch with one thread on small arrays."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
U = TypeVar("U")

LEAST_POINTS = 100_000  # work of about 0.2 ms; to wake a thread takes 0.1 ms
_kernels = threading.local()  # .threads: where it is not the number of torch


def kernel_threads(points: int | None = None) -> int:
    """Number of threads that a kernel is to take: that of torch, except within `small_arrays` and `side_by_side`.

    Args:
        points: of the arrays that it goes through, of which each thread is to have `LEAST_POINTS`.
    """
    threads = getattr(_kernels, "threads", None) or torch.get_num_threads()
    return threads if points is None else max(1, min(threads, points // LEAST_POINTS))


@contextmanager
def small_arrays() -> Iterator[None]:
    """Torch uses one thread within, for arrays so small that waking others takes longer; kernels use them all."""
    outer, threads = getattr(_kernels, "threads", None), torch.get_num_threads()
    _kernels.threads = kernel_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _kernels.threads = outer


def side_by_side(work: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """`work` of each item, in their order; with several threads each item is worked on by one of them.

    Threads that share each operation on a small array wait for each other longer than the operation takes. Gradients
    are not recorded.
    """

    @torch.no_grad()
    def one(item: T) -> U:
        return work(item)

    threads = kernel_threads()
    if threads == 1 or len(items) <= 1:
        return [one(item) for item in items]
    futures: list[Future[U]] = []
    with small_arrays():
        try:
            futures += [_workers(threads).submit(one, item) for item in items]
            return [future.result() for future in futures]
        finally:  # what an error leaves behind must not go on
            for future in futures:
                future.cancel()
            wait(futures)


@functools.cache
def _workers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "cryoloom-worker", initializer=_alone)


def _alone() -> None:
    torch.get_num_threads()  # at its first use of torch a thread takes the number that is set for all
    torch.set_num_threads(1)
    _kernels.threads = 1
