"""One pass over all pixels, in bounded memory: which images can't be used, and which have hot pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cryoloom.particles.image_names import ImagePlaces
from cryoloom.particles.stack import read_images

_BATCH_BYTES = 16 << 20
# a Gaussian pixel this far out has odds of 1e-89: a cosmic ray or a broken detector element
HOT_SIGMA = 20.0


@dataclass(frozen=True, slots=True)
class PixelScan:
    """Per image, [N] bool: with NaN or infinite pixels; without any contrast; with pixels beyond HOT_SIGMA s.d."""

    not_finite: np.ndarray
    constant: np.ndarray
    hot: np.ndarray


def scan_pixels(places: ImagePlaces) -> PixelScan:
    """Reads every image once, in batches of 16 MiB of float32."""
    n = len(places.stack)
    low, high, mean, deviation = (np.zeros(n, dtype=np.float64) for _ in range(4))
    order = np.argsort(places.keys, kind="stable")
    ends = np.searchsorted(places.stack[order], np.arange(len(places.stacks) + 1))
    for s, header in enumerate(places.stacks):
        mine = order[ends[s] : ends[s + 1]]
        step = max(1, _BATCH_BYTES // (4 * header.box**2))
        for start in range(0, len(mine), step):
            rows = mine[start : start + step]
            images = np.empty((len(rows), header.box, header.box), dtype=np.float32)
            read_images(header, places.index[rows], images)
            flat = images.reshape(len(rows), -1)
            with np.errstate(invalid="ignore", over="ignore"):
                low[rows], high[rows], mean[rows] = flat.min(1), flat.max(1), flat.mean(1)
                flat -= mean[rows, None].astype(np.float32)
                deviation[rows] = np.sqrt(np.einsum("ij,ij->i", flat, flat) / flat.shape[1])
    finite = np.isfinite(low) & np.isfinite(high)
    constant = finite & ~(high > low)
    with np.errstate(invalid="ignore"):
        hot = finite & (np.maximum(high - mean, mean - low) > HOT_SIGMA * deviation)
    return PixelScan(~finite, constant, hot)
