"""Series of maps as pictures: each frame's surface in one view and at one level, and what differs from the mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.physics.fourier import resize_real
from cryoloom.report.conformations import Series
from cryoloom.report.figures import Picture, picture
from cryoloom.report.map_views import MapView, view_map
from cryoloom.report.png import shaded_uri
from cryoloom.report.surface import VIEWER_SIDE, Surface, contour_level, cube_around, draw_view
from cryoloom.report.text import plain

MOST_FRAMES = 10  # of a series on the page
MOST_SERIES = 5
_SIDE = 192
_VIEWS = ("from +z: x right, y up", "from −y: x right, z up", "from +x: y right, z up")
_LESS, _MORE = (33, 102, 172), (206, 62, 50)  # RGB: density below and above the mean
_BRIGHTEST = 99.9  # percentile of differences that is shown in full


@dataclass(frozen=True, slots=True)
class Frame:
    """One map: its surface, its projected difference from the series' mean; `index` in the series."""

    index: int
    label: str
    surface: Picture
    difference: Picture


@dataclass(frozen=True, slots=True)
class Filmstrip:
    """Frames of a series, evenly chosen of `total`; `view` says from where; `level` is the contour of all surfaces."""

    name: str
    frames: tuple[Frame, ...]
    total: int
    view: str
    level: float


def filmstrip(series: Series, mask: MapView | None) -> Filmstrip | None:
    """Draw a series from the side from which it changes most; None for maps without contrast.

    Raises:
        ValueError: for a damaged map, or maps of different grids.
    """
    total = len(series.maps)
    chosen = np.unique(np.linspace(0, total - 1, min(total, MOST_FRAMES)).round().astype(int)).tolist()
    views = _read(series, chosen)
    maps = torch.stack([view.small for view in views])
    inside = None
    if mask is not None and mask.small.shape == maps.shape[1:]:
        inside = mask.small > 0.5
    mean = maps.mean(0)
    if not float(mean.max()) > 0:
        return None
    level = contour_level(mean[inside] if inside is not None else mean.flatten())
    highest = maps.amax(0)
    solid = torch.nonzero((highest > 0.5 * level) if inside is None else (highest > level) | inside)
    if len(solid) == 0:
        return None
    cubes = maps[(slice(None), *cube_around(solid, maps.shape[-1]))]
    pixel_size = views[0].small_pixel_size * cubes.shape[-1] / VIEWER_SIDE
    plane = _liveliest(cubes)
    sums = cubes.sum(1 + plane)
    differences = sums - sums.mean(0)
    scale = float(np.percentile(differences.abs().numpy(), _BRIGHTEST))
    frames = []
    for i, cube, difference in zip(chosen, cubes, differences, strict=True):
        label = plain(series.labels[i])
        surface = Surface(resize_real(cube.contiguous(), VIEWER_SIDE, 3), pixel_size, level)
        shown = Picture(shaded_uri(draw_view(surface, plane, _SIDE)), f"surface of {label}", _SIDE, _SIDE)
        frames.append(Frame(i, label, shown, picture(_two_colours(difference, scale), f"difference of {label}")))
    return Filmstrip(plain(series.name), tuple(frames), total, _VIEWS[plane], level)


def _read(series: Series, chosen: list[int]) -> list[MapView]:
    views: list[MapView] = []
    for i in chosen:
        view = view_map(series.maps[i])
        if view is None:
            raise ValueError(f"map {series.maps[i]}: no such file; the series {series.name} is not complete")
        if views and (view.box != views[0].box or abs(view.pixel_size / views[0].pixel_size - 1) > 1e-3):
            raise ValueError(f"map {series.maps[i]}: its grid differs from that of the first; expected one grid")
        views.append(view)
    return views


def _liveliest(cubes: Tensor) -> int:
    """The plane (0: XY, 1: XZ, 2: YZ) onto which projections vary most from frame to frame."""
    return int(np.argmax([float(cubes.sum(1 + axis).var(0, unbiased=False).sum()) for axis in range(3)]))


def _two_colours(difference: Tensor, scale: float) -> np.ndarray:
    """Blue where there is less, red where more, transparent where nothing differs; first row at the top."""
    share = (difference.flip(0) / max(scale, 1e-30)).clamp(-1, 1).numpy()
    rgb = np.where(share[..., None] < 0, np.array(_LESS), np.array(_MORE))
    alpha = np.abs(share)[..., None] * 255
    return (np.concatenate([rgb, alpha], -1) + 0.5).astype(np.uint8)
