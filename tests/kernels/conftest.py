"""Scenes at an even and an odd box, and the two implementations, which both have to agree with the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from cryoloom.kernels import dispatch, gpu
from cryoloom.kernels.half_grid import fold
from cryoloom.kernels.images import GridPosterior
from kernels.scene import Scene, make_scene


@pytest.fixture(scope="session", params=[20, 21], ids=["even", "odd"])
def scene(request) -> Scene:
    return make_scene(request.param, torch.Generator().manual_seed(request.param))


@dataclass(frozen=True)
class Kernels:
    """One implementation behind the signatures of `dispatch`."""

    slices: Callable
    insert: Callable
    insert_moments: Callable
    normal_equations: Callable
    turns: Callable
    residual_power: Callable
    grid_posterior: Callable


def _torch_insert(images, samples, side, padding=2):
    num, den = gpu.insert(images, samples, side, padding)
    return fold(num), fold(den)


def _torch_turns(grids, mixture, R, disc, padding=2):
    out = torch.zeros(len(R), 3, len(disc.index), dtype=torch.complex64)
    for q, grid in enumerate(grids):
        gpu.add_turns(grid, mixture[:, q], R, index=disc.index, padding=padding, out=out)
    return out


def _torch_insert_moments(images, R, t, first, second, side, padding=2):
    found = gpu.insert_moments(images, R, t, first=first, second=second, side=side, padding=padding)
    for half in found:
        for channel in half.unbind(-1):
            fold(channel)
    return found


NUMBA = Kernels(
    slices=dispatch.slices,
    insert=dispatch.insert,
    insert_moments=dispatch.insert_moments,
    normal_equations=dispatch.normal_equations,
    turns=dispatch.turns,
    residual_power=dispatch.residual_power,
    grid_posterior=dispatch.grid_posterior,
)
# what dispatch does with tensors on a GPU, with tensors on the CPU
TORCH = Kernels(
    slices=lambda grid, R, disc, padding=2: gpu.slices(grid, R, disc.index, padding),
    insert=_torch_insert,
    insert_moments=_torch_insert_moments,
    normal_equations=lambda grid, images, image, R, t, padding=2: dispatch.unpacked(
        gpu.normal_equations(grid, images, image, R=R, t=t, padding=padding)
    ),
    turns=_torch_turns,
    residual_power=lambda grid, images, samples, padding=2: gpu.residual_power(grid, images, samples, padding),
    grid_posterior=lambda *args, **named: GridPosterior(*gpu.grid_posterior(*args, **named)),
)


@pytest.fixture(params=[NUMBA, TORCH], ids=["numba", "torch"])
def kernels(request) -> Kernels:
    return request.param


@pytest.fixture
def both() -> SimpleNamespace:
    return SimpleNamespace(numba=NUMBA, torch=TORCH)
