#!/usr/bin/env python3
"""Each hot kernel against its floor on this machine: kernels.py [--boxes 64 128] [--threads 1] [--json OUT]

The floor of a kernel is the larger of two times: its floating-point operations at the machine's measured GEMM rate
(torch, float32) and the bytes that must come from or go to memory at the measured bandwidth (each input and output
once; the half grid, which all images share, once; reading it again is counted apart, as cache traffic). Kernels whose
work is scattered reads can not reach the GEMM rate: `cache_gb_s` says how fast they read the grid instead. The floor of
match_fine is that of the poses it looks at; how many those are depends on how noisy the images are (the note says).
CPU-seconds are the least of several repeats, on images of a phantom. Imports the package: it is the kernels it times.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numba
import numpy as np
import torch

from bench import RESULTS, commit, machine, write_json
from cryoloom.inference.poses import search
from cryoloom.inference.poses.grids import cached_rotation_grid, children, shift_grid, shift_step_angstrom
from cryoloom.kernels import cpu_posterior, dispatch
from cryoloom.kernels.half_grid import volume_to_half
from cryoloom.kernels.images import Images, Samples
from cryoloom.maps.band import Band
from cryoloom.physics.fourier import rebox
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.phantom import GaussianCloud
from cryoloom.physics.rotations import random_rotations

CORNER_BYTES = 8 * 8  # eight complex64 neighbours of a point
# multiplications and additions a frequency, counted in kernels/cpu.py: the point's place 9, a trilinear complex value
# 42, its gradient 24 more; a shift ramp 6, a complex product 6
SLICE_FLOP = 9 + 42
INSERT_FLOP = 9 + 6 + 12 + 8 * 7  # place, ramp, weights and product, eight additions to num and den
RESIDUAL_FLOP = 9 + 42 + 6 + 6 + 9
NORMAL_FLOP = 9 + 66 + 6 + 6 + 24 + 12 + 30 + 7 + 20 + 60  # ... rotated gradient, Jacobian, score, gradient, 15 sums


@dataclass(frozen=True, slots=True)
class Peak:
    """What the machine can do with the threads in use: GFLOP/s of a float32 GEMM, GB/s of a triad."""

    gemm_gflop_s: float
    memory_gb_s: float


@dataclass(frozen=True, slots=True)
class Timing:
    """One kernel at one size. `over_floor` is the measured time over the floor."""

    kernel: str
    box: int
    radius: int
    items: int
    cpu_s: float
    wall_s: float
    cpu_us_per_item: float
    gflop: float
    floor_compute_s: float
    floor_memory_s: float
    over_floor: float
    gflop_s: float
    cache_gb_s: float | None
    note: str = ""


def timed(call: Callable[[], object], repeats: int = 12) -> tuple[float, float]:
    """Least CPU-seconds and least wall seconds of some calls, after one to compile and warm."""
    call()
    cpu_s, wall_s = math.inf, math.inf
    for _ in range(repeats):
        c, w = time.process_time(), time.perf_counter()
        call()
        cpu_s, wall_s = min(cpu_s, time.process_time() - c), min(wall_s, time.perf_counter() - w)
    return cpu_s, wall_s


@numba.njit(parallel=True, fastmath=True)
def _triad(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    for i in numba.prange(len(a)):
        a[i] = b[i] + np.float32(3) * c[i]


def measure_peak(threads: int) -> Peak:
    """GEMM of 2048^3 and triad over 3 x 256 MB; rates over CPU-seconds a thread."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    cpu_s, _ = timed(lambda: a @ b)
    n = 64_000_000
    x = [np.ones(n, np.float32) for _ in range(3)]
    triad_s, _ = timed(lambda: _triad(*x))
    # the store brings its line in first: four passes, not three
    return Peak(2 * 2048**3 / (cpu_s / threads) / 1e9, 4 * 4 * n / (triad_s / threads) / 1e9)


