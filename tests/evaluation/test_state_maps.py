"""Areas under the FSC of maps whose FSC is known, and which truth a map agrees with best."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cryoloom.evaluation.map_error import score_map, soft_sphere
from cryoloom.evaluation.pose_error import CommonFrame, score_poses
from cryoloom.evaluation.pose_table import read_poses
from cryoloom.evaluation.state_maps import StateMapScores, auc_matrix
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.maps.io import DensityMap, read_map

from .estimates import Case, fsc_auc, make_states

BOX = 16


def _noise(seed: int, box: int = BOX) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((box,) * 3))


def _radius(box: int) -> np.ndarray:
    f = np.fft.fftfreq(box, 1 / box)
    return np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2)


@pytest.mark.parametrize("box", [16, 17])
def test_a_map_with_itself_has_the_largest_area(box: int) -> None:
    a, mask = _noise(1, box), torch.rand((box,) * 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert fsc_auc(a, a) == pytest.approx(0.5, abs=1e-12)
    assert fsc_auc(a, 3 * a, mask) == pytest.approx(0.5, abs=1e-12)
    assert fsc_auc(a, -1e-12 * a) == pytest.approx(-0.5, abs=1e-12)
    assert fsc_auc(a, 0 * a) == 0


def test_agreement_up_to_a_shell_is_the_area_up_to_it() -> None:
    a = _noise(2)
    sign = torch.from_numpy(np.where(np.rint(_radius(BOX)) <= 4, 1.0, -1.0))
    b = torch.fft.ifftn(torch.fft.fftn(a) * sign).real
    # FSC +1 in shells 0 .. 4, -1 in 5 .. 8, a sixteenth apart: 4 trapezoids of +1, one of 0 and 3 of -1
    assert fsc_auc(a, b) == pytest.approx((4 - 3) / 16, abs=1e-12)


@pytest.mark.parametrize("box", [16, 17])
def test_area_is_that_under_the_curve(box: int) -> None:
    a, mask = _noise(3, box), _noise(5, box).abs().clamp(max=1)
    b = a + _noise(4, box)
    f = fourier_shell_correlation(a * mask, b * mask).numpy()
    assert fsc_auc(a, b, mask) == pytest.approx(float(np.trapezoid(f, np.linspace(0, 0.5, len(f)))), abs=1e-12)
    assert 0.25 < fsc_auc(a, b, mask) < 0.45  # independent noise of equal power: 0.5 / sqrt(2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("states")
    make_states(Case(hand=True, blur=0.0), path)
    return path


def _maps(folder: Path, *names: str) -> list[DensityMap]:
    return [read_map(folder / f"{name}.mrc") for name in names]


def _truths(folder: Path) -> list[DensityMap]:
    return _maps(folder, "truth_001", "truth_002", "truth_003")


def _frame(folder: Path) -> CommonFrame:
    return score_poses(read_poses(folder / "truth.star"), read_poses(folder / "particles.star")).frame


def test_maps_in_another_frame_and_hand_agree_best_with_their_own_truth(folder: Path) -> None:
    truths = _truths(folder)
    estimates = _maps(folder, "class_002", "class_003", "class_001")
    auc = auc_matrix(iter(estimates), truths, _frame(folder))
    scores = StateMapScores.in_order(auc)
    assert scores.share_best() == 1.0
    assert scores.own.min() > 0.25  # noise of 0.3 s.d. hides the outer shells
    moved = [score_map(t, e, _frame(folder)).moved for t, e in zip(truths, estimates, strict=True)]
    mask = soft_sphere(32, 0.45 * 32)  # laid on both
    expected = [[fsc_auc(m, t.data.double(), mask) for t in truths] for m in moved]
    np.testing.assert_allclose(auc, expected, atol=1e-6)
    between = np.array([[fsc_auc(a.data, b.data) for b in truths] for a in truths])
    # what the states have in common is seen through the noise: the far state is the worse match
    assert (np.diff(auc[0]) < 0).all()
    assert (np.diff(between[0]) < 0).all()


def test_perfect_maps_give_the_agreement_of_the_truths(folder: Path) -> None:
    truths = _truths(folder)
    still = CommonFrame(False, np.eye(3), np.zeros(3))
    ones = torch.ones(truths[0].data.shape)
    auc = auc_matrix(truths, truths, still, mask=ones)
    expected = np.array([[fsc_auc(a.data, b.data) for b in truths] for a in truths])
    # the carried map has lost the corners of Fourier space beyond Nyquist's sphere, which no shell holds
    np.testing.assert_allclose(auc, expected, atol=2e-3)


def test_order_of_the_maps_is_told_by_own(folder: Path) -> None:
    truths = _truths(folder)
    maps = _maps(folder, "class_001", "class_002")  # of states 3 and 1
    auc = auc_matrix(maps, truths, _frame(folder), own=[2, 0])
    assert auc.argmax(1).tolist() == [2, 0]


def test_senseless_maps_are_refused(folder: Path) -> None:
    truths, frame = _truths(folder), CommonFrame(False, np.eye(3), np.zeros(3))
    with pytest.raises(ValueError, match="at least one true map"):
        auc_matrix(truths, [], frame)
    with pytest.raises(ValueError, match="at least one estimated map"):
        auc_matrix([], truths, frame)
    with pytest.raises(ValueError, match="differ in grid"):
        auc_matrix(truths, [truths[0], replace(truths[1], pixel_size=8.0)], frame)
    with pytest.raises(ValueError, match="mask has shape"):
        auc_matrix(truths, truths, frame, mask=torch.ones(8, 8, 8))
    with pytest.raises(ValueError, match="stands for state 2; there are 1"):
        auc_matrix(truths, truths[:1], frame)


AUC = np.array([[0.4, 0.2, 0.1], [0.3, 0.2, 0.1], [0.35, 0.1, 0.3], [0.0, 0.1, 0.45]])


def test_shares_and_own_areas() -> None:
    scores = StateMapScores.in_order(AUC[:3])
    np.testing.assert_array_equal(scores.own, [0.4, 0.2, 0.3])
    np.testing.assert_array_equal(scores.best_truth, [0, 0, 0])
    assert (scores.share_best(), scores.share_best(within=1)) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    chosen = StateMapScores(AUC, np.array([0, 1, 3]))
    np.testing.assert_array_equal(chosen.own, [0.4, 0.2, 0.45])
    assert chosen.share_best() == pytest.approx(2 / 3)


def test_areas_by_image() -> None:
    scores = StateMapScores(AUC, np.array([0, 1, 3]))
    state = np.array([3, 0, 1, 1, 2])  # the second is junk
    np.testing.assert_array_equal(scores.per_image(state), [0.45, 0.4, 0.4, 0.2])
    given = np.array([2, 9, 0, 3, 1])  # the map of the image's class, say
    np.testing.assert_array_equal(scores.per_image(state, given), [0.3, 0.4, 0.0, 0.2])
    with pytest.raises(ValueError, match="state 4; there are 3"):
        scores.per_image(np.array([4]))
    with pytest.raises(ValueError, match="maps 4 to 4; expected 0 to 3"):
        scores.per_image(np.array([1]), np.array([4]))
