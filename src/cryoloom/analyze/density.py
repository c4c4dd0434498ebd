"""Kernel density estimates of the latent coordinates, their modes, and the posterior blur of the images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from cryoloom.analyze.latent import PrincipalAxes

BINS = 64, 400  # minimum and maximum number of bins per side
BIN = 0.5  # width of a bin in bandwidths
FAINTEST = 1e-4  # share of the highest density below which a bin belongs to no mode
MARGIN = 4.0  # bandwidths beyond the outermost images
JUDGES = 1500  # number of images by whose likelihood the bandwidth is chosen
FACTORS = (0.25, 0.35, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2)  # of Scott's rule
OUTLIERS = 0.02  # share of the images, the least likely ones, that is ignored in that choice
FLAT = 1e-9  # share of the variance below which images do not vary along an axis
FEWEST = 10  # minimum number of images for a density
# minimum height of a mode above the saddle to a higher one, in s.d. of the estimate: both heights are uncertain, and
# there are many places at which chance could make a peak
SIGNIFICANCE = 5.0
# the same in one dimension, where no path leads around a gap made by chance; of 300 uniform samples none had two modes
# (with 5.0: two)
SIGNIFICANCE_ON_A_LINE = 7.0


@dataclass(frozen=True, slots=True)
class Mode:
    """A local maximum of the density: place (PC1, PC2), density there, and the share of the images around it."""

    place: tuple[float, float]
    density: float
    share: float


@dataclass(frozen=True, slots=True)
class DensityMap2D:
    """Density of images over the first two principal coordinates.

    Attributes:
        x, y: [G] centres of the bins along PC1 and PC2; density: [G, G], rows along y, integrates to the share of
            the images within the frame (1 without far outliers).
        bandwidth: (PC1, PC2), s.d. of the kernel.
        blur: (PC1, PC2), r.m.s. posterior s.d. of the images, None if not known. Narrower features are not resolved.
        modes: highest first.
    """

    x: np.ndarray
    y: np.ndarray
    density: np.ndarray
    bandwidth: tuple[float, float]
    blur: tuple[float, float] | None
    modes: tuple[Mode, ...]


def bandwidth(coordinates: Float[np.ndarray, "N C"]) -> Float[np.ndarray, " C"]:
    """Kernel s.d. along each coordinate: Scott's rule s n^(-1/(C+4)) (Multivariate Density Estimation, 1992) times a
    common factor, the one with the highest leave-one-out likelihood (Duin, IEEE Trans. Comput. C-25 (1976) 1175).

    s is the smaller of the s.d. and the interquartile range over 1.35. Scott's rule alone is right for one Gaussian; on
    a bent or divided cloud it blurs thin parts, and leaves spurious peaks where a bend runs along an axis.

    Raises:
        ValueError: where all images share a coordinate.
    """
    upper, lower = np.percentile(coordinates, (75, 25), axis=0)
    sd = coordinates.std(0, ddof=1)
    robust = (upper - lower) / 1.349
    scale = np.where(robust > 0, np.minimum(sd, robust), sd)
    if not (scale > 0).all():
        flat = int(np.flatnonzero(~(scale > 0))[0])
        raise ValueError(f"all images share coordinate {flat + 1}: there is no density along it; leave it out")
    n, dims = coordinates.shape
    some = coordinates[np.unique(np.linspace(0, n - 1, min(n, JUDGES)).astype(int))]
    # the factor is determined at the bandwidth for the subset, and applied to that for all images
    return scale * _likeliest_factor(some / (scale * len(some) ** (-1 / (dims + 4)))) * n ** (-1 / (dims + 4))


def _likeliest_factor(scaled: Float[np.ndarray, "m C"]) -> float:
    """The factor of FACTORS with the highest mean leave-one-out log density.

    The least likely images are left out, so that outliers do not widen the kernels of all images.
    """
    m, dims = scaled.shape
    squared = _squared_distances(scaled, scaled)
    np.fill_diagonal(squared, np.inf)
    nearest = squared.min(1)
    scores = []
    for factor in FACTORS:
        terms = np.exp(-0.5 * (squared - nearest[:, None]) / factor**2).sum(1)
        values = np.log(terms) - 0.5 * nearest / factor**2 - dims * math.log(factor)
        scores.append(np.sort(values)[int(OUTLIERS * m) :].mean())
    return FACTORS[int(np.argmax(scores))]


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T).clip(min=0)


def count_modes(axes: PrincipalAxes) -> int:
    """Number of modes of the latent density that stand out beyond chance, at least 1; see `density_map`.

    The density is that over the first two principal coordinates, or over the first where images vary along no other.
    """
    coordinates = axes.coordinates[:, :2][:, axes.share[:2] > FLAT]
    if coordinates.shape[1] == 0 or len(coordinates) < FEWEST:
        return 1
    if coordinates.shape[1] == 2:
        return max(1, len(density_map(coordinates).modes))
    values, width = coordinates[:, 0], float(bandwidth(coordinates)[0])
    edges = _edges(values, width)
    counts, _ = np.histogram(values, edges)
    step = float(edges[1] - edges[0])
    density = ndimage.gaussian_filter(counts.astype(float), width / step, mode="constant", truncate=6.0)
    density /= len(values) * step
    middles, line = (edges[1:] + edges[:-1]) / 2, np.zeros(1)
    kernel = 2 * math.sqrt(math.pi) * width
    found = _modes(
        middles, line, density[None], counts[None], scale=len(values) * kernel, significance=SIGNIFICANCE_ON_A_LINE
    )
    return max(1, len(found))


def density_map(
    coordinates: Float[np.ndarray, "N 2"], covariance: Float[np.ndarray, "N 2 2"] | None = None
) -> DensityMap2D:
    """Density over two principal coordinates, on a grid: images are binned and the bins smoothed; cost is linear in N.

    Args:
        covariance: covariance of each image's coordinates, for `blur`.

    Raises:
        ValueError: for other than two coordinates, and see `bandwidth`.
    """
    if coordinates.ndim != 2 or coordinates.shape[1] != 2:
        raise ValueError(f"coordinates of shape {coordinates.shape}; expected [N, 2]")
    widths = bandwidth(coordinates)
    edges = [_edges(values, float(width)) for values, width in zip(coordinates.T, widths, strict=True)]
    counts, _, _ = np.histogram2d(coordinates[:, 1], coordinates[:, 0], bins=(edges[1], edges[0]))
    steps = np.array([e[1] - e[0] for e in edges])
    smooth = ndimage.gaussian_filter(counts, (widths / steps)[::-1], mode="constant", truncate=6.0)
    density = smooth / (len(coordinates) * steps.prod())
    x, y = ((e[1:] + e[:-1]) / 2 for e in edges)
    blur = None
    if covariance is not None:
        spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2).mean(0).clip(min=0))
        blur = (float(spread[0]), float(spread[1]))
    kernel = 4 * math.pi * float(widths.prod())
    modes = _modes(x, y, density, counts, len(coordinates) * kernel)
    return DensityMap2D(
        x=x, y=y, density=density, bandwidth=(float(widths[0]), float(widths[1])), blur=blur, modes=modes
    )


def _edges(values: np.ndarray, width: float) -> np.ndarray:
    """Edges of the bins, which cover all images except outliers farther from the median than the largest grid."""
    middle, reach = float(np.median(values)), 0.5 * BINS[1] * BIN * width
    low = max(float(values.min()) - MARGIN * width, middle - reach)
    high = min(float(values.max()) + MARGIN * width, middle + reach)
    return np.linspace(low, high, int(np.clip(math.ceil((high - low) / (BIN * width)), *BINS)) + 1)


def _modes(
    x: np.ndarray,
    y: np.ndarray,
    density: np.ndarray,
    counts: np.ndarray,
    scale: float,
    significance: float = SIGNIFICANCE,
) -> tuple[Mode, ...]:
    """Maxima that rise above the saddle to a higher maximum by more than chance (topological persistence).

    Bins are visited from the densest down and joined to the maximum that they touch. Where two maxima meet, the lower
    is merged unless it is higher than the saddle by `significance` times sqrt(f / (n 4 pi h1 h2)), the estimate's s.d.
    """
    owner = np.full(density.shape, -1)
    parent: list[int] = []
    peak: list[tuple[int, int]] = []

    def top(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    order = np.argsort(density, axis=None)[::-1]
    for flat in order[: int((density > FAINTEST * density.max()).sum())]:
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
            if summit - float(density[at]) <= significance * math.sqrt(summit / scale):
                parent[other] = around[0]
    roots = np.array([top(i) for i in range(len(peak))])
    inside = owner >= 0
    weight = np.bincount(roots[owner[inside]], counts[inside], minlength=len(peak)) / max(1.0, counts.sum())
    kept = [i for i in range(len(peak)) if roots[i] == i and density[peak[i]] > significance**2 / scale]
    found = [
        Mode((float(x[peak[i][1]]), float(y[peak[i][0]])), float(density[peak[i]]), float(weight[i])) for i in kept
    ]
    return tuple(sorted(found, key=lambda m: -m.density))
