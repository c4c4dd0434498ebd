"""Agreement of maps of conformations with the maps of the true states: the area under their FSC."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryoloom.evaluation.map_error import DEFAULT_RADIUS, score_map, soft_sphere
from cryoloom.evaluation.pose_error import CommonFrame
from cryoloom.maps.fsc import half_space, shell_sums
from cryoloom.maps.io import DensityMap

NYQUIST = 0.5  # cycles/pixel: the area under an FSC of 1 up to there


def area_vector(volume: Tensor, mask: Tensor | None) -> Tensor:
    """Float64 vector [P] of a map; the scalar product of the vectors of two maps is their FSC-AUC.

    The FSC-AUC is the area under the FSC within a soft mask over 0 to 0.5 cycles/pixel, at most 0.5, by trapezoids over
    the shells 0 .. D // 2. Source: CryoBench (Jeon et al., NeurIPS 2024 Datasets and Benchmarks).

    An FSC is a scalar product of coefficients divided by the root of the power of their shell, and the area is linear
    in it, so K maps against S truths cost K + S transforms and one matrix product.
    """
    box = volume.shape[0]
    coefficients = torch.fft.rfftn(volume.double() if mask is None else volume.double() * mask.double())
    power = shell_sums(coefficients.abs().square(), box)
    width = torch.full_like(power, NYQUIST / (len(power) - 1))
    width[0] /= 2
    width[-1] /= 2
    scale = torch.where(power > 0, width / power, 0.0).sqrt()
    shell, weight = half_space(box, volume.device)
    kept = shell < len(power)
    factor = scale[shell[kept].long()] * weight[kept].sqrt()
    return torch.view_as_real(coefficients[kept] * factor).flatten()


def auc_matrix(
    estimates: Iterable[DensityMap],
    truths: Sequence[DensityMap],
    frame: CommonFrame | None,
    own: Sequence[int] | None = None,
    *,
    symmetry: str = "C1",
    radius_voxels: float | None = None,
    mask: Float[Tensor, "D D D"] | None = None,
) -> Float[np.ndarray, "K S"]:
    """FSC-AUC of each of K estimated maps with each of S true ones, float64.

    Each estimate is moved into the true frame by an alignment that is refined on its own truth (`map_error.score_map`).

    Args:
        estimates: estimated maps; those of a generator are read one at a time.
        frame: common frame from the poses (`pose_error.score_poses`); None finds one for each map, for both hands.
        own: index of the own truth of each estimate; by default estimate k stands for truth k.
        symmetry, radius_voxels, mask: as for `map_error.score_map`.

    Raises:
        ValueError: without maps, for truths of different grids, estimates without a truth of their own, or maps that
            can't be compared.
    """
    if not truths:
        raise ValueError("FSC-AUC needs at least one true map; found none")
    box, pixel_size = truths[0].data.shape[0], truths[0].pixel_size
    for s, truth in enumerate(truths):
        if truth.data.shape != (box,) * 3 or abs(truth.pixel_size / pixel_size - 1) > 1e-3:
            raise ValueError(
                f"the true maps differ in grid: the first has {box} voxels of {pixel_size:.4g} A a side, map {s + 1} "
                f"{truth.data.shape[0]} of {truth.pixel_size:.4g} A; expected the states of one set"
            )
    soft = soft_sphere(box, radius_voxels or DEFAULT_RADIUS * box) if mask is None else mask
    if soft.shape != truths[0].data.shape:
        raise ValueError(f"the mask has shape {tuple(soft.shape)}; expected that of the truths, {(box,) * 3}")
    wanted = torch.stack([area_vector(truth.data, soft) for truth in truths])
    rows = []
    for k, estimate in enumerate(estimates):
        s = k if own is None else own[k]
        if not 0 <= s < len(truths):
            raise ValueError(f"estimated map {k + 1} stands for state {s + 1}; there are {len(truths)} true maps")
        moved = score_map(truths[s], estimate, frame, symmetry=symmetry, mask=soft).moved
        rows.append((wanted @ area_vector(moved, soft)).numpy())
    if not rows:
        raise ValueError("FSC-AUC needs at least one estimated map; found none")
    return np.stack(rows)


@dataclass(frozen=True, slots=True)
class StateMapScores:
    """Agreement of estimated maps with those of the true states.

    Attributes:
        auc: FSC-AUC of each estimated map with each truth, float64 [K, S].
        map_of_state: index of the estimated map that stands for each true state, int64 [S].
    """

    auc: np.ndarray
    map_of_state: np.ndarray

    @staticmethod
    def in_order(auc: Float[np.ndarray, "S S"]) -> StateMapScores:
        """Scores of one map for each state, in the order of the states."""
        return StateMapScores(auc, np.arange(auc.shape[1]))

    @property
    def own(self) -> Float[np.ndarray, " S"]:
        """FSC-AUC of each state's map with its own truth."""
        return self.auc[self.map_of_state, np.arange(len(self.map_of_state))]

    @property
    def best_truth(self) -> Int[np.ndarray, " S"]:
        """Index of the truth that each state's map agrees with best."""
        return self.auc[self.map_of_state].argmax(1)

    def share_best(self, within: int = 0) -> float:
        """Share of the states whose map agrees best with its own truth, or one at most `within` states away."""
        return float((np.abs(self.best_truth - np.arange(len(self.map_of_state))) <= within).mean())

    def per_image(
        self, state: Int[np.ndarray, " N"], map_of_image: Int[np.ndarray, " N"] | None = None
    ) -> Float[np.ndarray, " N"]:
        """FSC-AUC of each image's map with the truth of its own state, junk (state 0) left out.

        Args:
            state: true states, from 1.
            map_of_image: index of the estimated map assigned to each image (the map of its class, or its own map); by
                default the map that stands for its true state.

        Raises:
            ValueError: for a state or a map index that is out of range.
        """
        real = state > 0
        column = state[real] - 1
        if column.max(initial=-1) >= self.auc.shape[1]:
            raise ValueError(f"an image is of state {column.max() + 1}; there are {self.auc.shape[1]} true maps")
        row = self.map_of_state[column] if map_of_image is None else map_of_image[real]
        if row.min(initial=0) < 0 or row.max(initial=-1) >= len(self.auc):
            raise ValueError(f"images refer to maps {row.min()} to {row.max()}; expected 0 to {len(self.auc) - 1}")
        return self.auc[row, column]
