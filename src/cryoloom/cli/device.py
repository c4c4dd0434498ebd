"""Where the work is done: the device and the number of threads, chosen once."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def choose_device(name: str, say: Callable[[str], None]) -> torch.device:
    """The device for 'auto', 'cpu' or 'cuda'; `say` is told what 'auto' chose and why.

    Raises:
        ValueError: for another name, or for 'cuda' where no GPU can be used: it never falls back by itself.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {name}: expected auto, cpu or cuda")
    if name == "cpu":
        return torch.device("cpu")
    obstacle = _obstacle_to_cuda()
    if name == "cuda":
        if obstacle is not None:
            raise ValueError(f"--device cuda: no GPU can be used: {obstacle}\n  what to do: --device cpu, or auto")
        return torch.device("cuda")
    if obstacle is None:
        say(f"device: {torch.cuda.get_device_name()} (chosen by --device auto)")
        return torch.device("cuda")
    say(f"device: CPU (chosen by --device auto; {obstacle})")
    return torch.device("cpu")


def set_threads(count: int | None) -> int:
    """Set how many threads the numerical libraries use, and return that number; None takes all that we may use.

    Call it before torch, numpy or numba are imported: they read the environment then. Torch is told later too.

    Raises:
        ValueError: for less than one thread.
    """
    count = available_threads() if count is None else count
    if count < 1:
        raise ValueError(f"--threads {count}: expected 1 or more")
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    return count


def available_threads() -> int:
    """Cores that this process may use: affinity, batch system and container limits counted."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    count = len(affinity)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no such limit
    return max(1, count)


def _obstacle_to_cuda() -> str | None:
    """Why CUDA can't be used, or None if it can."""
    import torch

    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if not torch.cuda.is_available():
            reasons = [str(w.message).strip().splitlines()[0] for w in caught]
            return reasons[0] if reasons else "no GPU is visible"
        try:
            # a GPU that this build of PyTorch has no kernels for shows itself only here
            torch.ones(1, device="cuda").add_(1).cpu()
        except RuntimeError as error:
            return str(error).strip().splitlines()[0]
    return None
