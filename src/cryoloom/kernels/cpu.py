"""Fused CPU kernels (numba): slices, insertion, normal equations, residual power, and the posterior over a grid.

Volumes are half grids: the x >= 0 part of a centred, padded transform, complex64 [M, M, M // 2 + 2] (z, y, x), zero
frequency at (M // 2, M // 2, 0), two guard columns at the end. A point with x < 0 is read at its Friedel mate.
Work is split into one contiguous chunk a thread, so results depend on the number of threads and nothing else.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit

FAST: dict[str, Any] = dict(cache=True, fastmath=True, nogil=True, error_model="numpy")


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "cryoloom-kernel")


def threaded(kernel: Callable[..., None]) -> Callable[..., None]:
    """Compile a kernel f(thread, ..., threads, ...) and run it once for each thread.

    Plain threads on kernels that release the lock: numba's own parallel loops take four times as long to compile, and
    their pool would stand beside torch's.
    """
    compiled = njit(**FAST)(kernel)
    names = list(inspect.signature(kernel).parameters)[1:]
    place = names.index("threads")

    @functools.wraps(kernel)
    def run(*args, **named) -> None:
        args = (*args, *(named[name] for name in names[len(args) :]))
        threads = args[place]
        if threads == 1:
            compiled(0, *args)
            return
        for done in [_pool(threads).submit(compiled, thread, *args) for thread in range(threads)]:
            done.result()

    return run


@njit(**FAST)
def _locate(x, y, z, half):
    """Friedel sign, base indices and fractions of a point given in grid pixels about the zero frequency."""
    sign = np.float32(1.0)
    if x < 0:
        x, y, z, sign = -x, -y, -z, np.float32(-1.0)
    y += half
    z += half
    # all are >= 0 inside the grid, so truncation is the floor; the last grid line, on which the rim of an odd box may
    # lie, belongs to the last cell: beyond it the memory is another's
    ix, iy, iz = np.int64(x), min(np.int64(y), 2 * half - 2), min(np.int64(z), 2 * half - 2)
    return sign, ix, iy, iz, np.float32(x - ix), np.float32(y - iy), np.float32(z - iz)


@threaded
def slices(thread, grid, R, index, scale, threads, out):
    """out[m, p] = grid at scale * R[m] (ix, iy, 0); every point must lie inside the grid."""
    half = grid.shape[0] // 2
    M, P = out.shape
    for m in range(thread * M // threads, (thread + 1) * M // threads):
        xx, xy = np.float32(R[m, 0, 0] * scale), np.float32(R[m, 0, 1] * scale)
        yx, yy = np.float32(R[m, 1, 0] * scale), np.float32(R[m, 1, 1] * scale)
        zx, zy = np.float32(R[m, 2, 0] * scale), np.float32(R[m, 2, 1] * scale)
        for p in range(P):
            a, b = np.float32(index[p, 0]), np.float32(index[p, 1])
            sign, ix, iy, iz, fx, fy, fz = _locate(xx * a + xy * b, yx * a + yy * b, zx * a + zy * b, half)
            v = np.complex64(0)
            for dz in range(2):
                wz = fz if dz else np.float32(1) - fz
                for dy in range(2):
                    w = wz * (fy if dy else np.float32(1) - fy)
                    row = grid[iz + dz, iy + dy]
                    v += w * (row[ix] + fx * (row[ix + 1] - row[ix]))
            out[m, p] = np.complex64(complex(v.real, sign * v.imag))


@njit(**FAST)
def _ramps(tx, ty, n, step, cx, sx, cy, sy):
    """Tables of cos and sin of 2 pi step (t_x ix) for ix = 0..n and 2 pi step (t_y iy) for iy = -n..n."""
    for i in range(n + 1):
        a = 2 * math.pi * step * tx * i
        cx[i], sx[i] = math.cos(a), math.sin(a)
    for i in range(n + 1):
        a = 2 * math.pi * step * ty * i
        c, s = math.cos(a), math.sin(a)
        cy[n + i], sy[n + i] = c, s
        cy[n - i], sy[n - i] = c, -s


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
    n = 0
    for p in range(P):
        n = max(n, abs(index[p, 0]), abs(index[p, 1]))
    cx, sx = np.empty(n + 1, np.float32), np.empty(n + 1, np.float32)
    cy, sy = np.empty(2 * n + 1, np.float32), np.empty(2 * n + 1, np.float32)
    for c in range(thread * C // threads, (thread + 1) * C // threads):
        if weight[c] == 0:
            continue
        b = image[c]
        g = group[b]
        _ramps(t[c, 0], t[c, 1], n=n, step=step, cx=cx, sx=sx, cy=cy, sy=sy)
        xx, xy = np.float32(R[c, 0, 0] * scale), np.float32(R[c, 0, 1] * scale)
        yx, yy = np.float32(R[c, 1, 0] * scale), np.float32(R[c, 1, 1] * scale)
        zx, zy = np.float32(R[c, 2, 0] * scale), np.float32(R[c, 2, 1] * scale)
        for p in range(P):
            i, j = index[p, 0], index[p, 1]
            w = np.float32(weight[c] * 0.5) * hermitian[p] / variance[g, p]
            wc = w * ctf[b, p]
            er = cx[i] * cy[n + j] - sx[i] * sy[n + j]
            ei = cx[i] * sy[n + j] + sx[i] * cy[n + j]
            y = observed[b, p]
            vr = wc * (y.real * er - y.imag * ei)
            vi = wc * (y.real * ei + y.imag * er)
            d = wc * ctf[b, p]
            a, e = np.float32(i), np.float32(j)
            sign, ix, iy, iz, fx, fy, fz = _locate(xx * a + xy * e, yx * a + yy * e, zx * a + zy * e, half)
            v = np.complex64(complex(vr, sign * vi))
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
    n = 0
    for p in range(P):
        n = max(n, abs(index[p, 0]), abs(index[p, 1]))
    cx, sx = np.empty(n + 1, np.float32), np.empty(n + 1, np.float32)
    cy, sy = np.empty(2 * n + 1, np.float32), np.empty(2 * n + 1, np.float32)
    line = np.zeros(width, np.float32)
    for b in range(thread * B // threads, (thread + 1) * B // threads):
        g = group[b]
        _ramps(t[b, 0], t[b, 1], n=n, step=step, cx=cx, sx=sx, cy=cy, sy=sy)
        xx, xy = np.float32(R[b, 0, 0] * scale), np.float32(R[b, 0, 1] * scale)
        yx, yy = np.float32(R[b, 1, 0] * scale), np.float32(R[b, 1, 1] * scale)
        zx, zy = np.float32(R[b, 2, 0] * scale), np.float32(R[b, 2, 1] * scale)
        for p in range(P):
            i, j = index[p, 0], index[p, 1]
            wc = np.float32(0.5) * hermitian[p] / variance[g, p] * ctf[b, p]
            er = cx[i] * cy[n + j] - sx[i] * sy[n + j]
            ei = cx[i] * sy[n + j] + sx[i] * cy[n + j]
            y = observed[b, p]
            vr = wc * (y.real * er - y.imag * ei)
            vi = wc * (y.real * ei + y.imag * er)
            d = wc * ctf[b, p]
            a, e = np.float32(i), np.float32(j)
            sign, ix, iy, iz, fx, fy, fz = _locate(xx * a + xy * e, yx * a + yy * e, zx * a + zy * e, half)
            vi *= sign
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
                        into = flat[start : start + width]  # a view from zero: the compiler vectorises no other loop
                        for c in range(width):
                            into[c] += w * line[c]


@njit(**FAST)
def _value_and_gradient(grid, x, y, z, half):
    """Trilinear value and its gradient with respect to (x, y, z) in grid pixels, as eight floats."""
    sign, ix, iy, iz, fx, fy, fz = _locate(x, y, z, half)
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


@threaded
def normal_equations(
    thread,
    grid,
    observed,
    ctf,
    variance,
    group,
    image,
    R,
    t,
    index,
    hermitian,
    step,
    scale,
    threads,
    score,
    gradient,
    hessian,
    power,
):
    """Log-likelihood, gradient [C, 5] and Gauss-Newton matrix [C, 5, 5] of poses (rotation vector, shift).

    The rotation vector omega (radians) acts on the image's side, R <- R exp[omega]; t is in angstrom. `score` is
    sum w (Re Y conj X - |X|^2 / 2) with w = hermitian / variance: the log-likelihood up to a constant of the image.
    `power` is sum w |X|^2.
    """
    half = grid.shape[0] // 2
    C, P = image.shape[0], index.shape[0]
    n = 0
    for p in range(P):
        n = max(n, abs(index[p, 0]), abs(index[p, 1]))
    cx, sx = np.empty(n + 1, np.float32), np.empty(n + 1, np.float32)
    cy, sy = np.empty(2 * n + 1, np.float32), np.empty(2 * n + 1, np.float32)
    for c in range(thread * C // threads, (thread + 1) * C // threads):
        b = image[c]
        g = group[b]
        _ramps(t[c, 0], t[c, 1], n=n, step=step, cx=cx, sx=sx, cy=cy, sy=sy)
        r00, r01, r02 = np.float32(R[c, 0, 0]), np.float32(R[c, 0, 1]), np.float32(R[c, 0, 2])
        r10, r11, r12 = np.float32(R[c, 1, 0]), np.float32(R[c, 1, 1]), np.float32(R[c, 1, 2])
        r20, r21, r22 = np.float32(R[c, 2, 0]), np.float32(R[c, 2, 1]), np.float32(R[c, 2, 2])
        s = np.float32(scale)
        q = np.float32(2 * math.pi * step)
        total = strength = np.float32(0)
        g0 = g1 = g2 = g3 = g4 = np.float32(0)
        h00 = h01 = h02 = h03 = h04 = h11 = h12 = h13 = h14 = np.float32(0)
        h22 = h23 = h24 = h33 = h34 = h44 = np.float32(0)
        for p in range(P):
            i, j = index[p, 0], index[p, 1]
            a, e = np.float32(i) * s, np.float32(j) * s
            vr, vi, gxr, gxi, gyr, gyi, gzr, gzi = _value_and_gradient(
                grid, r00 * a + r01 * e, r10 * a + r11 * e, r20 * a + r21 * e, half
            )
            # gradient in the image's frame: R^T grad V
            axr, axi = r00 * gxr + r10 * gyr + r20 * gzr, r00 * gxi + r10 * gyi + r20 * gzi
            ayr, ayi = r01 * gxr + r11 * gyr + r21 * gzr, r01 * gxi + r11 * gyi + r21 * gzi
            azr, azi = r02 * gxr + r12 * gyr + r22 * gzr, r02 * gxi + r12 * gyi + r22 * gzi
            ctf_p = ctf[b, p]
            w = hermitian[p] / variance[g, p]
            # the observation moved back by t, so that the model needs no ramp
            er = cx[i] * cy[n + j] - sx[i] * sy[n + j]
            ei = cx[i] * sy[n + j] + sx[i] * cy[n + j]
            y = observed[b, p]
            yr, yi = y.real * er - y.imag * ei, y.real * ei + y.imag * er
            mr, mi = ctf_p * vr, ctf_p * vi
            strength += w * (mr * mr + mi * mi)
            total += w * (yr * mr + yi * mi)
            # d/d omega = k x R^T grad V with k = (a, e, 0); d/dt = -2 pi i k V
            j0r, j0i = ctf_p * e * azr, ctf_p * e * azi
            j1r, j1i = -ctf_p * a * azr, -ctf_p * a * azi
            j2r, j2i = ctf_p * (a * ayr - e * axr), ctf_p * (a * ayi - e * axi)
            ka, ke = q * np.float32(i), q * np.float32(j)
            j3r, j3i = ka * mi, -ka * mr
            j4r, j4i = ke * mi, -ke * mr
            rr, ri = w * (yr - mr), w * (yi - mi)
            g0 += j0r * rr + j0i * ri
            g1 += j1r * rr + j1i * ri
            g2 += j2r * rr + j2i * ri
            g3 += j3r * rr + j3i * ri
            g4 += j4r * rr + j4i * ri
            h00 += w * (j0r * j0r + j0i * j0i)
            h01 += w * (j0r * j1r + j0i * j1i)
            h02 += w * (j0r * j2r + j0i * j2i)
            h03 += w * (j0r * j3r + j0i * j3i)
            h04 += w * (j0r * j4r + j0i * j4i)
            h11 += w * (j1r * j1r + j1i * j1i)
            h12 += w * (j1r * j2r + j1i * j2i)
            h13 += w * (j1r * j3r + j1i * j3i)
            h14 += w * (j1r * j4r + j1i * j4i)
            h22 += w * (j2r * j2r + j2i * j2i)
            h23 += w * (j2r * j3r + j2i * j3i)
            h24 += w * (j2r * j4r + j2i * j4i)
            h33 += w * (j3r * j3r + j3i * j3i)
            h34 += w * (j3r * j4r + j3i * j4i)
            h44 += w * (j4r * j4r + j4i * j4i)
        score[c] = total - np.float32(0.5) * strength
        power[c] = strength
        gradient[c, 0], gradient[c, 1], gradient[c, 2], gradient[c, 3], gradient[c, 4] = g0, g1, g2, g3, g4
        H = hessian[c]
        H[0, 0], H[0, 1], H[0, 2], H[0, 3], H[0, 4] = h00, h01, h02, h03, h04
        H[1, 1], H[1, 2], H[1, 3], H[1, 4] = h11, h12, h13, h14
        H[2, 2], H[2, 3], H[2, 4] = h22, h23, h24
        H[3, 3], H[3, 4], H[4, 4] = h33, h34, h44
        for i in range(5):
            for j in range(i):
                H[i, j] = H[j, i]


@threaded
def add_turns(thread, grid, weight, R, index, scale, threads, out):
    """out[m, i, p] += weight[m] d V(scale * R[m] (ix, iy, 0)) / d omega_i, R[m] <- R[m] exp[omega] in radians."""
    half = grid.shape[0] // 2
    N, P = R.shape[0], index.shape[0]
    s = np.float32(scale)
    for m in range(thread * N // threads, (thread + 1) * N // threads):
        r00, r01, r02 = np.float32(R[m, 0, 0]), np.float32(R[m, 0, 1]), np.float32(R[m, 0, 2])
        r10, r11, r12 = np.float32(R[m, 1, 0]), np.float32(R[m, 1, 1]), np.float32(R[m, 1, 2])
        r20, r21, r22 = np.float32(R[m, 2, 0]), np.float32(R[m, 2, 1]), np.float32(R[m, 2, 2])
        w = weight[m]
        for p in range(P):
            a, e = np.float32(index[p, 0]) * s, np.float32(index[p, 1]) * s
            _, _, gxr, gxi, gyr, gyi, gzr, gzi = _value_and_gradient(
                grid, r00 * a + r01 * e, r10 * a + r11 * e, r20 * a + r21 * e, half
            )
            # gradient in the image's frame: R^T grad V; d/d omega = k x R^T grad V with k = (a, e, 0)
            x = np.complex64(complex(r00 * gxr + r10 * gyr + r20 * gzr, r00 * gxi + r10 * gyi + r20 * gzi))
            y = np.complex64(complex(r01 * gxr + r11 * gyr + r21 * gzr, r01 * gxi + r11 * gyi + r21 * gzi))
            z = np.complex64(complex(r02 * gxr + r12 * gyr + r22 * gzr, r02 * gxi + r12 * gyi + r22 * gzi))
            out[m, 0, p] += w * e * z
            out[m, 1, p] -= w * a * z
            out[m, 2, p] += w * (a * y - e * x)


@threaded
def residual_power(
    thread, grid, observed, ctf, group, image, R, t, weight, index, hermitian, shell, step, scale, threads, power, total
):
    """Sum of weight * hermitian * |Y - C e^{-2 pi i k.t} V|^2 by thread, group and shell, and the sum of the weights.

    power, total: [threads, G, S] float64, accumulated into.
    """
    half = grid.shape[0] // 2
    C, P = image.shape[0], index.shape[0]
    n = 0
    for p in range(P):
        n = max(n, abs(index[p, 0]), abs(index[p, 1]))
    cx, sx = np.empty(n + 1, np.float32), np.empty(n + 1, np.float32)
    cy, sy = np.empty(2 * n + 1, np.float32), np.empty(2 * n + 1, np.float32)
    for c in range(thread * C // threads, (thread + 1) * C // threads):
        if weight[c] == 0:
            continue
        b = image[c]
        g = group[b]
        _ramps(t[c, 0], t[c, 1], n=n, step=step, cx=cx, sx=sx, cy=cy, sy=sy)
        xx, xy = np.float32(R[c, 0, 0] * scale), np.float32(R[c, 0, 1] * scale)
        yx, yy = np.float32(R[c, 1, 0] * scale), np.float32(R[c, 1, 1] * scale)
        zx, zy = np.float32(R[c, 2, 0] * scale), np.float32(R[c, 2, 1] * scale)
        for p in range(P):
            i, j = index[p, 0], index[p, 1]
            a, e = np.float32(i), np.float32(j)
            sign, ix, iy, iz, fx, fy, fz = _locate(xx * a + xy * e, yx * a + yy * e, zx * a + zy * e, half)
            v = np.complex64(0)
            for dz in range(2):
                wz = fz if dz else np.float32(1) - fz
                for dy in range(2):
                    w = wz * (fy if dy else np.float32(1) - fy)
                    row = grid[iz + dz, iy + dy]
                    v += w * (row[ix] + fx * (row[ix + 1] - row[ix]))
            er = cx[i] * cy[n + j] - sx[i] * sy[n + j]
            ei = cx[i] * sy[n + j] + sx[i] * cy[n + j]
            y = observed[b, p]
            rr = y.real * er - y.imag * ei - ctf[b, p] * v.real
            ri = y.real * ei + y.imag * er - ctf[b, p] * sign * v.imag
            h = weight[c] * hermitian[p]
            power[thread, g, shell[p]] += h * (rr * rr + ri * ri)
            total[thread, g, shell[p]] += h


BLOCK = 64


@njit(**FAST)
def _push(keys, values, key, value):
    """Insert into short lists sorted by falling value."""
    n = keys.shape[0]
    if value <= values[n - 1]:
        return
    i = n - 1
    while i > 0 and values[i - 1] < value:
        keys[i], values[i] = keys[i - 1], values[i - 1]
        i -= 1
    keys[i], values[i] = key, value


@njit(**FAST)
def _exp(x):
    """exp of a float32 from -30 to 0 to 1e-5, as a polynomial that the compiler vectorises: (e^(x/64))^64."""
    y = x * np.float32(1 / 64)
    p = np.float32(1 / 24) + y * np.float32(1 / 120)
    p = np.float32(1) + y * (np.float32(1) + y * (np.float32(1 / 2) + y * (np.float32(1 / 6) + y * p)))
    for _ in range(6):
        p *= p
    return p


@threaded
def grid_posterior(thread, cross, norm, prior, window, uniform, threads, picks, best_key, best_score, log_evidence):
    """Posterior of each image over M rotations and T shifts from its scores.

    score[b, t, m] = cross[b, t, m] + norm[b, m] + prior[b, t]. Entries more than `window` nats below the best are
    left out. Keys are t * M + m.

    Args:
        cross: [B, T, M]; norm: [B, M]; prior: [B, T]; uniform: [B] in [0, 1) for the systematic draws.
        picks: int64 [B, S], filled with S draws from the posterior.
        best_key, best_score: [B, K], the K best entries; log_evidence: [B], log sum exp of all kept entries.
    """
    B, T, M = cross.shape
    S = picks.shape[1]
    blocks = (M + BLOCK - 1) // BLOCK
    tops, sums = np.empty((T, blocks), np.float32), np.empty((T, blocks), np.float64)
    values = np.empty((T, M), np.float32)
    for b in range(thread * B // threads, (thread + 1) * B // threads):
        top = np.float32(-np.inf)
        for i in range(T):
            for block in range(blocks):
                high = np.float32(-np.inf)
                for m in range(block * BLOCK, min(M, (block + 1) * BLOCK)):
                    high = max(high, cross[b, i, m] + norm[b, m])
                high += prior[b, i]
                tops[i, block] = high
                top = max(top, high)
        floor = top - np.float32(window)
        best_score[b, :] = -np.inf
        best_key[b, :] = -1
        total = 0.0
        for i in range(T):
            for block in range(blocks):
                sums[i, block] = 0.0
                if tops[i, block] <= floor:
                    continue
                first, end = block * BLOCK, min(M, (block + 1) * BLOCK)
                if tops[i, block] > best_score[b, -1]:
                    for m in range(first, end):
                        s = cross[b, i, m] + norm[b, m] + prior[b, i]
                        if s > floor:
                            _push(best_key[b], best_score[b], i * M + m, s)
                offset = prior[b, i] - top
                part = np.float32(0)
                for m in range(first, end):
                    d = cross[b, i, m] + norm[b, m] + offset
                    e = _exp(d) if d > np.float32(-window) else np.float32(0)
                    values[i, m] = e
                    part += e
                sums[i, block] = part
                total += part
        log_evidence[b] = top + math.log(total)
        taken, running = 0, 0.0
        last = best_key[b, 0]
        for i in range(T):
            for block in range(blocks):
                if taken == S or (taken + uniform[b]) / S * total >= running + sums[i, block]:
                    running += sums[i, block]
                    continue
                inside = running
                for m in range(block * BLOCK, min(M, (block + 1) * BLOCK)):
                    inside += values[i, m]
                    while taken < S and (taken + uniform[b]) / S * total < inside:
                        last = i * M + m
                        picks[b, taken] = last
                        taken += 1
                running += sums[i, block]
        while taken < S:  # rounding of the running sum
            picks[b, taken] = last
            taken += 1


@threaded
def surviving_rotations(thread, cross, norm, prior, window, cap, threads, kept, count, alive):
    """Rotations whose best score over the shifts is within `window` nats of the image's best, at most `cap` of them.

    cross [B, T, M], norm [B, M], prior [B, T]; kept int32 [B, cap] and count int64 [B] are filled, and alive
    bool [B, T]: shifts at which some kept rotation scores above the floor.
    """
    B, T, M = cross.shape
    high = np.empty(M, np.float32)
    for b in range(thread * B // threads, (thread + 1) * B // threads):
        for m in range(M):
            high[m] = -np.inf
        for i in range(T):
            add = prior[b, i]
            for m in range(M):
                high[m] = max(high[m], cross[b, i, m] + add)
        top = np.float32(-np.inf)
        for m in range(M):
            high[m] += norm[b, m]
            top = max(top, high[m])
        floor = top - np.float32(window)
        # raise the floor by bisection until no more than `cap` are left
        low, ceiling = floor, top
        for _ in range(20):
            n = 0
            for m in range(M):
                n += high[m] > floor
            if n > cap:
                low = floor
            elif floor == low or n > 0.9 * cap:
                break
            else:
                ceiling = floor
            floor = np.float32(0.5) * (low + ceiling)
        n = 0
        for m in range(M):
            if high[m] >= floor and n < cap:
                kept[b, n] = m
                n += 1
        count[b] = n
        for i in range(T):
            alive[b, i] = False
            for a in range(n):
                if cross[b, i, kept[b, a]] + norm[b, kept[b, a]] + prior[b, i] >= floor:
                    alive[b, i] = True
                    break


@threaded
def child_posterior(
    thread,
    X,
    power,
    S,
    S2,
    prior,
    allowed,
    kept,
    count,
    children,
    uniform,
    threads,
    picks,
    best_key,
    best_score,
    log_evidence,
):
    """Posterior over the fine rotations below the kept coarse ones, at the allowed ones of T shifts.

    Args:
        X: [B, T, 2P], w C Y e^{+2 pi i k.t} as real and imaginary pairs; power: [B, P], w C^2.
        S: [M, 2P] fine slices; S2: [M, P], |S|^2; prior: [T]; allowed: bool [B, T].
        kept [B, cap], count [B]: coarse rotations of each image; children: int32 [coarse, n], -1 where there is none.
        picks int64 [B, draws]; best_key, best_score [B, K]: best shift of each of the K best rotations; keys t * M + m.
    """
    B, T, Q = X.shape
    M, P = S2.shape
    D = picks.shape[1]
    limit = min(M, kept.shape[1] * children.shape[1])
    seen = np.full(M, -1, np.int64)
    rotation = np.empty(limit, np.int64)
    scores = np.empty((limit, T), np.float32)
    shifts = np.empty(T, np.int64)
    for b in range(thread * B // threads, (thread + 1) * B // threads):
        U = 0
        for i in range(T):
            if allowed[b, i]:
                shifts[U] = i
                U += 1
        n = 0
        for a in range(count[b]):
            for c in range(children.shape[1]):
                m = children[kept[b, a], c]
                if m >= 0 and seen[m] != b:
                    seen[m] = b
                    rotation[n] = m
                    n += 1
        top = np.float32(-np.inf)
        best_score[b, :] = -np.inf
        best_key[b, :] = -1
        for a in range(n):
            m = rotation[a]
            half = np.float32(0)
            for p in range(P):
                half += power[b, p] * S2[m, p]
            high, where = np.float32(-np.inf), 0
            for u in range(U):
                i = shifts[u]
                dot = np.float32(0)
                for q in range(Q):
                    dot += X[b, i, q] * S[m, q]
                s = dot - np.float32(0.5) * half + prior[i]
                scores[a, u] = s
                if s > high:
                    high, where = s, i
            top = max(top, high)
            _push(best_key[b], best_score[b], where * M + m, high)
        total = 0.0
        for a in range(n):
            for u in range(U):
                d = scores[a, u] - top
                e = math.exp(d) if d > np.float32(-20) else 0.0
                scores[a, u] = e
                total += e
        log_evidence[b] = top + math.log(total)
        taken, running = 0, 0.0
        for a in range(n):
            for u in range(U):
                running += scores[a, u]
                while taken < D and (taken + uniform[b]) / D * total < running:
                    picks[b, taken] = shifts[u] * M + rotation[a]
                    taken += 1
        while taken < D:
            picks[b, taken] = best_key[b, 0]
            taken += 1
