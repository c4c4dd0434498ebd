"""Coverage of orientation space and of Fourier space by the views of a set of particles.

A view samples the central plane perpendicular to its direction, so a direction of Fourier space is sampled by the
views near its equator: missing views matter only if they leave planes unsampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import healpix
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryoloom.physics.rotations import from_euler, symmetry_group, view_grid

HISTOGRAM_NSIDE = 8
_FINE_NSIDE = 16
# a direction that gets less than this share of even sampling counts as missing
MISSING_BELOW = 0.1
SINGLE_VIEW_SHARE = 0.8
SINGLE_VIEW_DEGREES = 20.0


@dataclass(frozen=True, slots=True)
class OrientationCoverage:
    """Coverage of orientation space and Fourier space by the views of a set.

    Attributes:
        histogram: share of particles by HEALPix view direction, ring order of `view_grid(8)`, sum 1; [768].
        directions: directions of Fourier space, unit vectors (x, y, z) on half the sphere, [V, 3].
        sampling: sampling along each direction relative to that by as many evenly distributed views, [V].
        scf: sampling compensation factor, the harmonic mean of `sampling`: 1 for even views, 0.81 for side views
            alone, near 0 where parts of Fourier space are empty. It lowers the signal-to-noise ratio of each shell.
        missing_share: share of the directions of Fourier space with less than a tenth of even sampling.
        missing: these directions, [M, 3].
        missing_axis: their principal axis (x, y, z); 0 if no direction is missing.
        main_view: axis (x, y, z) with most particles within 20 degrees; main_view_share: their share.
        single_view: main_view_share is 0.8 or more.
    """

    histogram: Tensor
    directions: Tensor
    sampling: Tensor
    scf: float
    missing_share: float
    missing: Tensor
    missing_axis: Tensor
    main_view: Tensor
    main_view_share: float
    single_view: bool


def viewing_histogram(
    R: Float[Tensor, "N 3 3"], weight: Float[Tensor, " N"] | None = None, nside: int = HISTOGRAM_NSIDE
) -> Float[Tensor, " V"]:
    """Share of particles by view direction, V = 12 nside^2 HEALPix pixels in the order of `view_grid`; sums to 1.

    The view direction of pose R is R z, the beam in the frame of the map.

    Raises:
        ValueError: without particles, or for poses that are NaN or infinite.
    """
    if len(R) == 0:
        raise ValueError("orientation coverage of 0 particles; expected at least 1")
    views = R[:, :, 2].detach().cpu().double().numpy()
    if not np.isfinite(views).all():
        raise ValueError(f"poses: {int((~np.isfinite(views).all(1)).sum())} of {len(R)} are NaN or infinite")
    pixel = healpix.vec2pix(nside, views[:, 0], views[:, 1], views[:, 2])
    w = None if weight is None else weight.detach().cpu().double().numpy()
    counts = torch.from_numpy(np.bincount(pixel, w, minlength=12 * nside**2).astype(np.float64))
    return counts / counts.sum()


def orientation_coverage(
    R: Float[Tensor, "N 3 3"],
    weight: Float[Tensor, " N"] | None = None,
    symmetry: str = "C1",
    fourier_radius: float = 12.0,
) -> OrientationCoverage:
    """Coverage of orientation and Fourier space by poses R (image frame to map frame).

    Source: Baldwin & Lyumkis, Prog. Biophys. Mol. Biol. 150 (2020) 160: SCF = 1 / <1 / s>, with s the sampling of
    Fourier space relative to its mean. A view samples directions within half a Fourier pixel of its plane at
    `fourier_radius`. Directions that no view samples count as sampled by two particles, as in the authors' program for
    SCF*, or by a tenth of even sampling if that is less: the SCF stays above 0 and falls with the size of the gap.

    Args:
        R: rotations.
        weight: weight of each pose (posterior probability), or None.
        symmetry: point group of the map about the standard axes; each view counts at all its mates.
        fourier_radius: shell, in Fourier pixels, at which planes are a pixel thick; a larger radius shows finer gaps.

    Raises:
        ValueError: without particles, for NaN poses, or a name that is not a point group.
    """
    group = symmetry_group(symmetry).to(R)
    copies = torch.einsum("gij,njk->gnik", group, R).reshape(-1, 3, 3)
    weights = None if weight is None else weight.repeat(len(group))
    histogram = viewing_histogram(copies, weights)
    fine = viewing_histogram(copies, weights, _FINE_NSIDE)
    centres = _vectors(_FINE_NSIDE)
    half = centres[:, 2] >= 0
    directions = centres[half]
    cosine = directions @ centres.T
    # half the thickness of the plane, no less than the spacing of the grid of views
    thickness = max(0.5 / fourier_radius, math.radians(58.6 / _FINE_NSIDE))
    plane = (1 - cosine.abs() / (2 * thickness)).clamp(min=0)
    sampling = plane @ fine
    sampling = sampling / (plane.mean(1))  # 1 for even views
    particles = len(group) * (len(R) if weight is None else float(weight.sum()))
    # sampling of the directions in its plane by one particle
    single = 1 / (particles * float(plane.mean()))
    scf = float(1 / (1 / sampling.clamp(min=min(2 * single, MISSING_BELOW))).mean())
    missing = sampling < MISSING_BELOW
    # opposite views show the same plane, so both count towards an axis
    near = (cosine.abs() >= math.cos(math.radians(SINGLE_VIEW_DEGREES))).double() @ fine
    main = int(near.argmax())
    share = float(near[main])
    return OrientationCoverage(
        histogram=histogram,
        directions=directions,
        sampling=sampling,
        scf=min(scf, 1.0),
        missing_share=float(missing.double().mean()),
        missing=directions[missing],
        missing_axis=_axis(directions[missing]),
        main_view=directions[main],
        main_view_share=share,
        single_view=share >= SINGLE_VIEW_SHARE,
    )


def _axis(directions: Tensor) -> Tensor:
    """Principal axis of directions, regardless of their sign."""
    if len(directions) == 0:
        return torch.zeros(3, dtype=directions.dtype)
    axis = torch.linalg.eigh(directions.T @ directions).eigenvectors[:, -1]
    return axis * (1 if float(axis[axis.abs().argmax()]) > 0 else -1)


def _vectors(nside: int) -> Tensor:
    views = view_grid(nside)
    return from_euler(torch.cat([views, torch.zeros(len(views), 1, dtype=views.dtype)], -1))[:, :, 2]
