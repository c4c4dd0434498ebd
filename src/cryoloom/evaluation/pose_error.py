"""Errors of estimated poses in the frame and hand in which they agree best with the true ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryoloom.evaluation.pose_table import PoseTable, match_rows
from cryoloom.physics.rotations import symmetry_group

VOTERS, CANDIDATES = 2000, 300
VOTE_WIDTH_DEGREES = 15.0
ROBUST_WIDTHS_DEGREES = (25.0, 15.0, 10.0, 5.0, 5.0)
OFFSET_ITERATIONS = 15
MISSING_DEGREES = 180.0  # error of a molecule that is missing from the estimate
_MIRROR = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, slots=True)
class CommonFrame:
    """Rigid transformation from the frame of the estimate to that of the truth: V_true(x) = V_est(Q^T x + offset).

    Attributes:
        hand: whether the estimate is mirrored first, V_est(-x).
        Q: R_true = Q R_est (R_est diag(-1, -1, 1) where mirrored), float64 [3, 3].
        offset_angstrom: offset (x, y, z) in the frame of the (mirrored) estimate.
    """

    hand: bool
    Q: np.ndarray
    offset_angstrom: np.ndarray


@dataclass(frozen=True, slots=True)
class PoseScores:
    """Errors of the poses of molecules; junk is ignored.

    Attributes:
        particles, of: number of molecules in the estimate and in the truth. Missing ones count as wrong by 180
            degrees and by an infinite shift.
        frame: frame in which the errors are computed.
        rotation_degrees, shift_px: errors of the molecules in the order of the estimate, then of the missing ones.
        junk_auc: probability that the likelihood of a molecule is above that of junk; None without junk or
            likelihoods.
    """

    particles: int
    of: int
    frame: CommonFrame
    rotation_degrees: np.ndarray
    shift_px: np.ndarray
    junk_auc: float | None

    @property
    def median_degrees(self) -> float:
        """Median rotation error."""
        return float(np.median(self.rotation_degrees))

    @property
    def mean_degrees(self) -> float:
        """Mean rotation error."""
        return float(self.rotation_degrees.mean())

    def share_below(self, degrees: float) -> float:
        """Share of the molecules with a rotation error below an angle."""
        return float((self.rotation_degrees < degrees).mean())

    def shift_percentile_px(self, percent: float) -> float:
        """Percentile of the shift error; infinite if it falls on missing molecules."""
        with np.errstate(invalid="ignore"):  # interpolation between a finite and an infinite value
            value = float(np.percentile(self.shift_px, percent))
        return value if np.isfinite(value) else float("inf")


def score_poses(truth: PoseTable, estimate: PoseTable, symmetry: str = "C1") -> PoseScores:
    """Compares poses in the frame and hand that fit most particles.

    Args:
        symmetry: point group of the true structure about the standard axes (see `rotations.symmetry_group`).

    Raises:
        ValueError: if there is nothing to compare, or the pixel size of the truth is unknown.
    """
    if truth.pixel_size is None:
        raise ValueError(f"{truth.path}: the pixel size is not known; expected rlnImagePixelSize in the optics table")
    rows = match_rows(truth, estimate)
    molecule = np.ones(len(truth), bool) if truth.state is None else truth.state > 0
    wanted, real = int(molecule.sum()), molecule[rows]
    if not real.any():
        found = "no molecule (rlnClassNumber is 0 in every row)" if not wanted else f"none of its {wanted} molecules"
        raise ValueError(f"{estimate.path}: no pose to score: the truth {truth.path} has {found} among these rows")
    rows_true, pixel_size = rows[real], float(np.median(truth.pixel_size))
    hand, Q, R_est, angles = find_frame(truth.R[rows_true], estimate.R[real], symmetry)
    difference = truth.t_angstrom[rows_true] - estimate.t_angstrom[real]
    good = angles < max(10.0, float(np.median(angles)))
    offset, residual = fit_offset(R_est, difference, good, pixel_size)
    missing = wanted - int(real.sum())
    return PoseScores(
        particles=int(real.sum()),
        of=wanted,
        frame=CommonFrame(hand, Q, offset),
        rotation_degrees=np.concatenate([angles, np.full(missing, MISSING_DEGREES)]),
        shift_px=np.concatenate([residual / pixel_size, np.full(missing, np.inf)]),
        junk_auc=None if estimate.score is None or real.all() else area_under_curve(estimate.score, real),
    )


def find_frame(
    R_true: np.ndarray, R_est: np.ndarray, symmetry: str = "C1"
) -> tuple[bool, np.ndarray, np.ndarray, np.ndarray]:
    """Hand and rotation Q such that R_true ~ g Q R_est for most particles, g any element of the symmetry group.

    Each particle proposes a Q. The proposal with most others near it is averaged with them, within an ever smaller
    radius, so that wrong poses do not bias the result.

    Returns:
        hand, Q [3, 3], the estimated rotations in that hand [N, 3, 3], and their errors in degrees [N].
    """
    group = Rotation.from_matrix(symmetry_group(symmetry).numpy())
    best = None
    for hand, R in ((False, R_est), (True, R_est * _MIRROR)):
        proposals = Rotation.from_matrix(R_true @ R.transpose(0, 2, 1))
        votes, q = _vote(proposals, group)
        if best is None or votes > best[0]:
            best = votes, hand, R, proposals, q
    assert best is not None
    _, hand, R, proposals, q = best
    for width in ROBUST_WIDTHS_DEGREES:
        mates, angles = _nearest_mates(proposals, group, q)
        q = _mean_rotation(mates, np.exp(-((angles / width) ** 2)))
    return hand, Rotation.from_quat(q).as_matrix(), R, _nearest_mates(proposals, group, q)[1]


def _spread(count: int, wanted: int) -> np.ndarray:
    """Up to `wanted` rows spread evenly over `count`."""
    return np.unique(np.linspace(0, count - 1, wanted).round().astype(np.int64))


def _angle_degrees(cosine_half: np.ndarray) -> np.ndarray:
    return np.degrees(2 * np.arccos(np.clip(np.abs(cosine_half), 0, 1)))


def _vote(proposals: Rotation, group: Rotation) -> tuple[float, np.ndarray]:
    """The proposal (quaternion) with most others near it, and the number of its votes."""
    quaternions = proposals.as_quat()
    voters = quaternions[_spread(len(quaternions), VOTERS)]
    candidates = quaternions[_spread(len(quaternions), CANDIDATES)]
    cosine = np.zeros((len(candidates), len(voters)))
    for g in group:
        mates = (g.inv() * Rotation.from_quat(voters)).as_quat()
        np.maximum(cosine, np.abs(candidates @ mates.T), out=cosine)
    votes = np.exp(-((_angle_degrees(cosine) / VOTE_WIDTH_DEGREES) ** 2)).sum(1)
    return float(votes.max()), candidates[votes.argmax()]


def _nearest_mates(proposals: Rotation, group: Rotation, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The symmetry mate g^T Q_i of each proposal nearest to q [N, 4], and its angle in degrees [N]."""
    best, cosine = proposals.as_quat(), np.full(len(proposals), -1.0)
    for g in group:
        mates = (g.inv() * proposals).as_quat()
        near = np.abs(mates @ q)
        better = near > cosine
        best[better], cosine[better] = mates[better], near[better]
    return best, _angle_degrees(cosine)


