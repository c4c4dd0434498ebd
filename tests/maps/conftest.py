"""Real molecules as density maps."""

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.maps.io import DensityMap, read_map
from cryoloom.physics.fourier import resize_real

# name: model, pixel size, B-factor, symmetry, radius at which copies sit (as in the benchmark sets)
MOLECULES = {
    "igg": ("1hzh_IgG.pdb", 4.0, 100.0, "C1", 0.0),
    "adk": ("adk/adk_open.pdb", 1.8, 100.0, "C1", 0.0),
    "c3": ("adk/adk_open.pdb", 2.8, 100.0, "C3", 32.0),
    "d7": ("adk/adk_open.pdb", 4.0, 100.0, "D7", 55.0),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """CPU times are asserted here, and threads that wait for each other burn it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def molecule(shared_data: Path) -> Callable[[str], DensityMap]:
    """Maker of a 64-pixel map of a real molecule by name."""
    spec = importlib.util.spec_from_file_location("make_map", shared_data.parent / "bench" / "make_map.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    @cache
    def make(name: str) -> DensityMap:
        if name == "betagal":  # a real reconstruction, D2
            real = read_map(shared_data / "maps" / "betaGal_ngl.mrc")
            return DensityMap(resize_real(real.data, 64, 3), real.pixel_size * len(real.data) / 64)
        source, pixel, b_factor, symmetry, radius = MOLECULES[name]
        xyz, elements = module.read_atoms(str(shared_data / "models" / source), 0)
        xyz = xyz - xyz.mean(0)
        if symmetry != "C1":
            group = module.Rotation.create_group(symmetry)
            seat = xyz + radius * np.array([0.9, 0.25, 0.36]) / np.linalg.norm([0.9, 0.25, 0.36])
            xyz, elements = np.concatenate([g.apply(seat) for g in group]), elements * len(group)
        data = module.density(xyz, elements, 64, pixel, b_factor)
        return DensityMap(torch.from_numpy(data.astype(np.float32)), pixel)

    return make
