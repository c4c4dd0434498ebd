"""A run compared with the truth, with the functions of the independent evaluator: poses, stated errors, map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
from scipy import ndimage

from bench import evaluator

PLACED_DEGREES = 10.0
RATIOS = 21  # quantiles of error / stated s.d.


def compare(folder: Path, run: Path, symmetry: str, state: int) -> dict[str, Any]:
    """Scores of a run on a set.

    Args:
        symmetry: of the true map about the standard axes; state: the molecule compared with, images of others and junk
            are left out.

    Returns:
        share: of the molecule's images below 10 degrees, a dropped one counting as wrong; share_of_all: of the images
        of all molecules; placed and of: the two numbers of `share`; rotation_median_deg; rotation_deg and
        shift_angstrom: quantiles of the errors of all the molecule's images; hand; `map_scores` and
        `calibration_of_errors`.
    """
    e = evaluator()
    kt, At, ot, tt, pixel = e.read_poses(str(folder / "truth.star"))
    ke, Ae, oe, te, _ = e.read_poses(str(run / "particles.star"))
    rows, states = e.match_rows(kt, ke), tt["rlnClassNumber"].to_numpy()
    mine = states[rows] == state
    rows, Ae, oe, te = rows[mine], Ae[mine], oe[mine], te[mine]
    hand, Q, degrees, A = e.common_frame(At[rows], Ae, symmetry)
    size = float(np.median(pixel))
    tau, shift = e.frame_offset(A, oe - ot[rows], degrees < max(10.0, np.median(degrees)), size)
    right, of = int((degrees < PLACED_DEGREES).sum()), int((states == state).sum())
    return {
        "share": right / of,
        "share_of_all": right / int((states > 0).sum()),
        "placed": right,
        "of": of,
        "rotation_deg": np.quantile(degrees, np.linspace(0, 1, RATIOS)).tolist(),
        "shift_angstrom": np.quantile(shift, np.linspace(0, 1, RATIOS)).tolist(),
        "rotation_median_deg": float(np.median(degrees)),
        "hand": hand,
        **map_scores(folder, run, state, (hand, Q, tau)),
        **calibration_of_errors(degrees, shift, te),
    }


def map_scores(folder: Path, run: Path, state: int, frame: tuple[int, np.ndarray, np.ndarray]) -> dict[str, Any]:
    """FSC with the true map in a soft sphere, and where it falls below 0.5: there, and inside the run's own mask.

    Args:
        frame: hand, rotation Q and offset in angstrom, from the run's frame to the truth's.
    """
    e = evaluator()
    hand, Q, tau = frame
    truth, voxel = _volume(folder / f"truth_{state:03d}.mrc")
    estimate, _ = _volume(run / "map.mrc")
    mask, mask_voxel = _volume(run / "mask.mrc")
    n, m = truth.shape[0], mask.shape[0]
    fsc, moved = e.score_map(truth, estimate, hand, Q, tau / voxel)
    points = (np.indices((n,) * 3).reshape(3, -1) - n // 2)[::-1] * voxel
    inside = (Q.T @ points + tau[:, None]) / mask_voxel * (-1 if hand else 1)  # the mirror is V(-x)
    carried = ndimage.map_coordinates(mask, (inside + m // 2)[::-1], order=1).reshape(truth.shape)
    within = e.fsc(truth * carried, moved * carried)
    sphere, own = e.crossing(fsc, 0.5), e.crossing(within, 0.5)
    return {
        "fsc": [round(float(x), 4) for x in fsc],
        "own_mask_fsc": [round(float(x), 4) for x in within],
        "box": n,
        "fsc0.5_shell": sphere,
        "own_mask_fsc0.5_shell": own,
        "own_mask_fsc0.5_angstrom": n * voxel / own if own else None,
    }


def calibration_of_errors(degrees: np.ndarray, shift_angstrom: np.ndarray, table: pd.DataFrame) -> dict[str, Any]:
    """Share of the errors within one stated s.d., of all images and of those below 10 degrees, and quantiles of
    error / s.d. of the latter; for rotation and shift.

    Args:
        degrees, shift_angstrom: errors [N]; table: with the stated s.d., N rows.
    """
    placed = degrees < PLACED_DEGREES
    out: dict[str, Any] = {}
    for name, error, column in (
        ("rotation", degrees, "cryoloomAngularErrorDegrees"),
        ("shift", shift_angstrom, "cryoloomShiftErrorAngst"),
    ):
        ratio = error / np.maximum(table[column].to_numpy(float), 1e-9)
        of_placed = ratio[placed]
        out[f"{name}_within_sd"] = float((ratio <= 1).mean())
        out[f"{name}_within_sd_placed"] = float((of_placed <= 1).mean()) if placed.any() else None
        out[f"{name}_ratio"] = np.quantile(of_placed, np.linspace(0, 1, RATIOS)).tolist() if placed.any() else None
    return out


def _volume(path: Path) -> tuple[np.ndarray, float]:
    with mrcfile.open(path, permissive=True) as m:
        return np.asarray(m.data, float), float(m.voxel_size.x)
