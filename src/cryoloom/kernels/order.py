"""The order in which poses and points are taken, so that what the kernels read and fill stays in the cache."""

from __future__ import annotations

from dataclasses import dataclass

import healpix
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

NSIDE = 256  # views are told apart to 0.2 degrees
RUN, BUNDLE = 64, 8  # points at most in a run, samples at most in a bundle, as in `kernels.cpu`
LIKE_VIEW = 0.99  # cosine of 8 degrees: farther apart, slices hardly fill the same cells
SOME_POSES, SOME_POINTS = 200, 32  # by which the work in each part of a grid is estimated


def view_order(R: Float[Tensor, "N 3 3"]) -> Int[Tensor, " N"]:
    """Permutation that takes rotations along a curve over the sphere of views; opposite views are the same plane.

    Slices of neighbouring views lie close together whatever their in-plane angles.
    """
    x, y, z = R[:, :, 2].detach().double().cpu().numpy().T
    up = np.where(z < 0, -1.0, 1.0)
    theta, phi = np.arccos(np.clip(up * z, -1, 1)), np.arctan2(up * y, up * x)
    return torch.from_numpy(np.argsort(healpix.ang2pix(NSIDE, theta, phi, nest=True), kind="stable"))


def bundles(image: Int[Tensor, " C"], R: Float[Tensor, "C 3 3"]) -> tuple[Int[Tensor, " C"], Int[Tensor, " n"]]:
    """Order of samples in which those of an image that follow each other stay together, and where each bundle begins.

    Bundles hold at most `BUNDLE` samples, each of nearly the same view as the one before; they are ordered by the view
    of their first one.

    Returns:
        A permutation of the samples, and bounds in it: one more than there are bundles.
    """
    new = torch.ones(len(image), dtype=torch.bool)
    view = R[:, :, 2]
    new[1:] = (image[1:] != image[:-1]) | ((view[1:] * view[:-1]).sum(1).abs() < LIKE_VIEW)
    place = torch.arange(len(image))
    within = place - torch.cummax(torch.where(new, place, 0), 0).values
    firsts = torch.nonzero(within % BUNDLE == 0)[:, 0]
    counts = torch.diff(firsts, append=torch.tensor([len(image)]))
    order = view_order(R[firsts])
    firsts, counts = firsts[order], counts[order]
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return torch.repeat_interleave(firsts - bounds[:-1], counts) + place, bounds


@dataclass(frozen=True, slots=True)
class Rows:
    """The points of a disc row by row.

    Attributes:
        order: place of each point among the disc's, [P]; frequency: (ix, iy) in this order, float32 [2, P].
        runs: first point and number of points, at most `RUN`, with one iy and consecutive ix, [S, 2].
    """

    order: np.ndarray
    frequency: np.ndarray
    runs: np.ndarray

    @staticmethod
    def of(index: np.ndarray) -> Rows:
        """Rows of points at integer frequencies (ix, iy), [P, 2]."""
        order = np.lexsort((index[:, 0], index[:, 1]))
        ix, iy = index[order].T
        new = np.flatnonzero((np.diff(iy, prepend=iy[0] - 1) != 0) | (np.diff(ix, prepend=ix[0] - 2) != 1))
        ends = np.append(new[1:], len(ix))
        firsts = np.concatenate([np.arange(a, b, RUN) for a, b in zip(new, ends, strict=True)])
        counts = np.diff(firsts, append=len(ix))
        frequency = np.stack([ix, iy]).astype(np.float32)
        return Rows(order, frequency, np.stack([firsts, counts], 1))


def parts(R: np.ndarray, rows: Rows, scale: float, side: int, threads: int) -> tuple[int, np.ndarray]:
    """An axis of a half grid, 0 (z) or 1 (y), and bounds [threads + 1] of lines along it that hold the same work.

    The axis is the one along which work can be divided most evenly: slices that all lie in a plane of constant z are
    divided along y.
    """
    if threads == 1:
        return 0, np.array([0, side])
    some = R[:: max(1, len(R) // SOME_POSES)]
    points = rows.frequency[:, :: max(1, rows.frequency.shape[1] // SOME_POINTS)]
    where = scale * np.einsum("nij,jp->inp", some[:, :, :2], points)
    where[:, where[0] < 0] *= -1
    found = []
    for axis, coordinate in enumerate((where[2], where[1])):
        lines = np.floor(coordinate.ravel()).astype(np.int64) + side // 2
        work = np.bincount(np.clip(lines, 0, side - 1), minlength=side).cumsum() / lines.size
        inner = np.searchsorted(work, np.arange(1, threads) / threads) + 1
        bounds = np.concatenate([[0], np.maximum.accumulate(inner), [side]])
        most = np.diff(np.concatenate([[0.0], work[bounds[1:] - 1]])).max()
        found.append((most, axis, bounds))
    _, axis, bounds = min(found, key=lambda f: f[0])
    return axis, bounds
