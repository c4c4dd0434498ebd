"""Random generators derived by name, so that a run that was interrupted draws the same numbers.

A generator is derived from the run's seed and a path of names and numbers, e.g. ("abinit", 12). So no state of a
generator has to be stored, and each use of randomness has a name of its own instead of a number kept by hand.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def numpy_generator(seed: int, *path: str | int) -> np.random.Generator:
    """NumPy's generator for one use of randomness.

    Args:
        seed: seed of the run.
        path: names and numbers, none of them negative, that identify this use.

    Raises:
        ValueError: for a negative number.
    """
    return np.random.default_rng(_sequence(seed, path))


def torch_generator(seed: int, *path: str | int, device: str = "cpu") -> torch.Generator:
    """Torch's generator for one use of randomness; arguments and errors are those of `numpy_generator`."""
    import torch

    words = _sequence(seed, path).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(words[0] >> 1))


def _sequence(seed: int, path: tuple[str | int, ...]) -> np.random.SeedSequence:
    if seed < 0 or any(isinstance(part, int) and part < 0 for part in path):
        raise ValueError(f"seed {seed}, path {path}: expected numbers that are not negative")
    return np.random.SeedSequence((seed, *(_word(part) for part in path)))


def _word(part: str | int) -> int:
    if isinstance(part, int):
        return part
    return int.from_bytes(hashlib.sha256(part.encode()).digest()[:8], "little")
