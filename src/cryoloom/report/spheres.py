"""Directions on paper: where the particles were seen from, and how fine the map is along each direction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import healpix
import numpy as np
from scipy import ndimage

from cryoloom.report.png import VIRIDIS, colourise, hex_colour

_MAP_HEIGHT, _DISC_SIDE = 240, 220
_NSIDE = 16
# with fewer particles a cell, empty ones say nothing
_PARTICLES_PER_CELL = 8
# this many particles lie within the kernel that smooths the map of views
_PARTICLES_PER_KERNEL = 30
# colours span at least this ratio of resolutions: a map that is the same all around must look so
_LEAST_RATIO = 1.3
FINE_TO_COARSE = VIRIDIS[::-1]


@dataclass(frozen=True, slots=True)
class ViewMap:
    """Density of viewing directions on a Mollweide map.

    Attributes:
        pixels: RGBA uint8 [240, 480, 4], the pole tilt = 0 at the top, rot = 0 in the middle, rot rising to the right.
        highest: the densest cell, as a multiple of the density of uniform views: the colours run from 0 to it.
        empty_share: share of `cells` HEALPix cells (as many as the number of particles bears) without any particle.
        smoothing_degrees: s.d. of the kernel over which particles are spread.
    """

    pixels: np.ndarray
    highest: float
    empty_share: float
    cells: int
    smoothing_degrees: float


@dataclass(frozen=True, slots=True)
class DirectionDot:
    """A direction on the disc, (x, y) within the unit circle, y up; `resolution` is None where nothing correlates."""

    x: float
    y: float
    resolution: float | None
    colour: str


@dataclass(frozen=True, slots=True)
class DirectionMap:
    """Resolution by direction on an equal-area disc: +z in the middle, the equator at the rim, x to the right.

    Attributes:
        pixels: RGBA uint8 [220, 220, 4], smoothed between the directions; dots: the directions themselves.
        finest, coarsest: angstrom; colours run from the finest to `scale_end`, the coarsest or 1.3 times the finest.
        silent: directions along which nothing correlates.
    """

    pixels: np.ndarray
    dots: tuple[DirectionDot, ...]
    finest: float
    coarsest: float
    scale_end: float
    silent: int


def view_map(rot_degrees: np.ndarray, tilt_degrees: np.ndarray) -> ViewMap:
    """Particles counted in HEALPix cells and smoothed as far as the scatter of counting demands."""
    known = np.isfinite(rot_degrees) & np.isfinite(tilt_degrees)
    rot, tilt = np.radians(rot_degrees[known]), np.radians(tilt_degrees[known])
    count = max(len(rot), 1)
    # angles may come outside their ranges: through the vector any triple is a direction
    views = np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)
    nside = 1
    while nside < _NSIDE and 12 * (2 * nside) ** 2 * _PARTICLES_PER_CELL <= count:
        nside *= 2
    empty = float((np.bincount(healpix.vec2pix(nside, *views), minlength=12 * nside**2) == 0).mean())
    cells = 12 * _NSIDE**2
    counts = np.bincount(healpix.vec2pix(_NSIDE, *views), minlength=cells)
    width = min(max(math.sqrt(_PARTICLES_PER_KERNEL / count), 0.03), 0.35)
    density = _spread(counts, width) * (cells / count)
    theta, phi, inside = _mollweide(_MAP_HEIGHT)
    # the edges of cells, finer than the kernel, are blurred away
    weight = ndimage.uniform_filter(inside.astype(np.float32), 5)
    shown = np.where(inside, density[healpix.ang2pix(_NSIDE, theta, phi)], 0)
    shown = ndimage.uniform_filter(shown.astype(np.float32), 5) / np.maximum(weight, 1e-6)
    highest = max(float(density.max()), 1e-9)
    alpha = np.where(inside, 255, 0).astype(np.uint8)
    pixels = np.concatenate([colourise(np.clip(shown / highest, 0, 1)), alpha[..., None]], -1)
    return ViewMap(pixels, highest, empty, 12 * nside**2, math.degrees(width))


def _spread(counts: np.ndarray, width: float) -> np.ndarray:
    """Counts of HEALPix cells spread over their neighbours with a Gaussian of s.d. `width` radians; sums are kept."""
    centres = np.stack(healpix.pix2vec(_NSIDE, np.arange(len(counts))), -1).astype(np.float32)
    kernel = np.exp((centres @ centres.T - 1) / np.float32(width**2))
    return (kernel / kernel.sum(1, keepdims=True)).T @ counts


def _mollweide(height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Polar angle, longitude and validity of each pixel of a Mollweide map [h, 2h], north at the top."""
    y = 1 - (np.arange(height) + 0.5) * 2 / height
    x = (np.arange(2 * height) + 0.5) * 2 / height - 2
    x, y = np.meshgrid(x, y)
    auxiliary = np.arcsin(np.clip(y, -1, 1))
    latitude = np.arcsin(np.clip((2 * auxiliary + np.sin(2 * auxiliary)) / math.pi, -1, 1))
    longitude = math.pi * x / (2 * np.maximum(np.cos(auxiliary), 1e-9))
    inside = (x / 2) ** 2 + y**2 <= 1
    return math.pi / 2 - latitude, np.clip(longitude, -math.pi, math.pi) % (2 * math.pi), inside


