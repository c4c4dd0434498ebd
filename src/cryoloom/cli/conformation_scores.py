"""Scores of conformations for `cryoloom evaluate`: which files they are found in, as a table and as JSON."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # scikit-learn, and what imports it, is only loaded where there are conformations to score
    from rich.table import Table
    from torch import Tensor

    from cryoloom.evaluation.heterogeneity import ClassScores, LatentScores
    from cryoloom.evaluation.pose_error import CommonFrame
    from cryoloom.evaluation.pose_table import PoseTable
    from cryoloom.evaluation.state_maps import StateMapScores
    from cryoloom.maps.io import DensityMap


@dataclass(frozen=True, slots=True)
class ConformationFiles:
    """What there is to score beside the poses.

    Attributes:
        run: folder whose z.npy and class_NNN.mrc are taken where they exist and nothing else is named; None for none.
        latent: .npy file, rows as in the estimate's STAR file.
        maps, truth_maps: one a state, in the order of the states.
    """

    run: Path | None
    latent: Path | None
    maps: tuple[Path, ...]
    truth_maps: tuple[Path, ...]

    def found_latent(self) -> Path | None:
        """The latent that was named, or the run's."""
        if self.latent is not None or self.run is None or not (self.run / "z.npy").is_file():
            return self.latent
        return self.run / "z.npy"


@dataclass(frozen=True, slots=True)
class ConformationScores:
    """Scores against the true states; None for what there was nothing to compare of.

    Attributes:
        images: molecules of each true state in the estimate, int64 [S]; None where the truth names no states.
        auc_per_image: FSC-AUC of each molecule's map with the truth of its state.
    """

    images: np.ndarray | None
    classes: ClassScores | None
    latent: LatentScores | None
    maps: StateMapScores | None
    auc_per_image: np.ndarray | None


def map_files(given: Sequence[str] | None, option: str) -> tuple[Path, ...]:
    """The files that an option names: paths and patterns (sorted by the numbers in the names), joined by commas.

    Raises:
        ValueError: for a pattern that fits nothing, or a file that is not there.
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
    """Orders state_2 before state_10."""
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
    """Everything that can be compared; None where nothing can and no file of conformations was named.

    Raises:
        ValueError: for files that were named and can't be compared with this truth.
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
    """[rows, Z]; a vector counts as one coordinate."""
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
            expected=f"numbers of shape ({rows}, Z), a row for each of the estimated STAR file",
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
    """Scores of the maps, and which of them each image was given, where that is not the one of its true state."""
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
    if run is None or classes is None or not any(run.glob("class_*.mrc")):
        raise ValueError("--truth-maps needs maps to compare: give one a state with --maps, in the same order")
    paths = tuple(run / f"class_{label:03d}.mrc" for label in classes.labels)
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"{run}: no {', '.join(missing)}, though particles.star has images of them; or give --maps")
    return paths, classes


def _read_maps(paths: Sequence[Path]) -> Iterator[DensityMap]:
    from cryoloom.maps.io import read_map

    return (read_map(path) for path in paths)


def conformations_as_json(scores: ConformationScores) -> dict[str, Any]:
    """All scores; classes by their numbers in the STAR file, states from the first."""
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


def conformations_tables(scores: ConformationScores) -> list[Table]:
    """The scores in short, and state by state where there are maps or classes."""
    from rich.table import Table

    short = Table(title="conformations", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    short.add_column(style="bold")
    short.add_column(justify="right")
    for name, text in _short(scores):
        short.add_row(name, text)
    if scores.maps is None and scores.classes is None:
        return [short]
    by_state = Table(box=None, padding=(0, 2, 0, 0))
    columns = dict(_by_state(scores))
    for name in columns:
        by_state.add_column(name, justify="right")
    for row in zip_longest(*columns.values(), fillvalue=""):
        by_state.add_row(*row)
    return [short, by_state]


def _short(scores: ConformationScores) -> Iterator[tuple[str, str]]:
    if scores.images is not None:
        yield "true states", str(int((scores.images > 0).sum()))
    if scores.classes is not None:
        yield "classes, adjusted Rand index", f"{scores.classes.adjusted_rand_index:.3f}"
        yield "images in the class of their state", f"{100 * scores.classes.share_right:.1f} %"
    if scores.latent is not None:
        yield "rank correlation with the state, best coordinate", f"{scores.latent.best_coordinate:.3f}"
        yield "best direction", f"{scores.latent.direction:.3f}"
    if scores.maps is not None:
        yield "FSC-AUC (at most 0.5), mean over states", f"{scores.maps.own.mean():.4f}"
        if scores.auc_per_image is not None:
            yield "mean over images", f"{scores.auc_per_image.mean():.4f}"
        yield "own truth is the best match", f"{100 * scores.maps.share_best():.0f} %"
        yield "own or next", f"{100 * scores.maps.share_best(within=1):.0f} %"


def _by_state(scores: ConformationScores) -> Iterator[tuple[str, list[str]]]:
    """Columns and their headings; a true map of which there is no image has a row of its own."""
    count = 0 if scores.images is None else len(scores.images)
    count = count if scores.maps is None else max(count, len(scores.maps.map_of_state))
    yield "state", [str(s + 1) for s in range(count)]
    if scores.images is not None:
        yield "images", [str(n) for n in scores.images]
    if scores.classes is not None:
        yield "class", [str(scores.classes.labels[k]) for k in scores.classes.class_of_state()]
    if scores.maps is not None:
        yield "FSC-AUC", [f"{value:.4f}" for value in scores.maps.own]
        yield "best match", [str(s + 1) for s in scores.maps.best_truth]
