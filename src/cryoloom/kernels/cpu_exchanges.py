"""CPU kernel (numba): the mean of a grid of inserted images over exchanges of its axes, in place.

A cell and its mates under the exchanges are read and written by the thread of that of them which comes first in the
grid, so that threads share no cell, and what they compute does not depend on their number.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoloom.kernels.jit import HELPER, threaded


@njit(**HELPER)
def _mate(k, columns, signs):
    """Whole frequency of a mate in the half grid, and -1 where that is the Friedel mate, else 1."""
    x, y, z = signs[0] * k[columns[0]], signs[1] * k[columns[1]], signs[2] * k[columns[2]]
    return (-x, -y, -z, -1) if x < 0 else (x, y, z, 1)


@threaded
def average(thread, cells, columns, signs, reach, threads):
    """Replace sums by their mean over exchanges k -> (s_0 k_c0, s_1 k_c1, s_2 k_c2), which form a group.

    cells: half grid [M, M, H, 4], float32, of num (real, imaginary) and den, Friedel mates folded in at x = 0; columns,
    signs: c and s, [n, 3] int64; reach: cells farther from the centre, in grid pixels, are left as they are.
    """
    side, half = cells.shape[0], cells.shape[0] // 2
    last, k = (side - 1) // 2, np.empty(3, np.int64)  # Nyquist frequencies have no mates
    for line in range(thread, side * side, threads):
        k[2], k[1] = line // side - half, line % side - half
        rest = reach * reach - k[2] ** 2 - k[1] ** 2
        if abs(k[2]) > last or abs(k[1]) > last or rest < 0:
            continue
        for x in range(min(np.int64(math.sqrt(rest)), last) + 1):
            k[0] = x
            own, first = (k[2] * side + k[1]) * side + x, True
            for p in range(len(columns)):
                mx, my, mz, _ = _mate(k, columns[p], signs[p])
                # both mates of a pair lie in the half grid at x = 0
                if (mz * side + my) * side + mx < own or (mx == 0 and -(mz * side + my) * side < own):
                    first = False
                    break
            if not first:
                continue
            real = imaginary = weight = 0.0
            for p in range(len(columns)):
                mx, my, mz, sign = _mate(k, columns[p], signs[p])
                cell = cells[mz + half, my + half, mx]
                real, imaginary, weight = real + cell[0], imaginary + sign * cell[1], weight + cell[2]
            real, imaginary, weight = real / len(columns), imaginary / len(columns), weight / len(columns)
            for p in range(len(columns)):
                mx, my, mz, sign = _mate(k, columns[p], signs[p])
                cell = cells[mz + half, my + half, mx]
                cell[0], cell[1], cell[2] = real, sign * imaginary, weight
                if mx == 0:
                    cell = cells[half - mz, half - my, 0]
                    cell[0], cell[1], cell[2] = real, -sign * imaginary, weight
