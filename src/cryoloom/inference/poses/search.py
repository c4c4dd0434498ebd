"""Exhaustive matching of images with slices of a volume, as matrix products.

log p(Y | R, t, V) = const + Re sum w C Y e^{+2 pi i k.t} conj V(Rk) - 1/2 sum w C^2 |V(Rk)|^2 with w = h / s2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.inference.poses.grids import RotationGrid, children
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels import dispatch
from cryoloom.kernels.arrays import posterior_arrays
from cryoloom.kernels.images import GridPosterior, Images
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.rotations import geodesic_degrees_modulo

SLICES_AT_ONCE = 4096  # slices squared at once: temporaries as large as all slices would double the memory
CHUNK = 40  # images matched at once on a CPU: their scores should stay in the cache
FIRST_SIGMA = 0.06  # standard deviation of shifts before it is learnt, in box sides
GPU_SCORES = 1 << 28  # scores held at once on a GPU


@dataclass(frozen=True, slots=True)
class Reference:
    """Slices of a volume on a rotation grid: real view [M, 2P] and squared moduli [M, P] on `disc`."""

    grid: RotationGrid
    disc: FourierDisc
    slices: Tensor
    power: Tensor


def slice_reference(half_grid: Complex[Tensor, "S S H"], grid: RotationGrid, disc: FourierDisc) -> Reference:
    """Slices of a half grid at all rotations of a grid."""
    values = torch.view_as_real(dispatch.slices(half_grid, grid.R.to(half_grid.device), disc))
    power = torch.cat([part.square().sum(-1) for part in values.split(SLICES_AT_ONCE)])
    return Reference(grid, disc, values.reshape(len(values), -1), power)


def shift_prior(shifts: Float[Tensor, "T 2"], sigma_angstrom: float) -> Float[Tensor, " T"]:
    """Log of an isotropic Gaussian prior over shifts, up to a constant."""
    return -0.5 * shifts.square().sum(1) / sigma_angstrom**2


def _weighted(images: Images, rows: slice | Tensor) -> tuple[Tensor, Tensor]:
    """w C Y [B, P], complex, and w C^2 [B, P] of the images in `rows`."""
    w = images.disc.weight / images.variance[images.group[rows]]
    wc = w * images.ctf[rows]
    return wc * images.observed[rows], wc * images.ctf[rows]


def _shifted(data: Tensor, disc: FourierDisc, shifts: Tensor) -> Float[Tensor, "B T Q"]:
    """Data [B, P] moved back by every shift, with real and imaginary parts side by side."""
    phase = 2 * math.pi * shifts @ disc.k.T
    ramp = torch.complex(torch.cos(phase), torch.sin(phase))
    return torch.view_as_real(data[:, None] * ramp).reshape(len(data), len(shifts), -1)


def scores(
    images: Images, reference: Reference, shifts: Float[Tensor, "T 2"], rows: slice | Tensor
) -> tuple[Float[Tensor, "B T M"], Float[Tensor, "B M"]]:
    """Both terms of log p(Y | R, t, V) of some images over a whole grid: the cross term, and that of the map's power.

    The disc of `images` must be that of the reference.
    """
    data, power = _weighted(images, rows)
    X = _shifted(data, images.disc, shifts)
    B, T, Q = X.shape
    cross = (X.reshape(B * T, Q) @ reference.slices.T).reshape(B, T, -1)
    return cross, -0.5 * power @ reference.power.T


def match(
    images: Images,
    reference: Reference,
    shifts: Float[Tensor, "T 2"],
    prior: Float[Tensor, " T"],
    uniform: Float[Tensor, " B"],
    draws: int,
    best: int = 1,
) -> GridPosterior:
    """Posterior of every image over the whole grid; keys are t * M + m.

    The disc of `images` may be larger than that of the reference, to which it is cut. `uniform` in [0, 1) are the
    random numbers of the systematic draws.
    """
    images = images.prefix(reference.disc.radius)
    parts = []
    chunk = CHUNK
    if images.observed.is_cuda:
        chunk = max(1, GPU_SCORES // (len(shifts) * len(reference.slices)))
    for start in range(0, len(images.observed), chunk):
        rows = slice(start, start + chunk)
        cross, norm = scores(images, reference, shifts, rows)
        spread = prior.expand(len(cross), -1).contiguous()
        parts.append(
            dispatch.grid_posterior(cross, norm, spread, uniform=uniform[rows].contiguous(), draws=draws, best=best)
        )
    return GridPosterior.joined(parts)


def match_fine(
    images: Images,
    coarse: Reference,
    fine: Reference,
    coarse_shifts: Float[Tensor, "T 2"],
    fine_shifts: Float[Tensor, "U 2"],
    sigma_angstrom: float,
    uniform: Float[Tensor, " B"],
    draws: int,
    best: int,
    window: float = 12.0,
    cap: int = 300,
) -> GridPosterior:
    """Posterior over the fine grid, evaluated only around the rotations that survive a match on the coarse grid.

    A coarse rotation survives if its best score lies within `window` nats of the best of the image; at most `cap` of
    them do. The window is wide because the coarse grid, not the noise, loses noisy particles: at half a grid step the
    score of the true pose falls by many nats. Measured against the true map (70S, SNR 0.05, r 8 then 13): a window of
    12 loses no particle that the whole fine grid would place.
    """
    if images.observed.is_cuda:  # on a GPU the whole fine grid takes less time than pruning
        return match(
            images,
            fine,
            shifts=fine_shifts,
            prior=shift_prior(fine_shifts, sigma_angstrom),
            uniform=uniform,
            draws=draws,
            best=best,
        )
    images = images.prefix(fine.disc.radius)
    pruned = _Pruned(
        coarse=coarse,
        fine=fine,
        shifts=(coarse_shifts, fine_shifts),
        priors=(shift_prior(coarse_shifts, sigma_angstrom), shift_prior(fine_shifts, sigma_angstrom)),
        near=_near_shifts(coarse_shifts, fine_shifts).astype(np.float32),
        table=children(coarse.grid.nside, fine.grid.nside),
        window=window,
        cap=cap,
    )
    parts = []
    for start in range(0, len(images), CHUNK):
        rows = slice(start, start + CHUNK)
        parts.append(pruned.match(_weighted(images, rows), images.disc, uniform[rows], draws, best))
    return GridPosterior.joined(parts)


@dataclass(frozen=True, slots=True)
class _Pruned:
    """What `match_fine` needs for every batch: slices, shifts and their log priors, each coarse and fine.

    Attributes:
        near: float32 [T, U], 1 where a fine shift belongs to a coarse one; table: fine rotations below coarse ones.
    """

    coarse: Reference
    fine: Reference
    shifts: tuple[Tensor, Tensor]
    priors: tuple[Tensor, Tensor]
    near: np.ndarray
    table: np.ndarray
    window: float
    cap: int

    def match(
        self, weighted: tuple[Tensor, Tensor], disc: FourierDisc, uniform: Tensor, draws: int, best: int
    ) -> GridPosterior:
        """Posterior of a batch from w C Y and w C^2 on `disc`."""
        from cryoloom.kernels import cpu_posterior

        data, power = weighted
        kept, count, alive = self._survivors(data, power)
        found = GridPosterior.empty(len(data), draws, best)
        cpu_posterior.child_posterior(
            X=_shifted(data, disc, self.shifts[1]).numpy(),
            power=power.contiguous().numpy(),
            S=self.fine.slices.contiguous().numpy(),
            S2=self.fine.power.numpy(),
            prior=self.priors[1].numpy(),
            allowed=(alive.astype(np.float32) @ self.near) > 0,
            kept=kept,
            count=count,
            children=self.table,
            uniform=uniform.numpy(),
            threads=torch.get_num_threads(),
            **posterior_arrays(found),
        )
        return found

    def _survivors(self, data: Tensor, power: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coarse rotations that survive [B, cap], their number [B], and shifts at which one of them does [B, T]."""
        from cryoloom.kernels import cpu_posterior

        P = len(self.coarse.disc.weight)
        X = _shifted(data[:, :P], self.coarse.disc, self.shifts[0])
        B, T, Q = X.shape
        cross = (X.reshape(B * T, Q) @ self.coarse.slices.T).reshape(B, T, -1)
        norm = -0.5 * power[:, :P] @ self.coarse.power.T
        kept, count, alive = np.empty((B, self.cap), np.int32), np.empty(B, np.int64), np.empty((B, T), np.bool_)
        cpu_posterior.surviving_rotations(
            cross=cross.numpy(),
            norm=norm.numpy(),
            prior=self.priors[0].expand(B, -1).contiguous().numpy(),
            window=self.window,
            cap=self.cap,
            threads=torch.get_num_threads(),
            kept=kept,
            count=count,
            alive=alive,
        )
        return kept, count, alive


