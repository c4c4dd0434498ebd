"""CPU kernels (numba) for posteriors over grids of poses: the whole grid, or the fine children of coarse rotations.

Compiled helpers stay in the file of the kernels that use them: numba's cache does not see a change in another file.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from cryoloom.kernels.jit import HELPER, threaded

BLOCK = 64
NEVER = np.float32(-1e30)  # score of what is left out: finite, since the compiler assumes that all numbers are


@njit(**HELPER)
def _push(keys, values, key, value):
    """Insert a key and its value into short lists in descending order of value."""
    n = keys.shape[0]
    if value <= values[n - 1]:
        return
    i = n - 1
    while i > 0 and values[i - 1] < value:
        keys[i], values[i] = keys[i - 1], values[i - 1]
        i -= 1
    keys[i], values[i] = key, value


@njit(**HELPER)
def _exp(x):
    """exp of a float32 in [-30, 0], accurate to 1e-5, as a polynomial that the compiler vectorises: (e^(x/64))^64."""
    y = x * np.float32(1 / 64)
    p = np.float32(1 / 24) + y * np.float32(1 / 120)
    p = np.float32(1) + y * (np.float32(1) + y * (np.float32(1 / 2) + y * (np.float32(1 / 6) + y * p)))
    for _ in range(6):
        p *= p
    return p


@njit(**HELPER)
def _unfold(a, b, c, d, first, second, out):
    """Scores at R, R Rz, R Rx and R Ry from their parts [m] and both norms [m], to out [4 m]; the best of them."""
    m = a.shape[0]
    top = np.float32(-np.inf)
    for j in range(m):
        even, odd = a[j] + b[j] + first[j], c[j] + d[j]
        other, rest = a[j] - b[j] + second[j], c[j] - d[j]
        out[j] = even + odd
        out[m + j] = even - odd
        out[2 * m + j] = other + rest
        out[3 * m + j] = other - rest
        top = max(top, max(even + abs(odd), other + abs(rest)))
    return top


@njit(**HELPER)
def _mass(scores, offset, floor):
    """Turn scores [m] into exp(score + offset) in place, 0 at or below the floor; returns their sum."""
    total = np.float32(0)
    for i in range(scores.shape[0]):  # without a branch: the compiler vectorises it
        d = scores[i] + offset
        e = _exp(max(d, floor)) * np.float32(d > floor)
        scores[i] = e
        total += e
    return total


@njit(**HELPER)
def _draw_from_blocks(values, sums, width, start, total, picks):
    """Systematic draws at quantiles (n + start) / S of the masses `values` [T, M], as flat indices; `sums` holds their
    sums over blocks of `width` entries of a row.

    Blocks whose sum is 0 are skipped. A draw beyond a block's entries but within its sum, which is rounded in another
    order, is its last entry that has mass; `total` is the sum of `sums` in their order.
    """
    S, M = picks.shape[0], values.shape[1]
    taken, running, last = 0, 0.0, 0
    for i in range(values.shape[0]):
        for block in range(sums.shape[1]):
            end = running + sums[i, block]
            if taken < S and (taken + start) / S * total < end:
                inside = running
                for m in range(block * width, min(M, (block + 1) * width)):
                    if values[i, m] > 0:
                        inside += values[i, m]
                        last = i * M + m
                    while taken < S and (taken + start) / S * total < inside:
                        picks[taken] = last
                        taken += 1
                while taken < S and (taken + start) / S * total < end:
                    picks[taken] = last
                    taken += 1
            running = end
    picks[taken:] = last


@threaded
def grid_posterior(thread, cross, norm, prior, window, uniform, threads, picks, best_key, best_score, log_evidence):
    """Posterior of each image over M = 4 m rotations and T shifts from its scores.

    The scores are put together from four parts, as by `physics.half_turns.unfolded`; entries more than `window` nats
    below the best are left out. Keys are t * M + rotation.

    Args:
        cross: [4, B, T, m]; norm: [2, B, m]; prior: [B, T]; uniform: [B] in [0, 1) for the systematic draws.
        picks: int64 [B, S], filled with S draws from the posterior.
        best_key, best_score: [B, K], the K best entries; log_evidence: [B], log sum exp of all kept entries.
    """
    _, B, T, m = cross.shape
    M = 4 * m
    blocks = (M + BLOCK - 1) // BLOCK
    tops, sums = np.empty(T, np.float32), np.empty((T, blocks), np.float64)
    values, lowest = np.empty((T, M), np.float32), np.float32(-window)
    for b in range(thread * B // threads, (thread + 1) * B // threads):
        top = np.float32(-np.inf)
        for i in range(T):
            row = _unfold(
                cross[0, b, i], cross[1, b, i], cross[2, b, i], cross[3, b, i], norm[0, b], norm[1, b], values[i]
            )
            tops[i] = row + prior[b, i]
            top = max(top, tops[i])
        floor = top + lowest
        best_score[b, :] = -np.inf
        best_key[b, :] = -1
        total = 0.0
        for i in range(T):
            if tops[i] <= floor:
                sums[i] = 0.0
                continue
            if tops[i] > best_score[b, -1]:
                least = max(floor, best_score[b, -1])
                for r in range(M):
                    s = values[i, r] + prior[b, i]
                    if s > least:
                        _push(best_key[b], best_score[b], i * M + r, s)
                        least = max(floor, best_score[b, -1])
            for block in range(blocks):
                sums[i, block] = _mass(values[i, block * BLOCK : (block + 1) * BLOCK], prior[b, i] - top, lowest)
                total += sums[i, block]
        log_evidence[b] = top + math.log(total)
        _draw_from_blocks(values, sums, BLOCK, start=uniform[b], total=total, picks=picks[b])


@threaded
def surviving_rotations(thread, cross, norm, prior, window, cap, threads, kept, count, alive):
    """Rotations whose best score over the shifts is within `window` nats of the image's best, at most `cap` of them.

    cross [4, B, T, m], norm [2, B, m] and prior [B, T] as for `grid_posterior`; kept int32 [B, cap] and count int64 [B]
    are filled, and alive bool [B, cap, T]: the shifts at which each kept rotation scores within the window.
    """
    _, B, T, m = cross.shape
    M = 4 * m
    high, values = np.empty(M, np.float32), np.empty((T, M), np.float32)
    for b in range(thread * B // threads, (thread + 1) * B // threads):
        high[:] = -np.inf
        for i in range(T):
            own, add = values[i], prior[b, i]
            _unfold(cross[0, b, i], cross[1, b, i], cross[2, b, i], cross[3, b, i], norm[0, b], norm[1, b], own)
            for r in range(M):
                high[r] = max(high[r], own[r] + add)
        top = np.float32(-np.inf)
        for r in range(M):
            top = max(top, high[r])
        floor = top - np.float32(window)
        # raise the floor by bisection until no more than `cap` are left
        low, ceiling = floor, top
        for _ in range(20):
            n = 0
            for r in range(M):
                n += high[r] > floor
            if n > cap:
                low = floor
            elif floor == low or n > 0.9 * cap:
                break
            else:
                ceiling = floor
            floor = np.float32(0.5) * (low + ceiling)
        n = 0
        for r in range(M):
            if high[r] >= floor and n < cap:
                kept[b, n] = r
                n += 1
        count[b] = n
        for a in range(n):
            best, place = np.float32(0), -1
            for i in range(T):
                score = values[i, kept[b, a]] + prior[b, i]
                alive[b, a, i] = score >= top - np.float32(window)
                if place < 0 or score > best:
                    best, place = score, i
            alive[b, a, place] = True  # however the sums were rounded


@njit(**HELPER)
def _children_of(kept, allowed, children, seen, mark, place, rotation, wanted):
    """Write the children of the kept coarse rotations, each once, to `rotation`; returns their number.

    Row n of `wanted` [.., T] holds the shifts that are allowed [kept, T] at any parent of child n. seen [M] holds for
    each fine rotation the mark of the last image that found it, place [M] where it is in `rotation`.
    """
    n = 0
    for a in range(kept.shape[0]):
        for c in range(children.shape[1]):
            m = children[kept[a], c]
            if m < 0:
                continue
            if seen[m] != mark:
                seen[m], place[m], rotation[n] = mark, n, m
                wanted[n] = allowed[a]
                n += 1
            else:
                own = wanted[place[m]]
                for t in range(own.shape[0]):
                    own[t] = own[t] or allowed[a, t]
    return n


@njit(**HELPER)
def _draw_poses(scores, sums, rotation, shifts, M, start, picks):
    """Turn scores [n, U] into masses in place and draw from them systematically; returns the log evidence.

    sums [n]: filled with the masses of the rotations.
    """
    top = np.float32(-np.inf)
    for a in range(scores.shape[0]):
        row = scores[a]
        for u in range(row.shape[0]):
            top = max(top, row[u])
    total = 0.0
    for a in range(scores.shape[0]):
        sums[a] = _mass(scores[a], -top, np.float32(-20))
        total += sums[a]
    U = scores.shape[1]
    _draw_from_blocks(scores, sums.reshape(-1, 1), U, start=start, total=total, picks=picks)
    for d in range(picks.shape[0]):
        picks[d] = shifts[picks[d] % U] * M + rotation[picks[d] // U]
    return top + math.log(total)


@njit(**HELPER)
def _products(S, first, second, X, rows, out, other):
    """Inner products of the rows `first` and `second` of S [M, Q] with `rows` [U] of X [T, Q], to out and other [U].

    Two by four at once, so that what is loaded is used more than once; U is a multiple of four.
    """
    U, Q = rows.shape[0], X.shape[1]
    for u in range(0, U, 4):
        r0, r1, r2, r3 = rows[u], rows[u + 1], rows[u + 2], rows[u + 3]
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
        for q in range(Q):
            s, t = S[first, q], S[second, q]
            x0, x1, x2, x3 = X[r0, q], X[r1, q], X[r2, q], X[r3, q]
            a0 += s * x0
            a1 += s * x1
            a2 += s * x2
            a3 += s * x3
            b0 += t * x0
            b1 += t * x1
            b2 += t * x2
            b3 += t * x3
        out[u], out[u + 1], out[u + 2], out[u + 3] = a0, a1, a2, a3
        other[u], other[u + 1], other[u + 2], other[u + 3] = b0, b1, b2, b3


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
    """Posterior over the children of the kept coarse rotations, each at those of T shifts that its parents allow.

    Args:
        X: [B, T, 2P], w C Y e^{+2 pi i k.t} as real and imaginary pairs; power: [B, P], w C^2.
        S: [M, 2P] fine slices; S2: [M, P], |S|^2; prior: [T]; allowed: bool [B, cap, T], by parent, one at least.
        kept [B, cap], count [B]: coarse rotations of each image; children: int32 [coarse, n], padded with -1.
        picks int64 [B, draws]; best_key, best_score [B, K]: best shift of each of the K best rotations; keys t * M + m.
    """
    B, T, _ = X.shape
    M, P = S2.shape
    limit = min(M, kept.shape[1] * children.shape[1])
    seen, place = np.full(M, -1, np.int64), np.empty(M, np.int64)
    rotation, wanted = np.empty(limit + 1, np.int64), np.empty((limit + 1, T), np.bool_)
    scores, sums = np.empty((limit + 1, T), np.float32), np.empty(limit + 1, np.float64)
    rows, shifts = np.empty(T + 3, np.int64), np.arange(T)
    found, other = np.empty(T + 3, np.float32), np.empty(T + 3, np.float32)
    for b in range(thread * B // threads, (thread + 1) * B // threads):
        n = _children_of(kept[b, : count[b]], allowed[b], children, seen, b, place, rotation, wanted)
        rotation[n] = rotation[n - 1]  # an odd one is taken twice
        wanted[n] = wanted[n - 1]
        for a in range(0, n, 2):
            U = 0
            for t in range(T):
                scores[a, t] = scores[a + 1, t] = NEVER
                if wanted[a, t] or wanted[a + 1, t]:
                    rows[U] = t
                    U += 1
            whole = U + -U % 4
            for u in range(U, whole):
                rows[u] = rows[U - 1]
            _products(S, rotation[a], rotation[a + 1], X[b], rows[:whole], found, other)
            for u in range(U):
                t = rows[u]
                if wanted[a, t]:
                    scores[a, t] = found[u]
                if wanted[a + 1, t]:
                    scores[a + 1, t] = other[u]
        best_score[b, :] = -np.inf
        best_key[b, :] = -1
        for a in range(n):
            m = rotation[a]
            half = np.float32(0)
            for p in range(P):
                half += power[b, p] * S2[m, p]
            high = np.float32(-np.inf)
            for u in range(T):
                s = scores[a, u] - np.float32(0.5) * half + prior[u]
                scores[a, u] = s
                high = max(high, s)
            if high > best_score[b, -1]:
                u = 0
                while scores[a, u] < high:
                    u += 1
                _push(best_key[b], best_score[b], u * M + m, high)
        log_evidence[b] = _draw_poses(scores[:n], sums, rotation, shifts, M=M, start=uniform[b], picks=picks[b])
