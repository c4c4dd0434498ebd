"""Reconstruction of several volumes from images that each show a mixture of them, by coupled normal equations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.kernels.half_grid import half_to_volume, shell_of
from cryoloom.maps.backprojection import FLOOR, half_shells, shell_means
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.physics.fourier import rebox

VOXELS_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class Moments:
    """Normal equations of the volumes V_0 .. V_Z: num [M, M, H, Q], den [M, M, H, Q (Q + 1) / 2], Q = Z + 1."""

    num: Tensor
    den: Tensor

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.num + other.num, self.den + other.den)


def solve_coupled(moments: Moments, ssnr: Tensor | None, radius: float) -> Float[Tensor, "Q m m m"]:
    """Volumes from their coupled normal equations, one small linear system for each voxel.

    Each volume is Wiener-filtered by its own signal-to-noise ratio, `ssnr` [Q, S]; see `backprojection.solve` for a
    single volume.
    """
    num, den = moments.num, moments.den
    side, Q = num.shape[0], num.shape[-1]
    last = int(radius) + 2
    shells = half_shells(side, last, num.device)
    i, j = torch.triu_indices(Q, Q)
    diagonal = [int(c) for c in torch.nonzero(i == j)[:, 0]]
    means = torch.stack([shell_means(den[..., c], shells, last + 1) for c in diagonal], 1)
    if ssnr is None:
        prior = FLOOR * means
    else:
        extended = torch.cat([ssnr, ssnr[:, -1:].expand(-1, max(0, last + 1 - ssnr.shape[1]))], 1)[:, : last + 1]
        prior = means / extended.T.to(means)
    prior = prior + 1e-9 * means.max()
    prior[int(radius) + 1 :] = prior[int(radius)]  # the rim beyond the last whole shell, of which the grid has a part
    inside = torch.nonzero((shell_of(side, device=num.device) <= radius + 0.5).reshape(-1))[:, 0]
    flat_num, flat_den, flat_shells = num.reshape(-1, Q), den.reshape(-1, len(i)), shells.reshape(-1)
    out = torch.zeros(num.numel() // Q, Q, dtype=num.dtype, device=num.device)
    for part in inside.split(VOXELS_AT_ONCE):
        matrix = torch.zeros(len(part), Q, Q, device=num.device)
        matrix[:, i, j] = flat_den[part]
        matrix[:, j, i] = flat_den[part]
        matrix.diagonal(dim1=1, dim2=2).add_(prior[flat_shells[part]])
        right = torch.view_as_real(flat_num[part])
        factor = torch.linalg.cholesky_ex(matrix)[0]
        out[part] = torch.view_as_complex(torch.cholesky_solve(right, factor).contiguous())
    out = out.reshape(num.shape)
    return torch.stack([half_to_volume(out[..., q].contiguous()) for q in range(Q)])


def fsc_of_pairs(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """FSC [Q, S] of two sets of Q volumes, pair by pair."""
    return torch.stack(
        [fourier_shell_correlation(a, b)[: radius + 1].float().cpu() for a, b in zip(first, second, strict=True)]
    )


def mask_in_box(mask: Float[Tensor, "D D D"], box: int) -> Float[Tensor, "m m m"]:
    """A mask resampled to a working box of side `box`, over the same field of view."""
    return (rebox(mask, box) * (box / mask.shape[-1]) ** 3).clamp(0, 1)
