"""All scores of a run against the truth of a simulated set: poses, map and conformations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoloom.evaluation.conformation_scores import (
    ConformationFiles,
    ConformationScores,
    conformations_as_json,
    score_conformations,
)
from cryoloom.evaluation.map_error import MapScores, score_map
from cryoloom.evaluation.pose_error import PoseScores, score_poses
from cryoloom.evaluation.pose_table import read_poses
from cryoloom.maps.io import read_map
from cryoloom.runs import layout
from cryoloom.runs.layout import RunFile
from cryoloom.runs.record import read_record

THRESHOLDS = (0.5, 0.143)
CLAIM_TOLERANCE = 0.1  # relative: how much finer than the true resolution a claimed one may be


@dataclass(frozen=True, slots=True)
class Compared:
    """Files that are compared with the truth.

    Attributes:
        truth: STAR file with the true poses.
        run: folder of a run, whose files are used where no other is named; None for no folder.
        truth_map: the true map; None compares no single map.
        particles, estimated_map: files in place of the run's particles.star and map.mrc.
        mask: soft mask in the frame of the truth, in place of a sphere.
        conformations: latent coordinates and maps of states.
    """

    truth: Path
    run: Path | None
    truth_map: Path | None
    particles: Path | None
    estimated_map: Path | None
    mask: Path | None
    conformations: ConformationFiles


@dataclass(frozen=True, slots=True)
class RunScores:
    """Scores of a run; None for each part that was not compared.

    Attributes:
        poses: errors of rotations and shifts.
        map: FSC with the true map.
        conformations: agreement with the true states.
        verdict: what the run states about itself.
    """

    poses: PoseScores
    map: MapScores | None
    conformations: ConformationScores | None
    verdict: Mapping[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """All scores by name, with whole curves and matrices."""
        out = scores_as_json(self.poses, self.map)
        if self.conformations is not None:
            out |= conformations_as_json(self.conformations)
        return out if self.verdict is None else out | {"verdict": dict(self.verdict)}


def score_run(files: Compared, *, symmetry: str = "C1", radius_voxels: float | None = None) -> RunScores:
    """Compares poses, map and conformations with the truth, in the frame and hand in which most poses agree.

    Args:
        symmetry: point group of the true structure about the standard axes.
        radius_voxels: radius of the soft sphere within which maps are compared, voxels (default: 0.45 of the box).

    Raises:
        ValueError: for files that are missing or can't be compared.
    """
    masked = files.mask is not None and not files.conformations.truth_maps
    if files.truth_map is None and (files.estimated_map is not None or masked):
        raise ValueError("--est-map and --mask need the true map: give it with --map")
    true = read_poses(files.truth)
    found = read_poses(_chosen(files.particles, files.run, layout.PARTICLES, "--particles"))
    poses = score_poses(true, found, symmetry)
    mask = None if files.mask is None else read_map(files.mask).data
    options = {"symmetry": symmetry, "radius_voxels": radius_voxels, "mask": mask}
    one_map = None
    if files.truth_map is not None:
        estimate = read_map(_chosen(files.estimated_map, files.run, layout.MAP, "--est-map"))
        one_map = score_map(read_map(files.truth_map), estimate, poses.frame, **options)
    conformations = score_conformations(true, found, poses.frame, files.conformations, **options)
    return RunScores(poses, one_map, conformations, None if files.run is None else _verdict(files.run))


def _chosen(given: Path | None, run: Path | None, file: RunFile, option: str) -> Path:
    if given is not None:
        return given
    if run is None:
        raise ValueError(f"nothing to score: name the folder of a run, or give {option}")
    path = file.path(run)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the folder of a finished run, or {option}")
    return path


def scores_as_json(poses: PoseScores, maps: MapScores | None) -> dict[str, Any]:
    """Scores of poses and map by name; None where a number is not finite or the maps do not agree at all."""
    out: dict[str, Any] = {"particles": poses.particles, "of": poses.of}
    if poses.junk_auc is not None:
        out["junk_auc"] = poses.junk_auc
    out |= {
        "hand": int(poses.frame.hand),
        "rotation_median_deg": poses.median_degrees,
        "rotation_mean_deg": poses.mean_degrees,
        "rotation_frac_below_5deg": poses.share_below(5),
        "rotation_frac_below_10deg": poses.share_below(10),
        "shift_median_px": poses.shift_percentile_px(50),
        "shift_p90_px": poses.shift_percentile_px(90),
    }
    if maps is not None:
        for threshold in THRESHOLDS:
            out[f"fsc{threshold}_shell"] = maps.shell(threshold)
            out[f"fsc{threshold}_angstrom"] = maps.resolution_angstrom(threshold)
        out["fsc_area"] = maps.area
        out["fsc"] = [round(float(value), 4) for value in maps.fsc]
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in out.items()}


def _verdict(run: Path) -> dict[str, Any] | None:
    """The run's own verdict; None before the run has reached one."""
    if not layout.RUN_RECORD.path(run).is_file():
        return None
    verdict = read_record(run).verdict
    return None if verdict is None else dict(verdict)


def compare_with_claim(verdict: Mapping[str, Any], maps: MapScores | None) -> str | None:
    """A sentence on whether the resolution claimed by the run holds against the truth; None where nothing is claimed.

    Half maps at FSC 0.143 and a map against a perfect one at 0.5 mark the same signal-to-noise ratio (Rosenthal &
    Henderson, J. Mol. Biol. 333 (2003) 721), so the two are comparable.
    """
    if maps is None or "resolution_angstrom" not in verdict:
        return None
    claimed, found = verdict["resolution_angstrom"], maps.resolution_angstrom(0.5)
    if claimed is None:
        if found is None:
            return "The run claims no resolution, and its map does not agree with the true one."
        return f"The run claims no resolution, although its map agrees with the true one to {found:.1f} A."
    if found is None:
        return f"The run claims {claimed:.1f} A, but its map does not agree with the true one at all."
    judged = "holds" if claimed >= (1 - CLAIM_TOLERANCE) * found else "is too good"
    return (
        f"The run claims {claimed:.1f} A; its map agrees with the true one to {found:.1f} A (FSC 0.5): "
        f"the claim {judged}."
    )