def _near_shifts(coarse: Tensor, fine: Tensor) -> np.ndarray:
    """bool [T, U]: fine shifts within 0.8 of the coarse grid's spacing of a coarse shift; each has one at least."""
    spacing = coarse[1:].norm(dim=1).min() if len(coarse) > 1 else torch.tensor(math.inf)
    distance = torch.cdist(coarse, fine)
    return (distance <= torch.maximum(0.8 * spacing, distance.min(0).values) * (1 + 1e-6)).numpy()


def distinct_candidates(
    posterior: GridPosterior,
    grid: RotationGrid,
    shifts: Float[Tensor, "T 2"],
    count: int,
    apart_degrees: float,
    group: Float[Tensor, "G 3 3"] | None = None,
) -> PosePosterior:
    """The `count` best grid points that are at least `apart_degrees` from every better one, weighted by their scores.

    They are starting points of local refinement: neighbours on the grid converge to the same optimum, as do
    symmetry-related poses under `group`, whose first element is the identity.
    """
    device = posterior.best.device
    M = len(grid.R)
    key = posterior.best.clamp(min=0)
    R, t = grid.R.to(device)[key % M], shifts[key // M]
    score = torch.where(posterior.best >= 0, posterior.best_score, -torch.inf)
    B = len(R)
    row = torch.arange(B, device=device)
    free = score.clone()
    mates = torch.eye(3, device=device)[None] if group is None else group
    chosen, weight = [], []
    for _ in range(count):
        k = free.argmax(1)
        chosen.append(k)
        weight.append(free[row, k])
        angle = geodesic_degrees_modulo(R, R[row, k][:, None].expand_as(R), mates)
        free = torch.where(angle < apart_degrees, -torch.inf, free)
    k = torch.stack(chosen, 1)
    return PosePosterior(R[row[:, None], k], t[row[:, None], k], torch.stack(weight, 1)).normalised()
