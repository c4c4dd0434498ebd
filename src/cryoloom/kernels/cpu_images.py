"""CPU kernel (numba) over images in real space: units of their background. A thread takes every so many images."""

from __future__ import annotations

import numpy as np

from cryoloom.kernels.jit import threaded


@threaded
def standardise(thread, images, fitted, outside, slopes, threads, out, deviation):
    """Images [B, DD] less the plane of their background, in units of its s.d.; all float32 but the sums.

    The background is that of `fitted` [B, DD]. Mean first, then slopes and squares of the differences: raw micrographs
    have means far above their s.d. An image is summed by one thread in one order, whatever the batch.

    Args:
        outside: [DD], 1 in the background, 0 elsewhere. slopes: [2, DD], orthonormal in the background to each other
            and to a constant. deviation: filled, float64 [B].
    """
    count = 0.0
    for p in range(outside.shape[0]):
        count += np.float64(outside[p])
    for b in range(thread, images.shape[0], threads):
        own = fitted[b]
        mean = 0.0
        for p in range(own.shape[0]):
            mean += np.float64(own[p] * outside[p])
        mean /= count
        first = second = squares = 0.0
        for p in range(own.shape[0]):
            centred = (np.float64(own[p]) - mean) * np.float64(outside[p])
            first += centred * np.float64(slopes[0, p])
            second += centred * np.float64(slopes[1, p])
            squares += centred * centred
        deviation[b] = np.sqrt(max(squares - first * first - second * second, 0.0) / count)
        scale = np.float32(1.0 / deviation[b])
        a, c, level = np.float32(first), np.float32(second), np.float32(mean)
        for p in range(own.shape[0]):
            out[b, p] = (images[b, p] - level - a * slopes[0, p] - c * slopes[1, p]) * scale