def graticule(height: int = _MAP_HEIGHT) -> str:
    """SVG path data of the Mollweide map's parallels and meridians, 30 and 60 degrees apart."""
    parts = []
    for latitude in (-60, -30, 0, 30, 60):
        y = _mollweide_y(math.radians(latitude))
        half = 2 * math.sqrt(1 - y**2)
        parts.append(f"M{(2 - half) * height / 2:.1f} {(1 - y) * height / 2:.1f}h{half * height:.1f}")
    for longitude in range(-120, 121, 60):
        a = abs(longitude) / 180 * height
        sweep = 1 if longitude > 0 else 0
        parts.append(f"M{height} 0A{a:.1f} {height / 2} 0 0 {sweep} {height} {height}")
    return "".join(parts)


def _mollweide_y(latitude: float) -> float:
    angle = latitude
    for _ in range(20):
        slope = 2 + 2 * math.cos(2 * angle)
        angle -= (2 * angle + math.sin(2 * angle) - math.pi * math.sin(latitude)) / max(slope, 1e-9)
    return math.sin(angle)


def direction_map(rows: tuple[tuple[float, float, float, float | None], ...]) -> DirectionMap | None:
    """From (x, y, z, resolution in angstrom); d and -d are one direction. None where no direction has a resolution."""
    if not rows:
        return None
    vectors = np.array([row[:3] for row in rows], dtype=np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    vectors[vectors[:, 2] < 0] *= -1
    resolution = np.array([np.nan if row[3] is None else row[3] for row in rows])
    known = np.isfinite(resolution)
    if not known.any():
        return None
    finest, coarsest = float(resolution[known].min()), float(resolution[known].max())
    end = max(coarsest, _LEAST_RATIO * finest)
    span = end - finest
    at = vectors[:, :2] / np.sqrt(1 + vectors[:, 2:])  # Lambert: radius sqrt(2) sin(theta / 2)
    dots = []
    for (x, y), value in zip(at, resolution, strict=True):
        given = bool(np.isfinite(value))
        colour = hex_colour((value - finest) / span, FINE_TO_COARSE) if given else "none"
        dots.append(DirectionDot(float(x), float(y), float(value) if given else None, colour))
    pixels = _smoothed(vectors[known], resolution[known], finest, span)
    return DirectionMap(
        pixels=pixels, dots=tuple(dots), finest=finest, coarsest=coarsest, scale_end=end, silent=int((~known).sum())
    )


def _smoothed(vectors: np.ndarray, values: np.ndarray, finest: float, span: float) -> np.ndarray:
    """Values spread over the disc with a Gaussian about as wide as the directions are apart."""
    axis = (np.arange(_DISC_SIDE) + 0.5) * 2 / _DISC_SIDE - 1
    x, y = np.meshgrid(axis, -axis)
    square = x**2 + y**2
    inside = square <= 1
    lift = np.sqrt(np.maximum(2 - square, 0))
    points = np.stack([x * lift, y * lift, 1 - square], -1)[inside]
    width = min(0.7 * math.sqrt(2 * math.pi / len(vectors)), 0.35)
    # chord lengths to the nearer of d and -d
    gap = 1 - np.abs(points @ vectors.T)
    weight = np.exp(-2 * gap / width**2)
    mean = (weight @ values) / np.maximum(weight.sum(1), 1e-300)
    out = np.zeros((_DISC_SIDE, _DISC_SIDE, 4), dtype=np.uint8)
    out[inside, :3] = colourise((mean - finest) / span, FINE_TO_COARSE)
    out[inside, 3] = 255
    return out
