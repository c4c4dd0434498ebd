"""CPU kernels (numba) that read or fill a half grid: slices, insertion, normal equations, residual power.

Volumes are half grids: the x >= 0 part of a centred, padded transform, [M, M, M // 2 + 2] (z, y, x), zero frequency at
(M // 2, M // 2, 0), two guard columns at the end; kernels take them as flat float32 arrays, real and imaginary part in
turn. A point with x < 0 is read at its Friedel mate. Points are taken in runs: what is scattered, reading or adding to
the eight neighbours, is done point by point, and all arithmetic between in loops over a run, which the compiler turns
into vector instructions.
What is read is split into one contiguous chunk of poses per thread; what is filled, into slabs of the grid, one per
thread, so that sums do not depend on the number of threads. Compiled helpers stay in the file of the kernels that use
them: numba's cache does not see a change in another file.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoloom.kernels.jit import HELPER, threaded

RUN = 64  # points at once: their neighbours and what is computed from them stay in the first cache
BUNDLE = 8  # samples of an image at once
ONE, TWO_PI = np.float32(1), 2 * math.pi


@njit(**HELPER)
def _axes(R, scale):
    """First two columns of `scale` R, row by row: points of the slice are a times the first plus b times the second."""
    x, y, z = R[0], R[1], R[2]
    return (
        (np.float32(x[0] * scale), np.float32(x[1] * scale)),
        (np.float32(y[0] * scale), np.float32(y[1] * scale)),
        (np.float32(z[0] * scale), np.float32(z[1] * scale)),
    )


@njit(**HELPER)
def _third_axis(R):
    return np.float32(R[0, 2]), np.float32(R[1, 2]), np.float32(R[2, 2])


@njit(**HELPER)
def _locate(axes, i, j, side, start, cell, place):
    """Cells of points of a slice at frequencies (i, j), which `axes` take to grid pixels about the zero frequency.

    start [RUN]: place of each cell's first corner in the flat grid; cell [2, RUN]: its plane (z) and line (y); place
    [4, RUN]: Friedel sign and fractions.
    """
    (x0, x1), (y0, y1), (z0, z1) = axes
    # the last grid line, on which the rim of an odd box may lie, belongs to the last cell: one beyond is out of bounds
    row = side // 2 + 2
    half, last = np.int32(side // 2), np.int32(side // 2 - 2 + side % 2)
    for k in range(i.shape[0]):
        x, y, z = x0 * i[k] + x1 * j[k], y0 * i[k] + y1 * j[k], z0 * i[k] + z1 * j[k]
        sign = ONE if x >= 0 else -ONE
        x, y, z = sign * x, sign * y, sign * z
        ix = np.int32(x)
        iy, iz = min(np.int32(np.floor(y)), last), min(np.int32(np.floor(z)), last)
        place[0, k], place[1, k], place[2, k], place[3, k] = sign, x - ix, y - iy, z - iz
        cell[0, k], cell[1, k] = iz + half, iy + half
        start[k] = (np.int64(iz + half) * side + iy + half) * row + ix


@njit(**HELPER)
def _read(grid, side, start, n, corner):
    """The eight corners of cells, corner [16, RUN]: real and imaginary parts in turn."""
    row = 2 * (side // 2 + 2)
    plane = side * row
    for k in range(n):
        at = 2 * start[k]
        for c in range(4):
            corner[c, k] = grid[at + c]
            corner[4 + c, k] = grid[at + row + c]
            corner[8 + c, k] = grid[at + plane + c]
            corner[12 + c, k] = grid[at + plane + row + c]


@njit(**HELPER)
def _value(place, corner, k):
    """Trilinear value at a point, real and imaginary part."""
    sign, fx, fy, fz = place[0, k], place[1, k], place[2, k], place[3, k]
    ar = corner[0, k] + fx * (corner[2, k] - corner[0, k])
    ai = corner[1, k] + fx * (corner[3, k] - corner[1, k])
    br = corner[4, k] + fx * (corner[6, k] - corner[4, k])
    bi = corner[5, k] + fx * (corner[7, k] - corner[5, k])
    cr = corner[8, k] + fx * (corner[10, k] - corner[8, k])
    ci = corner[9, k] + fx * (corner[11, k] - corner[9, k])
    dr = corner[12, k] + fx * (corner[14, k] - corner[12, k])
    di = corner[13, k] + fx * (corner[15, k] - corner[13, k])
    ar, ai, cr, ci = ar + fy * (br - ar), ai + fy * (bi - ai), cr + fy * (dr - cr), ci + fy * (di - ci)
    return ar + fz * (cr - ar), sign * (ai + fz * (ci - ai))


@njit(**HELPER)
def _value_and_gradient(place, corner, k):
    """Trilinear value and its gradient with respect to (x, y, z) in grid pixels, as eight floats."""
    sign, fx, fy, fz = place[0, k], place[1, k], place[2, k], place[3, k]
    d0r, d0i = corner[2, k] - corner[0, k], corner[3, k] - corner[1, k]
    d1r, d1i = corner[6, k] - corner[4, k], corner[7, k] - corner[5, k]
    d2r, d2i = corner[10, k] - corner[8, k], corner[11, k] - corner[9, k]
    d3r, d3i = corner[14, k] - corner[12, k], corner[15, k] - corner[13, k]
    c0r, c0i = corner[0, k] + fx * d0r, corner[1, k] + fx * d0i
    c1r, c1i = corner[4, k] + fx * d1r, corner[5, k] + fx * d1i
    c2r, c2i = corner[8, k] + fx * d2r, corner[9, k] + fx * d2i
    c3r, c3i = corner[12, k] + fx * d3r, corner[13, k] + fx * d3i
    y0r, y0i, y1r, y1i = c1r - c0r, c1i - c0i, c3r - c2r, c3i - c2i
    e0r, e0i, e1r, e1i = c0r + fy * y0r, c0i + fy * y0i, c2r + fy * y1r, c2i + fy * y1i
    h0r, h0i = d0r + fy * (d1r - d0r), d0i + fy * (d1i - d0i)
    h1r, h1i = d2r + fy * (d3r - d2r), d2i + fy * (d3i - d2i)
    # the mate is conj V(-k): its gradient carries a minus sign on the real part only
    return (
        e0r + fz * (e1r - e0r),
        sign * (e0i + fz * (e1i - e0i)),
        sign * (h0r + fz * (h1r - h0r)),
        h0i + fz * (h1i - h0i),
        sign * (y0r + fz * (y1r - y0r)),
        y0i + fz * (y1i - y0i),
        sign * (e1r - e0r),
        e1i - e0i,
    )


@njit(**HELPER)
def _in_image_frame(axes, third, gradient):
    """R^T grad V: real and imaginary parts of its x, y and z."""
    (x0, x1), (y0, y1), (z0, z1) = axes
    x2, y2, z2 = third
    gxr, gxi, gyr, gyi, gzr, gzi = gradient
    return (
        x0 * gxr + y0 * gyr + z0 * gzr,
        x0 * gxi + y0 * gyi + z0 * gzi,
        x1 * gxr + y1 * gyr + z1 * gzr,
        x1 * gxi + y1 * gyi + z1 * gzi,
        x2 * gxr + y2 * gyr + z2 * gzr,
        x2 * gxi + y2 * gyi + z2 * gzi,
    )


@njit(**HELPER)
def _turns(gradient, a, e):
    """Derivatives with respect to omega, k x R^T grad V with k = (a, e, 0): three real parts, three imaginary ones."""
    axr, axi, ayr, ayi, azr, azi = gradient
    return e * azr, -a * azr, a * ayr - e * axr, e * azi, -a * azi, a * ayi - e * axi


@njit(**HELPER)
def _fill_symmetric(into, upper):
    """Fill a symmetric matrix from its upper triangle, which is given row by row."""
    n = 0
    for i in range(into.shape[0]):
        for j in range(i, into.shape[0]):
            into[i, j] = into[j, i] = upper[n]
            n += 1


@njit(**HELPER)
def _empty_ramp(index):
    """Tables for `_fill_ramp`, as long as the largest frequency needs."""
    n = 0
    for p in range(index.shape[0]):
        n = max(n, abs(index[p, 0]), abs(index[p, 1]))
    cx, sx = np.empty(n + 1, np.float32), np.empty(n + 1, np.float32)
    cy, sy = np.empty(2 * n + 1, np.float32), np.empty(2 * n + 1, np.float32)
    return cx, sx, cy, sy


@njit(**HELPER)
def _fill_ramp(ramp, t, step):
    """Tables of cos and sin of 2 pi step (t_x ix) for ix = 0..n and 2 pi step (t_y iy) for iy = -n..n."""
    cx, sx, cy, sy = ramp
    n = cx.shape[0] - 1
    # by powers of one turn, in double precision
    xr, xi = math.cos(TWO_PI * step * t[0]), math.sin(TWO_PI * step * t[0])
    yr, yi = math.cos(TWO_PI * step * t[1]), math.sin(TWO_PI * step * t[1])
    ar, ai, br, bi = 1.0, 0.0, 1.0, 0.0
    for i in range(n + 1):
        cx[i], sx[i] = ar, ai
        cy[n + i], sy[n + i], cy[n - i], sy[n - i] = br, bi, br, -bi
        ar, ai = ar * xr - ai * xi, ar * xi + ai * xr
        br, bi = br * yr - bi * yi, br * yi + bi * yr


@njit(**HELPER)
def _move_back(y, ramp, index, first, n, moved):
    """Y e^{+2 pi i k.t} at points from `first` on, moved [2, RUN]: the model then needs no ramp."""
    cx, sx, cy, sy = ramp
    middle = cx.shape[0] - 1
    for k in range(n):
        p = first + k
        i, j = index[p, 0], middle + index[p, 1]
        er, ei = cx[i] * cy[j] - sx[i] * sy[j], cx[i] * sy[j] + sx[i] * cy[j]
        moved[0, k], moved[1, k] = y[p, 0] * er - y[p, 1] * ei, y[p, 0] * ei + y[p, 1] * er


@njit(**HELPER)
def _buffers():
    """Arrays for `_locate` and `_read`."""
    start, cell = np.empty(RUN, np.int64), np.empty((2, RUN), np.int32)
    return start, cell, np.empty((4, RUN), np.float32), np.empty((16, RUN), np.float32)


@threaded
def slices(thread, grid, side, R, frequency, scale, threads, out):
    """out[m, p] = grid at scale * R[m] (ix, iy, 0), [M, P, 2]; every point must lie inside the grid."""
    M, P = out.shape[0], out.shape[1]
    value = np.empty((2, RUN), np.float32)
    start, cell, place, corner = _buffers()
    for m in range(thread * M // threads, (thread + 1) * M // threads):
        axes = _axes(R[m], scale)
        for first in range(0, P, RUN):
            n = min(RUN, P - first)
            i, j = frequency[0, first : first + n], frequency[1, first : first + n]
            _locate(axes, i, j, side, start, cell, place)
            _read(grid, side, start, n, corner)
            for k in range(n):
                value[0, k], value[1, k] = _value(place, corner, k)
            into = out[m, first : first + n]
            for k in range(n):
                into[k, 0], into[k, 1] = value[0, k], value[1, k]


@threaded
def normal_equations(
    thread, grid, side, observed, ctf, precision, group, image, R, t, frequency, index, step, scale, threads, product
):
    """Weighted products of the derivatives, the residual and the model of poses, product [C, 7, 7].

    With the columns A = (dX / d omega, dX / dt, Y - X, X), real and imaginary parts stacked, and w = `precision`
    (Hermitian weight over variance), this is A^T w A; the residual's square and the products of X with its derivatives
    are left at 0. The rotation vector omega (radians) acts on the image's side, R <- R exp[omega]; t is in angstrom.
    """
    C, P = image.shape[0], index.shape[0]
    ramp, moved = _empty_ramp(index), np.empty((2, RUN), np.float32)
    start, cell, place, corner = _buffers()
    s, q = np.float32(scale), np.float32(TWO_PI * step)
    for c in range(thread * C // threads, (thread + 1) * C // threads):
        b = image[c]
        g = group[b]
        _fill_ramp(ramp, t[c], step)
        grid_axes, axes, third = _axes(R[c], scale), _axes(R[c], ONE), _third_axis(R[c])
        total = strength = np.float32(0)
        g0 = g1 = g2 = g3 = g4 = np.float32(0)
        h00 = h01 = h02 = h03 = h04 = h11 = h12 = h13 = h14 = np.float32(0)
        h22 = h23 = h24 = h33 = h34 = h44 = np.float32(0)
        for first in range(0, P, RUN):
            n = min(RUN, P - first)
            i, j = frequency[0, first : first + n], frequency[1, first : first + n]
            f, w = ctf[b, first : first + n], precision[g, first : first + n]
            _locate(grid_axes, i, j, side, start, cell, place)
            _read(grid, side, start, n, corner)
            _move_back(observed[b], ramp, index, first, n, moved)
            for k in range(n):
                vr, vi, gxr, gxi, gyr, gyi, gzr, gzi = _value_and_gradient(place, corner, k)
                turned = _in_image_frame(axes, third, (gxr, gxi, gyr, gyi, gzr, gzi))
                yr, yi = moved[0, k], moved[1, k]
                mr, mi = f[k] * vr, f[k] * vi
                a, e = f[k] * s * i[k], f[k] * s * j[k]
                x0, x1, x2, y0, y1, y2 = _turns(turned, a, e)
                ka, ke = q * i[k], q * j[k]
                x3, x4, y3, y4 = ka * mi, ke * mi, -ka * mr, -ke * mr
                rr, ri = w[k] * (yr - mr), w[k] * (yi - mi)
                strength += w[k] * (mr * mr + mi * mi)
                total += rr * mr + ri * mi
                g0 += x0 * rr + y0 * ri
                g1 += x1 * rr + y1 * ri
                g2 += x2 * rr + y2 * ri
                g3 += x3 * rr + y3 * ri
                g4 += x4 * rr + y4 * ri
                h00 += w[k] * (x0 * x0 + y0 * y0)
                h01 += w[k] * (x0 * x1 + y0 * y1)
                h02 += w[k] * (x0 * x2 + y0 * y2)
                h03 += w[k] * (x0 * x3 + y0 * y3)
                h04 += w[k] * (x0 * x4 + y0 * y4)
                h11 += w[k] * (x1 * x1 + y1 * y1)
                h12 += w[k] * (x1 * x2 + y1 * y2)
                h13 += w[k] * (x1 * x3 + y1 * y3)
                h14 += w[k] * (x1 * x4 + y1 * y4)
                h22 += w[k] * (x2 * x2 + y2 * y2)
                h23 += w[k] * (x2 * x3 + y2 * y3)
                h24 += w[k] * (x2 * x4 + y2 * y4)
                h33 += w[k] * (x3 * x3 + y3 * y3)
                h34 += w[k] * (x3 * x4 + y3 * y4)
                h44 += w[k] * (x4 * x4 + y4 * y4)
        zero = np.float32(0)
        upper = (h00, h01, h02, h03, h04, g0, zero, h11, h12, h13, h14, g1, zero, h22, h23, h24, g2, zero)
        rest = (h33, h34, g3, zero, h44, g4, zero, zero, total, strength)
        _fill_symmetric(product[c], upper + rest)


@threaded
def add_turns(thread, grid, side, weight, R, frequency, scale, threads, out):
    """out[m, i, p] += weight[m] d V(scale * R[m] (ix, iy, 0)) / d omega_i, R[m] <- R[m] exp[omega] in radians.

    out: [N, 3, P, 2].
    """
    N, P = R.shape[0], frequency.shape[1]
    start, cell, place, corner = _buffers()
    s = np.float32(scale)
    for m in range(thread * N // threads, (thread + 1) * N // threads):
        grid_axes, axes, third = _axes(R[m], scale), _axes(R[m], ONE), _third_axis(R[m])
        w = weight[m] * s
        for first in range(0, P, RUN):
            n = min(RUN, P - first)
            i, j = frequency[0, first : first + n], frequency[1, first : first + n]
            _locate(grid_axes, i, j, side, start, cell, place)
            _read(grid, side, start, n, corner)
            about_x, about_y, about_z = (
                out[m, 0, first : first + n],
                out[m, 1, first : first + n],
                out[m, 2, first : first + n],
            )
            for k in range(n):
                _, _, gxr, gxi, gyr, gyi, gzr, gzi = _value_and_gradient(place, corner, k)
                turned = _in_image_frame(axes, third, (gxr, gxi, gyr, gyi, gzr, gzi))
                x0, x1, x2, y0, y1, y2 = _turns(turned, w * i[k], w * j[k])
                about_x[k, 0] += x0
                about_x[k, 1] += y0
                about_y[k, 0] += x1
                about_y[k, 1] += y1
                about_z[k, 0] += x2
                about_z[k, 1] += y2


@threaded
def residual_power(
    thread,
    grid,
    side,
    observed,
    ctf,
    group,
    image,
    R,
    t,
    weight,
    frequency,
    index,
    hermitian,
    shell,
    step,
    scale,
    threads,
    power,
    total,
):
    """Sum of weight * hermitian * |Y - C e^{-2 pi i k.t} V|^2 by thread, group and shell, and the sum of the weights.

    power, total: [threads, G, S] float64, accumulated into.
    """
    C, P = image.shape[0], index.shape[0]
    ramp, moved, squared = _empty_ramp(index), np.empty((2, RUN), np.float32), np.empty(RUN, np.float32)
    start, cell, place, corner = _buffers()
    for c in range(thread * C // threads, (thread + 1) * C // threads):
        if weight[c] == 0:
            continue
        b = image[c]
        g = group[b]
        _fill_ramp(ramp, t[c], step)
        axes = _axes(R[c], scale)
        for first in range(0, P, RUN):
            n = min(RUN, P - first)
            i, j = frequency[0, first : first + n], frequency[1, first : first + n]
            f = ctf[b, first : first + n]
            _locate(axes, i, j, side, start, cell, place)
            _read(grid, side, start, n, corner)
            _move_back(observed[b], ramp, index, first, n, moved)
            for k in range(n):
                vr, vi = _value(place, corner, k)
                yr, yi = moved[0, k], moved[1, k]
                rr, ri = yr - f[k] * vr, yi - f[k] * vi
                squared[k] = rr * rr + ri * ri
            for k in range(n):
                h = weight[c] * hermitian[first + k]
                power[thread, g, shell[first + k]] += h * squared[k]
                total[thread, g, shell[first + k]] += h


@njit(**HELPER)
def _steps_within(first, step, low, high, n):
    """Range of the k < n with low <= first + k * step <= high, at most one wider at each end than rounding asks for."""
    if abs(step) < 1e-6:
        return (0, n) if low - ONE <= first <= high + ONE else (0, 0)
    a, b = (low - first) / step, (high - first) / step
    if a > b:
        a, b = b, a
    if b < -ONE or a > n:
        return 0, 0
    return max(0, np.int64(max(a, -ONE)) - 1), min(n, np.int64(min(b, np.float32(n))) + 2)


@njit(**HELPER)
def _in_slab(axes, axis, i, j, side, low, high, n):
    """Two ranges, which do not overlap, that hold those of n points along i with a corner in low <= line < high.

    Points with x < 0 are read at their mates, so both the slab and its mirror image count.
    """
    (first, step_i), half = (axes[2 - axis][0] * i + axes[2 - axis][1] * j, axes[2 - axis][0]), np.float32(side // 2)
    bottom, top = np.float32(low - 1) - half, np.float32(high) - half
    a, b = _steps_within(first, step_i, bottom, top, n)
    c, d = _steps_within(first, step_i, -top, -bottom, n)
    if a == b:
        return c, d, 0, 0
    if c == d:
        return a, b, 0, 0
    if a <= d and c <= b:
        return min(a, c), max(b, d), 0, 0
    return (a, b, c, d) if a < c else (c, d, a, b)


@njit(**HELPER)
def _gather(y, f, w, order, n, value):
    """value [3, RUN]: real and imaginary part of w C Y, and w C^2, of n points of an image."""
    for k in range(n):
        p = order[k]
        wc = w[p] * f[p]
        value[0, k], value[1, k], value[2, k] = wc * y[p, 0], wc * y[p, 1], wc * f[p]


@njit(**HELPER)
def _moved_line(value, ramp, i, j, weight, n, line):
    """line [3, RUN]: weight times n values along i, moved back by e^{+2 pi i k.t}."""
    cx, sx, cy, sy = ramp
    first, at = np.int64(i), cx.shape[0] - 1 + np.int64(j)
    c, s = weight * cy[at], weight * sy[at]
    for k in range(n):
        er, ei = cx[first + k] * c - sx[first + k] * s, cx[first + k] * s + sx[first + k] * c
        a, b = value[0, k], value[1, k]
        line[0, k], line[1, k], line[2, k] = a * er - b * ei, a * ei + b * er, weight * value[2, k]


@njit(**HELPER)
def _add_line(sums, at, weight, line, k):
    into, what = sums[at : at + 8], line[8 * k : 8 * k + 8]  # indices from zero: the compiler vectorises no other loop
    for e in range(8):
        into[e] += weight * what[e]


@threaded
def insert(
    thread,
    observed,
    ctf,
    precision,
    group,
    image,
    R,
    t,
    weight,
    bundles,
    index,
    order,
    frequency,
    runs,
    step,
    scale,
    axis,
    bounds,
    threads,
    side,
    sums,
):
    """Add samples to a grid whose cells hold num (real, imaginary part), den and nothing, flat [M * M * H * 4].

    Sample c puts image[c] at pose (R[c], t[c]) with weight[c]: num += w C Y e^{+2 pi i k.t}, den += w C^2 with
    w = weight * precision / 2. Samples bundles[i] .. bundles[i + 1] - 1, at most `BUNDLE` of one image, are added run
    by run in turn: at poses that are nearly alike they fill the same cells. Points are taken in runs along ix, of which
    runs [S, 2] has the first point and the number; `order` has their place among the image's coefficients. A thread
    adds what falls into its part of the grid, bounds[thread] <= line < bounds[thread + 1], along z (axis 0) or y (1).
    """
    H = side // 2 + 2
    row, plane = 4 * H, 4 * H * side
    low, high = bounds[thread], bounds[thread + 1]
    one = _empty_ramp(index)
    n = one[0].shape[0]
    cx, sx = np.empty((BUNDLE, n), np.float32), np.empty((BUNDLE, n), np.float32)
    cy, sy = np.empty((BUNDLE, 2 * n - 1), np.float32), np.empty((BUNDLE, 2 * n - 1), np.float32)
    start, cell, place, _ = _buffers()
    value, moved = np.empty((3, RUN), np.float32), np.empty((3, RUN), np.float32)
    line, ranges = np.zeros(RUN * 8, np.float32), np.empty((BUNDLE, 4), np.int64)
    for bundle in range(bundles.shape[0] - 1):
        head, tail = bundles[bundle], bundles[bundle + 1]
        b = image[head]
        g = group[b]
        for c in range(head, tail):
            _fill_ramp((cx[c - head], sx[c - head], cy[c - head], sy[c - head]), t[c], step)
        for s in range(runs.shape[0]):
            q, m = runs[s, 0], runs[s, 1]
            least, most = m, 0
            for c in range(head, tail):
                here = ranges[c - head]
                here[0], here[1], here[2], here[3] = 0, m, 0, 0
                if threads > 1:
                    axes = _axes(R[c], scale)
                    here[0], here[1], here[2], here[3] = _in_slab(
                        axes, axis, frequency[0, q], frequency[1, q], side, low, high, m
                    )
                for part in range(2):
                    if here[2 * part] < here[2 * part + 1]:
                        least, most = min(least, here[2 * part]), max(most, here[2 * part + 1])
            if least >= most:
                continue
            _gather(observed[b], ctf[b], precision[g], order[q + least : q + most], most - least, value)
            for c in range(head, tail):
                axes, here = _axes(R[c], scale), ranges[c - head]
                ramp = cx[c - head], sx[c - head], cy[c - head], sy[c - head]
                half_weight = np.float32(0.5) * weight[c]
                for part in range(2):
                    a, z = here[2 * part], here[2 * part + 1]
                    n = z - a
                    if n <= 0:
                        continue
                    i, j = frequency[0, q + a : q + z], frequency[1, q + a : q + z]
                    _locate(axes, i, j, side, start, cell, place)
                    _moved_line(value[:, a - least :], ramp, i[0], j[0], half_weight, n, moved)
                    for k in range(n):
                        vr, vi, d, fx = moved[0, k], place[0, k] * moved[1, k], moved[2, k], place[1, k]
                        gx, into = ONE - fx, line[8 * k : 8 * k + 8]
                        into[0], into[1], into[2] = gx * vr, gx * vi, gx * d
                        into[4], into[5], into[6] = fx * vr, fx * vi, fx * d
                    # apart from the loop before, whose stores would have to end before they can be read as one vector
                    for k in range(n):
                        fy, fz = place[2, k], place[3, k]
                        gy, gz = ONE - fy, ONE - fz
                        own, at = cell[axis, k], 4 * start[k]
                        lower, upper = low <= own < high, low <= own + 1 < high
                        if lower:
                            _add_line(sums, at, gz * gy, line, k)
                        if upper if axis else lower:
                            _add_line(sums, at + row, gz * fy, line, k)
                        if lower if axis else upper:
                            _add_line(sums, at + plane, fz * gy, line, k)
                        if upper:
                            _add_line(sums, at + plane + row, fz * fy, line, k)


@threaded
def insert_moments(
    thread,
    observed,
    ctf,
    precision,
    group,
    R,
    t,
    first,
    second,
    index,
    order,
    frequency,
    runs,
    step,
    scale,
    axis,
    bounds,
    threads,
    side,
    sums,
):
    """Accumulate images, each with Q first and T second moments, into half grids whose channels lie side by side.

    sums, flat [M * M * H * (2 Q + T)] float32: pairs of real and imaginary parts of w C Y e^{+2 pi i k.t} first[b],
    then w C^2 second[b]; w = precision / 2. Runs and parts of the grid: see `insert`.
    """
    B, H, Q, T = R.shape[0], side // 2 + 2, first.shape[1], second.shape[1]
    width = 2 * Q + T
    row, plane = width * H, width * H * side
    low, high = bounds[thread], bounds[thread + 1]
    ramp = _empty_ramp(index)
    start, cell, place, _ = _buffers()
    value, moved, line = np.empty((3, RUN), np.float32), np.empty((3, RUN), np.float32), np.zeros(width, np.float32)
    for b in range(B):
        g = group[b]
        _fill_ramp(ramp, t[b], step)
        axes = _axes(R[b], scale)
        for s in range(runs.shape[0]):
            q, m = runs[s, 0], runs[s, 1]
            one, last, two, end = 0, m, 0, 0
            if threads > 1:
                one, last, two, end = _in_slab(axes, axis, frequency[0, q], frequency[1, q], side, low, high, m)
            for part in range(2):
                a, z = (q + two, q + end) if part else (q + one, q + last)
                n = z - a
                if n <= 0:
                    continue
                _locate(axes, frequency[0, a:z], frequency[1, a:z], side, start, cell, place)
                _gather(observed[b], ctf[b], precision[g], order[a:z], n, value)
                _moved_line(value, ramp, frequency[0, a], frequency[1, a], np.float32(0.5), n, moved)
                for k in range(n):
                    vr, vi, d = moved[0, k], place[0, k] * moved[1, k], moved[2, k]
                    for i in range(Q):
                        line[2 * i], line[2 * i + 1] = vr * first[b, i], vi * first[b, i]
                    for i in range(T):
                        line[2 * Q + i] = d * second[b, i]
                    fx, fy, fz = place[1, k], place[2, k], place[3, k]
                    own = cell[axis, k]
                    lower, upper = low <= own < high, low <= own + 1 < high
                    for dz in range(2):
                        for dy in range(2):
                            if not (upper if (dy if axis else dz) else lower):
                                continue
                            u = (fz if dz else ONE - fz) * (fy if dy else ONE - fy)
                            for dx in range(2):
                                v = u * (fx if dx else ONE - fx)
                                here = width * (start[k] + dx) + dz * plane + dy * row
                                into = sums[here : here + width]  # from zero: the compiler vectorises no other loop
                                for e in range(width):
                                    into[e] += v * line[e]
