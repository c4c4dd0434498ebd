"""Scores of a run folder, from outside: poses, map, stated resolution, first map. Needs ../shared/bench/evaluate.py."""

from __future__ import annotations

import json
from pathlib import Path

import mrcfile
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bench import evaluator

COARSE = 20  # box of the search for the frame of a map without poses


def scores(folder: Path, run: Path, symmetry: str = "C1") -> dict:
    """evaluate.py's scores of a run on a set, and the FSC-0.5 shell inside the run's own mask."""
    truth_star, truth_map = str(folder / "truth.star"), str(folder / "truth_001.mrc")
    star, estimate = str(run / "particles.star"), str(run / "map.mrc")
    out = evaluator().evaluate(truth_star, star, truth_map, estimate, symmetry=symmetry)
    if (run / "mask.mrc").exists():
        out |= _in_own_mask(folder, run, symmetry)
    return out


def _volume(path: Path) -> tuple[np.ndarray, float]:
    with mrcfile.open(path, permissive=True) as m:
        return np.asarray(m.data, float), float(m.voxel_size.x)


def _frame(folder: Path, run: Path, symmetry: str) -> tuple[int, np.ndarray, np.ndarray]:
    """Hand, rotation Q and offset (angstrom) from the run's frame to the truth's, as evaluate.py finds them."""
    e = evaluator()
    kt, At, ot, tt, pixel = e.read_poses(str(folder / "truth.star"))
    ke, Ae, oe, _, _ = e.read_poses(str(run / "particles.star"))
    idx = e.match_rows(kt, ke)
    real = tt["rlnClassNumber"].to_numpy()[idx] > 0
    idx, Ae, oe = idx[real], Ae[real], oe[real]
    hand, Q, error, A = e.common_frame(At[idx], Ae, symmetry)
    tau, _ = e.frame_offset(A, oe - ot[idx], error < max(10.0, np.median(error)), float(np.median(pixel)))
    return hand, Q, tau


def _in_own_mask(folder: Path, run: Path, symmetry: str) -> dict:
    """FSC-0.5 against the truth inside the run's mask, carried into the true frame with the poses' rigid motion."""
    e = evaluator()
    truth, voxel = _volume(folder / "truth_001.mrc")
    estimate, _ = _volume(run / "map.mrc")
    mask, mask_voxel = _volume(run / "mask.mrc")
    hand, Q, tau = _frame(folder, run, symmetry)
    n, m = truth.shape[0], mask.shape[0]
    points = (np.indices((n,) * 3).reshape(3, -1) - n // 2)[::-1] * voxel
    inside = (Q.T @ points + tau[:, None]) / mask_voxel
    if hand:
        inside = -inside  # the mirror is V(-x)
    carried = ndimage.map_coordinates(mask, (inside + m // 2)[::-1], order=1).reshape(truth.shape)
    fsc, _ = e.score_map(truth, estimate, hand, Q, tau / voxel, mask=carried)
    shell = e.crossing(fsc, 0.5)
    return {"own_mask_fsc0.5_shell": shell, "own_mask_fsc0.5_angstrom": n * voxel / shell if shell else None}


def shell_of_map(folder: Path, path: Path, symmetry: str = "C1") -> float:
    """FSC-0.5 shell of a map in an unknown frame: a search over rotations and both hands, then evaluate.py's polish."""
    e = evaluator()
    truth, _ = _volume(folder / "truth_001.mrc")
    estimate, _ = _volume(path)
    n = truth.shape[0]
    target, source = e.resize(truth, COARSE), e.resize(estimate, COARSE)
    points = (np.indices((COARSE,) * 3).reshape(3, -1) - COARSE // 2)[::-1].astype(float)
    points = points[:, np.linalg.norm(points, axis=0) <= 0.45 * COARSE]
    wanted = ndimage.map_coordinates(target, (points + COARSE // 2)[::-1], order=1)
    centre = _centre(target)
    rotations = Rotation.random(6000, np.random.default_rng(0)).as_matrix()  # 12 degrees apart: enough at 20 voxels
    found = []
    for hand in (0, 1):
        v = e.mirrored(source) if hand else source
        own = _centre(v)
        for Q in rotations:
            tau = own - Q.T @ centre
            values = ndimage.map_coordinates(v, (Q.T @ points + tau[:, None] + COARSE // 2)[::-1], order=1)
            found.append((np.corrcoef(wanted, values)[0, 1], hand, Q, tau * n / COARSE))
    best = sorted(found, key=lambda f: -f[0])
    kept: list[tuple] = []
    for candidate in best:  # the best few that are not neighbours
        if all(candidate[1] != k[1] or e.angle(candidate[2][None], k[2][None])[0] > 25 for k in kept):
            kept.append(candidate)
        if len(kept) == 4:
            break
    return max(e.crossing(e.score_map(truth, estimate, hand, Q, tau)[0], 0.5) for _, hand, Q, tau in kept)


def _centre(v: np.ndarray) -> np.ndarray:
    """Centre of mass (x, y, z) of the density above a tenth of its maximum, from the box's centre."""
    w = np.clip(v - 0.1 * v.max(), 0, None)
    axes = (np.indices(v.shape).reshape(3, -1) - v.shape[0] // 2)[::-1]
    return (axes * w.ravel()).sum(1) / max(w.sum(), 1e-12)


def has_symmetry(path: Path, symmetry: str) -> bool:
    """Whether a map has the group about the standard axes."""
    try:
        evaluator().check_symmetry(_volume(path)[0], symmetry)
    except SystemExit:
        return False
    return True


def record(run: Path) -> dict:
    """run.json."""
    return json.loads((run / "run.json").read_text())


def stage_cpu_s(run: Path) -> dict[str, float]:
    """CPU-seconds by stage, from run.json."""
    return {t["stage"]: t["cpu_s"] for t in record(run)["timings"]}
