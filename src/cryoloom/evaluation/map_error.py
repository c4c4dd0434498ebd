"""Agreement of an estimated map with the true one in the true frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from cryoloom.evaluation.pose_error import CommonFrame
from cryoloom.maps.align import align_maps, mirrored
from cryoloom.maps.fsc import crossing, fourier_shell_correlation, resolution_angstrom
from cryoloom.maps.io import DensityMap
from cryoloom.physics.fourier import resize_real
from cryoloom.physics.rotations import symmetry_group

DEFAULT_RADIUS = 0.45  # radius of the sphere in units of the box
SIDE_TOLERANCE = 0.005  # relative difference between the fields of view
EDGE_VOXELS = 3.0
POLISH_VOXELS = 60000
POLISH_STEPS, DERIVATIVE_STEP, CONVERGED_VOXELS = 12, 0.05, 1e-3
SYMMETRIC_CORRELATION = 0.9


@dataclass(frozen=True, slots=True)
class MapScores:
    """Agreement of an estimated map with the true one.

    Attributes:
        fsc: FSC within the mask by shell, float64 [S].
        box, pixel_size: box and pixel size (angstrom) of the true map.
        frame: common frame, refined on the maps themselves.
        moved: the estimated map in the true frame, float64 [D, D, D].
    """

    fsc: np.ndarray
    box: int
    pixel_size: float
    frame: CommonFrame
    moved: Tensor

    def shell(self, threshold: float) -> float:
        """Shell at which the FSC falls below a threshold."""
        return crossing(torch.from_numpy(self.fsc), threshold)

    def resolution_angstrom(self, threshold: float) -> float | None:
        """Resolution in angstrom at a threshold; None if the maps do not agree at all."""
        return resolution_angstrom(self.shell(threshold), self.box, self.pixel_size)

    @property
    def area(self) -> float:
        """Mean FSC over the shells between the origin and Nyquist."""
        return float(self.fsc[1 : self.box // 2].mean())


def score_map(
    truth: DensityMap,
    estimate: DensityMap,
    frame: CommonFrame | None,
    *,
    symmetry: str = "C1",
    radius_voxels: float | None = None,
    mask: Float[Tensor, "D D D"] | None = None,
) -> MapScores:
    """FSC of the estimated with the true map, after alignment by the common frame and its local refinement.

    Args:
        frame: common frame from the poses (`pose_error.score_poses`); None finds it from the maps, for both hands.
        symmetry: point group of the true map about the standard axes; checked.
        radius_voxels: radius of a soft sphere, voxels; by default 0.45 of the box.
        mask: mask in [0, 1] in the true frame, in place of the sphere.

    Raises:
        ValueError: for maps of different fields of view, a mask of another shape, or a true map without that symmetry.
    """
    box, pixel_size = _check(truth, estimate, mask)
    target = truth.data.double()
    if symmetry.upper() != "C1":
        check_symmetry(target, symmetry)
    source = resize_real(estimate.data.double(), box, 3)
    soft = soft_sphere(box, radius_voxels or DEFAULT_RADIUS * box) if mask is None else mask.double()
    frame = frame_of_maps(source, target, pixel_size) if frame is None else frame
    source = mirrored(source) if frame.hand else source
    spline = _Spline.of(source)
    Q, offset = polish(target, spline, soft, frame.Q, frame.offset_angstrom / pixel_size)
    moved = torch.from_numpy(spline.at(_voxels(box) @ Q + offset)).reshape(target.shape)
    fsc = fourier_shell_correlation(target * soft, moved * soft).numpy()
    return MapScores(fsc, box, pixel_size, CommonFrame(frame.hand, Q, offset * pixel_size), moved)


def _check(truth: DensityMap, estimate: DensityMap, mask: Tensor | None) -> tuple[int, float]:
    box, pixel_size = truth.data.shape[0], truth.pixel_size
    side, other = box * pixel_size, estimate.data.shape[0] * estimate.pixel_size
    if abs(side - other) > SIDE_TOLERANCE * side:
        raise ValueError(f"the maps differ in side: {side:.1f} A (truth) and {other:.1f} A; expected one field of view")
    if mask is not None and mask.shape != truth.data.shape:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}; expected that of the truth, {(box,) * 3}")
    return box, pixel_size


@dataclass(frozen=True, slots=True)
class _Spline:
    """Cubic spline of a map on a twofold finer grid, with a relative error of about 1e-3.

    Scores use an interpolation of their own (scipy's), independent of the one used in reconstruction.
    """

    coefficients: np.ndarray
    box: int

    @staticmethod
    def of(volume: Float[Tensor, "D D D"]) -> _Spline:
        box = volume.shape[0]
        return _Spline(ndimage.spline_filter(resize_real(volume, 2 * box, 3).numpy(), order=3), box)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Values at points [..., 3] (x, y, z) in voxels from the centre; 0 outside of the box."""
        index = np.moveaxis(2 * points[..., ::-1] + self.box, -1, 0)
        return ndimage.map_coordinates(self.coefficients, index, order=3, prefilter=False)


def _voxels(box: int) -> np.ndarray:
    """(x, y, z) of each voxel from the centre D // 2, [D^3, 3]."""
    z, y, x = np.indices((box,) * 3).reshape(3, -1).astype(np.float64) - box // 2
    return np.stack([x, y, z], -1)


def soft_sphere(box: int, radius_voxels: float) -> Float[Tensor, "D D D"]:
    """Sphere: 1 inside, 0 outside, with a linear edge of 3 voxels around the radius; float64."""
    distance = torch.from_numpy(np.linalg.norm(_voxels(box), axis=-1)).reshape((box,) * 3)
    return ((radius_voxels - distance) / EDGE_VOXELS + 0.5).clamp(0, 1)


def frame_of_maps(source: Float[Tensor, "D D D"], target: Float[Tensor, "D D D"], pixel_size: float) -> CommonFrame:
    """Common frame found from the maps alone, for both hands."""
    found = align_maps(source.float(), target.float(), pixel_size)
    Q = found.R.numpy()
    return CommonFrame(found.hand, Q, -Q.T @ found.t.numpy())


def check_symmetry(truth: Float[Tensor, "D D D"], symmetry: str) -> None:
    """Raises ValueError if the correlation of the map with a symmetry-related copy is below 0.9."""
    spline, points = _Spline.of(truth), _voxels(truth.shape[0])
    for g in symmetry_group(symmetry)[1:].numpy():
        correlation = float(np.corrcoef(truth.flatten().numpy(), spline.at(points @ g))[0, 1])
        if correlation < SYMMETRIC_CORRELATION:
            raise ValueError(
                f"the truth map does not have {symmetry} about the standard axes: turned onto itself it correlates by "
                f"{correlation:.2f}; expected at least {SYMMETRIC_CORRELATION}: check the group's name and axes"
            )


def polish(
    target: Float[Tensor, "D D D"],
    source: _Spline,
    mask: Float[Tensor, "D D D"],
    Q: np.ndarray,
    offset_voxels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Q and offset (voxels) of the highest correlation within the mask, near given starting values."""
    inside = np.flatnonzero(mask.flatten().numpy() > 0.5)
    inside = inside[:: 1 + len(inside) // POLISH_VOXELS]
    points, wanted = _voxels(source.box)[inside], _standardised(target.flatten().numpy()[inside])
    rim = 4 / source.box  # radians that move the rim of the molecule by about a voxel

    def place(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return Q @ Rotation.from_rotvec(p[:3] * rim).as_matrix(), offset_voxels + p[3:]

    def profile(p: np.ndarray) -> np.ndarray:
        turned, moved = place(p)
        return _standardised(source.at(points @ turned + moved))

    return place(_gauss_newton(profile, wanted))


def _gauss_newton(profile: Callable[[np.ndarray], np.ndarray], wanted: np.ndarray) -> np.ndarray:
    """Six parameters, in voxels from 0, for which a profile of unit norm is nearest to the target.

    Gauss-Newton with numerical derivatives and Levenberg damping; only improving steps are taken.
    """
    p, damping = np.zeros(6), 1e-3
    current = profile(p)
    for _ in range(POLISH_STEPS):
        slopes = [(profile(p + h) - profile(p - h)) / (2 * DERIVATIVE_STEP) for h in DERIVATIVE_STEP * np.eye(6)]
        J = np.stack(slopes, -1)
        A, b = J.T @ J, J.T @ (wanted - current)
        step = np.linalg.lstsq(A + damping * np.diag(A.diagonal()), b, rcond=None)[0]
        step *= min(1.0, 2 / max(1e-12, float(np.abs(step).max())))  # derivatives hold near p only
        trial = profile(p + step)
        if trial @ wanted > current @ wanted:
            p, current, damping = p + step, trial, damping / 10
        else:
            damping *= 30
        if np.abs(step).max() < CONVERGED_VOXELS:
            break
    return p


def _standardised(values: np.ndarray) -> np.ndarray:
    values = values - values.mean()
    return values / max(1e-30, float(np.linalg.norm(values)))
