"""Scenes at an even and an odd box, and the two implementations, which both have to agree with the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from types import SimpleNamespace

import pytest
import torch

from cryoloom.kernels import dispatch
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


def _with_gpu_kernels(function: Callable) -> Callable:
    """A function of `dispatch` as it treats tensors on a GPU, whatever their device."""

    def called(*args, **named):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dispatch, "on_gpu", lambda at: True)
            return function(*args, **named)

    return called


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
TORCH = Kernels(**{f.name: _with_gpu_kernels(getattr(NUMBA, f.name)) for f in fields(Kernels)})


@pytest.fixture(params=[NUMBA, TORCH], ids=["numba", "torch"])
def kernels(request) -> Kernels:
    return request.param


@pytest.fixture
def both() -> SimpleNamespace:
    return SimpleNamespace(numba=NUMBA, torch=TORCH)
