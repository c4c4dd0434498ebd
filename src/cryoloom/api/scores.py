"""Results against the truth of a simulated set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryoloom.evaluation.conformation_scores import ConformationFiles, ConformationScores, score_conformations
from cryoloom.evaluation.map_error import MapScores, score_map
from cryoloom.evaluation.pose_error import PoseScores, score_poses
from cryoloom.evaluation.pose_table import read_poses
from cryoloom.maps.io import DensityMap, read_map
from cryoloom.runs import layout

Source = str | os.PathLike[str]


@dataclass(frozen=True, repr=False)
class Scores:
    """How far poses, map and conformations are from the truth, in the frame and hand in which they agree best.

    Attributes:
        poses: rotation errors in degrees and shift errors in pixels.
        map: FSC with the true map; None where no map was compared.
        conformations: agreement of classes, latent coordinates and class maps with the true states; None where the
            truth has one state only, or the result no conformations.
    """

    poses: PoseScores
    map: MapScores | None
    conformations: ConformationScores | None = None

    def __repr__(self) -> str:
        p = self.poses
        words = (
            f"{p.particles:,} of {p.of:,} particles, median rotation error {p.median_degrees:.2f}°, "
            f"{100 * p.share_below(10):.1f} % within 10°, median shift error {p.shift_percentile_px(50):.2f} px"
        )
        if self.map is not None:
            found = self.map.resolution_angstrom(0.5)
            words += ", FSC 0.5 with the true map " + ("never reached" if found is None else f"at {found:.1f} Å")
        found = self.conformations
        if found is not None and found.classes is not None:
            words += f", adjusted Rand index of the classes {found.classes.adjusted_rand_index:.3f}"
        if found is not None and found.latent is not None:
            words += f", rank correlation of the latents with the states {found.latent.direction:.3f}"
        return f"Scores({words})"


def evaluate(result: Source, truth: Source, *, map: DensityMap | None = None, symmetry: str = "C1") -> Scores:
    """Compare poses, map and conformations with the truth.

    Args:
        result: folder of a run, or a STAR file with poses.
        truth: folder of a simulated set (`simulate`), or its truth.star.
        map: the map to compare; by default that of the run, where the truth is a single map.
        symmetry: point group of the true structure about the standard axes.

    Raises:
        BadInput: for files without poses, or poses of other images. ValueError: for maps that can't be compared.
    """
    result, truth = Path(result), Path(truth)
    folder = result if result.is_dir() else None
    found = result if folder is None else layout.PARTICLES.path(folder)
    true_maps = tuple(sorted((truth if truth.is_dir() else truth.parent).glob("truth_[0-9][0-9][0-9].mrc")))
    true, estimate = read_poses(truth / "truth.star" if truth.is_dir() else truth), read_poses(found)
    poses = score_poses(true, estimate, symmetry)
    if map is None and folder is not None and len(true_maps) == 1:
        map = read_map(layout.MAP.path(folder))
    scored = None
    if map is not None and true_maps:
        scored = score_map(read_map(true_maps[0]), map, poses.frame, symmetry=symmetry)
    with_classes = folder is not None and any(folder.glob(layout.CLASS_MAP.pattern))
    files = ConformationFiles(folder, None, (), true_maps if with_classes else ())
    return Scores(poses, scored, score_conformations(true, estimate, poses.frame, files, symmetry=symmetry))
