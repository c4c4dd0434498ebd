"""Scores of a run's conformations against the true states, the files they are read from, and their JSON form."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoloom.runs import layout

if TYPE_CHECKING:  # scikit-learn, and what imports it, is only loaded where there are conformations to score
    from torch import Tensor

    from cryoloom.evaluation.heterogeneity import ClassScores, LatentScores
    from cryoloom.evaluation.pose_error import CommonFrame
    from cryoloom.evaluation.pose_table import PoseTable
    from cryoloom.evaluation.state_maps import StateMapScores
    from cryoloom.maps.io import DensityMap


@dataclass(frozen=True, slots=True)
class ConformationFiles:
    """Files with latent coordinates and maps of conformations.

    Attributes:
        run: folder whose z.npy and class_NNN.mrc are used where no other file is named; None for no folder.
        latent: .npy file with a row for each row of the estimate's STAR file.
        maps, truth_maps: one map for each state, in the order of the states.
    """

    run: Path | None
    latent: Path | None
    maps: tuple[Path, ...]
    truth_maps: tuple[Path, ...]

    def found_latent(self) -> Path | None:
        """The named file of latent coordinates, or else that of the run."""
        if self.latent is not None or self.run is None:
            return self.latent
        path = layout.LATENTS.path(self.run)
        return path if path.is_file() else None


@dataclass(frozen=True, slots=True)
class ConformationScores:
    """Scores of conformations against the true states; None for each part that could not be compared.

    Attributes:
        images: number of images of each true state in the estimate, int64 [S]; None where the truth names no states.
        classes: agreement of the classes with the states.
        latent: rank correlation of the latent coordinates with the states.
        maps: agreement of the maps with the true maps.
        auc_per_image: FSC-AUC of the map of each image with the true map of its state.
    """

    images: np.ndarray | None
    classes: ClassScores | None
    latent: LatentScores | None
    maps: StateMapScores | None
    auc_per_image: np.ndarray | None


def map_files(given: Sequence[str] | None, option: str) -> tuple[Path, ...]:
    """Files named by an option: paths and patterns joined by commas, sorted by the numbers in their names.

    Raises:
        ValueError: for a pattern that matches nothing, or a file that does not exist.
    """
    found: list[Path] = []
    for value in given or ():
        for part in [value] if Path(value).is_file() else filter(None, value.split(",")):
            matches = [part] if Path(part).is_file() else sorted(glob.glob(part), key=_numbers)
            if not matches:
                how = f"give paths joined by commas, a pattern in quotes, or repeat {option}"
                raise ValueError(f"{option} {part}: no such file; {how}")
            found += map(Path, matches)
    return tuple(found)


def _numbers(name: str) -> list[tuple[int, str]]:
    """Sort key by which state_2 comes before state_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def score_conformations(
    truth: PoseTable,
    estimate: PoseTable,
    frame: CommonFrame,
    files: ConformationFiles,
    *,
    symmetry: str = "C1",
    radius_voxels: float | None = None,
    mask: Tensor | None = None,
) -> ConformationScores | None:
    """Compares classes, latent coordinates and maps with the true states.

    Args:
        truth, estimate: tables of the true and the estimated poses, with states and classes.
        frame: the common frame of both, from their poses.
        files: latent coordinates and maps.
        symmetry, radius_voxels, mask: as for `map_error.score_map`.

    Returns:
        None where nothing can be compared and no file of conformations was named.

    Raises:
        ValueError: for named files that can't be compared with this truth.
    """
    if files.maps and not files.truth_maps:
        raise ValueError("--maps needs the true maps: give them with --truth-maps, in the same order")
    states = 0 if truth.state is None else int(truth.state.max(initial=0))
    mixture = truth.state is not None and len(np.unique(truth.state[truth.state > 0])) > 1
    if not (mixture or files.latent or files.truth_maps):
        return None
    from cryoloom.evaluation.heterogeneity import score_classes, score_latent, true_states

    state = None if truth.state is None and files.latent is None else true_states(truth, estimate)
    images = classes = latent = maps = per_image = None
    if state is not None:
        images = np.bincount(state, minlength=states + 1)[1:]
        path = files.found_latent() if mixture else files.latent
        latent = None if path is None else score_latent(_read_latent(path, len(estimate)), state)
        if mixture and estimate.state is not None:
            classes = score_classes(estimate.state, state, states)
    if files.truth_maps:
        maps, map_of_image = _map_scores(
            files, classes, estimate=estimate, frame=frame, symmetry=symmetry, radius_voxels=radius_voxels, mask=mask
        )
        per_image = None if state is None else maps.per_image(state, map_of_image)
    if classes is latent is maps is None:
        return None
    return ConformationScores(images, classes, latent, maps, per_image)


