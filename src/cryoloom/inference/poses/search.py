"""Exhaustive matching of images with slices of a volume, as matrix products.

log p(Y | R, t, V) = const + Re sum w C Y e^{+2 pi i k.t} conj V(Rk) - 1/2 sum w C^2 |V(Rk)|^2 with w = h / s2.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryoloom.inference.poses.grids import RotationGrid, children, in_asymmetric_unit
from cryoloom.inference.poses.posterior import PosePosterior
from cryoloom.kernels import dispatch
from cryoloom.kernels.arrays import posterior_arrays
from cryoloom.kernels.images import GridPosterior, Images
from cryoloom.kernels.side_by_side import kernel_threads, side_by_side
from cryoloom.physics.frequencies import FourierDisc
from cryoloom.physics.half_turns import MirrorPairs, at_half_turns, in_groups, unfolded
from cryoloom.physics.rotations import geodesic_degrees_modulo

SLICES_AT_ONCE = 4096  # slices squared at once: temporaries as large as all slices would double the memory
CHUNK = 40  # images matched at once by a thread of a CPU around coarse rotations
# scores of a whole grid held at once by a thread of a CPU: written once and read once, they should stay in its cache
# (with 8 times as many a match takes 1.5 times as long)
CPU_SCORES = 1 << 20
SHIFTED = 1 << 21  # coefficients of shifted images held at once, 20 bytes each with what is made of them on the way
FIRST_SIGMA = 0.06  # standard deviation of shifts before it is learnt, in box sides
# of an asymmetric unit, in steps of the grid: the nearest fine rotation of one of a pose's mates then always lies below
# a coarse rotation inside; with half a step, 2 of 600 poses had none
MARGIN = 0.72
LEAST_KEPT = 60  # coarse rotations of a small asymmetric unit around which images are matched on the fine grid
NEVER = -1e30  # nats; the kernels compute with finite numbers
GPU_SCORES = 1 << 28  # scores held at once on a GPU


@dataclass(frozen=True)
class Reference:
    """Slices of a volume on a rotation grid, from those at the first quarter of its rotations.

    Attributes:
        grid: M rotations; disc: P frequencies.
        quarter: complex [M / 4, P], slices at the first quarter of the rotations.
        inside: bool [M / 4], which of these, with their half turns, images are matched with; None for all.
    """

    grid: RotationGrid
    disc: FourierDisc
    quarter: Tensor
    inside: Tensor | None = None

    @cached_property
    def pairs(self) -> MirrorPairs:
        """The frequencies in pairs."""
        return MirrorPairs.of(self.disc)

    @cached_property
    def parts(self) -> tuple[Tensor, ...]:
        """The quarter's four parts, [M / 4, about P / 2] each; see `physics.half_turns`."""
        ordered = torch.view_as_real(self.quarter[:, self.pairs.order])
        return self.pairs.halved(self.pairs.parts(ordered[..., 0], ordered[..., 1]))

    @cached_property
    def powers(self) -> tuple[Tensor, Tensor]:
        """Squared moduli, [M / 4, P], of the first and second quarter's slices, and of the third and fourth one's."""
        power = torch.cat([part.abs().square() for part in self.quarter.split(SLICES_AT_ONCE)])
        mirrored = torch.empty_like(power)
        mirrored[:, self.pairs.order] = self.pairs.mirrored(power[:, self.pairs.order])
        return power, mirrored

    @cached_property
    def power(self) -> Tensor:
        """Squared moduli of all slices, [M, P]."""
        power, mirrored = self.powers
        return torch.cat([power, power, mirrored, mirrored])

    @cached_property
    def slices(self) -> Tensor:
        """All slices, real view [M, 2P]."""
        whole = at_half_turns(self.quarter, self.pairs).resolve_conj()
        return torch.view_as_real(whole).reshape(len(whole), -1)


