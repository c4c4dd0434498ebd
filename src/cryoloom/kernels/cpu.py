"""CPU kernels (numba) that read or fill a half grid: slices, insertion, normal equations, residual power.

Volumes are half grids: the x >= 0 part of a centred, padded transform, complex64 [M, M, M // 2 + 2] (z, y, x), zero
frequency at (M // 2, M // 2, 0), two guard columns at the end. A point with x < 0 is read at its Friedel mate.
Work is split into one contiguous chunk per thread, so results depend on the number of threads and nothing else.
Compiled helpers stay in the file of the kernels that use them: numba's cache does not see a change in another file.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoloom.kernels.jit import HELPER, threaded


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
def _point(axes, a, b):
    """Point of the slice at integer frequencies (a, b), grid pixels about the zero frequency."""
    x, y, z = axes
    return x[0] * a + x[1] * b, y[0] * a + y[1] * b, z[0] * a + z[1] * b


@njit(**HELPER)
def _locate(point, half):
    """Friedel sign, base indices and fractions of a point given in grid pixels about the zero frequency."""
    x, y, z = point
    sign = np.float32(1.0)
    if x < 0:
        x, y, z, sign = -x, -y, -z, np.float32(-1.0)
    y += half
    z += half
    # all are >= 0 inside the grid, so truncation is the floor; the last grid line, on which the rim of an odd box may
    # lie, belongs to the last cell: a cell beyond it would be out of bounds
    ix, iy, iz = np.int64(x), min(np.int64(y), 2 * half - 2), min(np.int64(z), 2 * half - 2)
    return sign, ix, iy, iz, np.float32(x - ix), np.float32(y - iy), np.float32(z - iz)


@njit(**HELPER)
def _value(grid, point, half):
    """Trilinear value at a point."""
    sign, ix, iy, iz, fx, fy, fz = _locate(point, half)
    v = np.complex64(0)
    for dz in range(2):
        wz = fz if dz else np.float32(1) - fz
        for dy in range(2):
            w = wz * (fy if dy else np.float32(1) - fy)
            row = grid[iz + dz, iy + dy]
            v += w * (row[ix] + fx * (row[ix + 1] - row[ix]))
    return np.complex64(complex(v.real, sign * v.imag))


@njit(**HELPER)
def _value_and_gradient(grid, point, half):
    """Trilinear value and its gradient with respect to (x, y, z) in grid pixels, as eight floats."""
    sign, ix, iy, iz, fx, fy, fz = _locate(point, half)
    a00, b00 = grid[iz, iy, ix], grid[iz, iy, ix + 1]
    a01, b01 = grid[iz, iy + 1, ix], grid[iz, iy + 1, ix + 1]
    a10, b10 = grid[iz + 1, iy, ix], grid[iz + 1, iy, ix + 1]
    a11, b11 = grid[iz + 1, iy + 1, ix], grid[iz + 1, iy + 1, ix + 1]
    d00, d01, d10, d11 = b00 - a00, b01 - a01, b10 - a10, b11 - a11
    c00, c01, c10, c11 = a00 + fx * d00, a01 + fx * d01, a10 + fx * d10, a11 + fx * d11
    e0, e1 = c00 + fy * (c01 - c00), c10 + fy * (c11 - c10)
    v = e0 + fz * (e1 - e0)
    h0, h1 = d00 + fy * (d01 - d00), d10 + fy * (d11 - d10)
    gx = h0 + fz * (h1 - h0)
    gy = (c01 - c00) + fz * ((c11 - c10) - (c01 - c00))
    gz = e1 - e0
    # the mate is conj V(-k): its gradient carries a minus sign on the real part only
    return (
        v.real,
        sign * v.imag,
        sign * gx.real,
        gx.imag,
        sign * gy.real,
        gy.imag,
        sign * gz.real,
        gz.imag,
    )


@njit(**HELPER)
def _in_image_frame(R, gradient):
    """R^T grad V: real and imaginary parts of its x, y and z."""
    gxr, gxi, gyr, gyi, gzr, gzi = gradient
    r00, r01, r02 = np.float32(R[0, 0]), np.float32(R[0, 1]), np.float32(R[0, 2])
    r10, r11, r12 = np.float32(R[1, 0]), np.float32(R[1, 1]), np.float32(R[1, 2])
    r20, r21, r22 = np.float32(R[2, 0]), np.float32(R[2, 1]), np.float32(R[2, 2])
    return (
        r00 * gxr + r10 * gyr + r20 * gzr,
        r00 * gxi + r10 * gyi + r20 * gzi,
        r01 * gxr + r11 * gyr + r21 * gzr,
        r01 * gxi + r11 * gyi + r21 * gzi,
        r02 * gxr + r12 * gyr + r22 * gzr,
        r02 * gxi + r12 * gyi + r22 * gzi,
    )


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
    for i in range(n + 1):
        a = 2 * math.pi * step * t[0] * i
        cx[i], sx[i] = math.cos(a), math.sin(a)
    for i in range(n + 1):
        a = 2 * math.pi * step * t[1] * i
        c, s = math.cos(a), math.sin(a)
        cy[n + i], sy[n + i] = c, s
        cy[n - i], sy[n - i] = c, -s


@njit(**HELPER)
def _moved_back(y, ramp, i, j):
    """Y e^{+2 pi i k.t}: the observation moved by -t, so that the model needs no ramp; real and imaginary part."""
    cx, sx, cy, sy = ramp
    n = cx.shape[0] - 1
    er = cx[i] * cy[n + j] - sx[i] * sy[n + j]
    ei = cx[i] * sy[n + j] + sx[i] * cy[n + j]
    return y.real * er - y.imag * ei, y.real * ei + y.imag * er


@threaded
def slices(thread, grid, R, index, scale, threads, out):
    """out[m, p] = grid at scale * R[m] (ix, iy, 0); every point must lie inside the grid."""
    half = grid.shape[0] // 2
    M, P = out.shape
    for m in range(thread * M // threads, (thread + 1) * M // threads):
        axes = _axes(R[m], scale)
        for p in range(P):
            out[m, p] = _value(grid, _point(axes, np.float32(index[p, 0]), np.float32(index[p, 1])), half)


@threaded
def insert(
    thread, observed, ctf, variance, group, image, R, t, weight, index, hermitian, step, scale, threads, num, den
):
    """Accumulate samples into per-thread half grids num [threads, ...] complex64 and den [threads, ...] float32.

    Sample c puts image[c] at pose (R[c], t[c]) with weight[c]: num += w C Y e^{+2 pi i k.t}, den += w C^2 with
    w = weight * hermitian / 2 / variance[group].
    """
    half = num.shape[1] // 2
    C, P = image.shape[0], index.shape[0]
    ramp = _empty_ramp(index)
    for c in range(thread * C // threads, (thread + 1) * C // threads):
        if weight[c] == 0:
            continue
        b = image[c]
        g = group[b]
        _fill_ramp(ramp, t[c], step)
        axes = _axes(R[c], scale)
        for p in range(P):
            i, j = index[p, 0], index[p, 1]
            w = np.float32(weight[c] * 0.5) * hermitian[p] / variance[g, p]
            wc = w * ctf[b, p]
            yr, yi = _moved_back(observed[b, p], ramp, i, j)
            d = wc * ctf[b, p]
            sign, ix, iy, iz, fx, fy, fz = _locate(_point(axes, np.float32(i), np.float32(j)), half)
            v = np.complex64(complex(wc * yr, sign * (wc * yi)))
            for dz in range(2):
                wz = fz if dz else np.float32(1) - fz
                for dy in range(2):
                    w1 = wz * (fy if dy else np.float32(1) - fy)
                    w0 = w1 * (np.float32(1) - fx)
                    w1 = w1 * fx
                    num[thread, iz + dz, iy + dy, ix] += w0 * v
                    num[thread, iz + dz, iy + dy, ix + 1] += w1 * v
                    den[thread, iz + dz, iy + dy, ix] += w0 * d
                    den[thread, iz + dz, iy + dy, ix + 1] += w1 * d


@threaded
def insert_moments(
    thread, observed, ctf, variance, group, R, t, first, second, index, hermitian, step, scale, threads, sums
):
    """Accumulate images, each with Q first and T second moments, into half grids whose channels lie side by side.

    sums [threads, M, M, H, 2 Q + T] float32: pairs of real and imaginary parts of w C Y e^{+2 pi i k.t} first[b],
    then w C^2 second[b]; w = hermitian / 2 / variance[group].
    """
    side, width = sums.shape[1], sums.shape[4]
    half, row, plane = side // 2, sums.shape[3] * width, side * sums.shape[3] * width
    flat = sums[thread].reshape(-1)
    B, P, Q, T = R.shape[0], index.shape[0], first.shape[1], second.shape[1]
    ramp = _empty_ramp(index)
    line = np.zeros(width, np.float32)
    for b in range(thread * B // threads, (thread + 1) * B // threads):
        g = group[b]
        _fill_ramp(ramp, t[b], step)
        axes = _axes(R[b], scale)
        for p in range(P):
            i, j = index[p, 0], index[p, 1]
            wc = np.float32(0.5) * hermitian[p] / variance[g, p] * ctf[b, p]
            yr, yi = _moved_back(observed[b, p], ramp, i, j)
            d = wc * ctf[b, p]
            sign, ix, iy, iz, fx, fy, fz = _locate(_point(axes, np.float32(i), np.float32(j)), half)
            vr, vi = wc * yr, sign * (wc * yi)
            for q in range(Q):
                line[2 * q], line[2 * q + 1] = vr * first[b, q], vi * first[b, q]
            for q in range(T):
                line[2 * Q + q] = d * second[b, q]
            base = iz * plane + iy * row + ix * width
            for dz in range(2):
                wz = fz if dz else np.float32(1) - fz
                for dy in range(2):
                    wy = wz * (fy if dy else np.float32(1) - fy)
                    for dx in range(2):
                        w = wy * (fx if dx else np.float32(1) - fx)
                        start = base + dz * plane + dy * row + dx * width
                        into = flat[start : start + width]  # indices from zero: the compiler vectorises no other loop
                        for c in range(width):
                            into[c] += w * line[c]


@njit(**HELPER)
def _jacobian(gradient, model, wave, point):
    """Derivatives of C V with respect to omega and t: real and imaginary parts, five of each.

    d/d omega = k x R^T grad V with k = (a, e, 0); d/dt = -2 pi i k V. `gradient` is C R^T grad V, `model` C V, `point`
    (a, e) in grid pixels and `wave` 2 pi k in 1/angstrom.
    """
    axr, axi, ayr, ayi, azr, azi = gradient
    mr, mi = model
    ka, ke = wave
    a, e = point
    real = e * azr, -a * azr, a * ayr - e * axr, ka * mi, ke * mi
    imaginary = e * azi, -a * azi, a * ayi - e * axi, -ka * mr, -ke * mr
    return real, imaginary


@njit(**HELPER)
def _fill_symmetric(into, upper):
    """Fill a symmetric matrix from its upper triangle, which is given row by row."""
    n = 0
    for i in range(into.shape[0]):
        for j in range(i, into.shape[0]):
            into[i, j] = into[j, i] = upper[n]
            n += 1


@threaded
def normal_equations(
    thread, grid, observed, ctf, variance, group, image, R, t, index, hermitian, step, scale, threads, product
):
    """Weighted products of the derivatives, the residual and the model of poses, product [C, 7, 7].

    With the columns A = (dX / d omega, dX / dt, Y - X, X), real and imaginary parts stacked, and
    w = hermitian / variance, this is A^T w A; the residual's square and the products of X with its derivatives are left
    at 0. The rotation vector omega (radians) acts on the image's side, R <- R exp[omega]; t is in angstrom.
    """
    half = grid.shape[0] // 2
    C, P = image.shape[0], index.shape[0]
    ramp = _empty_ramp(index)
    s, q = np.float32(scale), np.float32(2 * math.pi * step)
    for c in range(thread * C // threads, (thread + 1) * C // threads):
        b = image[c]
        g = group[b]
        _fill_ramp(ramp, t[c], step)
        axes = _axes(R[c], np.float32(1))
        total = strength = np.float32(0)
        g0 = g1 = g2 = g3 = g4 = np.float32(0)
        h00 = h01 = h02 = h03 = h04 = h11 = h12 = h13 = h14 = np.float32(0)
        h22 = h23 = h24 = h33 = h34 = h44 = np.float32(0)
        for p in range(P):
            i, j = index[p, 0], index[p, 1]
            a, e = np.float32(i) * s, np.float32(j) * s
            vr, vi, gxr, gxi, gyr, gyi, gzr, gzi = _value_and_gradient(grid, _point(axes, a, e), half)
            f = ctf[b, p]
            w = hermitian[p] / variance[g, p]
            yr, yi = _moved_back(observed[b, p], ramp, i, j)
            mr, mi = f * vr, f * vi
            gradient = _in_image_frame(R[c], (f * gxr, f * gxi, f * gyr, f * gyi, f * gzr, f * gzi))
            x, y = _jacobian(gradient, (mr, mi), (q * np.float32(i), q * np.float32(j)), (a, e))
            rr, ri = w * (yr - mr), w * (yi - mi)
            strength += w * (mr * mr + mi * mi)
            total += rr * mr + ri * mi
            g0 += x[0] * rr + y[0] * ri
            g1 += x[1] * rr + y[1] * ri
            g2 += x[2] * rr + y[2] * ri
            g3 += x[3] * rr + y[3] * ri
            g4 += x[4] * rr + y[4] * ri
            h00 += w * (x[0] * x[0] + y[0] * y[0])
            h01 += w * (x[0] * x[1] + y[0] * y[1])
            h02 += w * (x[0] * x[2] + y[0] * y[2])
            h03 += w * (x[0] * x[3] + y[0] * y[3])
            h04 += w * (x[0] * x[4] + y[0] * y[4])
            h11 += w * (x[1] * x[1] + y[1] * y[1])
            h12 += w * (x[1] * x[2] + y[1] * y[2])
            h13 += w * (x[1] * x[3] + y[1] * y[3])
            h14 += w * (x[1] * x[4] + y[1] * y[4])
            h22 += w * (x[2] * x[2] + y[2] * y[2])
            h23 += w * (x[2] * x[3] + y[2] * y[3])
            h24 += w * (x[2] * x[4] + y[2] * y[4])
            h33 += w * (x[3] * x[3] + y[3] * y[3])
            h34 += w * (x[3] * x[4] + y[3] * y[4])
            h44 += w * (x[4] * x[4] + y[4] * y[4])
        zero = np.float32(0)
        upper = (h00, h01, h02, h03, h04, g0, zero, h11, h12, h13, h14, g1, zero, h22, h23, h24, g2, zero)
        rest = (h33, h34, g3, zero, h44, g4, zero, zero, total, strength)
        _fill_symmetric(product[c], upper + rest)


@threaded
def add_turns(thread, grid, weight, R, index, scale, threads, out):
    """out[m, i, p] += weight[m] d V(scale * R[m] (ix, iy, 0)) / d omega_i, R[m] <- R[m] exp[omega] in radians."""
    half = grid.shape[0] // 2
    N, P = R.shape[0], index.shape[0]
    s = np.float32(scale)
    for m in range(thread * N // threads, (thread + 1) * N // threads):
        axes = _axes(R[m], np.float32(1))
        w = weight[m]
        for p in range(P):
            a, e = np.float32(index[p, 0]) * s, np.float32(index[p, 1]) * s
            _, _, gxr, gxi, gyr, gyi, gzr, gzi = _value_and_gradient(grid, _point(axes, a, e), half)
            # d/d omega = k x R^T grad V with k = (a, e, 0)
            axr, axi, ayr, ayi, azr, azi = _in_image_frame(R[m], (gxr, gxi, gyr, gyi, gzr, gzi))
            out[m, 0, p] += np.complex64(complex(w * e * azr, w * e * azi))
            out[m, 1, p] -= np.complex64(complex(w * a * azr, w * a * azi))
            out[m, 2, p] += np.complex64(complex(w * (a * ayr - e * axr), w * (a * ayi - e * axi)))


@threaded
def residual_power(
    thread, grid, observed, ctf, group, image, R, t, weight, index, hermitian, shell, step, scale, threads, power, total
):
    """Sum of weight * hermitian * |Y - C e^{-2 pi i k.t} V|^2 by thread, group and shell, and the sum of the weights.

    power, total: [threads, G, S] float64, accumulated into.
    """
    half = grid.shape[0] // 2
    C, P = image.shape[0], index.shape[0]
    ramp = _empty_ramp(index)
    for c in range(thread * C // threads, (thread + 1) * C // threads):
        if weight[c] == 0:
            continue
        b = image[c]
        g = group[b]
        _fill_ramp(ramp, t[c], step)
        axes = _axes(R[c], scale)
        for p in range(P):
            i, j = index[p, 0], index[p, 1]
            v = _value(grid, _point(axes, np.float32(i), np.float32(j)), half)
            yr, yi = _moved_back(observed[b, p], ramp, i, j)
            rr, ri = yr - ctf[b, p] * v.real, yi - ctf[b, p] * v.imag
            h = weight[c] * hermitian[p]
            power[thread, g, shell[p]] += h * (rr * rr + ri * ri)
            total[thread, g, shell[p]] += h
