"""How densely images fill the latent space: kernel density estimates, their modes, and what is known of their blur."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import ndimage

GRID = 128  # bins a side
MARGIN = 4.0  # bandwidths beyond the outermost images
MOST_REFERENCES = 4000  # images whose kernels make up the estimate at every image
AT_ONCE = 1 << 22  # kernel values held at a time
SIGNIFICANCE = 4.0  # s.d. of the estimate by which a mode rises above the pass to a higher one


@dataclass(frozen=True, slots=True)
class Mode:
    """A local maximum of the density: place (PC1, PC2), density there, and the share of the images on its slopes."""

    place: tuple[float, float]
    density: float
    share: float


@dataclass(frozen=True, slots=True)
class DensityMap2D:
    """Density of images over the first two principal coordinates.

    Attributes:
        x, y: [G] middles of the bins along PC1 and PC2; density: [G, G], rows along y, integrates to 1.
        bandwidth: (PC1, PC2), s.d. of the kernel.
        blur: (PC1, PC2), r.m.s. posterior s.d. of the images, None if not known. Where it exceeds the width of a
            feature, the feature's true shape can't be told.
        modes: highest first.
    """

    x: np.ndarray
    y: np.ndarray
    density: np.ndarray
    bandwidth: tuple[float, float]
    blur: tuple[float, float] | None
    modes: tuple[Mode, ...]


def bandwidth(coordinates: Float[np.ndarray, "N C"]) -> Float[np.ndarray, " C"]:
    """Kernel s.d. along each coordinate: Scott's rule s n^(-1/(C+4)) (Multivariate Density Estimation, 1992).

    s is the smaller of the s.d. and the interquartile range over 1.35: outliers and parted modes do not widen it.

    Raises:
        ValueError: where all images share a coordinate.
    """
    n, dims = coordinates.shape
    upper, lower = np.percentile(coordinates, (75, 25), axis=0)
    sd = coordinates.std(0, ddof=1)
    robust = (upper - lower) / 1.349
    scale = np.where(robust > 0, np.minimum(sd, robust), sd)
    if not (scale > 0).all():
        flat = int(np.flatnonzero(~(scale > 0))[0])
        raise ValueError(f"all images share coordinate {flat + 1}: there is no density along it; leave it out")
    return scale * n ** (-1 / (dims + 4))


def log_density(coordinates: Float[np.ndarray, "N C"], seed: int) -> Float[np.ndarray, " N"]:
    """Natural log of the density at every image, by Gaussian kernels of `bandwidth` about the other images.

    Kernels of at most 4000 images, drawn at random, stand for all; an image's own kernel is left out, so that lonely
    images are seen to be lonely. Density in more than about four coordinates says little with any number of images.

    Raises:
        ValueError: for fewer than 3 images, and see `bandwidth`.
    """
    n, dims = coordinates.shape
    if n < 3:
        raise ValueError(f"the density of {n} images; expected at least 3")
    scaled = coordinates / bandwidth(coordinates)
    chosen = np.arange(n)
    if n > MOST_REFERENCES:
        chosen = np.sort(np.random.default_rng(seed).choice(n, MOST_REFERENCES, replace=False))
    reference = scaled[chosen]
    place = np.full(n, -1)
    place[chosen] = np.arange(len(chosen))
    out = np.empty(n)
    step = max(1, AT_ONCE // len(reference))
    for start in range(0, n, step):
        rows = np.arange(start, min(n, start + step))
        squared = (
            (scaled[rows] ** 2).sum(1)[:, None] + (reference**2).sum(1) - 2 * scaled[rows] @ reference.T
        ).clip(min=0)  # fmt: skip
        own = place[rows]
        squared[own >= 0, own[own >= 0]] = np.inf
        nearest = squared.min(1)
        total = np.log(np.exp(-0.5 * (squared - nearest[:, None])).sum(1)) - 0.5 * nearest
        out[rows] = total - np.log(len(reference) - (own >= 0))
    return out - 0.5 * dims * math.log(2 * math.pi) - float(np.log(bandwidth(coordinates)).sum())


def density_map(
    coordinates: Float[np.ndarray, "N 2"], covariance: Float[np.ndarray, "N 2 2"] | None = None
) -> DensityMap2D:
    """Density over two principal coordinates, on a grid: images are binned, bins smoothed; cost grows with N alone.

    Args:
        covariance: of each image's coordinates, for `blur`.

    Raises:
        ValueError: for other than two coordinates, and see `bandwidth`.
    """
    if coordinates.ndim != 2 or coordinates.shape[1] != 2:
        raise ValueError(f"coordinates of shape {coordinates.shape}; expected [N, 2]")
    widths = bandwidth(coordinates)
    low, high = _limits(coordinates, widths)
    edges = [np.linspace(low[i], high[i], GRID + 1) for i in range(2)]
    # what lies beyond the frame counts at its rim: the density integrates to 1 over all images
    held = coordinates.clip(low, high)
    counts, _, _ = np.histogram2d(held[:, 1], held[:, 0], bins=(edges[1], edges[0]))
    steps = (high - low) / GRID
    smooth = ndimage.gaussian_filter(counts, (widths / steps)[::-1], mode="constant", truncate=6.0)
    density = smooth / (smooth.sum() * steps.prod())
    x, y = ((e[1:] + e[:-1]) / 2 for e in edges)
    blur = None
    if covariance is not None:
        spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2).mean(0).clip(min=0))
        blur = (float(spread[0]), float(spread[1]))
    kernel = 4 * math.pi * float(widths.prod())
    modes = _modes(x, y, density, counts, len(coordinates) * kernel)
    return DensityMap2D(x, y, density, (float(widths[0]), float(widths[1])), blur, modes)


def _limits(coordinates: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frame: all images, but no farther than bins of half a bandwidth reach."""
    low, high = coordinates.min(0) - MARGIN * widths, coordinates.max(0) + MARGIN * widths
    middle = np.median(coordinates, axis=0)
    reach = 0.25 * GRID * widths
    return np.maximum(low, middle - reach), np.minimum(high, middle + reach)