@dataclass(frozen=True, slots=True)
class Bench:
    """One box: half grid of a phantom, images at known poses."""

    box: int
    grid: torch.Tensor
    images: Images
    R: torch.Tensor
    t: torch.Tensor

    @staticmethod
    def create(box: int, count: int, generator: torch.Generator) -> Bench:
        """Images of a cloud of Gaussians at SNR 0.02 for 64 px of 4 A, and at the same dose for other boxes."""
        pixel = 256.0 / box
        cloud = GaussianCloud.random(60, 80.0, 8.0, generator)
        volume = cloud.density(box, pixel).float() * 1e3
        grid = volume_to_half(volume)
        disc = FourierDisc.create(box, pixel, (box - 1) // 2 - 1)
        R = random_rotations(count, generator).float()
        t = torch.randn(count, 2, generator=generator) * 1.5 * pixel
        clean = dispatch.slices(grid, R, disc)
        phase = -2 * math.pi * t @ disc.k.T
        ctf = torch.sin(disc.k.square().sum(1) * 4000 * (1 + torch.rand(count, 1, generator=generator)))
        noise = torch.complex(*torch.randn(2, count, len(disc.k), generator=generator).unbind(0)) / math.sqrt(2)
        power = ((clean * ctf).abs().square() * disc.weight).sum(1).mean()
        level = (power / (0.02 * 64**2)).sqrt()
        observed = clean * ctf * torch.complex(phase.cos(), phase.sin()) + noise * level
        variance = torch.full((1, len(disc.k)), float(level) ** 2)
        group = torch.zeros(count, dtype=torch.int64)
        return Bench(box, grid, Images(observed.contiguous(), ctf.contiguous(), variance, group, disc), R, t)


def timing(
    kernel: str,
    bench: Bench,
    radius: int,
    items: int,
    spent: tuple[float, float],
    flop: float,
    streamed: float,
    peak: Peak,
    threads: int,
    cache: float | None = None,
    note: str = "",
) -> Timing:
    """Figures of one kernel from its times, operations and bytes."""
    cpu_s, wall_s = spent
    seconds = cpu_s / threads
    compute, memory = flop / peak.gemm_gflop_s / 1e9, streamed / peak.memory_gb_s / 1e9
    rate = None if cache is None else cache / seconds / 1e9
    return Timing(
        kernel=kernel,
        box=bench.box,
        radius=radius,
        items=items,
        cpu_s=cpu_s,
        wall_s=wall_s,
        cpu_us_per_item=1e6 * cpu_s / items,
        gflop=flop / 1e9,
        floor_compute_s=compute,
        floor_memory_s=memory,
        over_floor=seconds / max(compute, memory),
        gflop_s=flop / seconds / 1e9,
        cache_gb_s=rate,
        note=note,
    )


def scattered(bench: Bench, peak: Peak, threads: int) -> list[Timing]:
    """slices, insert, normal equations and residual power on the full disc."""
    images, grid, R, t = bench.images, bench.grid, bench.R, bench.t
    d = images.disc
    n, P = images.observed.shape
    points, radius = n * P, int(d.radius)
    rows = torch.arange(n)
    samples = Samples(rows, R, t, torch.ones(n))
    side = grid.shape[0]
    grid_bytes = grid.numel() * 8
    image_bytes = points * (8 + 4)  # observed and CTF; the variance is shared
    cases = [
        ("slices", lambda: dispatch.slices(grid, R, d), SLICE_FLOP, grid_bytes + points * 8, CORNER_BYTES),
        (
            "insert",
            lambda: dispatch.insert(images, samples, side),
            INSERT_FLOP,
            image_bytes + 2 * grid_bytes * 12 // 8 * (threads + 1),
            2 * CORNER_BYTES * 12 // 8,
        ),
        (
            "normal_equations",
            lambda: dispatch.normal_equations(grid, images, rows, R, t),
            NORMAL_FLOP,
            grid_bytes + image_bytes,
            CORNER_BYTES,
        ),
        (
            "residual_power",
            lambda: dispatch.residual_power(grid, images, samples),
            RESIDUAL_FLOP,
            grid_bytes + image_bytes,
            CORNER_BYTES,
        ),
    ]
    return [
        timing(
            name,
            bench,
            radius=radius,
            items=n,
            spent=timed(call),
            flop=flop * points,
            streamed=streamed,
            peak=peak,
            threads=threads,
            cache=cache * points,
        )
        for name, call, flop, streamed, cache in cases
    ]


def matching(bench: Bench, peak: Peak, threads: int) -> list[Timing]:
    """The exhaustive match at the ab initio radius, and the fine match below it."""
    images, box = bench.images, bench.box
    pixel = images.disc.pixel_size
    sigma = 1.5 * pixel
    r1, r2 = 8, 13  # of a particle that fills three quarters of its box, whatever the box
    coarse, fine = _reference(bench, r1, 4), _reference(bench, r2, 8)
    shifts = [shift_grid(s, max(2.5 * sigma, 1.01 * s)) for s in (shift_step_angstrom(box, pixel, r) for r in (r1, r2))]
    B, T, M, P = len(images.observed), len(shifts[0]), len(coarse.grid.R), len(coarse.disc.weight)
    uniform = torch.rand(B, generator=torch.Generator().manual_seed(0))
    prior = search.shift_prior(shifts[0], sigma)
    spent = timed(lambda: search.match(images, coarse, shifts=shifts[0], prior=prior, uniform=uniform, draws=32), 6)
    # four products of a quarter of the slices, half as long as these; two of their powers
    gemm = B * T * M * P + B * M * P
    streamed = 4.0 * (M * P + B * 3 * P)
    out = [
        timing(
            "match",
            bench,
            radius=r1,
            items=B,
            spent=spent,
            flop=gemm,
            streamed=streamed,
            peak=peak,
            threads=threads,
            note=f"{M} rotations x {T} shifts x {P} coefficients",
        )
    ]

    def fine_match() -> None:
        search.match_fine(
            images,
            coarse,
            fine=fine,
            coarse_shifts=shifts[0],
            fine_shifts=shifts[1],
            sigma_angstrom=sigma,
            uniform=uniform,
            draws=16,
            best=24,
        )

    pairs = _pairs_looked_at(fine_match, coarse, fine, shifts)
    spent = timed(fine_match, 6)
    Q = len(fine.disc.weight)
    flop = gemm + pairs * 4.0 * Q
    exhaustive = 1.0 * B * len(shifts[1]) * len(fine.grid.R) * Q
    streamed += 4.0 * len(fine.grid.R) * 3 * Q
    poses = len(fine.grid.R) * len(shifts[1])
    note = f"{pairs / B:.0f} of {poses} fine poses an image; {exhaustive / flop:.0f} times less work than all"
    return [
        *out,
        timing(
            "match_fine",
            bench,
            radius=r2,
            items=B,
            spent=spent,
            flop=flop,
            streamed=streamed,
            peak=peak,
            threads=threads,
            note=note,
        ),
    ]


def _reference(bench: Bench, radius: int, nside: int) -> search.Reference:
    """Slices of the phantom, cropped to what the radius needs."""
    # cut in Fourier space: the slices keep the scale of the images' coefficients
    cut = rebox(_volume(bench), Band(radius).box)
    grid = volume_to_half(cut)
    return search.slice_reference(grid, cached_rotation_grid(nside), bench.images.disc.prefix(radius))


def _volume(bench: Bench) -> torch.Tensor:
    from cryoloom.kernels.half_grid import half_to_volume
    from cryoloom.physics.slicing import PADDING, gridding_window

    box = bench.box
    return half_to_volume(bench.grid) * gridding_window(box, PADDING) ** 2


def _pairs_looked_at(call: Callable[[], None], coarse: search.Reference, fine: search.Reference, shifts: list) -> float:
    """Pairs of fine rotation and fine shift that a fine match scores, by watching which coarse ones survive."""
    table = children(coarse.grid.nside, fine.grid.nside)
    near = search._near_shifts(*shifts)
    surviving, seen = cpu_posterior.surviving_rotations, []

    def watched(**arguments: np.ndarray) -> None:
        surviving(**arguments)
        kept, count, alive = (arguments[name] for name in ("kept", "count", "alive"))
        for b, n in enumerate(count):
            wanted, shifts = np.zeros((table.max() + 1, near.shape[1]), bool), (alive[b, :n] @ near) > 0
            for child in table[kept[b, :n]].T:
                np.logical_or.at(wanted, child[child >= 0], shifts[child >= 0])
            seen.append(wanted.sum())

    cpu_posterior.surviving_rotations = watched
    try:
        call()
    finally:
        cpu_posterior.surviving_rotations = surviving
    return float(np.sum(seen))


def main() -> None:
    """Measure all and write the result."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--boxes", nargs="+", type=int, default=[64, 128])
    p.add_argument("--images", type=int, default=400)
    p.add_argument("--threads", type=int, default=1, help="one: times that other programs disturb least")
    p.add_argument("--json", type=Path, default=RESULTS / "kernels.json")
    a = p.parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(a.threads)
    numba.set_num_threads(a.threads)
    peak = measure_peak(a.threads)
    print(f"peak of {a.threads} thread(s): {peak.gemm_gflop_s:.0f} GFLOP/s, {peak.memory_gb_s:.1f} GB/s", flush=True)
    found: list[Timing] = []
    for box in a.boxes:
        bench = Bench.create(box, a.images, torch.Generator().manual_seed(1))
        for line in (*scattered(bench, peak, a.threads), *matching(bench, peak, a.threads)):
            print(
                f"{line.kernel:18s} box {line.box:3d} r {line.radius:2d} {line.cpu_us_per_item:9.1f} CPU-us an image "
                f"{line.gflop_s:6.1f} GFLOP/s  {line.over_floor:5.1f} x floor  {line.note}",
                flush=True,
            )
            found.append(line)
    write_json(
        a.json,
        {
            "machine": machine(),
            "load_before": load,
            "threads": a.threads,
            "commit": commit(),
            "images": a.images,
            "peak": asdict(peak),
            "kernels": [asdict(f) for f in found],
        },
    )


if __name__ == "__main__":
    main()
