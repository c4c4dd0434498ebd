"""Agreement of classes and latent coordinates with the true states of the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from sklearn.linear_model import RidgeCV
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import cross_val_predict

from cryoloom.evaluation.pose_table import PoseTable, match_rows

FOLDS = 5


def true_states(truth: PoseTable, estimate: PoseTable) -> Int[np.ndarray, " N"]:
    """True state (from 1; 0 for junk) of each of the N rows of the estimate.

    Raises:
        ValueError: for a truth without states, or rows that can't be matched.
    """
    if truth.state is None:
        raise ValueError(f"{truth.path}: no column rlnClassNumber; expected the true state of each image, junk 0")
    return truth.state[match_rows(truth, estimate)]


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Agreement of classes with true states over the images of molecules.

    Attributes:
        adjusted_rand_index: 1 for the same partition, about 0 for a random one.
        labels: labels of the classes found, ascending, int64 [K].
        images: number of images of each class and state, int64 [K, S].
    """

    adjusted_rand_index: float
    labels: np.ndarray
    images: np.ndarray

    def class_of_state(self) -> Int[np.ndarray, " S"]:
        """Index of the class assigned to each state: one to one so that most images agree; if there are fewer classes
        than states, the class with most images of the state for each remaining state."""
        rows, columns = self._pairs()
        found = self.images.argmax(0)
        found[columns] = rows
        return found

    def state_of_class(self) -> Int[np.ndarray, " K"]:
        """Index of the state assigned to each class, one to one; if there are more classes than states, the most
        frequent state for each remaining class."""
        rows, columns = self._pairs()
        found = self.images.argmax(1)
        found[rows] = columns
        return found

    @property
    def share_right(self) -> float:
        """Share of the images that are in the class assigned to their state."""
        return float(self.images[self._pairs()].sum() / self.images.sum())

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        return linear_sum_assignment(self.images, maximize=True)


def score_classes(
    classes: Int[np.ndarray, " N"], state: Int[np.ndarray, " N"], states: int | None = None
) -> ClassScores:
    """Compares classes with true states (from 1), junk (state 0) left out.

    Args:
        states: number of states; by default the highest in `state`.

    Source: Hubert & Arabie, J. Classification 2 (1985) 193.

    Raises:
        ValueError: if no image shows a molecule, or the arrays differ in length.
    """
    classes, state = _molecules(classes, state)
    labels, index = np.unique(classes, return_inverse=True)
    images = np.zeros((len(labels), states or int(state.max())), np.int64)
    np.add.at(images, (index, state - 1), 1)
    return ClassScores(float(adjusted_rand_score(state, classes)), labels, images)


@dataclass(frozen=True, slots=True)
class LatentScores:
    """Spearman's rank correlation of latent coordinates with the number of the true state, for states along a path.

    Attributes:
        coordinates: absolute correlation of each coordinate, float64 [Z]; 0 for a constant coordinate.
        direction: cross-validated correlation along the best direction; may be negative by chance.
    """

    coordinates: np.ndarray
    direction: float

    @property
    def best_coordinate(self) -> float:
        """The highest correlation among the coordinates."""
        return float(self.coordinates.max(initial=0))


def score_latent(z: Float[np.ndarray, "N Z"], state: Int[np.ndarray, " N"]) -> LatentScores:
    """Compares latent coordinates with true states (from 1), junk (state 0) left out.

    The direction is that of ridge regression on the standardised coordinates, predicted for each fifth of the rows by
    the other four. A latent without coordinates (Z = 0) scores 0.

    Raises:
        ValueError: for values that are not finite, arrays of different lengths, fewer than five molecules, or
            molecules that are all in one state.
    """
    if z.ndim != 2:
        raise ValueError(f"the latent has shape {z.shape}; expected [images, coordinates]")
    z, state = _molecules(z.astype(np.float64), state)
    if not np.isfinite(z).all():
        raise ValueError(f"{int((~np.isfinite(z).all(1)).sum())} of {len(z)} rows of the latent are not finite numbers")
    if len(z) < FOLDS or (state == state[0]).all():
        raise ValueError(
            f"a rank correlation with the state needs {FOLDS} molecules in two states; found {len(z)} in "
            f"{len(np.unique(state))}"
        )
    if not z.shape[1]:
        return LatentScores(np.zeros(0), 0.0)
    scaled = (z - z.mean(0)) / (z.std(0) + 1e-12)
    line = np.asarray(cross_val_predict(RidgeCV(), scaled, state.astype(np.float64), cv=FOLDS))
    return LatentScores(np.abs([_spearman(x, state) for x in z.T]), _spearman(line, state))


def _spearman(values: np.ndarray, state: np.ndarray) -> float:
    if (values == values[0]).all():
        return 0.0
    return float(np.corrcoef(rankdata(values), rankdata(state))[0, 1])


def _molecules(values: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(values) != len(state):
        raise ValueError(f"there are {len(values)} rows of estimates and {len(state)} of true states; expected as many")
    real = state > 0
    if not real.any():
        raise ValueError(f"none of the {len(state)} images is of a molecule (true state above 0); nothing to compare")
    return values[real], state[real]
