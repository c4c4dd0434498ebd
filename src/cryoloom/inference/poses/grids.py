"""Grids of rotations and shifts, and the fine rotations around each coarse one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from scipy.spatial import KDTree
from torch import Tensor

from cryoloom.physics.rotations import exponential, from_euler, grid_spacing_degrees, rotation_grid, view_grid

SOME_TURN = torch.tensor([0.3, 0.5, 0.2])  # rotation vector about no axis of any group, radian


@dataclass(frozen=True, slots=True)
class RotationGrid:
    """Rotations in four groups: R [M, 3, 3] float32 are M / 4 rotations, then these times each half turn.

    Half turns are those of `physics.half_turns`, whose slices are known from one another.
    """

    nside: int
    R: Tensor

    @property
    def spacing_degrees(self) -> float:
        """Mean distance between neighbouring rotations."""
        return grid_spacing_degrees(self.nside)


@lru_cache(maxsize=4)
def cached_rotation_grid(nside: int) -> RotationGrid:
    """HEALPix views of `nside` x in-plane angles, M = 72 nside^3: 20 degrees for 3, 15 for 4, 7.5 for 8."""
    return RotationGrid(nside, rotation_grid(nside)[_in_groups(nside)].float().contiguous())


def _in_groups(nside: int) -> np.ndarray:
    """Indices [M] of `rotation_grid` in the order of `RotationGrid`.

    A half turn about z adds 180 degrees to the in-plane angle; one about x turns it round and leads to the opposite
    view.
    """
    views = from_euler(torch.cat([view_grid(nside), torch.zeros(12 * nside**2, 1, dtype=torch.float64)], 1))[:, :, 2]
    opposite = np.asarray(KDTree(views.numpy()).query(-views.numpy())[1])
    n = 6 * nside
    first = np.flatnonzero(opposite > np.arange(len(opposite)))
    view, angle = np.repeat(first, n // 2), np.tile(np.arange(n // 2), len(first))
    behind = opposite[view] * n
    groups = (
        view * n + angle,
        view * n + angle + n // 2,
        behind + -angle % n,
        behind + -(angle + n // 2) % n,
    )
    return np.concatenate(groups)


def in_asymmetric_unit(
    R: Float[Tensor, "M 3 3"], group: Float[Tensor, "G 3 3"], margin_degrees: float = 0.0
) -> Bool[Tensor, " m"]:
    """Which of the first quarter of a grid's rotations, with their half turns, make up an asymmetric unit, m = M / 4.

    A rotation and its half turns are inside if one of them is nearer to a fixed rotation than all of their symmetry
    mates g R, or farther by the margin at most. The fixed rotation is not the identity: half turns of the group and of
    the image would lead equally near.
    """
    fixed = exponential(SOME_TURN).to(R)
    traces = torch.einsum("ji,gjk,hmki->mhg", fixed, group.to(R), R.view(4, -1, 3, 3))
    degrees = torch.rad2deg(torch.acos((0.5 * (traces - 1)).clamp(-1, 1)))
    # the identity comes first
    return degrees[..., 0].amin(1) <= degrees.amin((1, 2)) + margin_degrees + 1e-3


@lru_cache(maxsize=4)
def children(coarse: int, fine: int) -> Int32[np.ndarray, "M n"]:
    """Indices of the fine rotations around each coarse one, padded with -1; every fine rotation has a parent.

    Views within 0.72 coarse spacings and the three in-plane angles nearest after the twist between the two frames.
    """
    coarse_views, fine_views = view_grid(coarse), view_grid(fine)

    def frames(views: Tensor) -> Tensor:
        return from_euler(torch.cat([views, torch.zeros(len(views), 1, dtype=views.dtype)], 1))

    Rc, Rf = frames(coarse_views), frames(fine_views)
    chord = 2 * np.sin(np.radians(0.72 * grid_spacing_degrees(coarse)) / 2)
    near = KDTree(Rf[:, :, 2].numpy()).query_ball_point(Rc[:, :, 2].numpy(), chord)
    n_coarse, n_fine = 6 * coarse, 6 * fine
    psi = np.arange(n_coarse) * (360.0 / n_coarse)
    rows = []
    for view, found in enumerate(near):
        fine_view = np.array(sorted(found))
        relative = (Rf[fine_view].mT @ Rc[view]).numpy()
        twist = np.degrees(np.arctan2(relative[:, 1, 0] - relative[:, 0, 1], relative[:, 0, 0] + relative[:, 1, 1]))
        centre = np.rint((psi[:, None] + twist[None]) / (360.0 / n_fine)).astype(np.int64)
        rows.append(np.concatenate([fine_view * n_fine + (centre + o) % n_fine for o in (-1, 0, 1)], 1))
    width = max(r.shape[1] for r in rows)
    table = np.full((len(rows) * n_coarse, width), -1, np.int32)
    for view, r in enumerate(rows):
        table[view * n_coarse : (view + 1) * n_coarse, : r.shape[1]] = r
    # from the order by views to that of the grids
    place = np.full(len(fine_views) * n_fine + 1, -1, np.int32)
    place[_in_groups(fine)] = np.arange(len(place) - 1)
    return place[table[_in_groups(coarse)]]


def shift_grid(step_angstrom: float, reach_angstrom: float) -> Float[Tensor, "T 2"]:
    """Square lattice of shifts within `reach_angstrom` of zero, in order of length; it always holds the zero shift."""
    n = int(reach_angstrom / step_angstrom + 1e-6)
    axis = torch.arange(-n, n + 1, dtype=torch.float32) * step_angstrom
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x.reshape(-1), y.reshape(-1)], 1)
    distance = points.norm(dim=1)
    points = points[distance <= reach_angstrom * (1 + 1e-6)]
    return points[points.norm(dim=1).argsort(stable=True)].contiguous()


def shift_step_angstrom(box: int, pixel_size: float, radius: float) -> float:
    """A quarter of the shortest wavelength in a disc of `radius` Fourier pixels: the rim turns by 45 degrees at most
    between a shift and its nearest grid point along an axis."""
    return box * pixel_size / (4 * radius)