def slice_reference(
    half_grid: Complex[Tensor, "S S H"],
    grid: RotationGrid,
    disc: FourierDisc,
    group: Float[Tensor, "G 3 3"] | None = None,
) -> Reference:
    """Slices of a half grid at all rotations of a grid; of a symmetric volume, to match in an asymmetric unit.

    Whatever a pose, a rotation of the grid near to one of its mates is inside.
    """
    R = grid.R[: len(grid.R) // 4].contiguous()
    inside = None
    if group is not None and len(group) > 1:
        inside = in_asymmetric_unit(grid.R, group, MARGIN * grid.spacing_degrees).to(half_grid.device)
    return Reference(grid, disc, dispatch.slices(half_grid, R.to(half_grid.device), disc), inside)


def shift_prior(shifts: Float[Tensor, "T 2"], sigma_angstrom: float) -> Float[Tensor, " T"]:
    """Log of an isotropic Gaussian prior over shifts, up to a constant."""
    return -0.5 * shifts.square().sum(1) / sigma_angstrom**2


def weighted(images: Images, rows: slice | Tensor) -> tuple[Complex[Tensor, "B P"], Float[Tensor, "B P"]]:
    """w C Y [B, P], complex, and w C^2 [B, P] of the images in `rows`."""
    w = images.disc.weight / images.variance[images.group[rows]]
    wc = w * images.ctf[rows]
    return wc * images.observed[rows], wc * images.ctf[rows]


def _shifted(data: Tensor, disc: FourierDisc, shifts: Tensor) -> Float[Tensor, "B T Q"]:
    """Data [B, P] moved back by every shift, with real and imaginary parts side by side."""
    phase = 2 * math.pi * shifts @ disc.k.T
    ramp = torch.complex(torch.cos(phase), torch.sin(phase))
    return torch.view_as_real(data[:, None] * ramp).reshape(len(data), len(shifts), -1)


class Scores:
    """Both terms of log p(Y | R, t, V) of images over a whole grid of M = 4 m rotations, and T shifts."""

    def __init__(self, reference: Reference, shifts: Float[Tensor, "T 2"]) -> None:
        """Scores against the slices of a reference."""
        self.reference = reference
        phase = 2 * math.pi * shifts @ reference.disc.k[reference.pairs.order].T
        self.cosine, self.sine = torch.cos(phase), torch.sin(phase)
        self.slices, self.powers = reference.parts, reference.powers
        self._own = threading.local()  # each thread has a buffer of its own

    def shifted(self, data: Complex[Tensor, "B P"]) -> list[Float[Tensor, "B T _"]]:
        """The four parts (see `physics.half_turns`) of images on the disc of the reference, moved back by each shift.

        Args:
            data: see `weighted`.
        """
        ordered = data[:, None, self.reference.pairs.order]
        real = torch.addcmul(ordered.real * self.cosine, ordered.imag, self.sine, value=-1)
        imaginary = torch.addcmul(ordered.real * self.sine, ordered.imag, self.cosine)
        return list(self.reference.pairs.parts(real, imaginary))

    def cross(self, shifted: Sequence[Float[Tensor, "B T _"]]) -> Float[Tensor, "4 B T m"]:
        """The four parts of the cross term of images as `shifted`.

        The thread's next call overwrites them: memory that is new each time takes a fifth of the time of a match.
        """
        B, T, _ = shifted[0].shape
        shape = (4, B * T, len(self.reference.quarter))
        cross = getattr(self._own, "cross", None)
        if cross is None or cross.shape != shape:
            cross = self._own.cross = self.cosine.new_empty(shape)
        for i, (part, slices) in enumerate(zip(shifted, self.slices, strict=True)):
            torch.matmul(part.reshape(B * T, -1), slices.T, out=cross[i])
        return cross.view(4, B, T, -1)

    def norm(self, power: Float[Tensor, "B P"]) -> Float[Tensor, "2 B m"]:
        """The term of the map's power, of the first and second quarter of the rotations, and of the third and fourth.

        Args:
            power: see `weighted`.
        """
        norm = torch.stack([-0.5 * power @ squared.T for squared in self.powers])
        if self.reference.inside is not None:
            norm[..., ~self.reference.inside] = NEVER
        return norm

    def whole(
        self, data: Complex[Tensor, "B P"], power: Float[Tensor, "B P"]
    ) -> tuple[Float[Tensor, "B T M"], Float[Tensor, "B M"]]:
        """The cross term at every rotation, and that of the map's power."""
        return unfolded(self.cross(self.shifted(data))), in_groups(self.norm(power))


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
    each, on_gpu = len(shifts) * len(reference.grid.R), dispatch.on_gpu(images.observed)
    chunk = max(1, (GPU_SCORES if on_gpu else CPU_SCORES) // each)
    block = chunk * max(1, SHIFTED // (chunk * len(shifts) * len(reference.disc.weight)))
    scores, parts = Scores(reference, shifts), []
    for start in range(0, len(images), block):
        data, power = weighted(images, slice(start, start + block))
        shifted, norm, numbers = scores.shifted(data), scores.norm(power), uniform[start : start + block]

        def found(first: int, shifted=shifted, norm=norm, numbers=numbers) -> GridPosterior:
            rows = slice(first, first + chunk)
            cross = scores.cross([part[rows] for part in shifted])
            spread = prior.expand(cross.shape[1], -1).contiguous()
            return dispatch.grid_posterior(
                cross, norm[:, rows].contiguous(), spread, uniform=numbers[rows].contiguous(), draws=draws, best=best
            )

        firsts = range(0, len(data), chunk)
        parts += [found(first) for first in firsts] if on_gpu else side_by_side(found, firsts)
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
    them do, of an asymmetric unit fewer by its size. The window is wide because the coarse grid, not the noise, loses
    noisy particles: at half a grid step the score of the true pose falls by many nats. Measured against the true map
    (70S, SNR 0.05, r 8 then 13): a window of 12 loses no particle that the whole fine grid would place.
    """
    if dispatch.on_gpu(images.observed):  # on a GPU the whole fine grid takes less time than pruning
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
        scores=Scores(coarse, coarse_shifts),
        slices=fine.slices.contiguous().numpy(),
        power=fine.power.numpy(),
        shifts=fine_shifts,
        priors=(shift_prior(coarse_shifts, sigma_angstrom), shift_prior(fine_shifts, sigma_angstrom)),
        near=torch.from_numpy(_near_shifts(coarse_shifts, fine_shifts)).float(),
        table=children(coarse.grid.nside, fine.grid.nside),
        window=window,
        cap=cap if coarse.inside is None else max(LEAST_KEPT, round(cap * float(coarse.inside.float().mean()))),
    )
    each = len(coarse_shifts) * len(coarse.grid.R)
    size = max(1, min(CHUNK, math.ceil(len(images) / kernel_threads()), CPU_SCORES // each))

    def found(start: int) -> GridPosterior:
        rows = slice(start, start + size)
        return pruned.match(*weighted(images, rows), images.disc, uniform[rows], draws, best)

    return GridPosterior.joined(side_by_side(found, range(0, len(images), size)))


@dataclass(frozen=True, slots=True)
class _Pruned:
    """What `match_fine` needs for every batch: slices and log priors of shifts, each coarse and fine.

    Attributes:
        scores: those of the coarse grid; slices, power: of the fine grid, as `child_posterior` takes them.
        shifts: fine ones, [U, 2].
        near: [T, U], 1 where a fine shift belongs to a coarse one; table: fine rotations below coarse ones.
    """

    coarse: Reference
    scores: Scores
    slices: np.ndarray
    power: np.ndarray
    shifts: Tensor
    priors: tuple[Tensor, Tensor]
    near: Tensor
    table: np.ndarray
    window: float
    cap: int

    def match(
        self, data: Tensor, power: Tensor, disc: FourierDisc, uniform: Tensor, draws: int, best: int
    ) -> GridPosterior:
        """Posterior of a batch from w C Y and w C^2 on `disc`."""
        from cryoloom.kernels import cpu_posterior

        kept, count, alive = self._survivors(data, power)
        found = GridPosterior.empty(len(data), draws, best)
        cpu_posterior.child_posterior(
            X=_shifted(data, disc, self.shifts).numpy(),
            power=power.contiguous().numpy(),
            S=self.slices,
            S2=self.power,
            prior=self.priors[1].numpy(),
            # at a coarse shift nearby, the parent survives; not by NumPy, whose BLAS has threads of its own
            allowed=(torch.from_numpy(alive).float() @ self.near).gt_(0).bool().numpy(),
            kept=kept,
            count=count,
            children=self.table,
            uniform=uniform.numpy(),
            threads=kernel_threads(),
            **posterior_arrays(found),
        )
        return found

    def _survivors(self, data: Tensor, power: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coarse rotations that survive [B, cap], their number [B], and the shifts at which each does [B, cap, T]."""
        from cryoloom.kernels import cpu_posterior

        P = len(self.coarse.disc.weight)
        cross, norm = self.scores.cross(self.scores.shifted(data[:, :P])), self.scores.norm(power[:, :P])
        _, B, T, _ = cross.shape
        kept, count, alive = np.empty((B, self.cap), np.int32), np.empty(B, np.int64), np.zeros((B, self.cap, T), bool)
        cpu_posterior.surviving_rotations(
            cross=cross.numpy(),
            norm=norm.numpy(),
            prior=self.priors[0].expand(B, -1).contiguous().numpy(),
            window=self.window,
            cap=self.cap,
            threads=kernel_threads(),
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