def _mean_rotation(quaternions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean: the eigenvector of sum w q q^T of largest eigenvalue (Markley et al., JGCD 30 (2007) 1193)."""
    return np.linalg.eigh(np.einsum("n,ni,nj->ij", weights, quaternions, quaternions))[1][:, -1]


def fit_offset(
    R_est: np.ndarray, difference: np.ndarray, good: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Offset of the estimate's frame from shifts, t_true - t_est = (R_est^T offset)_xy, and residuals [N].

    Least squares over the `good` particles, reweighted with Cauchy weights of width `scale`.
    """
    M = R_est[:, :, :2].transpose(0, 2, 1)
    weights = good.astype(np.float64)
    offset, residual = np.zeros(3), np.zeros(len(M))
    for _ in range(OFFSET_ITERATIONS):
        normal = np.einsum("n,nai,naj->ij", weights, M, M)
        offset = np.linalg.lstsq(normal, np.einsum("n,nai,na->i", weights, M, difference), rcond=None)[0]
        residual = np.linalg.norm(difference - M @ offset, axis=1)
        weights = good / (1 + (residual / scale) ** 2)
    return offset, residual


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores higher than a negative, ties counting half (Mann-Whitney)."""
    values, rank = np.unique(score, return_inverse=True)
    negatives = np.bincount(rank, weights=~positive, minlength=len(values))
    negatives_below = np.cumsum(negatives) - negatives
    wins = negatives_below[rank[positive]] + 0.5 * negatives[rank[positive]]
    return float(wins.mean() / (~positive).sum())
