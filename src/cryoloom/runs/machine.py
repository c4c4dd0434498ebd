"""Resources of this machine: the device to compute on and the free memory."""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def choose_device(name: str, say: Callable[[str], None]) -> torch.device:
    """The device named 'auto', 'cpu' or 'cuda'; `say` is told what 'auto' chose and why.

    Raises:
        ValueError: for another name, or for 'cuda' if no GPU can be used: there is no silent fallback to the CPU.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {name}: expected auto, cpu or cuda")
    if name == "cpu":
        return torch.device("cpu")
    obstacle = _obstacle_to_cuda()
    if name == "cuda":
        if obstacle is not None:
            raise ValueError(
                f"device cuda: no GPU can be used: {obstacle}\n  what to do: choose the device cpu or auto"
            )
        return torch.device("cuda")
    if obstacle is None:
        say(f"device: {torch.cuda.get_device_name()} (chosen automatically)")
        return torch.device("cuda")
    say(f"device: CPU (chosen automatically: {obstacle})")
    return torch.device("cpu")


def check_memory(estimate_bytes: int, what: str = "this run") -> None:
    """Refuse what does not fit into the free memory of the machine, the container or the process's limit.

    Raises:
        ValueError: with the estimate and the available memory.
    """
    available = available_memory()
    if available is not None and estimate_bytes > available:
        raise ValueError(
            f"not enough memory for {what}\n  needed (estimate): {estimate_bytes / 2**30:.1f} GiB, "
            f"available: {available / 2**30:.1f} GiB\n"
            "  what to do: use a smaller --box, or a machine with more memory"
        )


def memory_of(size: str | float) -> int:
    """Bytes of a size such as "8G", "7.5GiB" or "800M", in powers of 1024, or of a number of bytes.

    Raises:
        ValueError: for anything else, or nothing.
    """
    if not isinstance(size, str):
        if math.isfinite(size) and size >= 1:
            return int(size)
    elif found := re.fullmatch(r"(\d+(?:\.\d*)?)\s*([MGT])(?:i?B)?", size.strip(), re.IGNORECASE):
        count = int(float(found[1]) * 1024 ** {"M": 2, "G": 3, "T": 4}[found[2].upper()])
        if count > 0:
            return count
    raise ValueError(f"memory {size}: expected a size such as 8G or 800M")


def available_memory() -> int | None:
    """Bytes that can still be allocated; None if the system does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    for limit, used, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):
            folder = Path("/sys/fs/cgroup")
            free = int((folder / limit).read_text()) - int((folder / used).read_text())
            statistics = (folder / limit).parent / "memory.stat"
            cached = [line.split()[1] for line in statistics.read_text().splitlines() if line.startswith(reclaimable)]
            found.append(free + sum(int(x) for x in cached))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            found.append(limit - pages * os.sysconf("SC_PAGE_SIZE"))
    return min(found) if found else None


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
            # a GPU for which this build of PyTorch has no kernels fails only here
            torch.ones(1, device="cuda").add_(1).cpu()
        except RuntimeError as error:
            return str(error).strip().splitlines()[0]
    return None