def _read_latent(path: Path, rows: int) -> np.ndarray:
    """Latent coordinates [rows, Z]; a vector counts as one coordinate."""
    from cryoloom.particles.errors import BadInput

    try:
        z = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise BadInput.report(
            "The latent can't be read.", file=path, found=str(error), expected="an array as numpy.save writes it"
        ) from None
    if not isinstance(z, np.ndarray) or z.ndim not in (1, 2) or len(z) != rows or z.dtype.kind not in "fiu":
        found = f"{z.dtype} of shape {z.shape}" if isinstance(z, np.ndarray) else "several arrays"
        raise BadInput.report(
            "The latent does not fit the particles.",
            file=path,
            found=found,
            expected=f"numbers of shape ({rows}, Z), one row for each row of the estimated STAR file",
        )
    return z[:, None] if z.ndim == 1 else z


def _map_scores(
    files: ConformationFiles,
    classes: ClassScores | None,
    estimate: PoseTable,
    frame: CommonFrame,
    symmetry: str,
    radius_voxels: float | None,
    mask: Tensor | None,
) -> tuple[StateMapScores, np.ndarray | None]:
    """Scores of the maps, and the map assigned to each image; None if it is the map of the image's true state."""
    from cryoloom.evaluation.state_maps import StateMapScores, auc_matrix

    truths = list(_read_maps(files.truth_maps))

    def matrix(paths: Sequence[Path], own: list[int] | None) -> np.ndarray:
        return auc_matrix(
            _read_maps(paths), truths, frame, own, symmetry=symmetry, radius_voxels=radius_voxels, mask=mask
        )

    if not files.maps:
        paths, classes = _class_maps(files.run, classes)
        assert estimate.state is not None  # classes were found in it
        scores = StateMapScores(matrix(paths, classes.state_of_class().tolist()), classes.class_of_state())
        return scores, np.searchsorted(classes.labels, estimate.state)
    if len(files.maps) != len(truths):
        raise ValueError(
            f"there are {len(files.maps)} estimated and {len(truths)} true maps; expected one of each per state"
        )
    return StateMapScores.in_order(matrix(files.maps, None)), None


def _class_maps(run: Path | None, classes: ClassScores | None) -> tuple[tuple[Path, ...], ClassScores]:
    """The maps of a run's classes, in the order of their labels."""
    if run is None or classes is None or not any(run.glob(layout.CLASS_MAP.pattern)):
        raise ValueError("--truth-maps needs maps to compare: give one for each state with --maps, in the same order")
    paths = tuple(layout.CLASS_MAP.path(run, number=int(label)) for label in classes.labels)
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{run}: no {', '.join(missing)}, though {layout.PARTICLES.name} has their images; or give --maps"
        )
    return paths, classes


def _read_maps(paths: Sequence[Path]) -> Iterator[DensityMap]:
    from cryoloom.maps.io import read_map

    return (read_map(path) for path in paths)


def conformations_as_json(scores: ConformationScores) -> dict[str, Any]:
    """All scores by name; classes are listed by their numbers in the STAR file, in the order of the states."""
    out: dict[str, Any] = {}
    if scores.classes is not None:
        out["ari"] = scores.classes.adjusted_rand_index
        out["classes_right"] = scores.classes.share_right
        out["class_of_state"] = scores.classes.labels[scores.classes.class_of_state()].tolist()
    if scores.latent is not None:
        out["spearman_best_coordinate"] = scores.latent.best_coordinate
        out["spearman_best_direction"] = scores.latent.direction
        out["spearman_per_coordinate"] = scores.latent.coordinates.round(4).tolist()
    if scores.maps is not None:
        out["fsc_auc_per_state"] = scores.maps.own.round(4).tolist()
        out["fsc_auc_mean"] = float(scores.maps.own.mean())
        if scores.auc_per_image is not None:
            out["fsc_auc_image_mean"] = float(scores.auc_per_image.mean())
        out["own_truth_is_best"] = scores.maps.share_best()
        out["own_or_next_truth_is_best"] = scores.maps.share_best(within=1)
        out["fsc_auc_matrix"] = scores.maps.auc.round(4).tolist()
    return out