def _modes(x: np.ndarray, y: np.ndarray, density: np.ndarray, counts: np.ndarray, scale: float) -> tuple[Mode, ...]:
    """Maxima that rise above the pass to a higher one by more than chance.

    Bins are taken from the densest down and joined to the summit that they touch. Where two summits meet, the lower is
    given up unless it is higher than the pass by SIGNIFICANCE times sqrt(f / (n 4 pi h1 h2)), the s.d. of the estimate.
    """
    owner = np.full(density.shape, -1)
    parent: list[int] = []
    peak: list[tuple[int, int]] = []

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for flat in np.argsort(density, axis=None)[::-1]:
        at = divmod(int(flat), density.shape[1])
        block = owner[max(0, at[0] - 1) : at[0] + 2, max(0, at[1] - 1) : at[1] + 2]
        around = sorted({top(int(i)) for i in block[block >= 0]}, key=lambda i: -density[peak[i]])
        if not around:
            parent.append(len(peak))
            peak.append(at)
            owner[at] = len(peak) - 1
            continue
        owner[at] = around[0]
        for other in around[1:]:
            summit = float(density[peak[other]])
            if summit - float(density[at]) <= SIGNIFICANCE * math.sqrt(summit / scale):
                parent[other] = around[0]
    roots = np.array([top(i) for i in range(len(peak))])
    weight = np.bincount(roots[owner].ravel(), counts.ravel(), minlength=len(peak)) / counts.sum()
    kept = [i for i in range(len(peak)) if roots[i] == i]
    found = [
        Mode((float(x[peak[i][1]]), float(y[peak[i][0]])), float(density[peak[i]]), float(weight[i])) for i in kept
    ]
    return tuple(sorted(found, key=lambda m: -m.density))
