"""The surface of a map: at which level, drawn from three sides without any viewer, and packed for the viewer."""

from __future__ import annotations

import base64
import gzip
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryoloom.maps.io import DensityMap, write_map
from cryoloom.physics.fourier import resize_real

VIEWER_SIDE = 64
_DRAWN_SIDE = 256
_MARGIN = 2
_GREY_LEVELS = 1000  # values sent to the viewer are rounded: a smooth surface needs no more, and the page shrinks
_COLOUR = np.array([0.60, 0.75, 0.90])
# where the light comes from: right, up, towards the viewer
_LIGHT = np.array([-0.4, 0.5, 0.77])


@dataclass(frozen=True, slots=True)
class Surface:
    """A map cut out around its molecule.

    Attributes:
        data: float32 [64, 64, 64], 0 outside the mask.
        pixel_size: angstrom.
        level: density of the surface; `highest`: of the map.
    """

    data: Tensor
    pixel_size: float
    level: float

    @property
    def highest(self) -> float:
        """Largest density."""
        return float(self.data.max())


def cut_out(small: Float[Tensor, "m m m"], mask: Float[Tensor, "m m m"] | None, pixel_size: float) -> Surface | None:
    """The cube around the mask (all of the map where there is none), and a level; None for a map without contrast."""
    inside = torch.ones_like(small) if mask is None else mask.clamp(0, 1)
    values = small * inside
    solid = torch.nonzero(inside > 0.05)
    if len(solid) == 0 or not float(values.max()) > 0:
        return None
    cube = values[cube_around(solid, small.shape[0])].contiguous()
    level = contour_level(values[inside > 0.5] if mask is not None else values.flatten())
    return Surface(resize_real(cube, VIEWER_SIDE, 3), pixel_size * cube.shape[0] / VIEWER_SIDE, level)


def cube_around(voxels: Int[Tensor, "n 3"], box: int) -> tuple[slice, slice, slice]:
    """The cube within the box that holds some voxels (z, y, x), with a margin."""
    low, high = voxels.min(0).values, voxels.max(0).values
    side = min(box, int((high - low).max()) + 1 + 2 * _MARGIN)
    start = [min(max(0, int(c) - side // 2), box - side) for c in (low + high + 1) // 2]
    z, y, x = (slice(s, s + side) for s in start)
    return z, y, x


def contour_level(values: Tensor) -> float:
    """The threshold that parts molecule from solvent within the mask: largest variance between two classes (Otsu)."""
    ordered = values.double().flatten().sort().values
    n = len(ordered)
    below = ordered.cumsum(0)[:-1]
    count = torch.arange(1, n, dtype=torch.float64)
    between = count * (n - count) * (below / count - (ordered.sum() - below) / (n - count)).square()
    return float(ordered[int(between.argmax())]) if n > 1 else float(ordered[0])


def viewer_file(surface: Surface) -> str:
    """The map as base64 of a gzipped MRC file (float32: the viewer draws other modes wrongly)."""
    scale = surface.highest / _GREY_LEVELS
    rounded = (surface.data / scale).round().clamp(min=-_GREY_LEVELS / 10) * scale
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "surface.mrc"
        write_map(path, DensityMap(rounded, surface.pixel_size))
        data = path.read_bytes()
    # no time of day in it: the same run gives the same page
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode("ascii")


def draw_surface(surface: Surface) -> list[np.ndarray]:
    """The surface as seen from +z (x right, y up), -y (x right, z up) and +x (y right, z up); RGBA uint8 [h, h, 4]."""
    return [draw_view(surface, plane) for plane in range(3)]


def draw_view(surface: Surface, plane: int, side: int = _DRAWN_SIDE) -> np.ndarray:
    """One of the views of `draw_surface`, by the plane that is seen (0: XY, 1: XZ, 2: YZ); uint8 [side, side, 4]."""
    data = surface.data
    # axes become depth (towards the viewer), up, right
    view = (data, data.permute(1, 0, 2).flip(0), data.permute(2, 0, 1))[plane]
    return _shade(view, surface.level, side)


def _shade(view: Float[Tensor, "m m m"], level: float, side: int) -> np.ndarray:
    fine = resize_real(view, side, 2)
    deep = resize_real(fine.permute(1, 2, 0), 2 * view.shape[0], 1)  # up, right, depth
    depth = deep.shape[-1]
    hit = deep.flip(-1) > level
    seen = hit.any(-1)
    first = depth - 1 - hit.to(torch.uint8).argmax(-1)
    w = first.clamp(1, depth - 2)
    v, u = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    up, down = (v + 1).clamp(max=side - 1), (v - 1).clamp(min=0)
    right, left = (u + 1).clamp(max=side - 1), (u - 1).clamp(min=0)
    gradient = torch.stack(
        [
            deep[v, right, w] - deep[v, left, w],
            deep[up, u, w] - deep[down, u, w],
            # depth is sampled more coarsely than the plane
            (deep[v, u, w + 1] - deep[v, u, w - 1]) * depth / side,
        ],
        -1,
    )
    normal = -gradient / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return _paint(normal.numpy(), (first / depth).numpy(), seen.numpy())


def _paint(normal: np.ndarray, near: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Diffuse light with a highlight, darker with distance and at grazing angles; first row at the top."""
    diffuse = np.clip(normal @ _LIGHT, 0, 1)
    halfway = _LIGHT + np.array([0.0, 0.0, 1.0])
    gloss = np.clip(normal @ (halfway / np.linalg.norm(halfway)), 0, 1) ** 24
    front, back = (float(near[seen].max()), float(near[seen].min())) if seen.any() else (1.0, 0.0)
    fade = 0.62 + 0.38 * (near - back) / max(front - back, 1e-6)
    light = (0.38 + 0.80 * diffuse) * fade
    rgb = np.clip(_COLOUR * light[..., None] + 0.22 * (gloss * fade)[..., None], 0, 1)
    rgba = np.concatenate([rgb, seen[..., None]], -1)
    return (rgba[::-1] * 255 + 0.5).astype(np.uint8)
