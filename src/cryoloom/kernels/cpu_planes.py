"""CPU kernels (numba) over planes of transforms: sums over shells, and the quotient of normal equations.

Planes are those of a half grid (see `kernels.cpu`) at consecutive z from `first` on, [n, M, H]; shells are whole radii
in image Fourier pixels. A thread takes every so many planes, and sums are kept plane by plane, so that they do not
depend on the number of threads.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoloom.kernels.jit import HELPER, threaded


@njit(**HELPER)
def _line(z, y, padding, reach):
    """Squared distance of a line along x from the centre, grid pixels, and the number of its points within `reach`."""
    square = np.float32(z * z + y * y)
    rest = reach * reach - square
    return square, 0 if rest < 0 else np.int64(math.sqrt(rest)) + 1


@threaded
def shell_sums(thread, den, first, padding, reach, threads, total, count):
    """Sums of den [n, M, H] by plane and shell, total [n, S] float64, and the number of points, count [n, S] int64.

    Only points up to `reach` grid pixels from the centre count; S must hold them all. total and count are added to.
    """
    n, side, width = den.shape
    scale, half = np.float32(1 / padding), side // 2
    for plane in range(thread, n, threads):
        for y in range(side):
            square, points = _line(np.float32(first + plane - half), np.float32(y - half), padding, reach)
            for x in range(min(points, width)):
                shell = np.int64(np.rint(scale * np.sqrt(square + np.float32(x * x))))
                total[plane, shell] += den[plane, y, x]
                count[plane, shell] += 1


@threaded
def quotients(thread, num, den, first, padding, prior, reach, threads, out):
    """num / (den + prior[shell]) up to `reach` grid pixels from the centre and 0 beyond, out [n, M, H', 2].

    num: [n, M, H, 2]; H' <= H. Shells beyond the last prior take that one. Lines of `out` are in the order
    of transforms, y = 0 first.
    """
    n, side, width = out.shape[:3]
    scale, half, last = np.float32(1 / padding), side // 2, np.int64(len(prior) - 1)
    for plane in range(thread, n, threads):
        for y in range(side):
            square, points = _line(np.float32(first + plane - half), np.float32(y - half), padding, reach)
            points = min(points, width)
            line = out[plane, (y - half) % side]
            for x in range(points):
                shell = min(np.int64(np.rint(scale * np.sqrt(square + np.float32(x * x)))), last)
                over = np.float32(1) / (den[plane, y, x] + prior[shell])
                line[x, 0], line[x, 1] = num[plane, y, x, 0] * over, num[plane, y, x, 1] * over
            for x in range(points, width):
                line[x, 0] = line[x, 1] = 0


@threaded
def shell_products(thread, a, b, threads, total):
    """Sums over shells of Re a b*, |a|^2 and |b|^2, by plane: total [D, S, 3] float64, added to.

    a, b: [D, D, D // 2 + 1, 2], as `rfftn` gives them; mates that it leaves out count. S must hold the corners.
    """
    side, width = a.shape[0], a.shape[2]
    for plane in range(thread, side, threads):
        z = plane if plane <= side // 2 else plane - side
        for line in range(side):
            y = line if line <= side // 2 else line - side
            for x in range(width):
                shell = np.int64(np.rint(np.sqrt(np.float64(z * z + y * y + x * x))))
                weight = 1.0 if x == 0 or 2 * x == side else 2.0
                ar, ai, br, bi = a[plane, line, x, 0], a[plane, line, x, 1], b[plane, line, x, 0], b[plane, line, x, 1]
                total[plane, shell, 0] += weight * (ar * br + ai * bi)
                total[plane, shell, 1] += weight * (ar * ar + ai * ai)
                total[plane, shell, 2] += weight * (br * br + bi * bi)
