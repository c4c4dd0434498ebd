"""CPU kernels (numba) over normal equations within a radius, without the corners of their grid.

What is kept are, plane by plane (z) and line by line (y), the first `points[z, y]` columns of a half grid from place
`starts[z, y]` on: real and imaginary part of num, and den. Records are rounded to bfloat16, the upper halves of float32
numbers. A thread takes every so many planes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cryoloom.kernels.jit import HELPER, threaded


@njit(**HELPER)
def _upper(bits):
    """Upper half of a float32's bits, rounded to the nearest, to even on a tie."""
    return (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


@threaded
def pack(thread, num, den, starts, points, threads, values):
    """Fill values [n, 3] from num [M, M, H, 2] and den [M, M, H], all float32."""
    side = num.shape[0]
    for z in range(thread, side, threads):
        for y in range(side):
            at = starts[z, y]
            for x in range(points[z, y]):
                values[at + x, 0] = num[z, y, x, 0]
                values[at + x, 1] = num[z, y, x, 1]
                values[at + x, 2] = den[z, y, x]


@threaded
def clear(thread, cells, points, threads):
    """Set the first columns of each line of cells [M, M, H, 4], float32, to zero."""
    side, size = cells.shape[0], cells.shape[3]
    for z in range(thread, side, threads):
        for y in range(side):
            for x in range(points[z, y]):
                for c in range(size):
                    cells[z, y, x, c] = 0


@threaded
def unpack(thread, values, starts, points, first, threads, out_num, out_den):
    """Planes from z = `first` on, [n, M, H, 2] and [n, M, H], of what `pack` has kept; 0 elsewhere."""
    n, side, width = out_den.shape
    for plane in range(thread, n, threads):
        for y in range(side):
            at, count = starts[first + plane, y], points[first + plane, y]
            for x in range(count):
                out_num[plane, y, x, 0] = values[at + x, 0]
                out_num[plane, y, x, 1] = values[at + x, 1]
                out_den[plane, y, x] = values[at + x, 2]
            for x in range(count, width):
                out_num[plane, y, x, 0] = out_num[plane, y, x, 1] = out_den[plane, y, x] = 0


@threaded
def record(thread, num, den, starts, points, threads, values):
    """Fill values [n, 3] uint16 from num [M, M, H, 2] and den [M, M, H], given as the bits of float32 (uint32)."""
    side = num.shape[0]
    for z in range(thread, side, threads):
        for y in range(side):
            at = starts[z, y]
            for x in range(points[z, y]):
                values[at + x, 0] = _upper(num[z, y, x, 0])
                values[at + x, 1] = _upper(num[z, y, x, 1])
                values[at + x, 2] = _upper(den[z, y, x])


@threaded
def left_out(thread, num, den, after, before, starts, points, first, threads, out_num, out_den):
    """Sums, rounded as records are, less record `after` plus record `before`, and 0 beyond their radius.

    Args:
        num, den: bits of planes from z = `first` on, [n, M, H, 2] and [n, M, H]. after, before: [n, 3] uint16; of
            length 0: the sums themselves, so that nothing but `before` is left, and no sums.
        out_num, out_den: as num and den, in float32; weights below 0 become 0.
    """
    n, side, width = out_den.shape
    bits = np.empty((3, 3, width), np.uint32)
    value = bits.view(np.float32)
    for plane in range(thread, n, threads):
        for y in range(side):
            at, count = starts[first + plane, y], points[first + plane, y]
            for x in range(count):
                for c in range(3):
                    bits[0, c, x] = bits[1, c, x] = bits[2, c, x] = np.uint32(0)
            if len(after):
                for x in range(count):
                    bits[0, 0, x] = _upper(num[plane, y, x, 0]) << np.uint32(16)
                    bits[0, 1, x] = _upper(num[plane, y, x, 1]) << np.uint32(16)
                    bits[0, 2, x] = _upper(den[plane, y, x]) << np.uint32(16)
                    for c in range(3):
                        bits[1, c, x] = np.uint32(after[at + x, c]) << np.uint32(16)
            if len(before):
                for x in range(count):
                    for c in range(3):
                        bits[2, c, x] = np.uint32(before[at + x, c]) << np.uint32(16)
            for x in range(count):
                out_num[plane, y, x, 0] = value[0, 0, x] - value[1, 0, x] + value[2, 0, x]
                out_num[plane, y, x, 1] = value[0, 1, x] - value[1, 1, x] + value[2, 1, x]
                out_den[plane, y, x] = max(value[0, 2, x] - value[1, 2, x] + value[2, 2, x], np.float32(0))
            for x in range(count, width):
                out_num[plane, y, x, 0] = out_num[plane, y, x, 1] = out_den[plane, y, x] = 0
