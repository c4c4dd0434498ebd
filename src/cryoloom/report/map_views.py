"""What of a density map fits on a page: central slices, projections, and the map itself on a small grid.

Each file is read once and reduced at once, so that a large box costs one map of memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoloom.maps.io import read_map
from cryoloom.physics.fourier import resize_real

# sides, in pixels, beyond which slices and the map itself are reduced
SLICE_SIDE = 200
SMALL_SIDE = 96
PLANES = ("XY", "XZ", "YZ")


@dataclass(frozen=True, slots=True)
class MapView:
    """A map reduced for display.

    Attributes:
        box, pixel_size: of the file; angstrom.
        slices: through the centre, planes XY, XZ, YZ; float32 [3, h, h], rows ordered from bottom to top.
        projections: sums along z, y and x in the same planes, float32 [3, h, h].
        small: the map with its finest shells left out, float32 [m, m, m], m <= SMALL_SIDE, over the same field of view.
    """

    box: int
    pixel_size: float
    slices: np.ndarray
    projections: np.ndarray
    small: Tensor

    @property
    def small_pixel_size(self) -> float:
        """Angstrom per voxel of `small`."""
        return self.pixel_size * self.box / self.small.shape[0]


def view_map(path: Path) -> MapView | None:
    """Reads and reduces a map; None where there is no such file.

    Raises:
        ValueError: for a file that is not a map (see `maps.io.read_map`).
    """
    if not path.is_file():
        return None
    density = read_map(path)
    data, box = density.data, density.data.shape[0]
    c = box // 2
    planes = torch.stack([data[c], data[:, c], data[:, :, c]])
    sums = torch.stack([data.sum(axis) for axis in range(3)])
    side = min(box, SLICE_SIDE)
    return MapView(
        box,
        density.pixel_size,
        resize_real(planes, side, 2).numpy(),
        resize_real(sums, side, 2).numpy(),
        resize_real(data, min(box, SMALL_SIDE), 3),
    )
